//! Flags as Go's `flag` package reads them, with one difference: what isn't known is noted and passed over.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::exit::Usage;

/// How a flag takes its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    /// Behind `=`, or as the next word.
    Value,
    /// True where it stands alone; another value only behind `=`.
    Switch,
}

use Takes::{Switch, Value};

/// Those of kube-network-policies 1.0, of the logging library that it shares with Kubernetes' own programs, and [`OURS`].
const KNOWN: [(&str, Takes); 21] = [
    ("hostname-override", Value),
    ("kubeconfig", Value),
    ("fail-open", Switch),
    ("nfqueue-id", Value),
    ("metrics-bind-address", Value),
    ("netfilter-bug-1766-fix", Switch),
    ("disable-nri", Switch),
    ("strict-mode", Switch),
    ("v", Value),
    ("vmodule", Value),
    ("logging-format", Value),
    ("log-flush-frequency", Value),
    ("log-text-split-stream", Switch),
    ("log-json-split-stream", Switch),
    ("log-text-info-buffer-size", Value),
    ("log-json-info-buffer-size", Value),
    ("exempt-origin", Value),
    ("overlay", Value),
    ("overlay-sources", Value),
    ("policy-budget", Value),
    ("policy-budget-total", Value),
];

/// Those of `kube-verdict run` that are passed on as they are, each as often as it is given.
pub(super) const OURS: [&str; 5] =
    ["exempt-origin", "overlay", "overlay-sources", "policy-budget", "policy-budget-total"];

/// What a command line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// To be told what there is.
    Help,
    /// To run.
    Run(Flags),
}

/// Something about a word of the command line that its giver should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    /// The flag, or the word.
    pub(super) flag: String,
    /// Why it has no effect.
    pub(super) said: String,
}

/// The known flags that were given, and what is to be said of the rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Flags {
    /// By name, without dashes; of one that was given more than once all values, in order.
    given: BTreeMap<&'static str, Vec<String>>,
    notes: Vec<Note>,
}

/// Reads a command line without the program's name.
pub(super) fn parse(words: &[String]) -> Result<Asked, Usage> {
    let mut flags = Flags::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some((name, value)) = flag(word) else {
            flags.note(
                word,
                "is no flag and is ignored: a switch takes its value behind =, as in --fail-open=false",
            );
            continue;
        };
        if matches!(name, "h" | "help") {
            return Ok(Asked::Help);
        }
        let Some(&(name, takes)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            flags.note(word, "is not known and is ignored; --help shows what is");
            continue;
        };
        let value = match (takes, value) {
            (_, Some(value)) => value.to_owned(),
            (Switch, None) => "true".to_owned(),
            (Value, None) => words.next().ok_or_else(|| Usage(format!("--{name} needs a value")))?.clone(),
        };
        flags.given.entry(name).or_default().push(value);
    }
    Ok(Asked::Run(flags))
}

/// Name and value of a flag, with one dash or two; `None` for a word that is none.
fn flag(word: &str) -> Option<(&str, Option<&str>)> {
    let rest = word.strip_prefix('-')?;
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
    (!name.is_empty() && !name.starts_with('-')).then_some((name, value))
}

impl Flags {
    /// What is to be said of words that were passed over.
    pub(super) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// A flag's last value, if it was given and isn't empty: empty is what an unset value of a chart comes to.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All values of a flag that aren't empty.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given.get(name).into_iter().flatten().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A switch, in the words in which Go reads one.
    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, Usage> {
        match self.value(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(Usage(format!("--{name}={other}: write true or false"))),
        }
    }

    /// A number; `expected` says which are read.
    pub(super) fn number<N: FromStr>(&self, name: &str, expected: &str) -> Result<Option<N>, Usage> {
        let number =
            |text: &str| text.parse().map_err(|_| Usage(format!("--{name}={text}: write {expected}")));
        self.value(name).map(number).transpose()
    }

    fn note(&mut self, flag: &str, said: &str) {
        self.notes.push(Note { flag: flag.to_owned(), said: said.to_owned() });
    }
}
