//! What an agent needs of the API server, and how it knows this node's new pods.

use cluster::kubernetes::{Permission, Timeouts};
use cluster::{Access, CniCache, Kubernetes};
use dataplane::preflight::{Check, CheckState};
use policy::Budget;

/// Asks the API server, and looks for the CNI cache.
pub(super) fn look(access: Access, cni_cache: &CniCache) -> Vec<Check> {
    let kubernetes = Kubernetes {
        access,
        node: "".into(),
        cni_cache: cni_cache.clone(),
        timeouts: Timeouts::default(),
        budget: Budget::default(),
    };
    let mut needs = Vec::new();
    match kubernetes.review() {
        Err(error) => {
            needs.push(wrong("API server", error.to_string(), "see above, or give --kubeconfig FILE"))
        }
        Ok(review) => {
            needs.push(match review.version {
                Ok(version) => fine("API server", format!("{} answers, version {version}", review.server)),
                Err(error) => wrong(
                    "API server",
                    format!("{} does not answer: {error}", review.server),
                    "is the address right, and is it reachable from this node?",
                ),
            });
            if !review.permissions.is_empty() {
                needs.extend(permissions(&review.permissions));
            }
        }
    }
    needs.extend(cache(cni_cache));
    needs
}

/// One line for all that is allowed, and one for each thing that is not.
fn permissions(permissions: &[Permission]) -> Vec<Check> {
    const NAME: &str = "RBAC";
    let mut needs = Vec::new();
    let mut allowed = Vec::new();
    for permission in permissions {
        let Permission { verb, group, resource, is_needed, allowed: answer } = permission;
        let todo = format!(
            "add to the ClusterRole: apiGroups [{group:?}], resources [{resource:?}], verbs [{verb:?}]"
        );
        match answer {
            Ok(true) => allowed.push(format!("{verb} {resource}")),
            Ok(false) if *is_needed => needs.push(wrong(NAME, format!("may not {verb} {resource}"), &todo)),
            Ok(false) => {
                needs.push(warning(NAME, format!("may not {verb} {resource}: {}", without(resource)), &todo))
            }
            Err(error) => needs.push(warning(
                NAME,
                format!("whether it may {verb} {resource} can't be told: {error}"),
                "ask with kubectl auth can-i --list",
            )),
        }
    }
    if !allowed.is_empty() {
        needs.insert(0, fine(NAME, format!("may {}", allowed.join(", "))));
    }
    needs
}

/// What an agent does without.
fn without(resource: &str) -> &'static str {
    match resource {
        "nodes" => "--pod-cidr must say where this node's pods are",
        _ => "an object that is not understood is named in log and status alone",
    }
}

fn cache(cni_cache: &CniCache) -> Option<Check> {
    const NAME: &str = "CNI cache";
    let folder = cni_cache.folder()?;
    Some(match std::fs::read_dir(folder.join("results")) {
        Ok(entries) => {
            fine(NAME, format!("{} files in {}", entries.count(), folder.join("results").display()))
        }
        Err(_) if folder.is_dir() => fine(NAME, format!("{} is there, and no pod yet", folder.display())),
        Err(error) => warning(
            NAME,
            format!(
                "{}: {error}: a new pod is known only when the API server knows its address",
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
    fn what_is_not_allowed_is_wrong_only_where_it_is_needed() {
        let permission = |resource: &str, is_needed, allowed| Permission {
            verb: "watch",
            group: String::new(),
            resource: resource.to_owned(),
            is_needed,
            allowed: Ok(allowed),
        };
        let needs = permissions(&[
            permission("namespaces", true, true),
            permission("pods", true, false),
            permission("nodes", false, false),
        ]);
        let found: Vec<_> =
            needs.iter().map(|need| (need.state.is_wrong(), format!("{:?}", need.state))).collect();
        assert_eq!(found.iter().map(|(wrong, _)| *wrong).collect::<Vec<_>>(), [false, true, false]);
        assert!(found[0].1.contains("may watch namespaces"), "{found:?}");
        assert!(found[1].1.contains("resources [\\\"pods\\\"], verbs [\\\"watch\\\"]"), "{found:?}");
        assert!(found[2].1.contains("--pod-cidr"), "{found:?}");
    }
}
