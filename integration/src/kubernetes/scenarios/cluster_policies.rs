//! Policies of the whole cluster: what namespaces can't override, and what they can.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::policies::{allow_egress, allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest};
use crate::kubernetes::install;
use crate::kubernetes::{Cluster, Node};

/// How soon after `kubectl apply` a change must be enforced. The watch is quicker, but a probe that is denied
/// takes 3 s, and the state is right only if all probes of one round show it.
pub(super) const SOON: Duration = Duration::from_secs(8);
/// How soon agents must notice that the API server no longer has a kind, or that they may read it.
const DISCOVERED: Duration = Duration::from_secs(90);
/// How long agents may take to restart.
const RESTARTED: Duration = Duration::from_secs(180);

/// The port of the pods of the host network.
const HOST_NETWORK_PORT: u16 = 18_082;

/// The label by which the policies of a scenario are deleted, and by which one selects nodes.
pub(super) const SCENARIO: &str = "scenario";

/// The policies of a scenario. They have no namespace whose end would end them, so they are deleted when this
/// is dropped.
pub(super) struct Policies<'a>(pub(super) &'a Fixture<'a>);

impl Policies<'_> {
    /// Applies a policy whose subjects are the scenario's pods with a label.
    pub(super) fn apply(
        &self,
        name: &str,
        tier: &str,
        priority: u32,
        subject: &str,
        rules: Value,
    ) -> Result<()> {
        let mut spec = json!({"tier": tier, "priority": priority, "subject": {"pods": self.pods(subject)}});
        for direction in ["ingress", "egress"] {
            if let Some(rules) = rules.get(direction) {
                spec[direction] = rules.clone();
            }
        }
        let policy = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name, "labels": {SCENARIO: self.0.namespace}},
            "spec": spec,
        });
        self.0.cluster.kubectl.apply(&policy.to_string())
    }

    /// Deletes all of them.
    pub(super) fn clear(&self) -> Result<()> {
        let selector = format!("{SCENARIO}={}", self.0.namespace);
        self.0.cluster.kubectl.run(&["delete", "clusternetworkpolicies", "-l", &selector]).map(drop)
    }

    /// A rule about the scenario's pods with a label. `peers` is `from` or `to`.
    fn rule(&self, action: &str, peers: &str, label: &str) -> Value {
        json!({"action": action, peers: [{"pods": self.pods(label)}]})
    }

    fn pods(&self, label: &str) -> Value {
        json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.0.namespace}},
            "podSelector": {"matchLabels": {"app": label}},
        })
    }
}

impl Drop for Policies<'_> {
    fn drop(&mut self) {
        // Without the definition there is nothing to delete.
        let _ = self.clear();
    }
}

/// A server, a client on each node, and another client.
const CLIENTS: [(&str, &str, &str); 3] =
    [("client", "node-1", "client"), ("far-client", "node-2", "client"), ("stranger", "node-2", "stranger")];

/// Starts the server and its clients. Returns the server's address.
fn start(fixture: &Fixture<'_>) -> Result<String> {
    let clients = CLIENTS.map(|(name, node, app)| PodManifest::server(name, node).label("app", app));
    let server = PodManifest::server("server", "node-1").label("app", "server");
    fixture.start(&[&[server], &clients[..]].concat())?;
    Ok(format!("{}:{PORT}", fixture.address("server")?))
}

/// Waits until exactly the clients with these labels reach an address.
fn reached_by(fixture: &Fixture<'_>, to: &str, labels: &[&str], within: Duration, what: &str) -> Result<()> {
    fixture.until(what, within, || {
        // At the same time, because each takes seconds if it is denied.
        thread::scope(|scope| {
            let probes = CLIENTS.map(|(pod, _, _)| scope.spawn(move || fixture.ask(pod, "expect", to)));
            let mut as_expected = true;
            for (probe, (pod, _, app)) in probes.into_iter().zip(CLIENTS) {
                let Ok(answer) = probe.join() else { bail!("the probe from {pod} panicked") };
                as_expected &= answer?.is_some() == labels.contains(&app);
            }
            Ok(as_expected)
        })
    })
}

/// Installs the definition, and waits until the agents have read it.
pub(super) fn define(fixture: &Fixture<'_>) -> Result<()> {
    let Cluster { kubectl, nodes, .. } = fixture.cluster;
    install::define_cluster_policies(kubectl)?;
    fixture.method.grant_cluster_policies(kubectl)?;
    fixture.method.wait_for_cluster_policies(kubectl, nodes)
}

/// The order of the tiers and of priorities.
pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    let server = start(fixture)?;
    define(fixture)?;
    let policies = Policies(fixture);
    override_namespaces(fixture, &policies, &server)?;
    pass_to_namespaces(fixture, &policies, &server)?;
    override_baseline(fixture, &policies, &server)?;
    follow_priorities(fixture, &policies, &server)?;
    Ok("namespaces overridden, passed to and overriding; priorities and ties in order".to_owned())
}

/// The tier Admin decides whatever a namespace's own policies say, in both senses.
fn override_namespaces(fixture: &Fixture<'_>, policies: &Policies<'_>, server: &str) -> Result<()> {
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "client")))?;
    reached_by(fixture, server, &["client"], SOON, "a NetworkPolicy allows clients")?;
    let rules = [policies.rule("Accept", "from", "stranger"), policies.rule("Deny", "from", "client")];
    policies.apply("override", "Admin", 10, "server", json!({"ingress": rules}))?;
    reached_by(fixture, server, &["stranger"], SOON, "Admin overrides an allow and a default deny")?;
    // The source's egress is not affected by an Accept of the destination's ingress.
    fixture.policy("strangers", &deny_all(Some(("app", "stranger"))))?;
    reached_by(fixture, server, &[], SOON, "an Accept of ingress does not bypass egress")?;
    policies.clear()?;
    fixture.kubectl(&["delete", "networkpolicy", "server", "strangers"]).map(drop)
}

/// `Pass` skips the rest of the tier Admin, and NetworkPolicy decides.
fn pass_to_namespaces(fixture: &Fixture<'_>, policies: &Policies<'_>, server: &str) -> Result<()> {
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "client")))?;
    let pass = policies.rule("Pass", "from", "client");
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    policies.apply("pass", "Admin", 10, "server", json!({"ingress": [pass]}))?;
    policies.apply("deny", "Admin", 20, "server", json!({"ingress": [deny]}))?;
    reached_by(fixture, server, &["client"], SOON, "what passes is allowed by a NetworkPolicy")?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "stranger")))?;
    reached_by(fixture, server, &[], SOON, "what passes is denied by a NetworkPolicy")?;
    policies.clear()?;
    fixture.kubectl(&["delete", "networkpolicy", "server"]).map(drop)
}

/// A NetworkPolicy that isolates one direction replaces the tier Baseline in this direction only.
fn override_baseline(fixture: &Fixture<'_>, policies: &Policies<'_>, server: &str) -> Result<()> {
    let everything = |peers: &str| json!({"action": "Deny", peers: [{"namespaces": {}}]});
    policies.apply(
        "baseline",
        "Baseline",
        10,
        "server",
        json!({"ingress": [everything("from")], "egress": [everything("to")]}),
    )?;
    reached_by(fixture, server, &[], SOON, "Baseline denies by default")?;
    let client = format!("{}:{PORT}", fixture.address("client")?);
    fixture.expect("server", &client, false)?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "client")))?;
    reached_by(fixture, server, &["client"], SOON, "a NetworkPolicy overrides Baseline for ingress")?;
    fixture.expect("server", &client, false)?;
    fixture.policy("server-egress", &allow_egress(("app", "server"), ("app", "client")))?;
    fixture.until("a NetworkPolicy overrides Baseline for egress", SOON, || {
        Ok(fixture.ask("server", "expect", &client)?.is_some())
    })?;
    policies.clear()?;
    fixture.kubectl(&["delete", "networkpolicy", "server", "server-egress"]).map(drop)
}

/// The lower number decides, and among equal numbers the name that comes first.
fn follow_priorities(fixture: &Fixture<'_>, policies: &Policies<'_>, server: &str) -> Result<()> {
    let rules = |action: &str| json!({"ingress": [policies.rule(action, "from", "client")]});
    policies.apply("b-accept", "Admin", 20, "server", rules("Accept"))?;
    policies.apply("c-deny", "Admin", 30, "server", rules("Deny"))?;
    reached_by(fixture, server, &["client", "stranger"], SOON, "the lower priority number accepts")?;
    policies.apply("c-deny", "Admin", 10, "server", rules("Deny"))?;
    reached_by(fixture, server, &["stranger"], SOON, "the lower priority number denies")?;
    policies.apply("c-deny", "Admin", 20, "server", rules("Deny"))?;
    reached_by(fixture, server, &["client", "stranger"], SOON, "the first name accepts")?;
    policies.apply("a-deny", "Admin", 20, "server", rules("Deny"))?;
    reached_by(fixture, server, &["stranger"], SOON, "the first name denies")?;
    policies.clear()
}

/// Peers and ports that only policies of the whole cluster have: networks with `Deny`, nodes by their labels,
/// and names of ports without a protocol.
pub(super) fn peers(fixture: &Fixture<'_>) -> Result<String> {
    let named = |name: &str, port: u16| {
        PodManifest::server(name, "node-1")
            .label("app", "named")
            .container("ports", json!([{"name": "web", "containerPort": port}]))
    };
    let host = |name: &str, node: &str| {
        PodManifest::new(name, node, &["serve", &HOST_NETWORK_PORT.to_string()])
            .spec("hostNetwork", json!(true))
    };
    fixture.start(&[
        named("web", PORT),
        named("other-web", PORT + 1),
        host("host", "node-1"),
        host("far-host", "node-2"),
        PodManifest::server("client", "node-2").label("app", "client"),
    ])?;
    define(fixture)?;
    let policies = Policies(fixture);
    let at = |pod: &str| Ok::<_, anyhow::Error>(format!("{}:{PORT}", fixture.address(pod)?));
    let (web, other) = (at("web")?, at("other-web")?);

    // The same name is another port of the other pod.
    let web_port = json!([{"destinationNamedPort": "web"}]);
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}], "protocols": web_port});
    policies.apply("named", "Admin", 10, "named", json!({"ingress": [rule]}))?;
    denied(fixture, &web, "a named port is denied")?;
    fixture.expect("client", &other, true)?;
    policies.clear()?;

    let network = format!("{}/32", fixture.address("other-web")?);
    let rule = json!({"action": "Deny", "to": [{"networks": [network]}]});
    policies.apply("networks", "Admin", 10, "client", json!({"egress": [rule]}))?;
    denied(fixture, &other, "a network is denied")?;
    fixture.expect("client", &web, true)?;
    policies.clear()?;

    let [near, far] = &fixture.cluster.nodes[..] else { bail!("two nodes") };
    let node = |node: &Node| format!("{}:{HOST_NETWORK_PORT}", node.address);
    let rule = json!({"action": "Deny", "to": [{"nodes": {"matchLabels": {SCENARIO: "denied"}}}]});
    policies.apply("nodes", "Admin", 10, "client", json!({"egress": [rule]}))?;
    fixture.expect("client", &node(near), true)?;
    let label = |value: &str| {
        let label = format!("{SCENARIO}{value}");
        fixture.cluster.kubectl.run(&["label", "--overwrite", "node", &near.name, &label])
    };
    label("=denied")?;
    let result = denied(fixture, &node(near), "a node with a new label is denied");
    label("-")?;
    result?;
    fixture.expect("client", &node(far), true)?;
    fixture.until("a node without the label is reached", SOON, || {
        Ok(fixture.ask("client", "expect", &node(near))?.is_some())
    })?;
    Ok("named ports per pod, networks, and nodes that get and lose a label".to_owned())
}

/// Waits until the client does not reach an address.
fn denied(fixture: &Fixture<'_>, to: &str, what: &str) -> Result<()> {
    fixture.until(what, SOON, || Ok(fixture.ask("client", "expect", to)?.is_none()))
}

/// The definition appears, disappears and appears again while the agents run.
pub(super) fn definition(fixture: &Fixture<'_>) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    install::undefine_cluster_policies(kubectl)?;
    fixture.method.grant_cluster_policies(kubectl)?;
    restart_agents(fixture)?;
    let server = start(fixture)?;
    let policies = Policies(fixture);
    let deny = || json!({"ingress": [policies.rule("Deny", "from", "client")]});
    for _ in 0..2 {
        reached_by(
            fixture,
            &server,
            &["client", "stranger"],
            DISCOVERED,
            "without definition nothing is denied",
        )?;
        define(fixture)?;
        policies.apply("deny", "Admin", 10, "server", deny())?;
        reached_by(fixture, &server, &["stranger"], SOON, "a policy of the new kind is enforced")?;
        install::undefine_cluster_policies(kubectl)?;
    }
    reached_by(fixture, &server, &["client", "stranger"], DISCOVERED, "policies end with their definition")?;
    define(fixture)?;
    Ok("the definition was installed and deleted twice without a restart of the agents".to_owned())
}

/// Without permission for the group, everything else is enforced, and status says what is missing.
pub(super) fn forbidden(fixture: &Fixture<'_>) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    define(fixture)?;
    fixture.method.revoke_cluster_policies(kubectl)?;
    restart_agents(fixture)?;
    let result = while_forbidden(fixture);
    fixture.method.grant_cluster_policies(kubectl)?;
    result
}

fn while_forbidden(fixture: &Fixture<'_>) -> Result<String> {
    let server = start(fixture)?;
    let policies = Policies(fixture);
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "client")))?;
    reached_by(fixture, &server, &["client"], SOON, "NetworkPolicies are enforced")?;
    let agents = fixture.method.agents().context("no agent enforces policy")?;
    let status = agents.status(&fixture.cluster.kubectl, "node-1")?;
    let state = install::watch_state(&status, "ClusterNetworkPolicy");
    ensure!(state == Some("absent"), "the watch should be absent: {}", status["source"]);
    // With the permission, the policies are enforced without a restart.
    policies.apply(
        "deny",
        "Admin",
        10,
        "server",
        json!({"ingress": [policies.rule("Deny", "from", "client")]}),
    )?;
    fixture.method.grant_cluster_policies(&fixture.cluster.kubectl)?;
    reached_by(fixture, &server, &[], DISCOVERED, "policies are enforced once they may be read")?;
    Ok("agents without the permission enforced NetworkPolicies and reported the missing watch".to_owned())
}

fn restart_agents(fixture: &Fixture<'_>) -> Result<()> {
    let agents = fixture.method.agents().context("no agent enforces policy")?;
    let kubectl = &fixture.cluster.kubectl;
    kubectl.run(&["-n", agents.namespace, "rollout", "restart", agents.workload])?;
    kubectl.wait_for_rollout(agents.namespace, agents.workload, RESTARTED)
}
