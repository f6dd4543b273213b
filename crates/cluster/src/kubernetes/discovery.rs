//! Looks for kinds that the API server may not have, and for kinds of policies that are not enforced.
//!
//! From: the API server's discovery documents, which every authenticated client may read (ClusterRole
//! `system:discovery`). To: the [`super::watcher`] of a custom kind, and the problems of the source. One of
//! several API servers may lag behind, so the watcher looks twice before it drops objects of a kind. If the
//! kind is there in other versions only, its objects still exist, and the watcher drops none. Without
//! permission to discover kinds, a kind that can't be listed counts as absent.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
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

/// In which versions the API server has a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Availability {
    /// In the version that is converted, or without permission to discover kinds: a list will tell.
    Served,
    /// Only in these other versions. Its objects exist and can't be read.
    OtherVersions(Vec<String>),
    /// In no version, so it has no objects.
    Absent,
}

/// In which versions the API server has the kind. Kubernetes' own kinds need no look.
pub(super) async fn availability(client: &Client, kind: Kind) -> Result<Availability, Failure> {
    if !kind.is_custom() {
        return Ok(Availability::Served);
    }
    let failed = |error: kube::Error| Failure::of(&error, DISCOVER, kind);
    match has_kind(client, kind, &kind.api_version()).await {
        Ok(true) => return Ok(Availability::Served),
        Ok(false) => {}
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(Availability::Served),
        Err(error) => return Err(failed(error)),
    }
    let mut others = Vec::new();
    for version in versions_of_group(client, kind).await.map_err(failed)? {
        if version != kind.api_version() && has_kind(client, kind, &version).await.map_err(failed)? {
            others.push(version);
        }
    }
    Ok(if others.is_empty() { Availability::Absent } else { Availability::OtherVersions(others) })
}

/// Whether the API server has the kind in this version.
async fn has_kind(client: &Client, kind: Kind, api_version: &str) -> Result<bool, kube::Error> {
    let listed = if_found(client.list_api_group_resources(api_version).await)?;
    let is_it = |list: APIResourceList| list.resources.iter().any(|resource| resource.name == kind.plural());
    Ok(listed.is_some_and(is_it))
}

/// Each `apiVersion` of the kind's group that the API server has.
async fn versions_of_group(client: &Client, kind: Kind) -> Result<Vec<String>, kube::Error> {
    let request = Request::new("/apis").get(&kind.group(), &GetParams::default());
    let group = client.request::<APIGroup>(request.map_err(kube::Error::BuildRequest)?).await;
    let versions = if_found(group)?.map(|group| group.versions).unwrap_or_default();
    Ok(versions.into_iter().map(|version| version.group_version).collect())
}

/// `None` if the API server answered that there is no such thing.
fn if_found<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks now and then for kinds of policies that the API server has and this program does not enforce, until
/// the receiver is dropped. Leaves out kinds that a watcher looks for. Sends a sentence for each kind, within
/// a second for the first time.
pub(super) async fn watch_unenforced(clients: Clients, found: mpsc::Sender<Vec<String>>) {
    let first = timeout(FIRST, unenforced_of_others(&clients.client())).await;
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
        match unenforced_of_others(&clients.client()).await {
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
    client.list_api_groups_aggregated().await.map(|groups| unenforced_of(&groups, |_| true))
}

/// As [`unenforced`], without the kinds whose watcher reports versions that can't be read.
async fn unenforced_of_others(client: &Client) -> Result<Vec<String>, kube::Error> {
    let is_other = |name: &str| !Kind::named(name).is_some_and(Kind::is_custom);
    client.list_api_groups_aggregated().await.map(|groups| unenforced_of(&groups, is_other))
}

/// A sentence for each kind that is not enforced. One that is supported in another version counts if
/// `counts_in_other_versions` returns true for its name.
fn unenforced_of(
    groups: &APIGroupDiscoveryList,
    counts_in_other_versions: impl Fn(&str) -> bool,
) -> Vec<String> {
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
                Recognition::Mistaken(..)
                    if name.ends_with("NetworkPolicy") && counts_in_other_versions(name) =>
                {
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
        unenforced_of(&serde_json::from_value(list).expect("a discovery document"), |_| true)
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
