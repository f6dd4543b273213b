//! Looks for kinds that the API server may not have, and for kinds of policies that are not enforced.
//!
//! From: the API server's discovery documents, which every authenticated client may read (ClusterRole
//! `system:discovery`). To: the [`super::watcher`] of a custom kind, and the problems of the source. One of
//! several API servers may lag behind, so the watcher looks twice before it drops objects of a kind.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::clients::Clients;
use super::failure::Failure;
use crate::convert::{Kind, Recognition};
use crate::error_chain::chain;

/// The verb of a look for a kind in failure messages.
pub(super) const DISCOVER: &str = "discover";

/// How long the first update waits for the kinds that are not enforced.
const FIRST: Duration = Duration::from_secs(1);

/// How often to look for them again.
const INTERVAL: Duration = Duration::from_secs(600);

/// The pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Whether the API server has the kind in the version that is converted. Kubernetes' own kinds need no look.
pub(super) async fn is_served(client: &Client, kind: Kind) -> Result<bool, Failure> {
    if !kind.is_custom() {
        return Ok(true);
    }
    match client.list_api_group_resources(&kind.api_version()).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == kind.plural())),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        // Without permission to discover kinds, a list tells whether there is one.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(true),
        Err(error) => Err(Failure::of(&error, DISCOVER, kind)),
    }
}

/// Looks now and then for kinds of policies that the API server has and this program does not enforce, until
/// the receiver is dropped. Sends a sentence for each kind, within a second for the first time.
pub(super) async fn watch_unenforced(clients: Clients, found: mpsc::Sender<Vec<String>>) {
    let first = timeout(FIRST, unenforced(&clients.client())).await;
    // The first update waits for an answer, even if there is none.
    let (mut answer, mut pause) = match first {
        Ok(Ok(sentences)) => (Some(sentences), INTERVAL),
        Ok(Err(_)) => (Some(Vec::new()), AFTER_FAILURE),
        Err(_) => (Some(Vec::new()), Duration::ZERO),
    };
    loop {
        if let Some(sentences) = answer.take()
            && found.send(sentences).await.is_err()
        {
            return;
        }
        sleep(pause).await;
        match unenforced(&clients.client()).await {
            Ok(sentences) => (answer, pause) = (Some(sentences), INTERVAL),
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot discover kinds of policies");
                pause = AFTER_FAILURE;
            }
        }
    }
}

/// A sentence for each kind of policy that the API server has and this program does not enforce.
pub(super) async fn unenforced(client: &Client) -> Result<Vec<String>, kube::Error> {
    client.list_api_groups_aggregated().await.map(|groups| unenforced_of(&groups))
}

fn unenforced_of(groups: &APIGroupDiscoveryList) -> Vec<String> {
    let mut sentences = BTreeSet::new();
    for group in &groups.items {
        let kinds: BTreeSet<(String, String)> = kinds(group).collect();
        let names: BTreeSet<&str> = kinds.iter().map(|(_, name)| name.as_str()).collect();
        for name in names {
            let versions = || kinds.iter().filter(|(_, of)| of == name).map(|(version, _)| version.as_str());
            let recognised: Vec<Recognition> = versions().map(|version| Kind::of(version, name)).collect();
            if recognised.iter().any(|one| matches!(one, Recognition::Supported(_))) {
                continue;
            }
            // One sentence for all versions.
            sentences.extend(recognised.into_iter().find_map(|one| match one {
                Recognition::NotEnforced(sentence) => Some(sentence),
                Recognition::Mistaken(..) if name.ends_with("NetworkPolicy") => {
                    let versions = versions().collect::<Vec<_>>().join(", ");
                    Some(format!(
                        "kind {name} is not enforced in the versions that the API server has: {versions}"
                    ))
                }
                _ => None,
            }));
        }
    }
    sentences.into_iter().collect()
}

/// `apiVersion` and `kind` of each resource of the group.
fn kinds(group: &APIGroupDiscovery) -> impl Iterator<Item = (String, String)> {
    let group_name =
        group.metadata.as_ref().and_then(|metadata| metadata.name.as_deref()).unwrap_or_default();
    group.versions.iter().flat_map(move |version| {
        let api_version = format!("{group_name}/{}", version.version.as_deref().unwrap_or_default());
        let kinds = version.resources.iter().filter_map(|resource| resource.response_kind.as_ref());
        kinds.filter_map(move |kind| Some((api_version.clone(), kind.kind.clone()?)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Versions of a group, each with its kinds.
    type Versions<'a> = &'a [(&'a str, &'a [&'a str])];

    fn sentences(groups: &[(&str, Versions<'_>)]) -> Vec<String> {
        let resource = |kind: &&str| json!({"resource": kind.to_lowercase(), "responseKind": {"group": "", "version": "", "kind": kind}});
        let version = |(version, kinds): &(&str, &[&str])| json!({"version": version, "resources": kinds.iter().map(resource).collect::<Vec<_>>()});
        let group = |(name, versions): &(&str, &[(&str, &[&str])])| json!({"metadata": {"name": name}, "versions": versions.iter().map(version).collect::<Vec<_>>()});
        let list = json!({"items": groups.iter().map(group).collect::<Vec<_>>()});
        unenforced_of(&serde_json::from_value(list).expect("a discovery document"))
    }

    #[test]
    fn policies_of_other_engines_are_named_and_other_kinds_are_not() {
        let found = sentences(&[
            ("apps", &[("v1", &["Deployment"])]),
            ("networking.k8s.io", &[("v1", &["Ingress", "NetworkPolicy", "IPAddress"])]),
            ("cilium.io", &[("v2", &["CiliumNetworkPolicy", "CiliumEndpoint"])]),
            ("example.org", &[("v1", &["TenantNetworkPolicy", "Pod", "Policy"])]),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("CiliumNetworkPolicy") && found[1].contains("TenantNetworkPolicy"),
            "{found:?}"
        );
    }

    #[test]
    fn a_supported_kind_counts_in_any_version_that_the_api_server_has_beside_ours() {
        assert_eq!(
            sentences(&[("networking.k8s.io", &[("v1", &["NetworkPolicy"]), ("v2", &["NetworkPolicy"])])]),
            [""; 0]
        );
        let only_newer = sentences(&[("networking.k8s.io", &[("v2", &["NetworkPolicy"])])]);
        assert!(only_newer.len() == 1 && only_newer[0].contains("networking.k8s.io/v2"), "{only_newer:?}");
    }
}
