//! Recognises objects by `apiVersion` and `kind`: a supported kind, an unrelated one, or one that its author
//! believes to be enforced.

use super::kind::Kind;
use crate::invisible::{as_seen, visible};

/// How an object's `apiVersion` and `kind` are recognised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recognition {
    /// A supported kind.
    Supported(Kind),
    /// A kind that verdicts do not depend on.
    Foreign,
    /// A network policy of another engine, which is not enforced here. The text says which.
    NotEnforced(String),
    /// Probably a misspelling of a supported kind. The text says which.
    Mistaken(Kind, String),
}

/// The API groups of other engines' network policies, with the engines' names.
const ENGINES: [(&str, &str); 6] = [
    ("projectcalico.org", "Calico"),
    ("cilium.io", "Cilium"),
    ("antrea.io", "Antrea"),
    ("k8s.cni.cncf.io", "Multus"),
    ("networking.k8s.aws", "the Amazon VPC CNI"),
    ("k8s.ovn.org", "OVN-Kubernetes"),
];

/// The kinds of `v1` (Kubernetes 1.34). None of them counts as a misspelling of a supported kind.
const CORE: [&str; 18] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "List",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "Service",
    "ServiceAccount",
];

/// The kinds of `networking.k8s.io/v1` that verdicts do not depend on (Kubernetes 1.34).
const NETWORKING: [&str; 4] = ["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"];

impl Kind {
    /// Recognises an object by its `apiVersion` and `kind`: see [`Recognition`].
    pub fn of(api_version: &str, kind: &str) -> Recognition {
        recognise(api_version, kind)
    }
}

/// Recognises an object.
///
/// Another API group may have its own Pod or Node, which is not the supported one. A network policy of any
/// group and any spelling is always reported, because its author believes that it is enforced.
fn recognise(api_version: &str, kind: &str) -> Recognition {
    let group = as_seen(api_version.split_once('/').map_or("", |(group, _)| group)).to_ascii_lowercase();
    let is_policy = as_seen(kind).to_ascii_lowercase().contains("networkpolic");
    if is_policy && let Some(engine) = engine(&group) {
        return not_enforced(api_version, kind, &format!(" of {engine}"));
    }
    match meant(kind) {
        Some(ours) if ours.name() == kind && ours.api_version() == api_version => {
            Recognition::Supported(ours)
        }
        Some(ours) if is_meant(ours, &group) => Recognition::Mistaken(ours, mistake(ours, api_version, kind)),
        _ if is_policy => not_enforced(api_version, kind, ""),
        _ => unknown(api_version, kind),
    }
}

/// Recognises a kind whose name alone does not identify a supported kind. All kinds of `v1` and
/// `networking.k8s.io/v1` are known, so any other kind there may be a misspelling of a supported one.
fn unknown(api_version: &str, kind: &str) -> Recognition {
    let version = as_seen(api_version).to_ascii_lowercase();
    let name = as_seen(kind).trim().to_ascii_lowercase();
    if version == "v1" && kind != "List" && matches!(name.as_str(), "list" | "lists") {
        let kind = visible(kind);
        return Recognition::NotEnforced(format!(
            "there is no kind \"{kind}\" in apiVersion v1: probably List is meant; pods that policies in it \
             should isolate may be open"
        ));
    }
    let name = name.strip_suffix("list").filter(|name| !name.is_empty()).unwrap_or(&name);
    let is_among = |known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(name));
    let policy = Kind::NetworkPolicy;
    if version == policy.api_version() && !is_among(&NETWORKING) {
        // `NetPol`, `Policy`.
        return if name.contains("pol") {
            Recognition::Mistaken(policy, mistake(policy, api_version, kind))
        } else {
            let (name, kind) = (policy.name(), visible(kind));
            Recognition::NotEnforced(format!(
                "apiVersion {version} has no kind \"{kind}\" that is known here: if {name} is meant, pods \
                 that it should isolate may be open"
            ))
        };
    }
    let is_wide = |ours: &Kind| !ours.is_namespaced() && ours.policy().is_some();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if Kind::ALL.into_iter().any(|ours| is_wide(&ours) && ours.group() == group) {
        return Recognition::NotEnforced(format!(
            "apiVersion {} has no kind \"{}\" that is known here: if it is a policy, it is not enforced",
            visible(api_version),
            visible(kind)
        ));
    }
    if version == "v1" && !is_among(&CORE) {
        let near = |ours: &Kind| strsim::damerau_levenshtein(name, &ours.name().to_ascii_lowercase()) == 1;
        let ours = Kind::ALL.into_iter().filter(|ours| ours.api_version() == version);
        if let Some(ours) = ours.into_iter().find(near) {
            return Recognition::Mistaken(ours, mistake(ours, api_version, kind));
        }
    }
    Recognition::Foreign
}

fn not_enforced(api_version: &str, kind: &str, whose: &str) -> Recognition {
    let (api_version, kind) = (visible(api_version), visible(kind));
    let policies = Kind::ALL.into_iter().filter(|ours| ours.policy().is_some());
    let enforced: Vec<_> =
        policies.map(|ours| format!("{} of {}", ours.name(), ours.api_version())).collect();
    let (last, first) = enforced.split_last().map_or(("", &[][..]), |(last, first)| (&**last, first));
    Recognition::NotEnforced(format!(
        "kind {kind}{whose} (apiVersion {api_version}) is not enforced here: only {} and {last} are",
        first.join(", ")
    ))
}

/// The engine whose API group this is.
fn engine(group: &str) -> Option<&'static str> {
    let is_its =
        |known: &str| group.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    ENGINES.iter().find(|(known, _)| is_its(known)).map(|(_, engine)| *engine)
}

/// kubectl's short names, except `po` and `no`, which are too short to be unambiguous.
const SHORT: [(&str, Kind); 6] = [
    ("netpol", Kind::NetworkPolicy),
    ("netpols", Kind::NetworkPolicy),
    ("ns", Kind::Namespace),
    ("cnp", Kind::ClusterNetworkPolicy),
    ("anp", Kind::AdminNetworkPolicy),
    ("banp", Kind::BaselineAdminNetworkPolicy),
];

/// The supported kind that this name, in any spelling, probably means.
fn meant(kind: &str) -> Option<Kind> {
    if let Some(ours) = Kind::named(kind) {
        return Some(ours);
    }
    let kind = as_seen(kind).to_ascii_lowercase();
    let kind = kind.strip_suffix("lists").or(kind.strip_suffix("list")).unwrap_or(&kind);
    Kind::ALL.into_iter().find(|ours| {
        let name = ours.name().to_ascii_lowercase();
        /// With a shorter name, another kind can be two letters away.
        const LONG: usize = 9;
        kind == name
            || kind == ours.plural()
            || SHORT.contains(&(kind, *ours))
            || (name.len() >= LONG && strsim::damerau_levenshtein(kind, &name) <= 2)
    })
}

/// Whether the API group can be a mistake for that of `ours`. A group with a dot in it belongs to another
/// program, which may have its own Pod or Node.
fn is_meant(ours: Kind, group: &str) -> bool {
    let right = ours.group();
    group == right
        || !group.contains('.')
        || group.starts_with("core.")
        || (ours.policy().is_some() && strsim::damerau_levenshtein(group, &right) <= 3)
}

/// The mistake, and what is probably meant.
fn mistake(ours: Kind, api_version: &str, kind: &str) -> String {
    let (name, understood) = (ours.name(), ours.api_version());
    if name != kind {
        let seen = as_seen(kind).to_ascii_lowercase();
        let is_list = seen.ends_with("list") || seen.ends_with("lists");
        let list = if is_list { "List" } else { "" };
        let (api_version, kind) = (visible(api_version), visible(kind));
        return format!(
            "there is no kind \"{kind}\" in apiVersion \"{api_version}\": probably {name}{list} of \
             {understood:?} is meant"
        );
    }
    if api_version.is_empty() {
        return format!("there is no apiVersion: kind {kind} needs {understood:?}");
    }
    let api_version = visible(api_version);
    format!("apiVersion \"{api_version}\" of kind {kind} is not understood: use {understood:?}")
}

#[cfg(test)]
mod tests {
    use super::Recognition::{Foreign, Mistaken, NotEnforced, Supported};
    use super::*;

    #[test]
    fn kinds_are_recognised_by_their_api_version() {
        assert_eq!(Kind::of("networking.k8s.io/v1", "NetworkPolicy"), Supported(Kind::NetworkPolicy));
        assert_eq!(Kind::of("v1", "Pod"), Supported(Kind::Pod));
        for (version, kind) in [
            ("v1alpha2", Kind::ClusterNetworkPolicy),
            ("v1alpha1", Kind::AdminNetworkPolicy),
            ("v1alpha1", Kind::BaselineAdminNetworkPolicy),
        ] {
            let api_version = format!("policy.networking.k8s.io/{version}");
            assert_eq!(Kind::of(&api_version, &kind.name()), Supported(kind));
        }
        for (version, kind) in [
            ("metrics.example/v1", "Pod"),
            ("management.cattle.io/v3", "Node"),
            ("metrics.k8s.io/v1beta1", "NodeMetrics"),
            ("apps/v1", "Deployment"),
            ("v1", "Secret"),
            ("v1", "ConfigMapList"),
            ("example.com/v1", "Pdo"),
            ("v1", "n"),
            ("networking.k8s.io/v1", "Ingress"),
            ("networking.k8s.io/v1", "IngressClassList"),
            ("networking.k8s.io/v1", "ServiceCIDR"),
            ("networking.k8s.io/v1beta1", "ServiceCIDR"),
            ("policy/v1", "PodDisruptionBudget"),
            ("", ""),
        ] {
            assert_eq!(Kind::of(version, kind), Foreign, "{version} {kind}");
        }
    }

    #[test]
    fn a_misspelt_kind_is_reported_with_the_probable_one() {
        for (version, kind, meant) in [
            ("networking.k8s.io/v2", "NetworkPolicy", Kind::NetworkPolicy),
            ("extensions/v1beta1", "NetworkPolicy", Kind::NetworkPolicy),
            ("networking/v1", "NetworkPolicy", Kind::NetworkPolicy),
            ("network.k8s.io/v1", "NetworkPolicy", Kind::NetworkPolicy),
            ("", "NetworkPolicy", Kind::NetworkPolicy),
            ("v1", "NetworkPolicy", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "networkPolicy", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "NetworkPolicies", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "NetworkPolicyLists", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "NetwrokPolicy", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "NetworkPolicy\u{200b}", Kind::NetworkPolicy),
            ("networking.k8s.io/v1\u{a0}", "NetworkPolicy", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "NetPol", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "netpols", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "Policy", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "PolicyList", Kind::NetworkPolicy),
            ("v1", "netpol", Kind::NetworkPolicy),
            ("policy.networking.k8s.io/v1", "ClusterNetworkPolicy", Kind::ClusterNetworkPolicy),
            ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy", Kind::ClusterNetworkPolicy),
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicies", Kind::ClusterNetworkPolicy),
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicyLists", Kind::ClusterNetworkPolicy),
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetwrokPolicy", Kind::ClusterNetworkPolicy),
            ("policy.networking.k8s.io/v1alpha2", "AdminNetworkPolicy", Kind::AdminNetworkPolicy),
            ("", "banp", Kind::BaselineAdminNetworkPolicy),
            ("v1", "Pdo", Kind::Pod),
            ("v1", "Podd", Kind::Pod),
            ("v1", "Noed", Kind::Node),
            ("v1", "Node2", Kind::Node),
            ("v1", "ns", Kind::Namespace),
            ("core/v1", "Namespace", Kind::Namespace),
            ("V1", "Pod", Kind::Pod),
            ("v1", "pods", Kind::Pod),
            ("v2", "Pod", Kind::Pod),
            ("", "Node", Kind::Node),
        ] {
            let Mistaken(found, what) = Kind::of(version, kind) else { panic!("{version} {kind}") };
            assert_eq!(found, meant, "{version} {kind}");
            assert!(what.contains(&*meant.api_version()), "{what}");
            assert!(!what.contains('\u{200b}') && !what.contains('\u{a0}'), "{what}");
        }
    }

    #[test]
    fn policies_of_other_engines_are_reported() {
        for (version, kind, engine) in [
            ("projectcalico.org/v3", "NetworkPolicy", "Calico"),
            ("crd.projectcalico.org/v1", "GlobalNetworkPolicy", "Calico"),
            ("cilium.io/v2", "CiliumClusterwideNetworkPolicy", "Cilium"),
            ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy", "Antrea"),
            ("cilium.io/v2", "CiliumNetworkPolicy", "Cilium"),
            ("projectcalico.org/v3", "StagedGlobalNetworkPolicy", "Calico"),
            ("networking.k8s.aws/v1alpha1", "ClusterNetworkPolicy", "Amazon"),
            ("policy.networking.k8s.io/v1", "NetworkPolicy", "policy.networking.k8s.io/v1"),
            ("k8s.cni.cncf.io/v1beta1", "MultiNetworkPolicy", "Multus"),
            ("mesh.example/v1", "NetworkPolicy", "mesh.example/v1"),
            ("mesh.example/v1", "ZoneNetworkPolicy", "mesh.example/v1"),
        ] {
            let NotEnforced(what) = Kind::of(version, kind) else { panic!("{version} {kind}") };
            assert!(what.contains(engine) && what.contains("not enforced"), "{what}");
        }
        assert_eq!(Kind::of("projectcalico.org/v3", "IPPool"), Foreign);
    }

    #[test]
    fn an_unknown_kind_in_the_group_of_network_policies_is_reported() {
        for kind in ["Isolation", "Netork", "List", "List\u{200b}"] {
            let NotEnforced(what) = Kind::of("networking.k8s.io/v1", kind) else { panic!("{kind}") };
            assert!(what.contains("if NetworkPolicy is meant") && !what.contains('\u{200b}'), "{what}");
        }
        let NotEnforced(what) = Kind::of("policy.networking.k8s.io/v1beta1", "TenantIsolation") else {
            panic!("silence")
        };
        assert!(what.contains("not enforced"), "{what}");
    }
}
