//! `cargo xtask manifests`: what `kubectl apply` takes, rendered from the Helm chart, which is the one place where it is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::machine::program;
use crate::workspace::Workspace;

/// What to do.
#[derive(clap::Args)]
pub struct Arguments {
    /// Change nothing: say whether manifests/base is what the chart renders, and try the chart's schema.
    #[arg(long)]
    check: bool,
    /// Helm, version 3. Default: that of PATH, or the one built for the cluster.
    #[arg(long, value_name = "FILE")]
    helm: Option<PathBuf>,
}

/// Values that must be refused before anything is rendered, each wrong in one place.
const REFUSED: [&str; 15] = [
    "whenDown=perhaps",
    "whenUnsure=allow",
    "holdTime=5m",
    "judgeDns=yes",
    "queueBase=65536",
    "queueBase=first",
    "cniCache=var/lib/cni",
    "stateDir=state",
    "httpPort=0",
    "metrics.address=metrics",
    "log.format=xml",
    "audit.maxSize=0K",
    "image.pullPolicy=Sometimes",
    "extraArgs[0]=record-open",
    "whenDwon=open",
];

/// Values beside the defaults with which the chart must render, and what must be in the result.
const RENDERED: [(&[&str], &str); 9] = [
    (
        &["image.repository=registry.example/kube-verdict", "image.tag=1.2"],
        "\"registry.example/kube-verdict:1.2\"",
    ),
    (&["whenDown=open"], "--when-down=open"),
    (&["cniCache="], "--cni-cache=off"),
    (&["stateDir=/srv/state"], "--state-dir=/srv/state"),
    (&["metrics.address=:9080"], "prometheus.io/port: \"9080\""),
    (&["metrics.address=[::1]:9080"], "--metrics-address=[::1]:9080"),
    (&["audit.enabled=true", "audit.recordOpen=true"], "--audit-log=/var/log/kube-verdict/audit.log"),
    (&["extraArgs[0]=--no-bridge"], "- --no-bridge"),
    (&["updateStrategy.type=OnDelete", "updateStrategy.rollingUpdate=null"], "type: OnDelete"),
];

/// Runs the command.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let helm = helm(workspace, arguments.helm.as_deref())?;
    let chart = workspace.root().join("manifests/helm/kube-verdict");
    let file = workspace.root().join("manifests/base/kube-verdict.yaml");
    let rendered = format!("{HEAD}{}", without_sources(&template(&helm, &chart, &[])?));
    if !arguments.check {
        fs::write(&file, rendered).with_context(|| format!("writing {}", file.display()))?;
        anstream::println!("{}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let base = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(base == rendered, "manifests/base is not what the chart renders: cargo xtask manifests");
    lint(&helm, &chart)?;
    for values in REFUSED {
        match template(&helm, &chart, &[values]) {
            Ok(_) => bail!("the chart's schema lets {values} pass"),
            Err(error) if error.to_string().contains("schema") => {}
            Err(error) => return Err(error.context(format!("{values} is refused, but not by the schema"))),
        }
    }
    for (values, part) in RENDERED {
        let rendered = template(&helm, &chart, values)?;
        ensure!(rendered.contains(part), "with {} the chart does not render {part}", values.join(" "));
    }
    anstream::println!("the chart and manifests/base agree, and its schema refuses what it should");
    Ok(ExitCode::SUCCESS)
}

/// The version for which is rendered: a cluster is not asked.
const KUBERNETES: &str = "1.34.0";

const HEAD: &str =
    "# Rendered from manifests/helm/kube-verdict by `cargo xtask manifests`: change it there.\n";

fn helm(workspace: &Workspace, named: Option<&Path>) -> Result<PathBuf> {
    let built = workspace.parts().join("helm");
    named
        .map(Path::to_owned)
        .or_else(|| program("helm"))
        .or_else(|| built.is_file().then_some(built))
        .context("helm is missing: install version 3, or name it by --helm")
}

/// What the chart renders with some values, as in the namespace of the stand-alone manifests.
fn template(helm: &Path, chart: &Path, values: &[&str]) -> Result<String> {
    let mut command = Command::new(helm);
    command
        .args(["template", "kube-verdict"])
        .arg(chart)
        // A helm that was built from its module takes an old version for the cluster's.
        .args(["--namespace", "kube-system", "--kube-version", KUBERNETES]);
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
        // helm says what is wrong with a chart on standard output, and with values on standard error.
        let said = [output.stdout, output.stderr].concat();
        bail!("helm failed:\n{}", String::from_utf8_lossy(&said).trim_end());
    }
    String::from_utf8(output.stdout).context("helm rendered something that is no text")
}

/// Without the lines by which helm says from which template an object comes.
fn without_sources(rendered: &str) -> String {
    let kept = rendered.lines().filter(|line| !line.starts_with("# Source: "));
    kept.map(|line| format!("{}\n", line.trim_end())).collect()
}
