//! Where objects come from, as the command line says, and a source that is read once.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use cluster::kubernetes::Patience;
use cluster::{Access, CniCache, Connections, Folder, Kubernetes, Source, Update};
use policy::{Budget, Change};

use crate::exit::Usage;
use crate::status::Problem;
use crate::terminal::text;

/// How long a command that reads the source once waits for the API server.
const ONCE: Duration = Duration::from_secs(30);

/// How long it waits before it says what it waits for.
const PATIENT: Duration = Duration::from_secs(1);

/// The flags that say where objects come from.
#[derive(Clone, Debug, Args)]
pub struct SourceArguments {
    /// Folder of manifests: Namespaces, Pods, Nodes and NetworkPolicies, in YAML or JSON; subfolders, too. Without it, the
    /// Kubernetes API.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub source: Option<PathBuf>,

    /// How to reach the API server. Default: by the environment variable KUBECONFIG, or as a pod with its service account does.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl SourceArguments {
    /// The source, for the agent of `node`, with this CNI cache. It keeps no rules beyond the budget.
    pub fn source(&self, node: &str, cni_cache: CniCache, budget: Budget) -> Result<Source, Usage> {
        match (&self.source, &self.kubeconfig) {
            (Some(folder), _) => {
                must_be_a_folder(folder)?;
                Ok(Source::Folder { path: folder.clone(), budget })
            }
            (None, kubeconfig) => Ok(Source::Kubernetes(Kubernetes {
                access: kubeconfig.clone().map_or(Access::Environment, Access::Kubeconfig),
                node: node.into(),
                cni_cache,
                patience: Patience::default(),
                budget,
            })),
        }
    }

    /// All that the source holds now, but for rules beyond the budget, and what its objects got wrong.
    pub fn read_once(&self, budget: Budget) -> anyhow::Result<(Vec<Change>, Vec<Problem>)> {
        let update = match self.source("", CniCache::Off, budget)? {
            Source::Folder { path, budget } => {
                let read = Folder::read(&path, budget);
                read.with_context(|| format!("reading the manifests in {}", path.display()))?.1
            }
            Source::Kubernetes(kubernetes) => {
                let (send, receive) = mpsc::channel();
                // Later updates are not read.
                let watching = kubernetes.watch(None, move |update| drop(send.send(update)))?;
                first_update(&receive, watching.connections())?
            }
        };
        Ok((update.changes, update.problems.iter().map(Problem::from).collect()))
    }
}

/// Waits for the first update, and prints what it waits for as soon as that takes longer than [`PATIENT`].
fn first_update(updates: &mpsc::Receiver<Update>, connections: &Connections) -> anyhow::Result<Update> {
    let end = Instant::now() + ONCE;
    let mut said = None;
    loop {
        let why = match updates.recv_timeout(PATIENT) {
            Ok(update) => return Ok(update),
            Err(_) => connections.waits_for().unwrap_or_else(|| "no answer".to_owned()),
        };
        let server = connections.server();
        if Instant::now() >= end {
            bail!("API server {server}: {why}");
        }
        if said.as_ref() != Some(&why) {
            text!("waiting up to {} s for the API server {server}: {why}", ONCE.as_secs()).print_error();
            said = Some(why);
        }
    }
}

/// A source that is no folder is a mistake on the command line.
pub fn must_be_a_folder(folder: &Path) -> Result<(), Usage> {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Usage(format!("--source {}: not a folder", folder.display()))),
        Err(error) => Err(Usage(format!("--source {}: {error}", folder.display()))),
    }
}

/// The CNI cache as the command line says it.
pub fn cni_cache(text: &str) -> Result<CniCache, String> {
    match text {
        "" => Err("a folder, auto or off".to_owned()),
        "auto" => Ok(CniCache::Auto),
        "off" => Ok(CniCache::Off),
        folder => Ok(CniCache::Folder(folder.into())),
    }
}
