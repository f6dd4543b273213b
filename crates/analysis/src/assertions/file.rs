//! A file of assertions.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::pattern::{Pattern, Ports};
use crate::layout::Distinguished;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// The assertions of one file.
#[derive(Clone, Debug)]
pub struct Assertions {
    /// The file.
    pub file: PathBuf,
    pub(super) all: Vec<Assertion>,
}

/// One assertion.
#[derive(Clone, Debug)]
pub(super) struct Assertion {
    /// In words, if the file does not name it.
    pub name: String,
    pub line: usize,
    pub expect: Expect,
    /// Empty for `nothing-else`.
    pub from: Vec<Pattern>,
    pub to: Vec<(Pattern, Ports)>,
}

/// What is expected of the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Expect {
    Allowed,
    Denied,
    NothingElse,
}

/// Why a file of assertions can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AssertionsError {
    /// It can't be read.
    #[error("the assertions in {} can't be read; name an existing file that this user may \
        read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// It is too large.
    #[error("the assertions in {} have more than {} MiB: split the file", path.display(), LARGEST >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not a list of assertions.
    #[error(
        "{}{}: {what}; write a list of assertions, each with from, to and expect",
        path.display(),
        line.map(|line| format!(":{line}")).unwrap_or_default()
    )]
    NotAssertions {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: Option<u64>,
        /// What is wrong.
        what: String,
    },
    /// An assertion is not understood.
    #[error("{}:{line}: {what}", path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
}

/// An assertion as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    #[serde(default)]
    from: Option<OneOrMore>,
    to: OneOrMore,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

impl Assertions {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, AssertionsError> {
        let failure = |error| AssertionsError::Read { path: path.to_owned(), error };
        let size = std::fs::metadata(path).map_err(failure)?.len();
        if size > LARGEST {
            return Err(AssertionsError::TooLarge { path: path.to_owned() });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(failure)?)
    }

    /// Parses the text of a file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, AssertionsError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let written: Vec<Spanned<Written>> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let line = error.location().map(|at| at.line());
                let what = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                AssertionsError::NotAssertions { path: path.to_owned(), line, what }
            })?;
        let mut all = Vec::with_capacity(written.len());
        for Spanned { value, referenced, .. } in written {
            let line = referenced.line();
            let wrong = |what| AssertionsError::NotUnderstood { path: path.to_owned(), line, what };
            let mut assertion = understand(&value).map_err(wrong)?;
            assertion.line = usize::try_from(line).unwrap_or(0);
            all.push(assertion);
        }
        Ok(Self { file: path.to_owned(), all })
    }

    /// The blocks and ports that the layout must distinguish.
    pub fn distinguish(&self, more: &mut Distinguished) {
        for assertion in &self.all {
            let ends = assertion.from.iter().chain(assertion.to.iter().map(|(end, _)| end));
            more.blocks.extend(ends.filter_map(|end| match end {
                Pattern::Block(block) => Some(*block),
                _ => None,
            }));
            for (_, ports) in &assertion.to {
                if let Ports::Range(_, first, last) = ports {
                    more.ports.extend([*first, *last]);
                }
            }
        }
    }
}

fn understand(written: &Written) -> Result<Assertion, String> {
    let sources = written.from.as_ref().map(OneOrMore::all).unwrap_or_default();
    let from: Vec<Pattern> = sources.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?;
    let targets = written.to.all();
    let to: Vec<_> = targets.iter().map(|text| Pattern::parse_with_ports(text)).collect::<Result<_, _>>()?;
    let expected = match (written.expect, from.is_empty()) {
        (Expect::NothingElse, false) => {
            return Err("expect: nothing-else is about every source, so it has no from".to_owned());
        }
        (Expect::NothingElse, true) => "nothing else reaches",
        (_, true) => return Err("from is missing".to_owned()),
        (Expect::Allowed, false) if sources.len() == 1 => "reaches",
        (Expect::Allowed, false) => "reach",
        (Expect::Denied, false) if sources.len() == 1 => "does not reach",
        (Expect::Denied, false) => "do not reach",
    };
    if to.is_empty() {
        return Err("to is empty".to_owned());
    }
    let sentence = format!("{} {expected} {}", sources.join(" and "), targets.join(" and "));
    let name = written.name.clone().unwrap_or_else(|| sentence.trim_start().to_owned());
    Ok(Assertion { name, line: 0, expect: written.expect, from, to })
}
