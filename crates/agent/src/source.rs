//! The flags that select the source of objects, and reading a source once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use cluster::kubernetes::Timeouts;
use cluster::service::Services;
use cluster::{Access, CniCache, Folder, Kubernetes, Problem, Source, Update, WatchStatuses};
use policy::{Budget, Change};

use crate::exit::Usage;
use crate::terminal::text;

/// How long a command that reads the source once waits for the API server.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long such a command waits before it prints why.
const SILENT_WAIT: Duration = Duration::from_secs(1);

/// The flags that select the source of objects.
#[derive(Clone, Debug, Args)]
pub(crate) struct SourceArguments {
    /// Folder of manifests: Namespaces, Pods, Nodes and NetworkPolicies, in YAML or JSON, including
    /// subfolders. Without it, the Kubernetes API.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub source: Option<PathBuf>,

    /// How to reach the API server. Default: the environment variable KUBECONFIG, or the pod's service
    /// account. `explain` also uses ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl SourceArguments {
    /// The source for the agent of `node`, with this CNI cache. It omits rules that exceed the budget.
    pub(crate) fn source(&self, node: &str, cni_cache: CniCache, budget: Budget) -> Result<Source, Usage> {
        match &self.source {
            Some(folder) => {
                must_be_a_folder(folder)?;
                Ok(Source::Folder { path: folder.clone(), budget })
            }
            None => Ok(Source::Kubernetes(Kubernetes {
                access: self.access(),
                node: node.into(),
                cni_cache,
                timeouts: Timeouts::default(),
                budget,
            })),
        }
    }

    /// The source of a command that a person runs: if nothing else is given, the cluster of `~/.kube/config`,
    /// as for kubectl. Prints that in one line.
    pub(crate) fn or_home_kubeconfig(self) -> Self {
        if self.source.is_some() || self.access().is_there() {
            return self;
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let Some(path) = home.map(|home| Path::new(&home).join(".kube/config")) else { return self };
        // An unreadable file is an error later, a missing one is not what the person meant.
        if !path.exists() {
            return self;
        }
        text!("without --source, --kubeconfig or KUBECONFIG: the cluster of {}", path.display())
            .print_error();
        Self { kubeconfig: Some(path), ..self }
    }

    fn access(&self) -> Access {
        self.kubeconfig.clone().map_or(Access::Environment, Access::Kubeconfig)
    }

    /// The source's Services, or why a cluster's API server does not list them.
    pub(crate) fn services(&self) -> anyhow::Result<Result<Services, String>> {
        match &self.source {
            Some(folder) => {
                let read = Services::in_folder(folder);
                read.map(Ok).with_context(|| format!("reading the Services in {}", folder.display()))
            }
            None => Ok(Services::of_cluster(&self.access())?),
        }
    }

    /// The source's current objects, without rules that exceed the budget, and the problems of these objects.
    pub(crate) fn read_once(&self, budget: Budget) -> anyhow::Result<(Vec<Change>, Arc<[Problem]>)> {
        let update = match self.source("", CniCache::Off, budget)? {
            Source::Folder { path, budget } => {
                let read = Folder::read(&path, budget);
                read.with_context(|| format!("reading the manifests in {}", path.display()))?.1
            }
            Source::Kubernetes(kubernetes) => {
                let (send, receive) = mpsc::channel();
                // Sending fails for later updates, which are not read.
                let watching = kubernetes.watch(None, move |update| drop(send.send(update)))?;
                first_update(&receive, watching.watch_statuses())?
            }
        };
        Ok((update.changes, update.problems))
    }
}

/// Waits for the first update. If that takes longer than [`SILENT_WAIT`], prints what it waits for.
fn first_update(updates: &mpsc::Receiver<Update>, connections: &WatchStatuses) -> anyhow::Result<Update> {
    let end = Instant::now() + READ_TIMEOUT;
    let mut printed = None;
    loop {
        let why = match updates.recv_timeout(SILENT_WAIT) {
            Ok(update) => return Ok(update),
            Err(_) => connections.waits_for().unwrap_or_else(|| "no answer".to_owned()),
        };
        let server = connections.server();
        if Instant::now() >= end {
            bail!("API server {server}: {why}");
        }
        if printed.as_ref() != Some(&why) {
            let seconds = READ_TIMEOUT.as_secs();
            text!("waiting up to {seconds} s for the API server {server}: {why}").print_error();
            printed = Some(why);
        }
    }
}

/// Checks that `--source` names a folder.
pub(crate) fn must_be_a_folder(folder: &Path) -> Result<(), Usage> {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Usage(format!("--source {}: not a folder", folder.display()))),
        Err(error) => Err(Usage(format!("--source {}: {error}", folder.display()))),
    }
}

/// Parses `--cni-cache`.
pub(crate) fn cni_cache(text: &str) -> Result<CniCache, String> {
    match text {
        "" => Err("expected a folder, auto or off".to_owned()),
        "auto" => Ok(CniCache::Auto),
        "off" => Ok(CniCache::Off),
        folder => Ok(CniCache::Folder(folder.into())),
    }
}
