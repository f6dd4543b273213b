//! The command line: help, exit codes, errors, and commands without an agent.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use support::{CLUSTER, folder, run, run_in_columns, text};

/// A port on which nothing listens: it was bound and released.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address").port().to_string()
}

#[test]
fn help_of_every_command_has_examples_and_exit_codes() {
    let commands = ["run", "explain", "log", "check", "diff", "doctor", "status", "probe", "cleanup", "wait"];
    for command in commands.into_iter().chain(["completions", "man"]) {
        let ran = run(&[command, "--help"]);
        assert_eq!(ran.code, 0, "{command}");
        for part in ["Examples:", &format!("kube-verdict {command}"), "Exit codes:"] {
            assert!(ran.out.contains(part), "{command} without {part}: {}", ran.out);
        }
    }
    let ran = run(&["--help"]);
    assert!(ran.out.contains("explain") && ran.out.contains("Exit codes:"), "{}", ran.out);
    let ran = run(&["cleanup", "--help"]);
    assert!(ran.out.contains("tables, inet and bridge"), "the help names what is removed: {}", ran.out);
    assert!(run(&["--version"]).out.starts_with("kube-verdict "));
}

#[test]
fn an_invalid_command_line_is_a_usage_error() {
    let folder = folder(CLUSTER);
    let source = text(folder.path());
    let run_flags = ["run", "--source", source, "--node", "node-a"];
    let cases: [(&[&str], &str); 24] = [
        (&[], "Usage:"),
        (&["fly"], "unrecognized subcommand"),
        (&["run", "--source", "/nowhere", "--node", "n"], "--source /nowhere: No such file"),
        (&["run", "--source", source], "--node"),
        (&["run", "--source", source, "--node", ""], "--node must not be empty"),
        (&[run_flags[0], run_flags[1], source, "--node", "n", "--pod-cidr", "10.0.0.0"], "--pod-cidr"),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--connection-marks", "0x3"],
            "--connection-marks 0x00000003: this mask has 2 bits, and exactly four are needed: write one \
             such as 0xf0000000",
        ),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--queue-base", "65535"],
            "the last number is 65535: give a number from 0 to ",
        ),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--log-level", "inof"],
            "warn, info, debug or trace",
        ),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--log-level", ""],
            "warn, info, debug or trace",
        ),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--log-level", "dataplane"],
            "info,dataplane=debug",
        ),
        (&["explain", "--source", source, "--from", "web/a"], "--to"),
        (&["doctor", "--packet-marks", "0xf0000000"], "have a bit in common"),
        (&["doctor", "--packet-marks", "0x7"], "this mask has 3 bits, and exactly four are needed"),
        (&["doctor", "--queue-base", "65535"], "--queue-base 65535: "),
        (&["run", "--node", "n", "--pod-cidr", "garbage"], "write a CIDR such as 10.244.1.0/24"),
        (
            &["run", "--node", "n", "--policy-budget", "lots"],
            "'lots' for '--policy-budget <ENTRIES>': write a whole number from 0 to 18446744073709551615, \
             such as 65536",
        ),
        (
            &["run", "--node", "n", "--hold-limit", "99999999"],
            "write a whole number from 0 to 1048576, such as 2048",
        ),
        (&["run", "--source", source, "--node", "n", "--audit-log", ""], "name a file, or write - or off"),
        (
            &["run", "--source", source, "--node", "n", "--audit-log", source],
            "is a folder: name a file, such as ",
        ),
        (
            &[
                "run",
                "--source",
                source,
                "--node",
                "n",
                "--audit-log",
                "audit.log",
                "--audit-max-size",
                "1GiB",
                "--audit-total-size",
                "1GiB",
            ],
            "give at least twice --audit-max-size, 2.0 GiB",
        ),
        (&["run", "--node", "n", "--audit-group", "no such group"], "give the group's number, such as 4"),
        (&["run", "--node", "n", "--audit-max-age", "daily"], "such as 24h, or off"),
        (&["status", "--http-port", "0"], "write a whole number from 1 to 65535, such as 9476"),
    ];
    for (arguments, part) in cases {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn status_fails_if_no_agent_runs() {
    let port = free_port();
    let ran = run(&["status", "--http-port", &port]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(&format!("no agent answers on 127.0.0.1:{port}")), "{}", ran.err);
}

#[test]
fn doctor_lists_each_check_and_problems_in_the_manifests() {
    let port = free_port();
    let folder = folder(&CLUSTER.replace("192.0.2.0/24", "192.0.2.0/99"));
    let arguments = ["doctor", "--http-port", &port, "--source", text(folder.path())];
    let ran = run(&[&arguments[..], &["--output", "json"]].concat());
    let found: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let checks = found["needs"].as_array().expect("checks");
    assert!(checks.iter().any(|check| check["name"] == "permission"), "{}", ran.out);
    for check in checks {
        let state = check["state"].as_str().expect("state");
        assert!(["fine", "warning", "wrong"].contains(&state), "{check}");
        assert!(!check["what"].as_str().expect("what").is_empty(), "{check}");
        assert_eq!(
            check["todo"].is_string(),
            state != "fine",
            "a check that is not fine shows what to do: {check}"
        );
    }
    assert_eq!(found["agent"], serde_json::Value::Null);
    let protections = run(&arguments).out;
    assert!(protections.contains(" protections "), "with or without an agent: {protections}");
    assert_eq!((&found["read"]["files"], &found["read"]["skipped"]), (&1.into(), &0.into()), "{}", ran.out);
    assert_eq!(found["problems"][0]["kind"], "NetworkPolicy");
    assert_eq!(ran.code, 1, "a problem in the manifests is a failure");
    let ran = run(&arguments);
    assert!(ran.out.contains("permission") && ran.out.contains("192.0.2.0/99"), "{}", ran.out);
    assert_eq!(ran.code, 1);
}

#[test]
fn doctor_lists_policies_over_their_budget_as_explain_does() {
    let (port, folder) = (free_port(), folder(CLUSTER));
    let diagnose = |more: &[&str]| {
        let arguments = ["doctor", "--http-port", &port, "--source", text(folder.path()), "--output", "json"];
        let ran = run(&[&arguments[..], more].concat());
        (ran.code, serde_json::from_str::<serde_json::Value>(&ran.out).expect("JSON")["problems"].clone())
    };
    assert_eq!(diagnose(&[]).1, serde_json::json!([]));
    let (code, problems) = diagnose(&["--policy-budget", "20"]);
    let problem = problems[0]["text"].as_str().expect("text");
    assert!(problem.starts_with("NetworkPolicy db/allow-web: it has "), "{problems}");
    assert_eq!(code, 1);
}

#[test]
fn wait_outside_a_pod_advises_only_flags_that_it_has() {
    let ran = run(&["wait", "--namespace", "n", "--daemonset", "d", "--timeout", "1s"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("give --kubeconfig FILE") && !ran.err.contains("--source"), "{}", ran.err);
}

#[test]
fn an_error_shows_each_cause_once() {
    let ran = run(&[
        "explain",
        "--kubeconfig",
        "/nowhere/config",
        "--from",
        "web/a",
        "--to",
        "db/b",
        "--port",
        "80",
    ]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(ran.err.matches("No such file").count(), 1, "{}", ran.err);
    assert!(ran.err.contains("/nowhere/config"), "{}", ran.err);
}

#[test]
fn the_api_server_is_named_while_a_command_waits_for_it() {
    let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
    let config = folder.path().join("config");
    let server = format!("https://127.0.0.1:{port}");
    let text_of_config = format!(
        "clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\ncurrent-context: c\n"
    );
    std::fs::write(&config, text_of_config).expect("a kubeconfig");
    let mut explain = Command::new(env!("CARGO_BIN_EXE_kube-verdict"))
        .args(["explain", "--kubeconfig", text(&config), "--from", "web/a", "--to", "db/b", "--port", "80"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let mut errors = BufReader::new(explain.stderr.take().expect("standard error"));
    errors.read_line(&mut line).expect("a line");
    let still_waits = explain.try_wait().expect("its state").is_none();
    explain.kill().expect("it can be ended");
    explain.wait().expect("it ends");
    assert!(still_waits && line.starts_with("waiting up to 30 s for ") && line.contains(&server), "{line}");
}

#[test]
fn probe_queries_the_agent_on_the_given_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("http.sock");
    let address = ["--http-socket", text(&socket)];
    let ran = run(&[&["probe", "ready"], &address[..]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(&format!("no agent answers on {}", socket.display())), "{}", ran.err);

    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let agent = std::thread::spawn(move || {
        for (path, line, body) in [
            ("/livez", "200 OK", "ok\n"),
            ("/readyz", "503 Service Unavailable", "the source can't be read\n"),
        ] {
            let (mut stream, _) = listener.accept().expect("a probe");
            let mut request = [0; 64];
            let length = stream.read(&mut request).expect("a request");
            assert!(request[..length].starts_with(format!("GET {path} HTTP/1.0").as_bytes()));
            write!(stream, "HTTP/1.0 {line}\r\n\r\n{body}").expect("an answer");
        }
    });
    let live = run(&[&["probe", "live"], &address[..]].concat());
    assert_eq!((live.code, live.out.as_str()), (0, "ok\n"));
    let ready = run(&[&["probe", "ready"], &address[..]].concat());
    assert_eq!((ready.code, ready.out.as_str()), (1, "the source can't be read\n"), "the agent's own text");
    agent.join().expect("both probes arrived");
}

/// Starts a server that sends each client the same response, and returns its port.
fn server(status: &str, body: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    let answer = format!("HTTP/1.1 {status}\r\n\r\n{body}");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            assert!(stream.read(&mut [0; 1024]).expect("a request") > 0);
            // The client may close the connection before it has read everything.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port.to_string()
}

/// The status of an agent that enforces; all its texts are `text`.
fn status_of(text: &str, failing: Option<&str>) -> String {
    serde_json::json!({
        "version": text, "pid": 1, "node": text, "phase": "enforcing", "ready": true, "not_ready": [text],
        "dead": text,
        "published_generation": 1, "applied_generation": 1,
        "source": {"server": text, "connected": false, "connections": [{
            "kind": text, "state": text, "since": 0, "last_error": text, "resource_version": null,
            "reconnects": 0, "relists": 0, "failures": {},
        }]},
        "table": {"form": text, "queues": text, "fail_mode": text},
        "pod_cidrs": [text], "inventory": {"pods": 0, "namespaces": 0, "nodes": 0, "policies": 0},
        "packets": {"allowed": 0, "denied": 0, "unparsable": 0, "gone": 0, "overflows": 0},
        "hold": {"now": 0, "held": 0, "allowed": 0, "denied": 0, "expired": 0, "over_limit": 0, "repeated": 0},
        "queues": [], "sweeps": {"count": 0, "revoked": 0, "restored": 0,
            "last": {"connections": 0, "revoked": 0, "restored": 0, "micros": 0}},
        "last_change": null, "audit": {"written": 0, "lost": 0, "write_errors": 0, "failing": failing},
        "conntrack": null, "problems": [{"kind": text, "text": text}], "policies": [],
        "origins": {
            "protections": [
                {"id": text, "name": text, "in_force": true, "why_not": null, "off_by_choice": false},
            ],
            "ports": [], "conflicts": [], "exemptions": [text], "overlays": [text], "dropped": {text: 1},
            "new_ports": {"queued": 0, "allowed": 0, "denied": 0, "expired": 0, "over_limit": 0},
        },
    })
    .to_string()
}

#[test]
fn responses_of_other_programs_do_not_control_the_terminal() {
    const EVIL: &str = "x\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}2J\r\u{202e}\u{200b}\nready";
    let harmless = |text: &str| {
        let evil =
            |letter: char| letter != '\n' && (letter.is_control() || "\u{202e}\u{200b}".contains(letter));
        assert!(!text.chars().any(evil), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("ready")), "a forged line: {text}");
    };
    let port = server("200 OK", &status_of(EVIL, None));
    let ran = run(&["status", "--http-port", &port]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("\\u{1b}]0;title"), "{}", ran.out);
    harmless(&ran.out);
    let json = run(&["status", "--http-port", &port, "--output", "json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["node"], EVIL, "JSON means exactly the same");

    let ran = run(&["doctor", "--http-port", &port]);
    harmless(&ran.out);
    let ran = run(&["probe", "ready", "--http-port", &server("503 No", "x\u{1b}[2J\u{9b}2J\u{202e}\n")]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "x\\u{1b}[2J\\u{9b}2J\\u{202e}\n"));
    let ran = run(&["status", "--http-port", &server("200 OK", &format!("{{\"version\": \"{EVIL}"))]);
    assert_eq!(ran.code, 1);
    harmless(&ran.err);
}

#[test]
fn status_and_doctor_are_wrapped_at_100_columns_or_as_columns_says() {
    let (port, folder) = (server("200 OK", &status_of(&"long text ".repeat(30), None)), folder(CLUSTER));
    let status = ["status", "--http-port", &port];
    let doctor = ["doctor", "--http-port", &port, "--source", text(folder.path())];
    for arguments in [&status[..], &doctor] {
        for (columns, longest) in [(None, 90..=100), (Some("60"), 50..=60), (Some("150"), 140..=150)] {
            let out = run_in_columns(arguments, columns).out;
            // Problems are one line each.
            let rows = out.lines().filter(|line| !line.starts_with("problem:"));
            let width = rows.map(|line| line.trim_end().chars().count()).max().expect("a row");
            assert!(longest.contains(&width), "{columns:?}: {width} in {out}");
        }
    }
}

#[test]
fn status_fails_if_the_audit_log_fails() {
    let ran = run(&["status", "--http-port", &server("200 OK", &status_of("x", None))]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let failing = Some("No space left on device");
    let ran = run(&["status", "--http-port", &server("200 OK", &status_of("x", failing))]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("failing: No space left on device"), "{}", ran.out);
}

#[test]
fn a_program_named_netpol_takes_the_flags_of_flannels_policy_container() {
    let folder = tempfile::tempdir().expect("a folder");
    let netpol = folder.path().join("netpol");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kube-verdict"), &netpol).expect("a link");
    let ran = |arguments: &[&str]| {
        let output = std::process::Command::new(&netpol).args(arguments).output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = ran(&["-help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("--fail-open") && out.contains("--nfqueue-id"), "{out}");
    let (code, _, err) = ran(&["--hostname-override=node-a", "--fail-open=perhaps"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--fail-open=perhaps: write true or false"), "{err}");
}
