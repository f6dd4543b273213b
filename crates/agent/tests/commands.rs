//! The command line itself: help, exit codes, and what is said where no agent runs.

mod support;

use std::io::{Read, Write};

use support::{CLUSTER, folder, run, text};

/// A port on which nothing listens: bound and given back.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("address").port().to_string()
}

#[test]
fn help_of_every_command_has_examples_and_exit_codes() {
    for command in ["run", "explain", "doctor", "status", "probe", "cleanup"] {
        let ran = run(&[command, "--help"]);
        assert_eq!(ran.code, 0, "{command}");
        for part in ["Examples:", &format!("kube-verdict {command}"), "Exit codes:"] {
            assert!(ran.out.contains(part), "{command} without {part}: {}", ran.out);
        }
    }
    let ran = run(&["--help"]);
    assert!(ran.out.contains("explain") && ran.out.contains("Exit codes:"), "{}", ran.out);
    let ran = run(&["cleanup", "--help"]);
    assert!(ran.out.contains("tables, inet and bridge"), "what goes is said: {}", ran.out);
    assert!(run(&["--version"]).out.starts_with("kube-verdict "));
}

#[test]
fn a_command_line_that_cannot_be_right_is_a_usage_error() {
    let folder = folder(CLUSTER);
    let source = text(folder.path());
    let run_flags = ["run", "--source", source, "--node", "node-a"];
    let cases: [(&[&str], &str); 10] = [
        (&[], "Usage:"),
        (&["fly"], "unrecognized subcommand"),
        (&["run", "--source", "/nowhere", "--node", "n"], "--source /nowhere: No such file"),
        (&["run", "--source", source], "--node"),
        (&["run", "--source", source, "--node", ""], "--node must not be empty"),
        (&[run_flags[0], run_flags[1], source, "--node", "n", "--pod-cidr", "10.0.0.0"], "--pod-cidr"),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--connection-marks", "0x3"],
            "connection marks need exactly four bits",
        ),
        (
            &[run_flags[0], run_flags[1], source, "--node", "n", "--queue-base", "65535"],
            "numbers end at 65535",
        ),
        (&["explain", "--source", source, "--from", "web/a"], "--to"),
        (&["doctor", "--packet-marks", "0xf0000000"], "have a bit in common"),
    ];
    for (arguments, part) in cases {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn without_an_agent_status_says_so() {
    let port = free_port();
    let ran = run(&["status", "--http-port", &port]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(&format!("no agent answers on 127.0.0.1:{port}")), "{}", ran.err);
}

#[test]
fn doctor_names_each_need_and_what_the_manifests_got_wrong() {
    let port = free_port();
    let folder = folder(&CLUSTER.replace("192.0.2.0/24", "192.0.2.0/99"));
    let arguments = ["doctor", "--http-port", &port, "--source", text(folder.path())];
    let ran = run(&[&arguments[..], &["--output", "json"]].concat());
    let found: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let needs = found["needs"].as_array().expect("needs");
    assert!(needs.iter().any(|need| need["name"] == "permission"), "{}", ran.out);
    for need in needs {
        let state = need["state"].as_str().expect("state");
        assert!(["fine", "warning", "wrong"].contains(&state), "{need}");
        assert!(!need["what"].as_str().expect("what").is_empty(), "{need}");
        assert_eq!(need["todo"].is_string(), state != "fine", "what is not fine says what to do: {need}");
    }
    assert_eq!(found["agent"], serde_json::Value::Null);
    let protections = run(&arguments).out;
    assert!(protections.contains(" protections "), "with or without an agent: {protections}");
    assert_eq!((&found["read"]["files"], &found["read"]["skipped"]), (&1.into(), &0.into()), "{}", ran.out);
    assert_eq!(found["problems"][0]["kind"], "NetworkPolicy");
    assert_eq!(ran.code, 1, "a problem in the manifests is wrong");
    let ran = run(&arguments);
    assert!(ran.out.contains("permission") && ran.out.contains("192.0.2.0/99"), "{}", ran.out);
    assert_eq!(ran.code, 1);
}

#[test]
fn a_probe_finds_the_agent_of_its_own_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("http.sock");
    let place = ["--http-socket", text(&socket)];
    let ran = run(&[&["probe", "ready"], &place[..]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(&format!("no agent answers on {}", socket.display())), "{}", ran.err);

    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let agent = std::thread::spawn(move || {
        for (path, line, body) in [
            ("/livez", "200 OK", "ok\n"),
            ("/readyz", "503 Service Unavailable", "the source can't be read\n"),
        ] {
            let (mut stream, _) = listener.accept().expect("a probe");
            let mut asked = [0; 64];
            let length = stream.read(&mut asked).expect("a question");
            assert!(asked[..length].starts_with(format!("GET {path} HTTP/1.0").as_bytes()));
            write!(stream, "HTTP/1.0 {line}\r\n\r\n{body}").expect("an answer");
        }
    });
    let live = run(&[&["probe", "live"], &place[..]].concat());
    assert_eq!((live.code, live.out.as_str()), (0, "ok\n"));
    let ready = run(&[&["probe", "ready"], &place[..]].concat());
    assert_eq!((ready.code, ready.out.as_str()), (1, "the source can't be read\n"), "as the agent says it");
    agent.join().expect("it was asked both");
}

#[test]
fn under_the_name_netpol_it_takes_the_flags_of_flannels_policy_container() {
    let folder = tempfile::tempdir().expect("a folder");
    let netpol = folder.path().join("netpol");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kube-verdict"), &netpol).expect("a link");
    let ran = |words: &[&str]| {
        let output = std::process::Command::new(&netpol).args(words).output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = ran(&["-help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("--fail-open") && out.contains("--nfqueue-id"), "{out}");
    let (code, _, err) = ran(&["--hostname-override=node-a", "--fail-open=perhaps"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--fail-open=perhaps: true or false"), "{err}");
}
