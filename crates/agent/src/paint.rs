//! Colours of texts. They appear only on terminals: [`Text::print`] removes them elsewhere.

use std::fmt::Display;

use owo_colors::Style;
use policy::Verdict;

use crate::terminal::Text;

/// A verdict: `allow` in green, `deny` in red.
pub(crate) fn verdict(verdict: Verdict, text: impl Display) -> Text {
    let style = match verdict {
        Verdict::Allow => Style::new().green(),
        Verdict::Deny => Style::new().red(),
    };
    Text::new(text).styled(style.bold())
}

/// Less important than the rest.
pub(crate) fn dim(text: impl Display) -> Text {
    Text::new(text).styled(Style::new().dimmed())
}

/// Something that needs attention.
pub(crate) fn warning(text: impl Display) -> Text {
    Text::new(text).styled(Style::new().yellow().bold())
}

/// Something that is as it should be.
pub(crate) fn fine(text: impl Display) -> Text {
    Text::new(text).styled(Style::new().green())
}

/// Something that is wrong.
pub(crate) fn wrong(text: impl Display) -> Text {
    Text::new(text).styled(Style::new().red().bold())
}
