//! From flags to a command line of `run` and warnings.

use super::*;

/// The arguments after `kube-verdict run`, and the flags with a warning.
fn translated(arguments: &[&str]) -> Result<(String, Vec<String>), String> {
    let arguments: Vec<String> = arguments.iter().copied().map(str::to_owned).collect();
    let CommandLine::Run(flags) = flags::parse(&arguments).map_err(|error| error.to_string())? else {
        return Err("help".to_owned());
    };
    let hostname = || Some("Machine-1".to_owned());
    let (line, warnings) = translate(&flags, hostname).map_err(|error| error.to_string())?;
    let warned = flags.warnings().iter().chain(&warnings).map(|warning| warning.flag.clone()).collect();
    Ok((line[2..].join(" "), warned))
}

const DEFAULTS: &str = "--node machine-1 --fail-mode open --metrics-address :9080";

#[test]
fn each_flag_has_its_effect_or_a_warning() {
    let machine = "--node machine-1 --fail-mode";
    let cases: [(&[&str], String, &[&str]); 25] = [
        (&[], DEFAULTS.to_owned(), &[]),
        // As Flannel's chart starts it.
        (
            &["--hostname-override=node-a", "--v=2"],
            "--node node-a --fail-mode open --metrics-address :9080".to_owned(),
            &[],
        ),
        (
            &["--hostname-override= Node-A.example "],
            "--node node-a.example --fail-mode open --metrics-address :9080".to_owned(),
            &[],
        ),
        (&["--fail-open"], DEFAULTS.to_owned(), &[]),
        (&["--fail-open=true"], DEFAULTS.to_owned(), &[]),
        (&["--fail-open=F"], format!("{machine} closed --metrics-address :9080"), &[]),
        (&["--fail-open", "--fail-open=0"], format!("{machine} closed --metrics-address :9080"), &[]),
        // As in Go, this is the flag alone, which is true, and an argument that is not a flag.
        (&["--fail-open", "false"], DEFAULTS.to_owned(), &["false"]),
        (&["--nfqueue-id=200"], format!("{machine} open --queue-base 200 --metrics-address :9080"), &[]),
        (&["-nfqueue-id", "0"], format!("{machine} open --queue-base 0 --metrics-address :9080"), &[]),
        (
            &["--kubeconfig", "/etc/config"],
            "--node machine-1 --kubeconfig /etc/config --fail-mode open --metrics-address :9080".to_owned(),
            &[],
        ),
        (
            &["--netfilter-bug-1766-fix"],
            format!("{machine} open --prerouting-dns on --metrics-address :9080"),
            &[],
        ),
        (
            &["--netfilter-bug-1766-fix=false"],
            format!("{machine} open --prerouting-dns off --metrics-address :9080"),
            &[],
        ),
        (
            &["--metrics-bind-address=127.0.0.1:9081"],
            format!("{machine} open --metrics-address 127.0.0.1:9081"),
            &[],
        ),
        (&["--disable-nri"], DEFAULTS.to_owned(), &["--disable-nri"]),
        (&["--disable-nri=false"], DEFAULTS.to_owned(), &["--disable-nri"]),
        (&["--strict-mode"], DEFAULTS.to_owned(), &[]),
        (&["--strict-mode=false"], DEFAULTS.to_owned(), &["--strict-mode"]),
        (&["-v", "4"], format!("{DEFAULTS} --log-level debug"), &[]),
        (&["-v=10"], format!("{DEFAULTS} --log-level trace"), &[]),
        (
            &[
                "--exempt-origin=vpn",
                "--exempt-origin",
                "vm:app=kvm",
                "--overlay=8285/udp",
                "--overlay-sources=nodes",
                "--policy-budget=131072",
            ],
            format!(
                "{DEFAULTS} --exempt-origin vpn --exempt-origin vm:app=kvm --overlay 8285/udp \
                 --overlay-sources nodes --policy-budget 131072"
            ),
            &[],
        ),
        (&["--logging-format=json"], format!("{DEFAULTS} --log-format json"), &[]),
        (
            &["--vmodule=a=1", "--log-flush-frequency", "5s"],
            DEFAULTS.to_owned(),
            &["--vmodule", "--log-flush-frequency"],
        ),
        // A future chart: flags after an unknown flag still count.
        (
            &["--new-flag=1", "--newer", "x", "--fail-open=false"],
            format!("{machine} closed --metrics-address :9080"),
            &["--new-flag=1", "--newer", "x"],
        ),
        (&["--", "-", "---v", "=1"], DEFAULTS.to_owned(), &["--", "-", "---v", "=1"]),
    ];
    for (arguments, line, warned) in cases {
        let warned: Vec<String> = warned.iter().copied().map(str::to_owned).collect();
        assert_eq!(translated(arguments), Ok((line, warned)), "{arguments:?}");
    }
}

#[test]
fn an_invalid_value_is_a_usage_error_about_the_flag_as_given() {
    let cases: [(&[&str], &str); 9] = [
        (&["--fail-open=maybe"], "--fail-open=maybe: write true or false"),
        (&["--disable-nri=2"], "--disable-nri=2: write true or false"),
        (&["--strict-mode=off"], "--strict-mode=off: write true or false"),
        (&["--nfqueue-id=-1"], "--nfqueue-id=-1: write a queue number from 0 to 65535, such as 100"),
        (&["--nfqueue-id=65536"], "--nfqueue-id=65536: write a queue number from 0 to 65535, such as 100"),
        (&["--v=high"], "--v=high: write a whole number, such as 2"),
        (&["--logging-format=xml"], "--logging-format=xml: write text or json"),
        (&["--kubeconfig"], "--kubeconfig needs a value"),
        (&["--hostname-override=$(MY_NODE_NAME)"], "not a valid node name"),
    ];
    for (arguments, part) in cases {
        let error = translated(arguments).expect_err("a usage error");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}

#[test]
fn each_translation_is_a_command_line_of_run() {
    let cases: [&[&str]; 3] = [
        &[],
        &["--hostname-override=node-a", "--v=2"],
        &[
            "--kubeconfig=/etc/config",
            "--fail-open=false",
            "--nfqueue-id=300",
            "--metrics-bind-address=[::1]:9080",
            "--netfilter-bug-1766-fix=true",
            "--v=9",
            "--logging-format=json",
        ],
    ];
    for arguments in cases {
        let (line, _) = translated(arguments).expect("a translation");
        let line: Vec<String> =
            ["kube-verdict", "run"].into_iter().chain(line.split(' ')).map(str::to_owned).collect();
        parsed(&line).expect("a command line of run");
    }
}

#[test]
fn only_a_program_named_netpol_takes_these_flags() {
    for name in ["netpol", "/bin/netpol", "./netpol"] {
        assert!(is_name_of(OsStr::new(name)), "{name}");
    }
    for name in ["kube-verdict", "/kube-verdict", "/netpol/kube-verdict", ""] {
        assert!(!is_name_of(OsStr::new(name)), "{name}");
    }
}

#[test]
fn the_rest_of_an_exemption_that_helm_split_at_its_comma_is_an_error() {
    let error = translated(&["--exempt-origin=vm:a=b", "c=d"]).expect_err("more pods would be exempt");
    assert!(error.starts_with("\"c=d\" follows --exempt-origin"), "{error}");
    let (line, _) = translated(&["--exempt-origin=vm:a=b,c=d"]).expect("one value");
    assert!(line.contains("--exempt-origin vm:a=b,c=d"), "{line}");
}
