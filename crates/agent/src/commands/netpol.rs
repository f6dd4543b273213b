//! `/bin/netpol`: the agent with the name and the flags with which Flannel's chart starts its policy
//! container.
//!
//! From: flags in the syntax of Go's `flag` package. To: [`Run`], through its own command line. Invariant: a
//! flag without effect is logged, and an unknown flag does not stop the agent. A future chart may pass flags
//! that are unknown today, and a node whose policy container exits at once has no policy. An invalid value
//! ends the program, as in kube-network-policies.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Parser;

use super::cli::{Cli, Command};
use super::run::Run;
use crate::exit::{self, Usage};
use crate::terminal::Text;

mod flags;
use flags::{CommandLine, Flags, PASSED_THROUGH, Warning};

const HELP: &str = "\
netpol: kube-verdict with the flags of kube-network-policies, as Flannel's chart starts it.

Usage: netpol [--FLAG=VALUE]...

  --hostname-override NAME          Name of the node. Default: this machine's hostname
  --kubeconfig FILE                 Kubeconfig for the API server. Default: the pod's service account
  --fail-open[=false]               Let new connections pass while no agent runs. Default: true
  --nfqueue-id N                    First NFQUEUE number. Default: 100
  --metrics-bind-address IP:PORT    Where to serve /metrics. Default: :9080
  --netfilter-bug-1766-fix[=false]  Evaluate DNS queries before routing. Default: on kernels before 6.12
  --v N                             Log level: 0 to 3 info, 4 and 5 debug, from 6 trace. Default: 0
  --logging-format text|json        Format of log lines. Default: text
  --exempt-origin NS[:KEY=VALUE,..] Pods that may send from other addresses; can be repeated
  --overlay PORT/udp|PROTOCOL       Further overlay protocol between nodes; can be repeated
  --overlay-sources any|nodes       Sources from which to accept overlay packets. Default: any
  --policy-budget ENTRIES           Maximum entries in the policies of one namespace. Default: 65536
  --policy-budget-total ENTRIES     Maximum entries in all policies. Default: 524288

These flags have no effect; if given, each is logged as a warning: --disable-nri,
--strict-mode=false, --vmodule, --log-flush-frequency, --log-*-split-stream,
--log-*-info-buffer-size. Unknown flags are logged and ignored. For all features of kube-verdict,
see: kube-verdict run --help

Exit codes: those of kube-verdict run.";

/// Default address for /metrics, as in kube-network-policies.
const DEFAULT_METRICS: &str = ":9080";

/// Whether a program of this name takes these flags.
pub(super) fn is_name_of(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new("netpol"))
}

/// Runs the agent until a signal ends it.
pub(super) fn run(arguments: &[OsString]) -> anyhow::Result<u8> {
    let arguments: Vec<String> =
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let flags = match flags::parse(&arguments)? {
        CommandLine::Help => {
            Text::of_lines(HELP).print()?;
            return Ok(exit::SUCCESS);
        }
        CommandLine::Run(flags) => flags,
    };
    let hostname = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let (line, warnings) = translate(&flags, hostname)?;
    let run = parsed(&line)?;
    run.start_log();
    tracing::info!(command = line.join(" "), "started as netpol");
    for Warning { flag, message } in flags.warnings().iter().chain(&warnings) {
        tracing::warn!(flag, "{message}");
    }
    run.enforce()
}

/// The equivalent command line of `kube-verdict run`.
fn translate(
    flags: &Flags,
    hostname: impl Fn() -> Option<String>,
) -> Result<(Vec<String>, Vec<Warning>), Usage> {
    let mut line: Vec<String> = ["kube-verdict", "run", "--node"].map(str::to_owned).into();
    line.push(node(flags, hostname)?);
    let mut option = |name: &str, value: &str| line.extend([name.to_owned(), value.to_owned()]);
    if let Some(file) = flags.value("kubeconfig") {
        option("--kubeconfig", file);
    }
    option("--fail-mode", if flags.switch("fail-open")?.unwrap_or(true) { "open" } else { "closed" });
    if let Some(number) = flags.number::<u16>("nfqueue-id", "a queue number from 0 to 65535, such as 100")? {
        option("--queue-base", &number.to_string());
    }
    if let Some(evaluate) = flags.switch("netfilter-bug-1766-fix")? {
        option("--prerouting-dns", if evaluate { "on" } else { "off" });
    }
    option("--metrics-address", flags.value("metrics-bind-address").unwrap_or(DEFAULT_METRICS));
    match flags.number::<i32>("v", "a whole number, such as 2")?.unwrap_or(0) {
        ..=3 => {}
        4..=5 => option("--log-level", "debug"),
        6.. => option("--log-level", "trace"),
    }
    match flags.value("logging-format") {
        None | Some("text") => {}
        Some("json") => option("--log-format", "json"),
        Some(other) => return Err(Usage(format!("--logging-format={other}: write text or json"))),
    }
    for name in PASSED_THROUGH {
        flags.values(name).for_each(|value| option(&format!("--{name}"), value));
    }
    Ok((line, without_effect(flags)?))
}

/// The node's name: the given one or the hostname, in the form in which the kubelet derives a node's name
/// from it.
fn node(flags: &Flags, hostname: impl Fn() -> Option<String>) -> Result<String, Usage> {
    let given = flags.value("hostname-override").map(str::to_owned).or_else(hostname).unwrap_or_default();
    let name = given.trim().to_lowercase();
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() {
        return Err(Usage(
            "this machine has no hostname: give the node's name with --hostname-override".to_owned(),
        ));
    }
    if !name.chars().all(is_part) {
        let advice = "is the variable set in the container's env?";
        return Err(Usage(format!("--hostname-override={given}: not a valid node name; {advice}")));
    }
    Ok(name)
}

/// Warnings for the given flags that have no effect.
fn without_effect(flags: &Flags) -> Result<Vec<Warning>, Usage> {
    let mut warnings = Vec::new();
    let mut warn = |flag: &str, message: &str| {
        warnings.push(Warning { flag: format!("--{flag}"), message: message.to_owned() });
    };
    if flags.switch("disable-nri")?.is_some() {
        warn(
            "disable-nri",
            "has no effect: NRI is never used; addresses of new pods come from the CNI's cache if \
             /var/lib/cni is mounted; otherwise their packets are held until the API server has their \
             addresses",
        );
    }
    if flags.switch("strict-mode")? == Some(false) {
        warn(
            "strict-mode",
            "has no effect: a policy change always applies to established connections as well",
        );
    }
    const LOGGING: [&str; 6] = [
        "vmodule",
        "log-flush-frequency",
        "log-text-split-stream",
        "log-json-split-stream",
        "log-text-info-buffer-size",
        "log-json-info-buffer-size",
    ];
    for name in LOGGING.into_iter().filter(|name| flags.value(name).is_some()) {
        warn(name, "has no effect: each line goes to standard error at once; --v sets the log level");
    }
    Ok(warnings)
}

/// Parses a command line of `run`.
fn parsed(line: &[String]) -> Result<Run, Usage> {
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Run(run)) => Ok(*run),
        Ok(_) => Err(Usage(format!("{} does not run an agent", line.join(" ")))),
        Err(error) => {
            // The other lines are about flags of `run`, which the user did not give.
            let error = error.to_string();
            let why = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(Usage(format!("cannot start {}: {why}", line.join(" "))))
        }
    }
}

#[cfg(test)]
mod tests;
