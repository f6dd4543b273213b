//! Checks of access to the API server and of the CNI's cache.

use cluster::kubernetes::{Permission, Timeouts};
use cluster::{Access, CniCache, Kubernetes};
use dataplane::preflight::{Check, CheckState};
use policy::Budget;

use cluster::error_chain::chain;

/// Checks the API server's version, the permissions on it, and the CNI's cache.
pub(super) fn check(access: Access, cni_cache: &CniCache) -> Vec<Check> {
    let kubernetes = Kubernetes {
        access,
        node: "".into(),
        cni_cache: cni_cache.clone(),
        timeouts: Timeouts::default(),
        budget: Budget::default(),
    };
    let mut checks = Vec::new();
    match kubernetes.review() {
        Err(error) => checks.push(wrong(
            "API server",
            chain(&error),
            "correct the path or the file, or give --kubeconfig FILE",
        )),
        Ok(review) => {
            let unenforced = review.unenforced;
            checks.push(match review.version {
                Ok(version) => fine("API server", format!("{} answers, version {version}", review.server)),
                Err(error) => wrong(
                    "API server",
                    format!("{} does not answer: {error}", review.server),
                    "is the address right, and is it reachable from this node?",
                ),
            });
            if !review.permissions.is_empty() {
                checks.extend(permissions(&review.permissions));
            }
            checks.extend(unenforced.into_iter().map(|sentence| {
                warning(
                    "policy kinds",
                    sentence,
                    "express these policies as NetworkPolicy, or remove their definitions",
                )
            }));
        }
    }
    checks.extend(cache(cni_cache));
    checks
}

/// One check for all granted permissions, and one for each missing permission.
fn permissions(permissions: &[Permission]) -> Vec<Check> {
    const NAME: &str = "RBAC";
    let mut checks = Vec::new();
    let mut allowed = Vec::new();
    for permission in permissions {
        let Permission { verb, group, resource, is_needed, allowed: answer } = permission;
        let todo = format!(
            "add to the ClusterRole: apiGroups [{group:?}], resources [{resource:?}], verbs [{verb:?}]"
        );
        match answer {
            Ok(true) => allowed.push(format!("{verb} {resource}")),
            Ok(false) if *is_needed => {
                checks.push(wrong(NAME, format!("no permission to {verb} {resource}"), &todo))
            }
            Ok(false) => checks.push(warning(
                NAME,
                format!("no permission to {verb} {resource}: {}", without(resource)),
                &todo,
            )),
            Err(error) => checks.push(warning(
                NAME,
                format!("cannot check the permission to {verb} {resource}: {error}"),
                "check with `kubectl auth can-i --list`",
            )),
        }
    }
    if !allowed.is_empty() {
        checks.insert(0, fine(NAME, format!("permission to {}", allowed.join(", "))));
    }
    checks
}

/// The consequence of a missing permission that an agent can do without.
fn without(resource: &str) -> &'static str {
    match resource {
        "nodes" => {
            "the agent needs --pod-cidr, and rules of cluster-wide policies that deny or pass `nodes` deny every \
             destination"
        }
        "clusternetworkpolicies" | "adminnetworkpolicies" | "baselineadminnetworkpolicies" => {
            "such policies are not enforced; for Flannel's chart, apply manifests/flannel/cluster-policies.yaml"
        }
        _ => "invalid objects are reported only in the log and the status",
    }
}

fn cache(cni_cache: &CniCache) -> Option<Check> {
    const NAME: &str = "CNI cache";
    let folder = cni_cache.folder()?;
    Some(match std::fs::read_dir(folder.join("results")) {
        Ok(entries) => {
            fine(NAME, format!("{} files in {}", entries.count(), folder.join("results").display()))
        }
        Err(_) if folder.is_dir() => fine(NAME, format!("{} exists and has no pod yet", folder.display())),
        Err(error) => warning(
            NAME,
            format!(
                "{}: {error}: the agent knows a new pod only once the API server has its address",
                folder.display()
            ),
            "mount the node's /var/lib/cni into the agent's container, read-only, or give --cni-cache DIR",
        ),
    })
}

fn fine(name: &'static str, what: String) -> Check {
    Check { name, state: CheckState::Fine { what } }
}

fn warning(name: &'static str, what: String, todo: &str) -> Check {
    Check { name, state: CheckState::Warning { what, todo: todo.to_owned() } }
}

fn wrong(name: &'static str, what: String, todo: &str) -> Check {
    Check { name, state: CheckState::Wrong { what, todo: todo.to_owned(), prevents_enforcing: true } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_permission_is_wrong_only_if_it_is_required() {
        let permission = |resource: &str, is_needed, allowed| Permission {
            verb: "watch",
            group: String::new(),
            resource: resource.to_owned(),
            is_needed,
            allowed: Ok(allowed),
        };
        let checks = permissions(&[
            permission("namespaces", true, true),
            permission("pods", true, false),
            permission("nodes", false, false),
        ]);
        let found: Vec<_> =
            checks.iter().map(|check| (check.state.is_wrong(), format!("{:?}", check.state))).collect();
        assert_eq!(found.iter().map(|(wrong, _)| *wrong).collect::<Vec<_>>(), [false, true, false]);
        assert!(found[0].1.contains("permission to watch namespaces"), "{found:?}");
        assert!(found[1].1.contains("resources [\\\"pods\\\"], verbs [\\\"watch\\\"]"), "{found:?}");
        assert!(found[2].1.contains("--pod-cidr"), "{found:?}");
    }
}
