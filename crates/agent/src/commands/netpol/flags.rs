//! Parses flags as Go's `flag` package does, with one difference: an unknown flag is ignored with a warning.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::exit::Usage;

/// The syntax of a flag's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ValueSyntax {
    /// After `=`, or as the next argument.
    Value,
    /// True without a value; another value only after `=`.
    Switch,
}

use ValueSyntax::{Switch, Value};

/// The flags of kube-network-policies 1.0, those of Kubernetes' logging library, which it uses, and
/// [`PASSED_THROUGH`].
const KNOWN: [(&str, ValueSyntax); 21] = [
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

/// Flags that are passed to `kube-verdict run` unchanged, each as often as it is given.
pub(super) const PASSED_THROUGH: [&str; 5] =
    ["exempt-origin", "overlay", "overlay-sources", "policy-budget", "policy-budget-total"];

/// A parsed command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CommandLine {
    /// Print the help.
    Help,
    /// Run the agent.
    Run(Flags),
}

/// A warning about an argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Warning {
    /// The flag, or the argument.
    pub(super) flag: String,
    /// Why it has no effect.
    pub(super) message: String,
}

/// The known flags that were given, and warnings about other arguments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Flags {
    /// All values of each flag, in order, by the flag's name without dashes.
    given: BTreeMap<&'static str, Vec<String>>,
    warnings: Vec<Warning>,
}

/// Parses a command line without the program's name.
pub(super) fn parse(arguments: &[String]) -> Result<CommandLine, Usage> {
    let mut flags = Flags::default();
    let mut arguments = arguments.iter();
    let mut follows_exemption = false;
    while let Some(argument) = arguments.next() {
        let Some((name, value)) = flag(argument) else {
            // Without the rest of its labels an exemption would include more pods.
            if follows_exemption {
                return Err(Usage(format!(
                    "{argument:?} follows --exempt-origin and is not a flag: if it is part of the value, write \
                     the comma before it as \\, in helm --set"
                )));
            }
            flags.warn(
                argument,
                "is not a flag and is ignored: a boolean flag takes its value after =, as in \
                 --fail-open=false",
            );
            continue;
        };
        if matches!(name, "h" | "help") {
            return Ok(CommandLine::Help);
        }
        let Some(&(name, syntax)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            flags.warn(argument, "is unknown and is ignored; --help lists the known flags");
            continue;
        };
        let value = match (syntax, value) {
            (_, Some(value)) => value.to_owned(),
            (Switch, None) => "true".to_owned(),
            (Value, None) => {
                arguments.next().ok_or_else(|| Usage(format!("--{name} needs a value")))?.clone()
            }
        };
        follows_exemption = name == "exempt-origin";
        flags.given.entry(name).or_default().push(value);
    }
    Ok(CommandLine::Run(flags))
}

/// Name and value of a flag, with one dash or two; `None` for an argument that is not a flag.
fn flag(argument: &str) -> Option<(&str, Option<&str>)> {
    let rest = argument.strip_prefix('-')?;
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
    (!name.is_empty() && !name.starts_with('-')).then_some((name, value))
}

impl Flags {
    /// Warnings about arguments that were ignored.
    pub(super) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The last value of a flag, unless it is empty: a chart passes an unset value as an empty one.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All values of a flag that are not empty.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given.get(name).into_iter().flatten().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value of a boolean flag, in the spellings that Go accepts.
    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, Usage> {
        match self.value(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(Usage(format!("--{name}={other}: write true or false"))),
        }
    }

    /// A number. The error shows `expected`.
    pub(super) fn number<N: FromStr>(&self, name: &str, expected: &str) -> Result<Option<N>, Usage> {
        let number =
            |text: &str| text.parse().map_err(|_| Usage(format!("--{name}={text}: write {expected}")));
        self.value(name).map(number).transpose()
    }

    fn warn(&mut self, flag: &str, message: &str) {
        self.warnings.push(Warning { flag: flag.to_owned(), message: message.to_owned() });
    }
}
