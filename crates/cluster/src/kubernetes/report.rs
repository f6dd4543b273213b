//! Creates an Event on an object that was not understood or that exceeds its namespace's budget, so that its
//! author sees it in `kubectl describe`.
//!
//! Every node runs an agent, and all agents find the same problems. So the Event's name is derived from the
//! object and its version: the first agent creates it, and the others find that it exists. If the ClusterRole
//! does not allow Events, nothing is retried; the log and the status report the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::clients::Clients;
use super::state::{ObjectWarning, Reason};
use crate::error_chain::chain;

/// The reporting component.
const COMPONENT: &str = "kube-verdict";
/// The time over which the agents of a cluster spread their first Event.
const SPREAD: Duration = Duration::from_secs(5);
/// The timeout of a request.
const ANSWER: Duration = Duration::from_secs(30);
/// The most objects that wait for their Event. Those that do not fit are in the log and the status only.
const CAPACITY: usize = 256;
/// The longest message that the API accepts, in bytes.
const LONGEST_MESSAGE: usize = 1024;
/// How many bytes of an object's name go into its Event's name. Of the 253 that a name may have, a uid takes
/// 36 and a version some 20.
const LONGEST_NAME: usize = 190;

/// Queues objects for their Events.
pub(super) struct Reporter {
    clients: Clients,
    node: Arc<str>,
    /// The channel to the task that creates Events; `None` before the first object.
    task: Option<mpsc::Sender<ObjectWarning>>,
}

impl Reporter {
    /// The reporter of the agent on `node`.
    pub(super) fn new(clients: Clients, node: Arc<str>) -> Self {
        Self { clients, node, task: None }
    }

    /// Queues these objects for their Events, which are created in the background. Must be called in a
    /// runtime.
    pub(super) fn report(&mut self, objects: Vec<ObjectWarning>) {
        for object in objects {
            let task = self.task.get_or_insert_with(|| {
                let (send, receive) = mpsc::channel(CAPACITY);
                tokio::spawn(create_all(self.clients.clone(), Arc::clone(&self.node), receive));
                send
            });
            // The queue is full, or the task has ended.
            let _ = task.try_send(object);
        }
    }
}

/// Creates Events until the API server forbids it.
async fn create_all(clients: Clients, node: Arc<str>, mut objects: mpsc::Receiver<ObjectWarning>) {
    sleep(share_of(SPREAD, &node)).await;
    while let Some(object) = objects.recv().await {
        let event = event(&object, &node);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(clients.client(), &namespace);
        match timeout(ANSWER, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                tracing::info!(
                    error = status.message,
                    "not permitted to create Events on objects that are not understood; the ClusterRole rule \
                     is apiGroups [\"\"], resources [\"events\"], verbs [\"create\"]"
                );
                return;
            }
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "Event not created"),
            Err(_) => tracing::debug!("Event not created: the API server did not answer"),
        }
    }
}

/// The Event for an object.
fn event(object: &ObjectWarning, node: &str) -> Event {
    let ObjectWarning { reason, kind, name, uid, resource_version, .. } = object;
    let (reason, suffix) = match (reason, kind) {
        (Reason::OverBudget, _) => ("PolicyOverBudget", ".b"),
        (Reason::UnlistedNodes, _) => ("PolicyNodesUnknown", ".n"),
        (Reason::OtherVersions, _) => ("PolicyVersionNotServed", ".v"),
        (Reason::NotUnderstood, kind) if kind.policy().is_some() => ("PolicyNotUnderstood", ""),
        (Reason::NotUnderstood, _) => ("NotUnderstood", ""),
    };
    let now = Time(Timestamp::now());
    // Events of objects without a namespace are in `default`.
    let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Event {
        metadata: ObjectMeta {
            // The same for agents of all versions, so that there is one Event.
            name: Some(format!("{}.{uid}.{resource_version}{suffix}", beginning(name))),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(kind.api_version().into_owned()),
            kind: Some(kind.name().into_owned()),
            name: Some(name.clone()),
            namespace: optional(&object.namespace),
            uid: optional(uid),
            resource_version: optional(resource_version),
            ..ObjectReference::default()
        },
        reason: Some(reason.to_owned()),
        message: Some(shortened(&object.message, LONGEST_MESSAGE).to_owned()),
        type_: Some("Warning".to_owned()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

/// The part of a name that goes in front of a dot.
fn beginning(name: &str) -> &str {
    shortened(name, LONGEST_NAME).trim_end_matches(['.', '-'])
}

/// The first bytes of a text, at most `longest`.
fn shortened(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// A fraction of `whole` that depends on the node.
fn share_of(whole: Duration, node: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    whole.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::Kind;

    fn policy(version: &str) -> ObjectWarning {
        ObjectWarning {
            reason: Reason::NotUnderstood,
            kind: Kind::NetworkPolicy,
            namespace: "web".into(),
            name: "p".into(),
            uid: "u".into(),
            resource_version: version.into(),
            message: format!("spec.ingress[0]: {}; the rule matches nothing", "ä".repeat(1000)),
        }
    }

    #[test]
    fn all_agents_give_the_event_of_a_version_one_name() {
        let name = |version: &str, node: &str| event(&policy(version), node).metadata.name;
        assert_eq!(name("7", "a"), name("7", "b"));
        assert_ne!(name("7", "a"), name("8", "a"));
    }

    #[test]
    fn a_policy_has_an_event_for_each_reason() {
        let over_budget = event(&ObjectWarning { reason: Reason::OverBudget, ..policy("7") }, "a");
        assert_eq!(over_budget.reason.as_deref(), Some("PolicyOverBudget"));
        assert_ne!(over_budget.metadata.name, event(&policy("7"), "a").metadata.name);
    }

    #[test]
    fn a_long_name_leaves_room_for_uid_and_version() {
        let uid = "0f2c4b6a-7d1e-4c55-9a40-1f2e3d4c5b6a";
        let name = format!("{}-{}", "a".repeat(LONGEST_NAME - 1), "b".repeat(60));
        let event = event(&ObjectWarning { name, uid: uid.into(), ..policy("18446744073709551615") }, "a");
        let name = event.metadata.name.expect("a name");
        assert!(name.len() <= 253 && name.contains(&format!("a.{uid}.1844")), "{name}");
    }

    #[test]
    fn the_event_is_on_the_object_and_not_longer_than_the_api_accepts() {
        let event = event(&policy("7"), "a");
        let about = &event.involved_object;
        assert_eq!(
            (
                about.kind.as_deref(),
                about.namespace.as_deref(),
                about.uid.as_deref(),
                about.api_version.as_deref()
            ),
            (Some("NetworkPolicy"), Some("web"), Some("u"), Some("networking.k8s.io/v1"))
        );
        assert_eq!(event.reason.as_deref(), Some("PolicyNotUnderstood"));
        let message = event.message.expect("a message");
        assert!(message.starts_with("spec.ingress[0]: ä") && message.len() <= 1024, "{message}");
    }

    #[test]
    fn a_cluster_wide_policy_has_its_event_in_the_default_namespace() {
        let kind = Kind::ClusterNetworkPolicy;
        let event = event(&ObjectWarning { kind, namespace: String::new(), ..policy("7") }, "a");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let about = event.involved_object;
        assert_eq!((about.namespace, about.kind.as_deref()), (None, Some("ClusterNetworkPolicy")));
        assert_eq!(event.reason.as_deref(), Some("PolicyNotUnderstood"));
    }

    #[test]
    fn an_object_without_a_namespace_has_its_event_in_the_default_one() {
        let node = ObjectWarning { kind: Kind::Node, namespace: String::new(), ..policy("7") };
        let event = event(&node, "a");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!((event.involved_object.namespace, event.reason.as_deref()), (None, Some("NotUnderstood")));
    }
}
