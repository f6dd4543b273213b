//! `cargo xtask manifests`: renders the manifests for `kubectl apply` from the Helm chart, which is their
//! only source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::machine::program;
use crate::workspace::Workspace;

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: check that manifests/base and manifests/cleanup are what the chart renders, and test
    /// the chart's schema.
    #[arg(long)]
    check: bool,
    /// Helm, version 3. Default: the one in PATH, or the one built for the cluster.
    #[arg(long, value_name = "FILE")]
    helm: Option<PathBuf>,
}

/// Values that the schema must refuse, each wrong in one field.
const REFUSED: [&str; 24] = [
    "failMode=perhaps",
    "onUnknownPod=open",
    "holdTimeout=5m",
    "preroutingDns=yes",
    "queueBase=65536",
    "queueBase=first",
    "cniCache=var/lib/cni",
    "stateDir=state",
    "httpPort=0",
    "metrics.address=metrics",
    "log.format=xml",
    "audit.maxSize=0K",
    "audit.maxAge=daily",
    "audit.totalSize=much",
    "audit.output=syslog",
    "audit.compress=gzip",
    "audit.group=adm",
    "image.pullPolicy=Sometimes",
    "extraArgs[0]=record-open",
    "whenDwon=open",
    "uninstall.cleanup=perhaps",
    "uninstall.timeout=4m",
    "clusterPolicies.installCRDs=true",
    "clusterPolicies.installCrds=standard",
];

/// Values besides the defaults with which the chart must render, and a text that the result must contain.
const RENDERED: [(&[&str], &str); 21] = [
    (
        &["image.repository=registry.example/kube-verdict", "image.tag=1.2"],
        "\"registry.example/kube-verdict:1.2\"",
    ),
    (&["failMode=open"], "--fail-mode=open"),
    (&["cniCache="], "--cni-cache=off"),
    (&["stateDir=/srv/state"], "--state-dir=/srv/state"),
    (&["metrics.address=:9080"], "prometheus.io/port: \"9080\""),
    (&["metrics.address=[::1]:9080"], "--metrics-address=[::1]:9080"),
    (&["audit.enabled=true", "audit.recordOpen=true"], "--audit-log=/var/log/kube-verdict/audit.log"),
    (&["audit.enabled=true", "audit.output=stdout"], "- --audit-log=-\n"),
    (&["audit.enabled=true"], "- --audit-max-age=24h\n"),
    (&["audit.enabled=true", "audit.totalSize=2GiB"], "- --audit-total-size=2GiB\n"),
    (&["audit.enabled=true", "audit.group=0"], "- --audit-group=0\n"),
    (&["audit.enabled=true", "audit.group=4"], "supplementalGroups: [4]\n"),
    (&["extraArgs[0]=--no-bridge"], "- --no-bridge"),
    (&[], "helm.sh/hook: pre-delete"),
    (&["uninstall.timeout=60s"], "- --timeout=60s"),
    (&["extraArgs[0]=--connection-marks=0x00f00000"], "- \"--connection-marks=0x00f00000\""),
    (&["uninstall.removeAuditLog=true"], "- --audit-log=/var/log/kube-verdict/audit.log"),
    (&["clusterPolicies.installCRDs=standard"], "channel: standard"),
    (&["clusterPolicies.installCRDs=experimental"], "channel: experimental"),
    // As `helm upgrade --reuse-values` from a release without this value.
    (&["clusterPolicies=null"], "kind: DaemonSet"),
    (&["updateStrategy.type=OnDelete", "updateStrategy.rollingUpdate=null"], "type: OnDelete"),
];

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let helm = helm(workspace, arguments.helm.as_deref())?;
    let chart = workspace.root().join("manifests/helm/kube-verdict");
    let own = template(&helm, &chart, &[], &["--no-hooks"])?;
    let cleanup = template(&helm, &chart, &[], &["--show-only", CLEANUP])?;
    let mut files = vec![
        ("manifests/base/kube-verdict.yaml", format!("{HEAD}{}", without_sources(&own))),
        ("manifests/cleanup/daemonset.yaml", format!("{HEAD}{}", without_hooks(&without_sources(&cleanup)))),
    ];
    for (from, to) in DEFINITIONS {
        let file = workspace.root().join(from);
        files.push((to, fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?));
    }
    for (name, rendered) in files {
        let file = workspace.root().join(name);
        if arguments.check {
            let found = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            ensure!(found == rendered, "{name} is not what the chart renders: cargo xtask manifests");
        } else {
            fs::write(&file, rendered).with_context(|| format!("writing {}", file.display()))?;
            anstream::println!("{}", file.display());
        }
    }
    if !arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    lint(&helm, &chart)?;
    for values in REFUSED {
        match template(&helm, &chart, &[values], &[]) {
            Ok(_) => bail!("the chart's schema accepts {values}"),
            Err(error) if error.to_string().contains("schema") => {}
            Err(error) => return Err(error.context(format!("{values} is refused, but not by the schema"))),
        }
    }
    for (values, text) in RENDERED {
        let rendered = template(&helm, &chart, values, &[])?;
        ensure!(rendered.contains(text), "with {} the chart does not render {text}", values.join(" "));
    }
    check_definitions(workspace, &helm, &chart)?;
    let kept = template(&helm, &chart, &["uninstall.cleanup=false"], &[])?;
    ensure!(!kept.contains("helm.sh/hook"), "with uninstall.cleanup=false the chart still has hooks");
    anstream::println!(
        "the chart, manifests/base and manifests/cleanup agree, and its schema refuses what it should"
    );
    Ok(ExitCode::SUCCESS)
}

/// The CustomResourceDefinitions, and their copies in the chart: a chart can't contain files from outside.
const DEFINITIONS: [(&str, &str); 2] = [
    (
        "manifests/crds/standard/clusternetworkpolicies.yaml",
        "manifests/helm/kube-verdict/files/clusternetworkpolicies-standard.yaml",
    ),
    (
        "manifests/crds/experimental/clusternetworkpolicies.yaml",
        "manifests/helm/kube-verdict/files/clusternetworkpolicies-experimental.yaml",
    ),
];

/// Checks that the chart renders each definition unchanged, except that helm never deletes it, and none by
/// default.
fn check_definitions(workspace: &Workspace, helm: &Path, chart: &Path) -> Result<()> {
    const KIND: &str = "kind: CustomResourceDefinition";
    const KEEP: &str = "    helm.sh/resource-policy: keep\n";
    let without = template(helm, chart, &[], &[])?;
    ensure!(!without.contains(KIND), "by default the chart renders a CustomResourceDefinition");
    for (channel, (from, _)) in ["standard", "experimental"].into_iter().zip(DEFINITIONS) {
        let value = format!("clusterPolicies.installCRDs={channel}");
        let rendered = template(helm, chart, &[&value], &["--show-only", "templates/crds.yaml"])?;
        ensure!(rendered.matches(KEEP).count() == 1, "with {value} `helm uninstall` deletes the definition");
        let expected = fs::read_to_string(workspace.root().join(from)).with_context(|| from.to_owned())?;
        let found = without_sources(&rendered).replace(KEEP, "");
        let found = found.trim_start_matches("---").trim();
        ensure!(found == expected.trim(), "with {value} the chart renders something else than {from}");
    }
    Ok(())
}

/// The DaemonSet of the chart's hook, which is also rendered for installations without a chart.
const CLEANUP: &str = "templates/cleanup/daemonset.yaml";

/// The Kubernetes version to render for; no cluster is contacted.
const KUBERNETES: &str = "1.34.0";

const HEAD: &str = "# Rendered from manifests/helm/kube-verdict by `cargo xtask manifests`. Set image and args here; change all else there.\n";

fn helm(workspace: &Workspace, named: Option<&Path>) -> Result<PathBuf> {
    let built = workspace.components().join("helm");
    named
        .map(Path::to_owned)
        .or_else(|| program("helm"))
        .or_else(|| built.is_file().then_some(built))
        .context("helm is missing: install version 3, or pass its path with --helm")
}

/// Renders the chart with some values and flags, in the namespace of the stand-alone manifests.
fn template(helm: &Path, chart: &Path, values: &[&str], flags: &[&str]) -> Result<String> {
    let mut command = Command::new(helm);
    command
        .args(["template", "kube-verdict"])
        .arg(chart)
        // A helm that was built from its module assumes an old version of the cluster.
        .args(["--namespace", "kube-system", "--kube-version", KUBERNETES])
        .args(flags);
    for value in values {
        command.args(["--set", value]);
    }
    output(command)
}

fn lint(helm: &Path, chart: &Path) -> Result<()> {
    let mut command = Command::new(helm);
    command.args(["lint", "--strict"]).arg(chart);
    output(command).map(drop)
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output().context("helm could not be started")?;
    if !output.status.success() {
        // helm reports errors in a chart on standard output, and errors in values on standard error.
        let errors = [output.stdout, output.stderr].concat();
        bail!("helm failed:\n{}", String::from_utf8_lossy(&errors).trim_end());
    }
    String::from_utf8(output.stdout).context("helm rendered something that is not UTF-8")
}

/// Removes the lines in which helm names the template of an object.
fn without_sources(rendered: &str) -> String {
    let kept = rendered.lines().filter(|line| !line.starts_with("# Source: "));
    kept.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Removes the annotations that mark an object as a hook; the object must have no other annotations.
fn without_hooks(rendered: &str) -> String {
    let is_of_hooks =
        |line: &&str| line.trim_start().starts_with("helm.sh/hook") || *line == "  annotations:";
    rendered.lines().filter(|line| !is_of_hooks(line)).map(|line| format!("{line}\n")).collect()
}
