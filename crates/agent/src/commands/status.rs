//! `kube-verdict status`: the status of the agent on this node.

use clap::Args;

use super::output::Output;
use super::table;
use crate::values::number;
use crate::{client, exit, http};

mod origins;
mod render;
mod source;

use render::render;

const EXAMPLES: &str = "\
Examples:
  Show the agent's status:
    kube-verdict status
  Which version of a policy is in force on this node?
    kube-verdict status --output json \\
      | jq -r '.policies[] | select(.policy == \"web/a\") | .resource_version'
  Which policies have decided, and how often?
    kube-verdict status --output json | jq '.policies'
  In which namespaces were packets denied because no rule matches?
    kube-verdict status --output json | jq '.default_denies'
  Wait until generation 12 is in force:
    until [ \"$(kube-verdict status --output json | jq .applied_generation)\" -ge 12 ]
    do sleep 0.1; done

Exit codes: 0 policy is in force and, if configured, recorded, 1 failure (it is not, the audit log
fails, or no agent answers), 2 usage error.";

/// Shows the running agent's status: policies in force, counts of verdicts, and problems.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusCommand {
    /// The agent's --http-port.
    #[arg(
        long,
        visible_alias = "metrics-port",
        value_name = "PORT",
        default_value_t = http::DEFAULT_PORT,
        value_parser = number(1..=u16::MAX, http::DEFAULT_PORT)
    )]
    http_port: u16,

    /// Output format.
    #[arg(long, value_name = "text|json", value_enum, default_value_t)]
    output: Output,
}

impl StatusCommand {
    /// Requests the status and prints it.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let status = client::status(self.http_port)?;
        self.output.print(&status, || render(&status, table::width()))?;
        Ok(if status.is_fine() { exit::SUCCESS } else { exit::FAILURE })
    }
}
