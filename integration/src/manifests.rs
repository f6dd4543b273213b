//! The folder of manifests that is the source of a testbed's agents.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::cluster::ClusterSpec;
use crate::namespace::{creator_pid, is_alive, keep_testbed};
use crate::specs::PodSpec;

/// The prefix of the folder's name. The process id follows.
const PREFIX: &str = "kube-verdict-testbed-";

/// A folder of manifests. It is removed when this is dropped, unless `KEEP_TESTBED=1` is in the environment.
#[derive(Debug)]
pub struct Manifests {
    path: PathBuf,
    around: TempDir,
}

impl Manifests {
    /// Creates an empty folder.
    pub fn new() -> Result<Self> {
        remove_stale();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let around = tempfile::Builder::new()
            .prefix(&prefix)
            .disable_cleanup(keep_testbed())
            .tempdir()
            .context("creating a folder for manifests")?;
        let path = around.path().join("manifests");
        fs::create_dir(&path).with_context(|| format!("creating the folder {}", path.display()))?;
        Ok(Self { path, around })
    }

    /// The folder of manifests.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file beside the folder, which is removed with it. Logs are written there.
    pub fn sibling_file(&self, file: &str) -> PathBuf {
        self.around.path().join(file)
    }

    /// Writes the namespaces, nodes and pods of a cluster as `cluster.yaml`.
    pub fn write_cluster(&self, cluster: &ClusterSpec) -> Result<Instant> {
        self.write_cluster_without(cluster, &[])
    }

    /// [`Manifests::write_cluster`] without some of the pods (`namespace/name`). These run, but agents don't
    /// know them.
    pub fn write_cluster_without(&self, cluster: &ClusterSpec, pods: &[&str]) -> Result<Instant> {
        self.write("cluster.yaml", &cluster_text(cluster, pods))
    }

    /// Writes the NetworkPolicy `name` (`namespace/name`) with this `spec` to its own file. Returns when, as
    /// [`Manifests::write`] does.
    pub fn policy(&self, name: &str, spec: &str) -> Result<Instant> {
        self.write(&policy_file(name), &policy_text(name, spec))
    }

    /// Removes the file that [`Manifests::policy`] wrote. Returns when, as [`Manifests::remove`] does.
    pub fn remove_policy(&self, name: &str) -> Result<Instant> {
        self.remove(&policy_file(name))
    }

    /// Writes the ClusterNetworkPolicy `name` with this `spec` to its own file. Returns when, as
    /// [`Manifests::write`] does.
    pub fn cluster_policy(&self, name: &str, spec: &str) -> Result<Instant> {
        self.write(&format!("cluster-policy-{name}.yaml"), &cluster_policy_text(name, spec))
    }

    /// Writes a file as editors do: under another name, and then renames it. Returns the time just before the
    /// rename, before which no agent can have seen the change.
    pub fn write(&self, file: &str, text: &str) -> Result<Instant> {
        let new = self.path().join(format!(".{file}.new"));
        let path = self.path().join(file);
        fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
        let written = Instant::now();
        fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))?;
        Ok(written)
    }

    /// Removes a file. Returns the time just before that.
    pub fn remove(&self, file: &str) -> Result<Instant> {
        let path = self.path().join(file);
        let removed = Instant::now();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        Ok(removed)
    }
}

/// The text of a NetworkPolicy `namespace/name` with this `spec`, which may be indented as a whole.
pub fn policy_text(name: &str, spec: &str) -> String {
    let (namespace, short) = name.split_once('/').unwrap_or(("default", name));
    let head = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata:\n  name: \"{short}\"\n  namespace: \"{namespace}\"\nspec:\n"
    );
    with_spec(head, spec)
}

/// The text of the ClusterNetworkPolicy `name` with this `spec`, which may be indented as a whole.
pub fn cluster_policy_text(name: &str, spec: &str) -> String {
    let head = format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata:\n  name: \"{name}\"\nspec:\n"
    );
    with_spec(head, spec)
}

/// Adds the lines of a spec to `head`, which ends with `spec:`.
fn with_spec(mut head: String, spec: &str) -> String {
    let lines = || spec.lines().filter(|line| !line.trim().is_empty());
    let margin = lines().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    for line in lines() {
        let _ = writeln!(head, "  {}", &line[margin..]);
    }
    head
}

fn policy_file(name: &str) -> String {
    format!("policy-{}.yaml", name.replace('/', "."))
}

/// The manifests of a cluster, without some of its pods. Names are quoted, since `n` and `y` are booleans in
/// YAML 1.1.
pub(crate) fn cluster_text(cluster: &ClusterSpec, without: &[&str]) -> String {
    let mut documents = Vec::new();
    for (name, labels) in &cluster.namespaces {
        let labels = labels_text(labels);
        documents.push(format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: \"{name}\"\n  labels: {labels}\n"
        ));
    }
    for node in &cluster.nodes {
        let [cidr4, cidr6] = node.cidrs();
        let [address4, address6] = node.addresses();
        let name = &node.name;
        documents.push(format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: \"{name}\"\n\
             spec:\n  podCIDR: {cidr4}\n  podCIDRs: [\"{cidr4}\", \"{cidr6}\"]\n\
             status:\n  addresses:\n  - {{type: InternalIP, address: \"{address4}\"}}\n  \
             - {{type: InternalIP, address: \"{address6}\"}}\n"
        ));
    }
    let known = |pod: &&PodSpec| !without.contains(&pod.full_name().as_str());
    documents.extend(cluster.pods.iter().filter(known).map(pod_text));
    documents.join("---\n")
}

fn pod_text(pod: &PodSpec) -> String {
    let PodSpec { namespace, name, node, host_network, .. } = pod;
    let labels = labels_text(&pod.labels);
    let [address4, address6] = pod.addresses;
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata:\n  name: \"{name}\"\n  namespace: \"{namespace}\"\n  labels: {labels}\n  \
         creationTimestamp: \"2024-01-01T00:00:00Z\"\n\
         spec:\n  nodeName: \"{node}\"\n  hostNetwork: {host_network}\n  containers:\n  - name: server\n    \
         ports:"
    );
    if pod.ports.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    for port in &pod.ports {
        let name = port.name.as_ref().map(|name| format!("name: \"{name}\", ")).unwrap_or_default();
        let (number, transport) = (port.number, port.transport);
        let _ = writeln!(text, "    - {{{name}containerPort: {number}, protocol: {transport}}}");
    }
    let _ = write!(
        text,
        "status:\n  phase: Running\n  podIP: \"{address4}\"\n  podIPs:\n  \
         - ip: \"{address4}\"\n  - ip: \"{address6}\"\n"
    );
    text
}

fn labels_text(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("\"{key}\": \"{value}\"")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Removes folders that killed processes left behind.
fn remove_stale() {
    let folder: PathBuf = std::env::temp_dir();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| creator_pid(name, PREFIX)).is_some_and(|process| !is_alive(process))
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_indented_under_its_spec() {
        let text = policy_text(
            "db/allow",
            "
            podSelector: {}
            ingress:
            - from: []
            ",
        );
        let expected = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                        metadata:\n  name: \"allow\"\n  \
                        namespace: \"db\"\nspec:\n  podSelector: {}\n  ingress:\n  - from: []\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cluster_wide_policy_has_no_namespace() {
        let text = cluster_policy_text("guard", "tier: Admin\nsubject: {namespaces: {}}");
        let expected = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                        metadata:\n  name: \"guard\"\nspec:\n  tier: Admin\n  subject: {namespaces: {}}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_cluster_is_written_as_manifests() {
        let cluster = ClusterSpec::of_two_nodes().namespace("web", &[("team", "front")]).pod(
            "web/a",
            "node-a",
            &[("app", "web")],
            &["http=80/TCP"],
        );
        let text = cluster_text(&cluster, &[]);
        assert!(text.contains("  podCIDRs: [\"10.244.1.0/24\", \"fd00:10:244:1::/64\"]\n"), "{text}");
        assert!(text.contains("    - {name: \"http\", containerPort: 80, protocol: TCP}\n"), "{text}");
        assert!(text.contains("  - ip: \"fd00:10:244:1::2\"\n"), "{text}");
        assert!(text.contains("  labels: {\"team\": \"front\"}\n"), "{text}");
    }
}
