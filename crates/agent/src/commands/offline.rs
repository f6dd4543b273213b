//! The flags of commands that read manifests and need no cluster.

use std::path::{Path, PathBuf};

use analysis::PodNetworks;
use anyhow::Context;
use clap::Args;
use cluster::Manifests;
use ipnet::IpNet;
use policy::Budget;

use super::budget::BudgetArguments;
use crate::exit::Usage;

/// The network of pods by default: Flannel's own default, and an IPv6 network of the same form.
const DEFAULT_NETWORKS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];

/// The flags.
#[derive(Clone, Debug, Args)]
pub(super) struct OfflineArguments {
    /// More manifests, a folder or a file, which are read first. Repeatable.
    ///
    /// For policies whose workloads and Namespaces are in another folder.
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,

    /// The network of the cluster's pods, one of each IP family.
    ///
    /// Pods of Deployments and other workloads have no addresses yet. They count as somewhere in this
    /// network, so that an ipBlock around it matches them.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_values = DEFAULT_NETWORKS)]
    pod_cidr: Vec<IpNet>,

    #[command(flatten)]
    budget: BudgetArguments,
}

impl OfflineArguments {
    /// The limits for policies.
    pub(super) fn budget(&self) -> Budget {
        self.budget.into()
    }

    /// The networks of pods: the default for a family that is not given.
    pub(super) fn networks(&self) -> Result<PodNetworks, Usage> {
        let of_family = |is_ipv4: bool| -> Result<Option<IpNet>, Usage> {
            let mut own = self.pod_cidr.iter().filter(|cidr| cidr.addr().is_ipv4() == is_ipv4);
            match (own.next(), own.next()) {
                (Some(first), Some(second)) => {
                    let family = if is_ipv4 { "IPv4" } else { "IPv6" };
                    Err(Usage(format!("--pod-cidr {first},{second}: give one {family} network")))
                }
                (first, _) => Ok(first.copied()),
            }
        };
        let default = |index: usize| {
            let parsed = DEFAULT_NETWORKS[index].parse();
            parsed.map_err(|error| Usage(format!("--pod-cidr {}: {error}", DEFAULT_NETWORKS[index])))
        };
        let ipv4 = of_family(true)?.map_or_else(|| default(0), Ok)?;
        let ipv6 = of_family(false)?.map_or_else(|| default(1), Ok)?;
        Ok(PodNetworks { ipv4, ipv6 })
    }

    /// The manifests at `path`, a folder or a file, over those of `--with`.
    pub(super) fn read(&self, path: &Path) -> anyhow::Result<Manifests> {
        let mut all = Manifests::default();
        for path in self.with.iter().map(PathBuf::as_path).chain([path]) {
            if let Err(error) = std::fs::metadata(path) {
                return Err(Usage(format!("{}: {error}", path.display())).into());
            }
            let read = Manifests::read(path, self.budget());
            all.extend(read.with_context(|| format!("reading the manifests in {}", path.display()))?);
        }
        Ok(all)
    }
}
