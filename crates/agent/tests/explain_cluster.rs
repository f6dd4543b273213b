//! `kube-verdict explain` of a cluster: the objects of the example `services`, from an API server.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};
use support::{Ran, folder, text};
use tempfile::TempDir;

/// Lists by their path.
type Lists = BTreeMap<&'static str, Vec<Value>>;

const SERVICES: &str = "/api/v1/services";

/// The objects of the example `services`.
fn lists() -> Lists {
    let pod = |namespace: &str, name: &str, node: &str, labels: Value, address: &str| {
        json!({
            "metadata": {"name": name, "namespace": namespace, "labels": labels, "resourceVersion": "7"},
            "spec": {"nodeName": node, "containers": [
                {"name": "c", "ports": [{"name": "postgres", "containerPort": 5432}]}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        })
    };
    let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}, "resourceVersion": "7"}});
    let node = |name: &str, cidr: &str| json!({"metadata": {"name": name, "resourceVersion": "7"}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
    let deny = json!({
        "metadata": {"name": "default-deny", "namespace": "db", "resourceVersion": "7"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    let orders = json!({
        "metadata": {"name": "orders", "namespace": "db", "resourceVersion": "7"},
        "spec": {"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "selector": {"app": "orders"},
            "ports": [{"name": "sql", "port": 15432, "targetPort": "postgres"}]},
    });
    Lists::from([
        ("/api/v1/namespaces", vec![namespace("db"), namespace("web")]),
        ("/api/v1/nodes", vec![node("node-a", "10.244.1.0/24"), node("node-b", "10.244.2.0/24")]),
        (
            "/api/v1/pods",
            vec![
                pod("web", "shop", "node-a", json!({"app": "shop"}), "10.244.1.2"),
                pod("db", "orders-0", "node-b", json!({"app": "orders"}), "10.244.2.2"),
            ],
        ),
        ("/apis/networking.k8s.io/v1/networkpolicies", vec![deny]),
        (SERVICES, vec![orders]),
    ])
}

/// Serves these lists, and watches in which nothing happens. Returns a folder with a kubeconfig at
/// `.kube/config`. A list that is missing is forbidden.
fn cluster(lists: Lists) -> TempDir {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    let lists = Arc::new(lists);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, lists) = (stream.expect("a client"), Arc::clone(&lists));
            thread::spawn(move || serve(stream, &lists));
        }
    });
    let home = tempfile::tempdir().expect("folder");
    std::fs::create_dir(home.path().join(".kube")).expect("folder");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(home.path().join(".kube/config"), config.to_string()).expect("kubeconfig");
    home
}

/// Answers one request.
fn serve(mut stream: TcpStream, lists: &Lists) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    let mut request = String::new();
    reader.read_line(&mut request).expect("a request");
    // The headers, up to the empty line.
    let mut header = String::new();
    while reader.read_line(&mut header).expect("a header") > 2 {
        header.clear();
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if query.contains("watch=") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
        // Until the client closes the connection.
        let _ = reader.read_line(&mut header);
        return;
    }
    let status = |code: u16, reason: &str| {
        let message = format!("{reason}: {path}");
        (
            code,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}),
        )
    };
    let (code, body) = match lists.get(path) {
        Some(items) => (
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items}),
        ),
        None if path == SERVICES => status(403, "Forbidden"),
        None => status(404, "NotFound"),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

/// Runs `explain` with this home folder, and without other access to a cluster.
fn explain(home: &Path, arguments: &[&str]) -> Ran {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kube-verdict"));
    program.arg("explain").args(arguments).env("HOME", home);
    for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "COLUMNS"] {
        program.env_remove(name);
    }
    let output = program.output().expect("the program runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

const TO_SERVICE: [&str; 6] = ["--from", "web/shop", "--to", "10.96.0.20", "--port", "sql"];

/// A policy that lets the shop in.
const ALLOW_SHOP: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow-shop, namespace: db},
 spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}}],
   ports: [{port: postgres}]}]}}
";

#[test]
fn the_home_folders_kubeconfig_is_used_if_nothing_else_is_given() {
    let home = cluster(lists());
    let config = home.path().join(".kube/config");
    let ran = explain(home.path(), &TO_SERVICE);
    let line = format!("without --source, --kubeconfig or KUBECONFIG: the cluster of {}\n", config.display());
    assert_eq!(ran.err, line);
    assert_eq!(
        ran.out,
        "\
DENIED  web/shop -> Service db/orders (10.96.0.20)  15432/TCP, to its only pod

  DENIED  db/orders-0 (10.244.2.2) port 5432: ingress denied: isolated by db/default-deny; no rule
          of theirs matches peer or port
"
    );
    assert_eq!(ran.code, 3);
    // Nothing is printed about a kubeconfig that was given.
    let arguments = [&TO_SERVICE[..], &["--kubeconfig", text(&config)]].concat();
    let ran = explain(Path::new("/nonexistent"), &arguments);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    // Without any, the error says what to give.
    let ran = explain(Path::new("/nonexistent"), &TO_SERVICE);
    assert!(ran.err.contains("give --kubeconfig FILE"), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
}

#[test]
fn policies_are_laid_over_those_of_a_cluster() {
    let home = cluster(lists());
    let proposed = folder(ALLOW_SHOP);
    let config = home.path().join(".kube/config");
    let policies = text(proposed.path());
    let arguments = [&TO_SERVICE[..], &["--kubeconfig", text(&config), "--policies", policies]].concat();
    let ran = explain(home.path(), &arguments);
    assert!(ran.out.starts_with("ALLOWED  web/shop -> Service db/orders (10.96.0.20)"), "{}", ran.out);
    assert_eq!(
        ran.err,
        format!(
            "--policies {policies}: 1 policy added (NetworkPolicy db/allow-shop), 0 changed, 0 unchanged\n"
        )
    );
    assert_eq!(ran.code, 0);
}

#[test]
fn services_that_may_not_be_listed_are_reported_and_other_answers_need_none() {
    let mut lists = lists();
    lists.remove(SERVICES);
    let home = cluster(lists);
    let config = home.path().join(".kube/config");
    let explain = |to: &str| {
        let arguments = ["--kubeconfig", text(&config), "--from", "web/shop", "--to", to, "--port", "80"];
        explain(home.path(), &arguments)
    };
    let ran = explain("svc/db/orders");
    assert!(ran.err.contains("error: the Services of the cluster can't be listed: "), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let ran = explain("10.96.0.20");
    let warning = "can't be listed, so 10.96.0.20 is not resolved if it is a Service's: ";
    assert!(ran.err.contains(warning) && ran.err.contains("Forbidden"), "{}", ran.err);
    assert!(ran.out.starts_with("ALLOWED  web/shop (10.244.1.2) -> 10.96.0.20  80/TCP"), "{}", ran.out);
    let ran = explain("10.244.2.2");
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
}
