//! The methods that install kube-verdict in a cluster with Flannel.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::components::Components;
use super::kubectl::Kubectl;
use super::node::Node;

/// How long the pods of a new DaemonSet may take to become ready. Their images are already on the nodes.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The namespace of Flannel.
pub const FLANNEL_NAMESPACE: &str = "kube-flannel";
/// Flannel's DaemonSet, both in the chart and in the manifest.
pub const FLANNEL: &str = "daemonset/kube-flannel-ds";

/// A method of installing kube-verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum InstallMethod {
    /// Flannel's own chart, with `netpol.enabled` and our image.
    Chart,
    /// Flannel's manifest, with our overlay, which adds a container.
    Overlay,
    /// Flannel unchanged, and our own DaemonSet.
    Daemonset,
    /// Flannel alone: no policy is enforced.
    None,
}

/// The agents' workload and container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agents {
    /// Namespace of the DaemonSet.
    pub namespace: &'static str,
    /// `daemonset/<name>`.
    pub workload: &'static str,
    /// Label selector of its pods.
    pub selector: &'static str,
    /// Name of the container.
    pub container: &'static str,
}

impl Agents {
    /// What the agent of a node says about itself (`status --output json`).
    pub fn status(self, kubectl: &Kubectl, node: &str) -> Result<Value> {
        let on_node = format!("--field-selector=spec.nodeName={node}");
        let pods = kubectl.run(&[
            "-n",
            self.namespace,
            "get",
            "pods",
            "-l",
            self.selector,
            &on_node,
            "-o",
            "name",
        ])?;
        let pod = pods.lines().next().with_context(|| format!("no agent runs on {node}"))?;
        let status = ["/kube-verdict", "status", "--output", "json"];
        let arguments = ["-n", self.namespace, "exec", pod, "-c", self.container, "--"];
        // If policy is not in force, the exit code is 1, but the status is complete.
        let output = kubectl.output(&[&arguments[..], &status].concat(), "")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("{pod} has no status: {}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}

/// The state of the watch of a kind in an agent's status, `None` if the agent does not know the kind.
pub fn watch_state<'a>(status: &'a Value, kind: &str) -> Option<&'a str> {
    let connections = status["source"]["connections"].as_array()?;
    connections.iter().find(|connection| connection["kind"] == kind)?["state"].as_str()
}

impl InstallMethod {
    /// The methods whose agents enforce policy.
    pub const ENFORCING: [Self; 3] = [Self::Chart, Self::Overlay, Self::Daemonset];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chart => "chart",
            Self::Overlay => "overlay",
            Self::Daemonset => "daemonset",
            Self::None => "none",
        }
    }

    /// Whether the agents can read the CNI cache. Flannel's chart mounts only the kernel's modules.
    pub fn sees_cni_cache(self) -> bool {
        matches!(self, Self::Overlay | Self::Daemonset)
    }

    /// The agents of this method.
    pub fn agents(self) -> Option<Agents> {
        let beside_flannel = |container| Agents {
            namespace: FLANNEL_NAMESPACE,
            workload: FLANNEL,
            selector: "app=flannel",
            container,
        };
        match self {
            Self::Chart => Some(beside_flannel("kube-network-policies")),
            Self::Overlay => Some(beside_flannel("kube-verdict")),
            Self::Daemonset => Some(Agents {
                namespace: "kube-system",
                workload: "daemonset/kube-verdict",
                selector: "app.kubernetes.io/name=kube-verdict",
                container: "kube-verdict",
            }),
            Self::None => None,
        }
    }

    /// Applies the manifests of this method. `image` is the name and tag of our image on the nodes.
    pub fn apply(self, kubectl: &Kubectl, components: &Components, image: &str) -> Result<()> {
        let flannel = match self {
            Self::Overlay => with_overlay(kubectl, components, image)?,
            Self::Chart => chart(components, Some(image))?,
            Self::Daemonset | Self::None => chart(components, None)?,
        };
        kubectl.apply(&flannel_namespace())?;
        kubectl.apply(&with_older_cni(&flannel)?)?;
        if self == Self::Daemonset {
            let own = kubectl.run(&["kustomize", &manifests("base").to_string_lossy()])?;
            kubectl.apply(&with_image(&own, image)?)?;
        }
        Ok(())
    }

    /// Removes the agents, as docs/operations.md describes. Flannel remains.
    pub fn remove(self, kubectl: &Kubectl, components: &Components) -> Result<()> {
        match self {
            // As `helm upgrade --set netpol.enabled=false` does.
            Self::Chart => kubectl.apply(&with_older_cni(&chart(components, None)?)?)?,
            Self::Overlay => {
                let (namespace, name) = (FLANNEL_NAMESPACE, FLANNEL.trim_start_matches("daemonset/"));
                let patch = manifests("flannel/remove.yaml");
                kubectl.run(&[
                    "-n",
                    namespace,
                    "patch",
                    "daemonset",
                    name,
                    "--patch-file",
                    &patch.to_string_lossy(),
                ])?;
                kubectl.run(&["delete", "-f", &manifests("flannel/rbac.yaml").to_string_lossy()])?;
            }
            Self::Daemonset => drop(kubectl.run(&["delete", "-k", &manifests("base").to_string_lossy()])?),
            Self::None => {}
        }
        kubectl.wait_for_rollout(FLANNEL_NAMESPACE, FLANNEL, TIMEOUT)
    }

    /// Lets the agents read cluster-wide policies. The role of Flannel's chart does not; the other roles do,
    /// unless [`InstallMethod::revoke_cluster_policies`] has changed them.
    pub fn grant_cluster_policies(self, kubectl: &Kubectl) -> Result<()> {
        match self.cluster_policies_role() {
            Some(role) => kubectl.apply(&roles(&manifests(role))?),
            None => Ok(()),
        }
    }

    /// Waits until the agents of all nodes know every ClusterNetworkPolicy. They look for the kind every 20
    /// to 40 s.
    pub fn wait_for_cluster_policies(self, kubectl: &Kubectl, nodes: &[Node]) -> Result<()> {
        let Some(agents) = self.agents() else { return Ok(()) };
        let end = Instant::now() + TIMEOUT;
        for node in nodes {
            loop {
                let status = agents.status(kubectl, &node.name)?;
                if watch_state(&status, "ClusterNetworkPolicy") == Some("watching") {
                    break;
                }
                if Instant::now() > end {
                    bail!(
                        "the agent of {} does not watch ClusterNetworkPolicies: {}",
                        node.name,
                        status["source"]
                    );
                }
                sleep(Duration::from_secs(1));
            }
        }
        Ok(())
    }

    /// Takes the permission to read cluster-wide policies from the agents.
    pub fn revoke_cluster_policies(self, kubectl: &Kubectl) -> Result<()> {
        let Some(role) = self.cluster_policies_role() else { return Ok(()) };
        kubectl.apply(&roles(&manifests(role))?.replace(POLICY_GROUP, "revoked.example"))
    }

    /// The manifest with the role that permits agents to read cluster-wide policies.
    fn cluster_policies_role(self) -> Option<&'static str> {
        match self {
            Self::Chart => Some("flannel/cluster-policies.yaml"),
            Self::Overlay => Some("flannel/rbac.yaml"),
            Self::Daemonset => Some("base/kube-verdict.yaml"),
            Self::None => None,
        }
    }

    /// Waits until every pod of Flannel and of the agents is ready.
    pub fn wait(self, kubectl: &Kubectl) -> Result<()> {
        kubectl.wait_for_rollout(FLANNEL_NAMESPACE, FLANNEL, TIMEOUT)?;
        match self.agents() {
            Some(agents) => kubectl.wait_for_rollout(agents.namespace, agents.workload, TIMEOUT),
            None => Ok(()),
        }
    }
}

/// The manifest of the DaemonSet that cleans up the nodes, and its namespace and name.
pub fn cleanup(kubectl: &Kubectl, image: &str) -> Result<(String, [&'static str; 2])> {
    let manifest = kubectl.run(&["kustomize", &manifests("cleanup").to_string_lossy()])?;
    Ok((with_image(&manifest, image)?, ["kube-system", "daemonset/kube-verdict-cleanup"]))
}

/// The API group of cluster-wide policies.
const POLICY_GROUP: &str = "policy.networking.k8s.io";
/// The name of ClusterNetworkPolicy's CustomResourceDefinition.
const DEFINITION: &str = "customresourcedefinition/clusternetworkpolicies.policy.networking.k8s.io";

/// The roles and their bindings in a manifest.
fn roles(manifest: &Path) -> Result<String> {
    let text = fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let roles: Vec<&str> =
        text.split("\n---\n").filter(|document| document.contains("\nkind: ClusterRole")).collect();
    if !roles.iter().any(|role| role.contains(POLICY_GROUP)) {
        bail!("{} has no role for the group {POLICY_GROUP}", manifest.display());
    }
    Ok(roles.join("\n---\n"))
}

/// Installs the CustomResourceDefinition of ClusterNetworkPolicy, experimental channel, and waits until the
/// API server serves it.
pub fn define_cluster_policies(kubectl: &Kubectl) -> Result<()> {
    let folder = manifests("crds/experimental");
    kubectl.run(&["apply", "--server-side", "-k", &folder.to_string_lossy()])?;
    kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", DEFINITION]).map(drop)
}

/// Deletes what [`define_cluster_policies`] has installed, and with it every ClusterNetworkPolicy.
pub fn undefine_cluster_policies(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["delete", "--ignore-not-found", "--timeout=60s", DEFINITION]).map(drop)
}

/// The folder of our own chart.
pub fn own_chart() -> PathBuf {
    manifests("helm/kube-verdict")
}

/// Renders Flannel's chart; with the policy container if its image is given.
fn chart(components: &Components, image: Option<&str>) -> Result<String> {
    let chart = components.flannel_sources().join("chart/kube-flannel");
    let mut command = Command::new(components.program("helm"));
    command.args(["template", "flannel"]).arg(&chart).args(["--namespace", FLANNEL_NAMESPACE]);
    if let Some(image) = image {
        let (repository, tag) = image.rsplit_once(':').context("the image's name has no tag")?;
        command
            .args(["--set", "netpol.enabled=true"])
            .args(["--set", &format!("netpol.image.repository={repository}")])
            .args(["--set", &format!("netpol.image.tag={tag}")]);
    }
    let output = command.stdin(Stdio::null()).output().context("running helm")?;
    if !output.status.success() {
        bail!("helm template: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Flannel's manifest from its sources.
pub fn flannel_manifest(components: &Components) -> Result<String> {
    let path = components.flannel_sources().join("Documentation/kube-flannel.yml");
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Flannel's manifest with our overlay, rendered by `kubectl kustomize`.
fn with_overlay(kubectl: &Kubectl, components: &Components, image: &str) -> Result<String> {
    let folder = tempfile::tempdir().context("creating a folder for the overlay")?;
    let overlay = folder.path().join("overlay");
    fs::create_dir(&overlay).context("creating a folder for the overlay")?;
    for entry in fs::read_dir(manifests("flannel")).context("reading manifests/flannel")?.flatten() {
        fs::copy(entry.path(), overlay.join(entry.file_name())).context("copying the overlay")?;
    }
    for (name, text) in [
        ("kube-flannel.yml", flannel_manifest(components)?),
        ("kustomization.yaml", "resources: [kube-flannel.yml]\ncomponents: [overlay]\n".to_owned()),
    ] {
        fs::write(folder.path().join(name), text).with_context(|| format!("writing {name}"))?;
    }
    let joined = kubectl.run(&["kustomize", &folder.path().to_string_lossy()])?;
    with_image(&joined, image)
}

fn flannel_namespace() -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": FLANNEL_NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
        },
    })
    .to_string()
}

fn manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(name)
}

/// Lowers the CNI version in a manifest. The last version of Flannel's plugin that can be built from source
/// supports only an older one.
fn with_older_cni(manifest: &str) -> Result<String> {
    let mut found = false;
    let mut text = String::new();
    for line in manifest.lines() {
        let mut line = line.to_owned();
        for quote in ["\"", "\\\""] {
            let asked = format!("{quote}cniVersion{quote}: {quote}1.0.0{quote}");
            if line.contains(&asked) {
                found = true;
                line = line.replace(&asked, &format!("{quote}cniVersion{quote}: {quote}0.3.1{quote}"));
            }
        }
        let _ = writeln!(text, "{line}");
    }
    if found { Ok(text) } else { bail!("Flannel's manifest does not have the expected CNI version") }
}

/// Replaces every image of kube-verdict in a manifest by this one.
fn with_image(manifest: &str, image: &str) -> Result<String> {
    let mut found = false;
    let mut text = String::new();
    for line in manifest.lines() {
        match line.split_once("image: ") {
            Some((before, name)) if name.contains("kube-verdict") => {
                found = true;
                let _ = writeln!(text, "{before}image: {image}");
            }
            _ => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    if found { Ok(text) } else { bail!("the manifests name no image of kube-verdict") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cni_version_is_lowered_in_both_formats() {
        let yaml = "data:\n  cni-conf.json: |\n    {\n      \"cniVersion\": \"1.0.0\",\n";
        assert!(with_older_cni(yaml).unwrap().contains("\"cniVersion\": \"0.3.1\","));
        let json = r#"  cni-conf.json: "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"1.0.0\",\n"#;
        assert!(with_older_cni(json).unwrap().contains(r#"\"cniVersion\": \"0.3.1\""#));
        assert!(with_older_cni("kind: ConfigMap").is_err());
    }

    #[test]
    fn the_state_of_a_watch_is_found_by_its_kind() {
        let pods = json!({"kind": "Pod", "state": "watching"});
        let status = json!({"source": {"connections": [pods]}});
        assert_eq!(watch_state(&status, "Pod"), Some("watching"));
        assert_eq!(watch_state(&status, "Node"), None);
        assert_eq!(watch_state(&json!({"source": null}), "Pod"), None);
    }

    #[test]
    fn only_our_image_is_replaced() {
        let manifest = "      - image: example/flannel:1\n      - image: example/kube-verdict:latest\n";
        let replaced = with_image(manifest, "localhost/kube-verdict:2").unwrap();
        assert_eq!(replaced, "      - image: example/flannel:1\n      - image: localhost/kube-verdict:2\n");
        assert!(with_image("kind: DaemonSet", "x:1").is_err());
    }
}
