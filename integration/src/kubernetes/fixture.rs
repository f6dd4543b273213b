//! The environment of a scenario: its own namespace on a cluster, with servers and clients.

use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::Cluster;
use super::images::PROBER;
use super::install::InstallMethod;

/// The port of the scenarios' servers.
pub const PORT: u16 = 8080;

/// How long pods may take to start.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A namespace for one scenario, which is deleted when this is dropped.
#[derive(Debug)]
pub struct Fixture<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// How kube-verdict was installed.
    pub method: InstallMethod,
    /// The namespace's name.
    pub namespace: String,
}

/// The description of a pod.
#[derive(Clone, PartialEq, Debug)]
pub struct PodManifest {
    name: String,
    node: String,
    labels: Map<String, Value>,
    container: Value,
    spec: Map<String, Value>,
}

impl PodManifest {
    /// A pod on a node that runs the prober with these arguments.
    pub fn new(name: &str, node: &str, arguments: &[&str]) -> Self {
        let container = json!({"name": "main", "image": PROBER, "command": ["/prober"], "args": arguments});
        let mut spec = Map::new();
        spec.insert("terminationGracePeriodSeconds".to_owned(), json!(0));
        spec.insert("automountServiceAccountToken".to_owned(), json!(false));
        Self { name: name.to_owned(), node: node.to_owned(), labels: Map::new(), container, spec }
    }

    /// A pod with a server on [`PORT`].
    pub fn server(name: &str, node: &str) -> Self {
        Self::new(name, node, &["serve", &PORT.to_string()])
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }

    /// Sets a field of the container.
    #[must_use]
    pub fn container(mut self, field: &str, value: Value) -> Self {
        self.container[field] = value;
        self
    }

    /// Sets a field of the pod's spec.
    #[must_use]
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    fn object(&self, namespace: &str) -> Value {
        let mut spec = self.spec.clone();
        spec.insert("nodeName".to_owned(), json!(self.node));
        spec.insert("containers".to_owned(), json!([self.container]));
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": namespace, "labels": self.labels},
            "spec": spec,
        })
    }
}

impl<'a> Fixture<'a> {
    /// Creates the namespace `scenario-<name>`.
    pub fn new(cluster: &'a Cluster, method: InstallMethod, name: &str) -> Result<Self> {
        let namespace = format!("scenario-{name}");
        // A namespace from an earlier run would contain its pods.
        cluster.kubectl.run(&["delete", "namespace", &namespace, "--ignore-not-found"])?;
        cluster.kubectl.run(&["create", "namespace", &namespace])?;
        wait_for_service_account(cluster, &namespace)?;
        Ok(Self { cluster, method, namespace })
    }

    /// Creates pods without waiting for them.
    pub fn create(&self, pods: &[PodManifest]) -> Result<()> {
        let items: Vec<Value> = pods.iter().map(|pod| pod.object(&self.namespace)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.cluster.kubectl.run_with_input(&["create", "-f", "-"], &list.to_string()).map(drop)
    }

    /// Creates pods and waits until all of them are ready.
    pub fn start(&self, pods: &[PodManifest]) -> Result<()> {
        self.create(pods)?;
        let names: Vec<String> = pods.iter().map(|pod| format!("pod/{}", pod.name)).collect();
        let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=180s"];
        arguments.extend(names.iter().map(String::as_str));
        self.kubectl(&arguments).map(drop)
    }

    /// Applies a NetworkPolicy with this name and spec.
    pub fn policy(&self, name: &str, spec: &Value) -> Result<()> {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        });
        self.cluster.kubectl.apply(&policy.to_string())
    }

    /// `kubectl` in the scenario's namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl.run(&[&["-n", &self.namespace], arguments].concat())
    }

    /// A pod's address.
    pub fn address(&self, pod: &str) -> Result<String> {
        let end = Instant::now() + TIMEOUT;
        loop {
            let address = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
            if !address.is_empty() {
                return Ok(address);
            }
            if Instant::now() > end {
                bail!("the pod {pod} got no address");
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Connects from a pod to an address. Returns the answer, or `None` if the address is not reached.
    pub fn ask(&self, pod: &str, command: &str, to: &str) -> Result<Option<String>> {
        let Output { status, stdout, stderr } =
            self.cluster.kubectl.exec(&self.namespace, pod, &["/prober", "ask", command, to])?;
        if status.success() {
            return Ok(Some(String::from_utf8_lossy(&stdout).trim().to_owned()));
        }
        let errors = String::from_utf8_lossy(&stderr);
        // These are errors of the prober, and not of kubectl.
        if errors.contains("timed out") || errors.contains("os error") {
            Ok(None)
        } else {
            bail!("connecting from {pod}: {}", errors.trim())
        }
    }

    /// The answer of a pod's own server to a command.
    pub fn ask_local(&self, pod: &str, command: &str) -> Result<String> {
        let answer = self.ask(pod, command, &format!("127.0.0.1:{PORT}"))?;
        answer.with_context(|| format!("the server in {pod} does not answer"))
    }

    /// Fails unless a pod reaches an address exactly if that is allowed.
    pub fn expect(&self, pod: &str, to: &str, allowed: bool) -> Result<()> {
        let reached = self.ask(pod, "expect", to)?.is_some();
        if reached == allowed {
            return Ok(());
        }
        let (should, did) = if allowed { ("should reach", "did not") } else { ("should not reach", "did") };
        bail!("{pod} {should} {to}, but {did}")
    }

    /// The JSON lines that the pods of a selector have printed, each with the pod's name. Waits until every
    /// pod has printed one.
    pub fn reports(&self, selector: &str, pods: usize, timeout: Duration) -> Result<Vec<(String, Value)>> {
        let end = Instant::now() + timeout;
        loop {
            // This fails until all of the pods have started.
            let logs =
                self.kubectl(&["logs", "-l", selector, "--prefix", "--tail=1", "--max-log-requests=400"]);
            let reports: Vec<(String, Value)> =
                logs.iter().flat_map(|text| text.lines()).filter_map(report).collect();
            if reports.len() == pods {
                return Ok(reports);
            }
            if Instant::now() > end {
                let output = logs.unwrap_or_else(|error| format!("{error:#}"));
                bail!("only {} of {pods} pods ({selector}) have reported:\n{output}", reports.len());
            }
            sleep(Duration::from_secs(1));
        }
    }

    /// Waits until `done` returns true.
    pub fn until(&self, what: &str, timeout: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + timeout;
        while !done()? {
            if Instant::now() > end {
                bail!("{what}: not within {timeout:?}");
            }
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Fixture<'_> {
    fn drop(&mut self) {
        // If the cluster is gone, there is nothing to delete.
        let _ = self.cluster.kubectl.run(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

/// Waits until a new namespace has its service account, without which no pods can be created.
pub fn wait_for_service_account(cluster: &Cluster, namespace: &str) -> Result<()> {
    let wait = ["-n", namespace, "wait", "--for=create", "--timeout=60s", "serviceaccount/default"];
    cluster.kubectl.run(&wait).map(drop)
}

/// A number in a pod's report.
pub fn number(report: &Value, field: &str) -> Result<u64> {
    report[field].as_u64().with_context(|| format!("a pod's report has no {field}: {report}"))
}

/// Reads `[pod/name/main] {...}`.
fn report(line: &str) -> Option<(String, Value)> {
    let (prefix, text) = line.split_once("] ")?;
    let pod = prefix.strip_prefix("[pod/")?.split('/').next()?;
    Some((pod.to_owned(), serde_json::from_str(text).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_parsed_from_logs() {
        let (pod, value) = report(r#"[pod/denied-1/main] {"tries":3}"#).unwrap();
        assert_eq!(pod, "denied-1");
        assert_eq!(number(&value, "tries").unwrap(), 3);
        assert!(number(&value, "successes").is_err());
        assert_eq!(report("[pod/denied-1/main] Error: no route"), None);
    }
}
