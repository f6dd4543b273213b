//! How large the policies of a namespace may be, as the command line says.

use clap::Args;
use policy::Budget;

use crate::values::number;

/// A budget for policies.
#[derive(Clone, Copy, Debug, Args)]
pub struct BudgetArguments {
    /// How many entries the policies of one namespace may have. Each rule, CIDR, exception, port, label key and label value is one entry, a
    /// key one more for each 64 bytes, a peer that selects pods 16 more, and a policy 16. Beyond that, the namespace's largest policies
    /// isolate their pods and allow nothing. An entry takes some 100 bytes.
    #[arg(long, value_name = "ENTRIES", default_value_t = Budget::default().namespace, value_parser = number(0..=u64::MAX, Budget::default().namespace))]
    policy_budget: u64,

    /// How many entries all policies may have. Beyond that, the largest namespaces have less than --policy-budget.
    #[arg(long, value_name = "ENTRIES", default_value_t = Budget::default().total, value_parser = number(0..=u64::MAX, Budget::default().total))]
    policy_budget_total: u64,
}

impl From<BudgetArguments> for Budget {
    fn from(arguments: BudgetArguments) -> Self {
        Self { namespace: arguments.policy_budget, total: arguments.policy_budget_total }
    }
}
