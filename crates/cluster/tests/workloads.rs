//! Workloads and Services of a folder, for commands that need no cluster.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::path::Path;

use cluster::service::TargetPort;
use cluster::{FieldPath, Manifests, Step, WorkloadKind};
use policy::{Budget, Change, Protocol};

fn read(files: &[(&str, &str)]) -> Manifests {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Manifests::read(folder.path(), Budget::default()).unwrap()
}

fn problems(manifests: &Manifests) -> Vec<String> {
    manifests
        .problems
        .iter()
        .map(|problem| {
            format!("{}: {}; {}", problem.object.as_deref().unwrap_or("-"), problem.what, problem.effect)
        })
        .collect()
}

const TEMPLATE: &str = "{metadata: {labels: {app: a}}, spec: {containers: [{name: c, ports: [{name: http, \
                        containerPort: 8080}, {containerPort: 9090, protocol: UDP}]}], initContainers: \
                        [{name: i, \
                        ports: [{name: no, containerPort: 1}]}, {name: s, restartPolicy: Always, ports: \
                        [{containerPort: 15001}]}]}}";

#[test]
fn every_kind_of_workload_has_the_pod_of_its_template() {
    let kinds = [
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("v1", "ReplicationController"),
    ];
    let mut text = format!(
        "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: cronjob, namespace: web}}, spec: \
            {{jobTemplate: \
         {{spec: {{template: {TEMPLATE}}}}}}}}}\n"
    );
    for (version, kind) in kinds {
        text += &format!(
            "---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: {}, namespace: web, labels: \
                {{app: no}}}}, \
             spec: {{template: {TEMPLATE}}}}}\n",
            kind.to_lowercase()
        );
    }
    text += "---\n{apiVersion: v1, kind: Pod, metadata: {name: pod, labels: {app: a}}, spec: {containers: \
        [{name: \
             c}]}, status: {podIPs: [{ip: 10.244.1.2}]}}\n";
    let manifests = read(&[("all.yaml", &text)]);
    assert_eq!(problems(&manifests), [] as [&str; 0]);
    assert_eq!(manifests.workloads.len(), WorkloadKind::ALL.len());
    for workload in &manifests.workloads {
        let pod = &workload.pod;
        assert_eq!(pod.labels.value("app"), Some("a"), "{workload:?}");
        assert_eq!(*pod.name.name, *workload.kind.name().to_lowercase());
        if workload.kind == WorkloadKind::Pod {
            assert_eq!((&*pod.name.namespace, pod.addresses.len()), ("default", 1));
            continue;
        }
        assert_eq!((&*pod.name.namespace, pod.addresses.len()), ("web", 0));
        let ports: Vec<_> = workload.ports.iter().map(|port| (port.protocol, port.number)).collect();
        assert_eq!(ports, [(Protocol::TCP, 8080), (Protocol::TCP, 15001), (Protocol::UDP, 9090)]);
        assert_eq!(pod.ports.len(), 1, "one has a name");
    }
    assert!(!manifests.changes.iter().any(|change| matches!(change, Change::Pod(_))), "pods are workloads");
}

#[test]
fn lists_json_and_the_kind_in_the_last_place_are_read() {
    let deployment = |name: &str| {
        format!(
            "{{\"spec\": {{\"template\": {{\"metadata\": {{\"labels\": {{\"app\": \"a\"}}}}, \"spec\": \
                {{}}}}}}, \
                 \"metadata\": {{\"name\": \"{name}\"}}, \"apiVersion\": \"apps/v1\", \"kind\": \
                 \"Deployment\"}}"
        )
    };
    let list =
        format!("{{\"items\": [{}], \"apiVersion\": \"v1\", \"kind\": \"List\"}}", deployment("in-list"));
    let manifests = read(&[("a.json", &format!("{}\n{list}", deployment("alone")))]);
    let names: Vec<&str> = manifests.workloads.iter().map(|workload| &*workload.pod.name.name).collect();
    assert_eq!(names, ["alone", "in-list"]);
    assert_eq!(problems(&manifests), [] as [&str; 0]);
}

#[test]
fn flaws_of_a_template_have_their_field_and_never_widen_access() {
    let text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: web}, spec: \
        {template: \
                {metadata: {labels: {app: 7}}, spec: {containers: [{name: c, ports: [{name: \
                x}]}]}}}}\n---\n{apiVersion: \
                batch/v1, kind: CronJob, metadata: {name: b, namespace: web}, spec: {jobTemplate: {spec: \
                {}}}}\n---\n\
                {apiVersion: apps/v1, kind: Deployment, metadata: {namespace: web}, spec: {template: {}}}\n";
    let manifests = read(&[("a.yaml", text)]);
    let problems = problems(&manifests);
    let starts = [
        "Deployment web/a: spec.template.metadata.labels.app: the value 7 is not a string",
        "Deployment web/a: spec.template.spec.containers[0].ports[0]: there is no containerPort",
        "CronJob web/b: spec.jobTemplate.spec.template: there is no pod template; the workload is left out",
        "Deployment web/?: metadata: there is no name; the workload is left out",
    ];
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
    assert!(!manifests.workloads[0].pod.labels.are_known(), "labels that can't be read are unknown");
}

#[test]
fn the_last_of_equal_objects_counts() {
    let deployment = |app: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a, namespace: web}}, spec: \
                {{template: \
                 {{metadata: {{labels: {{app: {app}}}}}, spec: {{}}}}}}}}"
        )
    };
    let manifests = read(&[("a.yaml", &deployment("first")), ("b.yaml", &deployment("second"))]);
    assert_eq!(manifests.workloads[0].pod.labels.value("app"), Some("second"));
    assert_eq!(
        problems(&manifests),
        ["Deployment web/a: the same object is defined again later; the later one counts"]
    );
    let mut both = read(&[("a.yaml", &deployment("first"))]);
    both.extend(read(&[("a.yaml", &deployment("second"))]));
    assert_eq!(both.workloads.len(), 1);
    assert_eq!(both.workloads[0].pod.labels.value("app"), Some("second"));
}

#[test]
fn services_map_ports() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: web}, spec: {selector: {app: \
        a}, ports: \
                [{port: 80, targetPort: http}, {port: 53, protocol: UDP}, {port: 443, targetPort: \
                8443}]}}\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: external}, spec: {ports: [{port: \
                80}]}}\n---\n\
                {apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {selector: {a: b}, ports: \
                [{port: x}]}}\n";
    let manifests = read(&[("a.yaml", text)]);
    let [service] = manifests.services.as_slice() else { panic!("{:?}", manifests.services) };
    let targets: Vec<_> =
        service.ports.iter().map(|port| (port.port, port.protocol, port.target.clone())).collect();
    assert_eq!(
        targets,
        [
            (80, Protocol::TCP, TargetPort::Name("http".to_owned())),
            (53, Protocol::UDP, TargetPort::Number(53)),
            (443, Protocol::TCP, TargetPort::Number(8443)),
        ]
    );
    assert_eq!(
        problems(&manifests),
        ["Service ?/bad: invalid type: string \"x\", expected i32; the Service is left out"]
    );
}

#[test]
fn namespaces_without_an_object_are_known_across_folders() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: web}, spec: {}}";
    let mut manifests = read(&[("a.yaml", pod)]);
    let undescribed = |manifests: &Manifests| -> Vec<String> {
        manifests.undescribed().iter().map(ToString::to_string).collect()
    };
    assert_eq!(undescribed(&manifests), ["web"]);
    assert_eq!(problems(&manifests), [] as [&str; 0]);
    let mut described =
        read(&[("ns.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: web, labels: {team: x}}}")]);
    described.extend(manifests.clone());
    assert_eq!(undescribed(&described), [] as [&str; 0]);
    let labels = described.changes.iter().find_map(|change| match change {
        Change::Namespace(namespace) => namespace.labels.value("team"),
        _ => None,
    });
    assert_eq!(labels, Some("x"), "a pod does not replace the labels of its namespace");
    manifests.workloads.clear();
    assert_eq!(undescribed(&manifests), [] as [&str; 0]);
}

#[test]
fn fields_have_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let text = "# comment\napiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  \
        metadata:\n    \
                name: a\n  spec:\n    template:\n      metadata:\n        labels:\n          app: a\n      \
                spec: {}\n";
    std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    let manifests = Manifests::read(&folder.path().join("a.yaml"), Budget::default()).unwrap();
    let place = &manifests.workloads[0].place;
    let field =
        |names: &[&str]| FieldPath(names.iter().map(|name| Step::Field((*name).to_owned())).collect());
    assert_eq!(place.line_of(&field(&["spec", "template", "metadata", "labels", "app"])), 13);
    assert_eq!(place.line_of(&field(&["spec", "missing"])), 9);
    assert_eq!(place.file, folder.path().join("a.yaml"));
    std::fs::remove_file(&place.file).unwrap();
    assert_eq!(place.line_of(&field(&["spec"])), place.line, "the file is gone");
}

#[test]
fn a_folder_that_does_not_exist_is_an_error() {
    Manifests::read(Path::new("/nowhere"), Budget::default()).unwrap_err();
}
