//! The manifests for `kubectl apply`: the agent has exactly the permissions it needs, for each installation
//! method.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// The objects of a file.
fn objects(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests").join(file);
    serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap()
}

fn object(file: &str, kind: &str) -> Value {
    let mut found = objects(file).into_iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("{file} has no {kind}"));
    assert!(found.next().is_none(), "{file} has two of {kind}");
    object
}

/// The pod of the separate DaemonSet, and the patch for Flannel's pod.
fn pods() -> [Value; 2] {
    ["base/kube-verdict.yaml", "flannel/sidecar.yaml"]
        .map(|file| object(file, "DaemonSet")["spec"]["template"]["spec"].take())
}

fn container(pod: &Value) -> &Value {
    let [container] = &pod["containers"].as_array().unwrap()[..] else { panic!("one container: {pod}") };
    container
}

#[test]
fn both_methods_run_the_same_container() {
    let [own, flannel] = pods();
    assert_eq!(container(&own), container(&flannel));
    assert_eq!(own["volumes"], flannel["volumes"]);
    let roles = ["base/kube-verdict.yaml", "flannel/rbac.yaml"].map(|file| object(file, "ClusterRole"));
    assert_eq!(roles[0]["rules"], roles[1]["rules"]);
}

#[test]
fn it_has_one_capability_and_writes_only_its_state_on_the_node() {
    for pod in pods() {
        let container = container(&pod);
        assert_eq!(
            container["securityContext"],
            json!({
                "privileged": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            })
        );
        for volume in pod["volumes"].as_array().unwrap() {
            let mounts = container["volumeMounts"].as_array().unwrap();
            let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
            let on_the_node = volume.get("hostPath").is_some();
            let is_state = volume["name"] == "state";
            assert_eq!(mount["readOnly"] == true, on_the_node && !is_state, "{volume}");
        }
        for shared in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            assert_eq!(pod[shared], Value::Null, "{shared}");
        }
    }
}

#[test]
fn it_reads_what_policy_needs_and_writes_only_events() {
    let cluster_policies = json!({
        "apiGroups": ["policy.networking.k8s.io"],
        "resources": ["clusternetworkpolicies", "adminnetworkpolicies", "baselineadminnetworkpolicies"],
        "verbs": ["list", "watch"],
    });
    // Flannel's chart has its own role, which lacks only these.
    let added = object("flannel/cluster-policies.yaml", "ClusterRole")["rules"].take();
    assert_eq!(added, json!([cluster_policies]));
    let rules = object("base/kube-verdict.yaml", "ClusterRole")["rules"].take();
    assert_eq!(
        rules,
        json!([
            { "apiGroups": [""], "resources": ["namespaces", "nodes", "pods"], "verbs": ["list", "watch"] },
            { "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"] },
            cluster_policies,
            { "apiGroups": [""], "resources": ["events"], "verbs": ["create"] },
        ])
    );
    for (file, account, namespace) in [
        ("base/kube-verdict.yaml", "kube-verdict", "kube-system"),
        ("flannel/rbac.yaml", "flannel", "kube-flannel"),
        ("flannel/cluster-policies.yaml", "flannel", "kube-flannel"),
    ] {
        let role = object(file, "ClusterRole");
        let binding = object(file, "ClusterRoleBinding");
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        assert_eq!(
            binding["subjects"],
            json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }])
        );
    }
}

#[test]
fn two_agents_of_a_node_can_run_side_by_side_during_an_upgrade() {
    let daemon_set = object("base/kube-verdict.yaml", "DaemonSet");
    assert_eq!(
        daemon_set["spec"]["updateStrategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
    );
    let [pod, _] = pods();
    assert_eq!(pod["hostNetwork"], true);
    let container = container(&pod);
    assert_eq!(container["ports"], Value::Null, "only one pod can have a port on the node's network");
    for (probe, question) in [("livenessProbe", "live"), ("readinessProbe", "ready")] {
        let socket = "--http-socket=/run/kube-verdict/http.sock";
        let command = json!(["/kube-verdict", "probe", question, socket]);
        assert_eq!(container[probe]["exec"]["command"], command, "each probe asks its own agent");
        assert!(container["args"].as_array().unwrap().contains(&json!(socket)));
    }
}

#[test]
fn it_runs_on_every_node_and_is_not_evicted_first() {
    let [pod, _] = pods();
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    let resources = &container(&pod)["resources"];
    for resource in
        [&resources["requests"]["cpu"], &resources["requests"]["memory"], &resources["limits"]["memory"]]
    {
        assert!(resource.is_string(), "{resources}");
    }
    assert_eq!(resources["limits"]["cpu"], Value::Null, "no CPU limit delays verdicts");
}

#[test]
fn flannels_container_stays_kubectls_default() {
    let patch = object("flannel/sidecar.yaml", "DaemonSet");
    assert_eq!(patch["metadata"]["name"], "kube-flannel-ds");
    assert_eq!(
        patch["spec"]["template"]["metadata"]["annotations"],
        json!({ "kubectl.kubernetes.io/default-container": "kube-flannel" })
    );
}

/// The strategic merge of `kubectl patch`, as far as these patches need it: lists of objects in a pod are
/// merged by `name`, and other lists are replaced.
fn merge(original: &mut Value, patch: &Value) {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    original.remove(key);
                } else {
                    let empty = if value.is_array() { json!([]) } else { json!({}) };
                    merge(original.entry(key).or_insert(empty), value);
                }
            }
        }
        (Value::Array(original), Value::Array(patch)) if patch.iter().all(|one| one["name"].is_string()) => {
            for one in patch {
                let found = original.iter().position(|other| other["name"] == one["name"]);
                match (found, one["$patch"] == "delete") {
                    (Some(at), true) => drop(original.remove(at)),
                    (Some(at), false) => merge(&mut original[at], one),
                    (None, true) => panic!("nothing to delete: {one}"),
                    (None, false) => original.push(one.clone()),
                }
            }
        }
        (original, patch) => *original = patch.clone(),
    }
}

#[test]
fn the_sidecar_is_removed_with_everything_that_was_added() {
    // The fields of kube-flannel.yml that a patch could change. The API server drops an empty map of
    // annotations.
    let original = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "kube-flannel-ds", "namespace": "kube-flannel", "labels": { "app": "flannel" } },
        "spec": {
            "selector": { "matchLabels": { "app": "flannel" } },
            "template": {
                "metadata": { "labels": { "app": "flannel" }, "annotations": {} },
                "spec": {
                    "hostNetwork": true,
                    "containers": [{
                        "name": "kube-flannel",
                        "args": ["--ip-masq", "--kube-subnet-mgr"],
                        "volumeMounts": [{ "name": "run", "mountPath": "/run/flannel" }],
                    }],
                    "volumes": [
                        { "name": "run", "hostPath": { "path": "/run/flannel" } },
                        { "name": "cni", "hostPath": { "path": "/etc/cni/net.d" } },
                        { "name": "flannel-cfg", "configMap": { "name": "kube-flannel-cfg" } },
                        { "name": "xtables-lock", "hostPath": { "path": "/run/xtables.lock" } },
                    ],
                },
            },
        },
    });
    let [add, remove] = ["flannel/sidecar.yaml", "flannel/remove.yaml"].map(|file| object(file, "DaemonSet"));
    let mut daemon_set = original.clone();
    merge(&mut daemon_set, &add);
    let containers = daemon_set["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "{daemon_set}");
    merge(&mut daemon_set, &remove);
    assert_eq!(daemon_set, original);
}

#[test]
fn the_cleanup_runs_on_every_node_of_the_agents_with_at_most_their_permissions() {
    let [own, _] = pods();
    let cleanup = object("cleanup/daemonset.yaml", "DaemonSet");
    assert_eq!(cleanup["metadata"].get("annotations"), None, "no hook: kubectl applies it");
    let pod = &cleanup["spec"]["template"]["spec"];
    for same in ["tolerations", "nodeSelector", "affinity", "hostNetwork", "priorityClassName"] {
        assert_eq!(pod[same], own[same], "{same}");
    }
    assert_eq!(pod["automountServiceAccountToken"], false, "it uses no API server");
    let volumes = pod["volumes"].as_array().expect("volumes");
    assert_eq!(volumes.len(), 1, "it mounts only the state from the node");
    assert!(
        own["volumes"].as_array().is_some_and(|own| own.contains(&volumes[0])),
        "the state is mounted as in the agent"
    );
    let (cleanup, agent) = (container(pod), container(&own));
    assert_eq!(cleanup["securityContext"], agent["securityContext"]);
    assert_eq!(cleanup["image"], agent["image"]);
    assert_eq!(cleanup["command"], json!(["/kube-verdict", "cleanup", "--stay"]));
    assert_eq!(cleanup["args"], json!(["--state-dir=/var/lib/kube-verdict"]));
    assert_eq!(
        cleanup["readinessProbe"]["exec"]["command"],
        json!(["/kube-verdict", "cleanup", "--check", "--state-dir=/var/lib/kube-verdict"])
    );
}
