//! `kube-verdict log`: finds, shows and counts records of audit logs.
//!
//! From: files, a folder of files, standard input, or the log of a running agent. To: standard output; what
//! may make the answer incomplete goes to standard error. It needs no root if the log is readable.
//!
//! ```text
//!  [ inputs ] -> [ audit::query::Scan ] -> [ sink ] -+-> [ row ] -> [ columns ]
//!                                                    +-> [ counts ]
//! ```

use std::path::PathBuf;

use audit::query::{Field, Scan};
use clap::Args;

use crate::exit;
use crate::paint;
use crate::terminal::text;

mod columns;
mod counts;
mod filter;
mod inputs;
mod output;
mod row;
mod sink;
mod values;

use filter::FilterArguments;
use inputs::Inputs;
use output::LogOutput;
use sink::Sink;

/// The log of an agent that was started as in the examples of `run`.
const DEFAULT_LOG: &str = "/var/log/kube-verdict/audit.log";

const EXAMPLES: &str = "\
Examples:
  Who was denied in the last hour, on this node?
    kube-verdict log --verdict deny --since 1h
  The same for a folder with the files of all nodes, by the ends' workloads, the most frequent first:
    kube-verdict log logs/ --verdict deny --since 1h --count-by from-workload,to-workload,port
  What does a pod connect to?
    kube-verdict log --from-pod web/a --count-by to,port,protocol
  Which version of a policy was in force, and when did it change?
    kube-verdict log --event policy --policy db/allow-web --output json
  Watch what a policy decides:
    kube-verdict log --follow --policy db/allow-web
  Is the log complete?
    kube-verdict log --event lost,bypass,start,stop
  Records as JSON, for other programs:
    kube-verdict log audit.log.20260102T030406.123Z.zst --output json | jq .nearest_miss

A record must match all filters, and any value of each. Values are separated by commas, or a flag is
given several times. --namespace, --pod, --workload and --address match either end, and all of them
the same one.

Exit codes: 0 the log was read, whether or not a record matches, 1 failure (a file or a line of it
can't be read, so the answer may be incomplete), 2 usage error (also: a file does not exist).";

/// Shows records of audit logs: who was denied or allowed, by which policy, and whether records are missing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Log {
    /// Files of logs, compressed or not, folders of them, or `-` for standard input.
    ///
    /// In a folder, each file NAME.log or NAME.jsonl is read after its closed files, the oldest first.
    /// Default: the log that --audit-log names, with its closed files.
    #[arg(value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,

    /// The log of this node's agent: the value of the agent's --audit-log.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOG, conflicts_with = "files")]
    audit_log: PathBuf,

    /// Show records as the agent writes them, across rotation. Begins with the next record, or with
    /// --since.
    #[arg(long, short, conflicts_with_all = ["files", "count_by"])]
    follow: bool,

    #[command(flatten)]
    filter: FilterArguments,

    /// Count records by these fields, the most frequent first: see `--help`.
    ///
    /// A record that stands for several denials, packets or lost records counts as many. Fields: from, to
    /// (pod, or else address), from-namespace, to-namespace, from-pod, to-pod, from-workload, to-workload,
    /// from-address, to-address, protocol, port, verdict, reason, direction, tier, policy, rule, isolated-by,
    /// event, node, instance, day, hour, minute.
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',')]
    count_by: Vec<Field>,

    /// Stop after this many records; with --count-by, show this many rows.
    #[arg(long, value_name = "NUMBER", value_parser = values::limit)]
    limit: Option<u64>,

    /// Output format.
    ///
    /// table: fits the terminal, or 100 columns; longer names are shortened in the middle. wide: all fields
    /// in full. json: the lines of the log, byte for byte; with --count-by, one object per row.
    #[arg(long, value_name = "table|wide|json", value_enum, default_value_t)]
    output: LogOutput,
}

impl Log {
    /// Reads the logs and prints the records.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let filter = self.filter.into_filter(jiff::Timestamp::now())?;
        let has_begin = filter.since.is_some();
        let mut scan = Scan::new(filter);
        let mut sink = Sink::new(self.output, self.count_by, self.limit);
        if self.follow {
            inputs::follow(&self.audit_log, has_begin, &mut scan, &mut sink)?;
            return Ok(exit::SUCCESS);
        }
        let inputs = match &*self.files {
            [] => Inputs::of_log(&self.audit_log)?,
            files => Inputs::of_files(files)?,
        };
        let is_read = inputs.read(&mut scan, &mut sink)?;
        let is_exact = sink.finish()?;
        for sentence in scan.findings().sentences() {
            (paint::warning("warning:") + text!(" {sentence}")).print_error();
        }
        let is_understood = !scan.findings().has_unreadable_lines();
        Ok(if is_read && is_exact && is_understood { exit::SUCCESS } else { exit::FAILURE })
    }
}
