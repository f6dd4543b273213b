//! The part of the status about problems of the source's objects.

use serde::{Deserialize, Serialize};

/// A problem of an object or a file of the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ProblemStatus {
    /// The object's kind if verdicts depend on that kind, else `other`; `file` if the problem is not of an
    /// object.
    pub kind: String,
    /// The problem in one line.
    pub text: String,
}

impl From<&cluster::Problem> for ProblemStatus {
    fn from(problem: &cluster::Problem) -> Self {
        // A manifest may contain any text as its kind. Metrics use the kind as a label, so its values are
        // limited.
        let kind = problem.object.as_deref().map(|object| {
            let kind = object.split(' ').next().and_then(cluster::Kind::named);
            kind.map_or("other".into(), cluster::Kind::name)
        });
        let kind = kind.unwrap_or("file".into()).into_owned();
        Self { kind, text: problem.to_string() }
    }
}

impl ProblemStatus {
    /// The values of `kind` that are not kinds of objects.
    pub(crate) const OTHER_KINDS: [&'static str; 2] = ["other", "file"];

    /// The problems of all policies that exceed their namespace's budget: one for each named policy, and one
    /// per namespace for the others.
    pub(crate) fn beyond_budget(compiler: &policy::Compiler) -> impl Iterator<Item = Self> + '_ {
        let named = compiler.refusals().map(|refusal| Self::from(&refusal));
        named.chain(compiler.more_refusals().map(|(namespace, more)| Self::more_refusals(namespace, more)))
    }

    /// The problem of `more` policies of a namespace that exceed its budget and are not named.
    pub(crate) fn more_refusals(namespace: &str, more: usize) -> Self {
        let policies = if more == 1 { "1 more policy".to_owned() } else { format!("{more} more policies") };
        let text = format!(
            "Namespace {namespace}: {policies} beyond its budget; each isolates the pods that it selects and \
             allows nothing: write fewer or smaller policies, or raise --policy-budget"
        );
        Self { kind: "NetworkPolicy".to_owned(), text }
    }
}

impl From<&policy::Refusal> for ProblemStatus {
    fn from(refusal: &policy::Refusal) -> Self {
        let policy::Refusal { policy, cost, rulesets, namespace, limit } = refusal;
        let times = match rulesets {
            1 => String::new(),
            rulesets => {
                let counted = rulesets.next_power_of_two();
                let rounded =
                    if counted == *rulesets { String::new() } else { format!(", counted as {counted}") };
                format!(
                    " for each of {rulesets} groups of pods of this node to which different policies apply\
                     {rounded}"
                )
            }
        };
        // `limit` is below --policy-budget while all namespaces together exceed the total.
        let flags = "--policy-budget, and --policy-budget-total if all namespaces together exceed theirs";
        let text = format!(
            "NetworkPolicy {policy}: it has {cost} entries{times}, and the policies of its namespace \
             {namespace}, where {limit} are allowed; it isolates the pods that it selects and allows nothing: \
             give it fewer entries, or raise {flags}"
        );
        Self { kind: "NetworkPolicy".to_owned(), text }
    }
}
