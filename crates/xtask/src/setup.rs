//! Compares a command's prerequisites with the machine, and installs what is missing if it may.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::machine::{Distribution, Machine, program};
use crate::prerequisite::{CargoTool, PREREQUISITES, Prerequisite, Purpose, Remedy};
use crate::task::{Output, Task};
use crate::workspace::{Workspace, lock};

/// Packages are downloaded over a network that may be slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// `cargo xtask setup`: shows every prerequisite, then installs those that are missing.
pub(crate) fn show_and_ensure(workspace: &Workspace) -> Result<ExitCode> {
    anstream::println!("{}", table(workspace, &PREREQUISITES.iter().collect::<Vec<_>>()));
    let everything = [
        Purpose::Build,
        Purpose::Namespaces,
        Purpose::VirtualMachine,
        Purpose::Checks,
        Purpose::Foreign,
        Purpose::Cluster,
        Purpose::Instructions,
    ];
    ensure(workspace, &everything)?;
    anstream::println!("Nothing is missing.");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that all prerequisites of `purposes` are there. Prints nothing if they are. Otherwise it lists
/// what is missing and installs it, or prints how to.
pub(crate) fn ensure(workspace: &Workspace, purposes: &[Purpose]) -> Result<()> {
    if missing(workspace, purposes).is_empty() {
        return Ok(());
    }
    // Two commands may start on a new machine at the same time: the second finds what the first installs.
    let _lock = lock(workspace.target())?;
    let missing = missing(workspace, purposes);
    if missing.is_empty() {
        return Ok(());
    }
    let machine = Machine::this();
    anstream::println!("This machine lacks:\n{}", table(workspace, &missing));
    let plan = Plan::of(&missing);
    if let Some(advice) = plan.instructions(&machine) {
        bail!("{advice}");
    }
    plan.carry_out(workspace)?;
    // If the archive has no Debian kernel (Ubuntu's has none), only the virtual machine's step fails, and
    // that step says so itself.
    let still: Vec<&str> = self::missing(workspace, purposes)
        .iter()
        .filter(|prerequisite| prerequisite.remedy != Remedy::PackageLists)
        .map(|prerequisite| prerequisite.name)
        .collect();
    if still.is_empty() {
        Ok(())
    } else {
        bail!("still missing after the installation: {}", still.join(", "))
    }
}

fn missing(workspace: &Workspace, purposes: &[Purpose]) -> Vec<&'static Prerequisite> {
    PREREQUISITES
        .iter()
        .filter(|prerequisite| {
            purposes.contains(&prerequisite.purpose) && prerequisite.found(workspace).is_none()
        })
        .collect()
}

fn table(workspace: &Workspace, prerequisites: &[&Prerequisite]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["prerequisite", "for", "found", "from"]);
    for prerequisite in prerequisites {
        let found = prerequisite.found(workspace).unwrap_or_else(|| "missing".to_owned());
        table.add_row([
            prerequisite.name.to_owned(),
            prerequisite.purpose.name().to_owned(),
            found,
            prerequisite.remedy.describe(),
        ]);
    }
    table
}

/// What has to be installed, grouped by method.
#[derive(Default, PartialEq, Eq, Debug)]
struct Plan {
    /// Names of packages, each once.
    packages: Vec<&'static str>,
    /// Whether apt's package lists must be downloaded first.
    package_lists: bool,
    /// Modules of the kernel.
    modules: Vec<&'static str>,
    /// Components of the Rust toolchain.
    components: Vec<&'static str>,
    /// Platforms with a missing standard library.
    targets: Vec<&'static str>,
    /// Programs of cargo's.
    tools: Vec<CargoTool>,
    /// What people install themselves.
    by_hand: Vec<&'static str>,
}

impl Plan {
    fn of(missing: &[&Prerequisite]) -> Self {
        let mut plan = Self::default();
        for prerequisite in missing {
            match prerequisite.remedy {
                Remedy::Package(name) if !plan.packages.contains(&name) => plan.packages.push(name),
                Remedy::Package(_) => {}
                Remedy::PackageLists => plan.package_lists = true,
                Remedy::Module(name) => plan.modules.push(name),
                Remedy::RustComponent(name) => plan.components.push(name),
                Remedy::Target(name) => plan.targets.push(name),
                Remedy::CargoTool(tool) => plan.tools.push(tool),
                Remedy::ByHand(what) => plan.by_hand.push(what),
            }
        }
        plan
    }

    /// Instructions for what the user must do first; `None` if this process can carry out the plan.
    fn instructions(&self, machine: &Machine) -> Option<String> {
        let mut commands = Vec::new();
        match &machine.distribution {
            Distribution::Debian if machine.root => {}
            Distribution::Debian if self.packages.is_empty() && self.package_lists => {
                commands.push("sudo apt-get update".to_owned());
            }
            _ if self.packages.is_empty() => {}
            Distribution::Debian => commands.push(format!(
                "sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
                self.packages.join(" ")
            )),
            Distribution::Other(name) => commands.push(format!(
                "the packages of {name} that correspond to Debian's {}",
                self.packages.join(", ")
            )),
        }
        if !machine.root {
            commands.extend(self.modules.iter().map(|module| format!("sudo modprobe {module}")));
        }
        commands.extend(self.by_hand.iter().map(|what| (*what).to_owned()));
        let how = if machine.root { "install it" } else { "run this as root, or install it by hand" };
        (!commands.is_empty()).then(|| format!("{how}, then try again:\n  {}", commands.join("\n  ")))
    }

    fn carry_out(&self, workspace: &Workspace) -> Result<()> {
        // Without apt there are no package lists.
        let lists = self.package_lists && program("apt-get").is_some();
        if lists || !self.packages.is_empty() {
            install(workspace, "apt-get update", apt_get(&["update"]))?;
        }
        if !self.packages.is_empty() {
            let mut command = apt_get(&["install", "-y", "--no-install-recommends"]);
            command.args(&self.packages);
            install(workspace, "apt-get install", command)?;
        }
        for module in &self.modules {
            // kmod may just have been installed with the packages, and its folder on Debian may not be in
            // PATH.
            let mut command = Command::new(program("modprobe").context("modprobe is missing: install kmod")?);
            command.arg(module);
            install(workspace, "modprobe", command)
                .with_context(|| format!("this kernel has {module} neither as a module nor built in"))?;
        }
        for (kind, names) in [("component", &self.components), ("target", &self.targets)] {
            if names.is_empty() {
                continue;
            }
            let rustup = program("rustup").with_context(|| {
                format!(
                    "{} cannot be added without rustup: install it as Rust was installed",
                    names.join(", ")
                )
            })?;
            let mut command = Command::new(rustup);
            command.args([kind, "add"]).args(names);
            install(workspace, "rustup", command)?;
        }
        for tool in &self.tools {
            install(workspace, tool.name, cargo_install(workspace, *tool))?;
        }
        Ok(())
    }
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    command
}

/// Builds a program of cargo's, without optimisation and debug information. That takes less than half the
/// time, and its own work takes a few seconds either way.
fn cargo_install(workspace: &Workspace, tool: CargoTool) -> Command {
    let mut command = workspace.cargo("install");
    command
        .args([tool.name, "--locked", "--debug", "--version", tool.version, "--root"])
        .arg(workspace.tools());
    // Its objects are needed once: they are kept outside the target folder, and deleted after the build.
    command.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_DEV_DEBUG", "0");
    command
}

fn install(workspace: &Workspace, name: &str, command: Command) -> Result<()> {
    let task = Task { name, command, limit: DOWNLOAD_LIMIT, output: Output::Logged };
    match task.run(&workspace.logs())?.failure {
        None => Ok(()),
        Some(failure) => bail!("{name}: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prerequisite::CARGO_DENY;

    fn machine(root: bool, distribution: Distribution) -> Machine {
        Machine { root, distribution }
    }

    fn everything_missing() -> Plan {
        Plan::of(&PREREQUISITES.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_package_for_two_prerequisites_is_installed_once() {
        let plan = everything_missing();
        assert_eq!(plan.packages.iter().filter(|name| **name == "libclang-dev").count(), 1);
        assert!(plan.package_lists);
        assert_eq!(plan.modules, ["br_netfilter"]);
        assert_eq!(plan.components, ["rustfmt", "clippy"]);
        assert!(plan.tools.contains(&CARGO_DENY));
    }

    #[test]
    fn root_on_debian_installs_everything_that_apt_has() {
        let mut plan = everything_missing();
        let advice = plan.instructions(&machine(true, Distribution::Debian)).unwrap();
        assert!(advice.contains("Go 1.24") && !advice.contains("apt-get"), "{advice}");
        plan.by_hand.clear();
        assert_eq!(plan.instructions(&machine(true, Distribution::Debian)), None);
    }

    #[test]
    fn other_users_and_distributions_get_instructions() {
        let plan = everything_missing();
        let user = plan.instructions(&machine(false, Distribution::Debian)).unwrap();
        assert!(user.contains("sudo apt-get install -y --no-install-recommends libclang-dev "), "{user}");
        assert!(user.contains("sudo modprobe br_netfilter"), "{user}");
        let fedora = plan.instructions(&machine(true, Distribution::Other("Fedora".to_owned()))).unwrap();
        assert!(fedora.contains("Fedora") && fedora.contains("nftables"), "{fedora}");
        assert!(!fedora.contains("modprobe"), "root loads modules itself: {fedora}");
    }

    #[test]
    fn missing_package_lists_alone_stop_no_other_distribution() {
        let plan = Plan { package_lists: true, ..Plan::default() };
        assert_eq!(plan.instructions(&machine(true, Distribution::Other("Fedora".to_owned()))), None);
        let user = plan.instructions(&machine(false, Distribution::Debian)).unwrap();
        assert!(user.contains("sudo apt-get update"), "{user}");
    }

    #[test]
    fn what_needs_no_root_is_installed_everywhere() {
        let plan = Plan { tools: vec![CARGO_DENY], components: vec!["clippy"], ..Plan::default() };
        assert_eq!(plan.instructions(&machine(false, Distribution::Other("Fedora".to_owned()))), None);
    }
}
