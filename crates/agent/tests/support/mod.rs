//! Runs the built program, on folders made for a test.

pub(crate) mod quoted;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The result of a run of the program.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; -1 if a signal ended the program.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `kube-verdict` with empty standard input.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    run_with(arguments, b"")
}

/// Runs `kube-verdict` with `input` on standard input.
pub(crate) fn run_with(arguments: &[&str], input: &[u8]) -> Ran {
    finish(program(arguments, None), input)
}

/// Runs `kube-verdict` with this value of the environment variable `COLUMNS`.
pub(crate) fn run_in_columns(arguments: &[&str], columns: Option<&str>) -> Ran {
    finish(program(arguments, columns), b"")
}

fn program(arguments: &[&str], columns: Option<&str>) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kube-verdict"));
    program.args(arguments).env_remove("COLUMNS").envs(columns.map(|columns| ("COLUMNS", columns)));
    program
}

fn finish(mut program: Command, input: &[u8]) -> Ran {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("standard input");
    let input = input.to_vec();
    // Written by a thread, or else writing and reading could block each other. The program may not read all
    // of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("input written");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Creates a folder with one manifest.
pub(crate) fn folder(manifest: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("cluster.yaml"), manifest).expect("manifest");
    folder
}

/// The path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Pods web/a, web/b and db/db. A policy allows web/a to connect to port `sql` (5432/TCP) of db/db, and
/// 192.0.2.0/24 to connect to port 22. web/host uses its node's network, and web/done is finished.
pub(crate) const CLUSTER: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: web, labels: {team: front}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: db}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDRs: [10.244.1.0/24]},
 status: {addresses: [{type: InternalIP, address: 198.51.100.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: web, labels: {app: a}},
 spec: {nodeName: node-a, containers: [{name: c}]},
 status: {phase: Running, podIPs: [{ip: 10.244.1.2}, {ip: "fd00:1::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: web, labels: {app: b}},
 spec: {nodeName: node-a, containers: [{name: c}]},
 status: {phase: Running, podIPs: [{ip: 10.244.1.3}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: db, labels: {app: db}},
 spec: {nodeName: node-b, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]},
 status: {phase: Running, podIPs: [{ip: 10.244.2.2}, {ip: "fd00:2::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: web},
 spec: {nodeName: node-a, hostNetwork: true, containers: [{name: c}]},
 status: {phase: Running, podIPs: [{ip: 198.51.100.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: done, namespace: web},
 spec: {nodeName: node-a, containers: [{name: c}]}, status: {phase: Succeeded, podIPs: [{ip: 10.244.1.9}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow-web, namespace: db},
 spec: {podSelector: {}, ingress: [
   {from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 22}]},
   {from: [{namespaceSelector: {matchLabels: {team: front}}, podSelector: {matchLabels: {app: a}}}],
    ports: [{port: sql}]}]}}
"#;
