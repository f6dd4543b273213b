//! `/bin/netpol`: the agent under the name and the flags by which Flannel's chart starts its policy container.
//!
//! From: flags as Go's `flag` package takes them. To: [`Run`], by its own command line. Invariant: no flag is passed over in
//! silence, and none that isn't known keeps the agent from enforcing: a chart of tomorrow may give flags that we don't know today,
//! and a node whose policy container ends at once has no policy at all. A value that can't be right ends the program, as there.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Parser;

use super::run::Run;
use super::{Cli, Command};
use crate::exit::{self, Usage};
use crate::terminal::Text;

mod flags;
use flags::{Asked, Flags, Note, OURS};

const HELP: &str = "\
netpol: kube-verdict under the flags of kube-network-policies, as Flannel's chart starts it.

Usage: netpol [--FLAG=VALUE]...

  --hostname-override NAME          The node. Default: this machine's name
  --kubeconfig FILE                 How to reach the API server. Default: as a pod does
  --fail-open[=false]               New connections pass while no agent runs. Default: true
  --nfqueue-id N                    First NFQUEUE number. Default: 100
  --metrics-bind-address IP:PORT    Where to serve /metrics. Default: :9080
  --netfilter-bug-1766-fix[=false]  Evaluate DNS queries before they are routed. Default: on kernels before 6.12
  --v N                             What is logged: 0 to 3 info, 4 and 5 debug, from 6 on trace. Default: 0
  --logging-format text|json        How log lines look. Default: text
  --exempt-origin NS[:KEY=VALUE,..] Pods that may send from other addresses; can be repeated
  --overlay PORT/udp|PROTOCOL       More that carries an overlay; can be repeated
  --overlay-sources any|nodes       Who may send overlay packets. Default: any
  --policy-budget ENTRIES           Entries that the policies of one namespace may have. Default: 65536
  --policy-budget-total ENTRIES     Entries of all namespaces together. Default: 524288

Known and without effect, each said in the log: --disable-nri, --strict-mode=false, --vmodule, --log-flush-frequency,
--log-*-split-stream, --log-*-info-buffer-size. Flags that aren't known are named in the log and ignored.
All that kube-verdict can do: kube-verdict run --help

Exit codes: as of kube-verdict run.";

/// Where /metrics is served unless told otherwise.
const DEFAULT_METRICS: &str = ":9080";

/// Whether a program of this name is to take these flags.
pub fn is_name_of(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new("netpol"))
}

/// Runs the agent until it is told to end.
pub fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let flags = match flags::parse(&words)? {
        Asked::Help => {
            Text::of_lines(HELP).print()?;
            return Ok(exit::FINE);
        }
        Asked::Run(flags) => flags,
    };
    let hostname = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let (line, notes) = translate(&flags, hostname)?;
    let run = parsed(&line)?;
    run.start_log();
    tracing::info!(command = line.join(" "), "started as netpol");
    for Note { flag, said } in flags.notes().iter().chain(&notes) {
        tracing::warn!(flag, "{said}");
    }
    run.enforce()
}

/// The command line of `kube-verdict run` that means the same.
fn translate(
    flags: &Flags,
    hostname: impl Fn() -> Option<String>,
) -> Result<(Vec<String>, Vec<Note>), Usage> {
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
    for name in OURS {
        flags.values(name).for_each(|value| option(&format!("--{name}"), value));
    }
    Ok((line, without_effect(flags)?))
}

/// The node's name: as given, or the machine's, in the form that Kubernetes gives to a node that is named after its machine.
fn node(flags: &Flags, hostname: impl Fn() -> Option<String>) -> Result<String, Usage> {
    let given = flags.value("hostname-override").map(str::to_owned).or_else(hostname).unwrap_or_default();
    let name = given.trim().to_lowercase();
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() {
        return Err(Usage("this machine has no name: give the node's by --hostname-override".to_owned()));
    }
    if !name.chars().all(is_part) {
        let advice = "does the container have the variable in its env?";
        return Err(Usage(format!("--hostname-override={given}: no node has such a name; {advice}")));
    }
    Ok(name)
}

/// What is said of flags that were given and change nothing.
fn without_effect(flags: &Flags) -> Result<Vec<Note>, Usage> {
    let mut notes = Vec::new();
    let mut note =
        |flag: &str, said: &str| notes.push(Note { flag: format!("--{flag}"), said: said.to_owned() });
    if flags.switch("disable-nri")?.is_some() {
        note(
            "disable-nri",
            "has no effect: the container runtime is never asked; addresses of new pods come from the CNI's cache, if \
             /var/lib/cni is mounted, and else their packets are held until the API server knows them",
        );
    }
    if flags.switch("strict-mode")? == Some(false) {
        note(
            "strict-mode",
            "has no effect: a change of policy always holds for established connections, too",
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
        note(name, "has no effect: each line goes to standard error at once; --v chooses what is logged");
    }
    Ok(notes)
}

/// The `run` of a command line.
fn parsed(line: &[String]) -> Result<Run, Usage> {
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Run(run)) => Ok(run),
        Ok(_) => Err(Usage(format!("{} does not run an agent", line.join(" ")))),
        Err(error) => {
            // The rest is about the flags of `run`, which were not given.
            let error = error.to_string();
            let why = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(Usage(format!("netpol would start {}: {why}", line.join(" "))))
        }
    }
}

#[cfg(test)]
mod tests;
