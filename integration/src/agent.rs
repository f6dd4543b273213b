//! An agent: the real program `kube-verdict` on a node of the testbed.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::ProcResult;
use procfs::process::{Process, Task};
use serde_json::Value;

use crate::dropped::{self, Dropped};
use crate::http::{self, HttpResponse};
use crate::namespace::{NetworkNamespace, keep_testbed};
use crate::record::{self, Record};
use crate::testbed::Testbed;

mod binary;

pub use binary::{binary, command};

/// How long an agent may take to start, to become ready or to apply a change, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The default port of an agent's HTTP server on 127.0.0.1.
pub const HTTP_PORT: u16 = 9476;

/// A running agent, which is killed when this is dropped. If a test panics, its status, records and log are
/// printed first.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    node: String,
    namespace: Arc<NetworkNamespace>,
    http_port: u16,
    audit_log: PathBuf,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Flags for `kube-verdict run`, other than `--source`, `--node`, `--audit-log` and `--http-port`. They
    /// may replace `--audit-fold=0s`.
    pub flags: &'a [&'a str],
    /// A program with arguments that executes the agent, such as `setpriv ...`.
    pub wrapper: &'a [&'a str],
    /// The port of its HTTP server. Two agents on one node need different ports.
    pub http_port: u16,
    /// The folder of manifests; the testbed's own by default.
    pub source: Option<&'a Path>,
    /// The audit log; by default a file beside the manifests.
    pub audit_log: Option<&'a Path>,
    /// The kubeconfig of an API server, which is then the source instead of a folder.
    pub kubeconfig: Option<&'a Path>,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            flags: &[],
            wrapper: &[],
            http_port: HTTP_PORT,
            source: None,
            audit_log: None,
            kubeconfig: None,
        }
    }
}

impl Agent {
    /// Starts an agent on a node, without waiting until it is ready.
    pub fn start(testbed: &Testbed, node: &str, launch: &Launch<'_>) -> Result<Self> {
        static AGENTS: AtomicU32 = AtomicU32::new(1);
        let number = AGENTS.fetch_add(1, Ordering::Relaxed);
        let namespace = Arc::clone(testbed.namespace(node)?);
        let file = |kind| testbed.manifests().sibling_file(&format!("{node}-{number}.{kind}"));
        let audit_log = launch.audit_log.map_or_else(|| file("audit"), Path::to_owned);
        let log = file("log");
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command_line: Vec<&str> = launch.wrapper.to_vec();
        let binary = binary()?;
        let binary = binary.to_str().context("the path of kube-verdict is not UTF-8")?;
        command_line.push(binary);
        let Some((program, arguments)) = command_line.split_first() else {
            bail!("the command line is empty")
        };
        // Each denied packet has its own record, unless the test is about folding.
        let folds = launch.flags.iter().any(|flag| flag.starts_with("--audit-fold"));
        let fold = (!folds).then_some("--audit-fold=0s");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["run", "--node", node, "--http-port", &launch.http_port.to_string()])
            .arg(if launch.kubeconfig.is_some() { "--kubeconfig" } else { "--source" })
            .arg(launch.kubeconfig.or(launch.source).unwrap_or(testbed.manifests().path()))
            .arg("--audit-log")
            .arg(&audit_log)
            .args(fold)
            .args(launch.flags)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // A process starts in the namespace of the thread that starts it.
        let child = namespace.run(|| command.spawn())?.with_context(|| format!("starting {program}"))?;
        let http_port = launch.http_port;
        Ok(Self { child, node: node.to_owned(), namespace, http_port, audit_log, log, ended: None })
    }

    /// The node on which it runs.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The port of its HTTP server.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready. Fails with its log if it exits or takes too long.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_for("the agent to be ready", |answer| answer.status == 200)
    }

    /// Waits until it answers that it is not ready, for a reason that contains `naming`. Returns the whole
    /// answer.
    pub fn wait_not_ready(&mut self, naming: &str) -> Result<String> {
        let mut body = String::new();
        self.wait_for(&format!("the agent to be not ready because of {naming:?}"), |answer| {
            body.clone_from(&answer.body);
            answer.status != 200 && body.contains(naming)
        })?;
        Ok(body)
    }

    /// Its answer to `/readyz`.
    pub fn readiness(&self) -> Result<HttpResponse> {
        self.get("/readyz")
    }

    /// Its answer to a path such as `/metrics`.
    pub fn get(&self, path: &str) -> Result<HttpResponse> {
        http::get(&self.namespace, self.http_port, path)
    }

    /// Its answer to `/status`.
    pub fn status(&self) -> Result<Value> {
        let answer = self.get("/status")?;
        serde_json::from_str(&answer.body).with_context(|| format!("the status is not JSON: {}", answer.body))
    }

    /// The generation that is in force: nothing that it denies passes.
    pub fn applied_generation(&self) -> Result<u64> {
        let status = self.status()?;
        status["applied_generation"].as_u64().with_context(|| format!("no applied_generation: {status}"))
    }

    /// Waits until a generation later than `before` is in force.
    pub fn wait_applied_after(&self, before: u64) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        while self.applied_generation()? <= before {
            if Instant::now() > end {
                bail!("{}: no generation after {before} was applied within {TIMEOUT:?}", self.node);
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The sum of all samples of a metric whose labels contain `label`. An empty `label` selects all samples.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let text = self.get("/metrics")?.body;
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        if values.is_empty() {
            bail!("no metric {name} with {label:?} in:\n{text}");
        }
        Ok(values.iter().sum())
    }

    /// The offset of its audit log after the last complete record.
    pub fn audit_end(&self) -> u64 {
        record::end(&self.audit_log).unwrap_or(0)
    }

    /// The records after an offset of its audit log.
    pub fn records_after(&self, offset: u64) -> Result<Vec<Record>> {
        if self.audit_log.exists() { Ok(record::read(&self.audit_log, offset)?.0) } else { Ok(Vec::new()) }
    }

    /// The lines about dropped packets after an offset of its audit log.
    pub fn drops_after(&self, offset: u64) -> Result<Vec<Dropped>> {
        if self.audit_log.exists() { dropped::read(&self.audit_log, offset) } else { Ok(Vec::new()) }
    }

    /// All lines of its audit log with an event of this name, such as `bypass`.
    pub fn lines(&self, event: &str) -> Result<Vec<Value>> {
        let (lines, _) = record::lines(&self.audit_log, 0)?;
        let values = lines.iter().map(|line| serde_json::from_slice(line).context("a line of the audit log"));
        let values: Vec<Value> = values.collect::<Result<_>>()?;
        Ok(values.into_iter().filter(|line| line["event"] == event).collect())
    }

    /// Waits for a record after an offset of its audit log for which `fits` is true.
    pub fn wait_record(&self, offset: u64, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            let records = self.records_after(offset)?;
            if let Some(record) = records.iter().find(|record| fits(record)) {
                return Ok(record.clone());
            }
            if Instant::now() > end {
                bail!("{}: no record fits among these: {records:#?}", self.node);
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// The path of its audit log.
    pub fn audit_log(&self) -> &Path {
        &self.audit_log
    }

    /// The path of the file with its standard output and standard error.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Its standard output and standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("({}: {error})", self.log.display()))
    }

    /// Waits until it has logged a text.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        while !self.log().contains(text) {
            if Instant::now() > end {
                bail!("{}: waited {TIMEOUT:?} for a log line with {text:?}:\n{}", self.node, self.log());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it (SIGKILL), as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing the agent")?;
        self.wait().map(drop)
    }

    /// Suspends it (SIGSTOP), and waits until each of its threads has stopped.
    pub fn suspend(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let process = Process::new(self.child.id().cast_signed())?;
        let is_stopped = |thread: ProcResult<Task>| Ok(thread?.stat()?.state == 'T');
        let end = Instant::now() + TIMEOUT;
        while !process.tasks()?.map(is_stopped).collect::<ProcResult<Vec<_>>>()?.into_iter().all(|it| it) {
            if Instant::now() > end {
                bail!("{}: the agent was not suspended within {TIMEOUT:?}", self.node);
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Resumes it (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Terminates it (SIGTERM), waits until it has exited, and returns its exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = i32::try_from(self.child.id()).context("a process id")?;
        kill(Pid::from_raw(process), signal).with_context(|| format!("sending {signal} to the agent"))
    }

    /// Waits until it has exited.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{}: the agent did not exit within {TIMEOUT:?}:\n{}", self.node, self.log());
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Prints its status, its last records and its last log lines.
    pub fn print_state(&self) {
        match self.status() {
            Ok(status) => eprintln!("--- status of the agent on {}\n{status:#}", self.node),
            Err(error) => eprintln!("--- status of the agent on {}: {error:#}", self.node),
        }
        let records = fs::read_to_string(&self.audit_log).unwrap_or_default();
        eprintln!("--- last audit records on {}\n{}", self.node, last_lines(&records, 20));
        eprintln!("--- last log lines of the agent on {}\n{}", self.node, last_lines(&self.log(), 40));
    }

    /// Its exit status, if it has exited.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("waiting for the agent")?;
        }
        Ok(self.ended)
    }

    fn wait_for(&mut self, what: &str, mut seen: impl FnMut(&HttpResponse) -> bool) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        let mut last = String::from("none");
        loop {
            if let Some(status) = self.try_wait()? {
                bail!(
                    "{}: waiting for {what}, but the agent exited ({}):\n{}",
                    self.node,
                    exit_text(status),
                    self.log()
                );
            }
            match self.readiness() {
                Ok(answer) if seen(&answer) => return Ok(()),
                Ok(answer) => last = answer.body,
                // It does not listen yet.
                Err(_) => {}
            }
            if Instant::now() > end {
                bail!(
                    "{}: waited {TIMEOUT:?} for {what}; its last answer: {last}\n{}",
                    self.node,
                    self.log()
                );
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_state();
        }
        if !keep_testbed() && self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn exit_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
