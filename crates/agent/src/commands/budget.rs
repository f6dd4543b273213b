//! Flags for the size limits of policies.

use clap::Args;
use policy::Budget;

use crate::values::number;

/// The flags of a [`Budget`].
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct BudgetArguments {
    /// Maximum number of entries in the policies of one namespace.
    ///
    /// If they have more, the largest policies of the namespace isolate their pods and allow nothing. Each
    /// rule, CIDR, exception, port, label key and label value counts as one entry; a label key as one more
    /// for each 64 bytes, a peer that selects pods as 16 more, and a policy as 16. An entry takes about 100
    /// bytes of memory.
    #[arg(
        long,
        value_name = "ENTRIES",
        default_value_t = Budget::default().namespace,
        value_parser = number(0..=u64::MAX, Budget::default().namespace)
    )]
    policy_budget: u64,

    /// Maximum number of entries in all policies.
    ///
    /// If they have more, the largest namespaces get less than --policy-budget.
    #[arg(
        long,
        value_name = "ENTRIES",
        default_value_t = Budget::default().total,
        value_parser = number(0..=u64::MAX, Budget::default().total)
    )]
    policy_budget_total: u64,
}

impl From<BudgetArguments> for Budget {
    fn from(arguments: BudgetArguments) -> Self {
        Self { namespace: arguments.policy_budget, total: arguments.policy_budget_total }
    }
}
