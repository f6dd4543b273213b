//! The form of a checkpoint on disk, and the way back to valid objects.
//!
//! From and to: JSON. Invariant: what comes back keeps the invariants of the types in `policy`, whatever the file says; texts and
//! labels that objects share are held once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use policy::{Change, Labels, Namespace, Node, Pod, PodName, PolicySpec, PortNumbers};
use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::interner::Interner;
use crate::key::Key;
use crate::manifest::Held;

/// A checkpoint, to be written.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Saved<'a> {
    Kubernetes { objects: Vec<SavedObject<'a>>, finished: &'a [PodName] },
    Folder { files: Vec<SavedFile<'a>> },
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SavedObject<'a> {
    Namespace(&'a Namespace),
    Node(&'a Node),
    Pod(&'a Pod),
    Policy(&'a PolicySpec),
}

#[derive(Serialize)]
pub(super) struct SavedFile<'a> {
    path: &'a str,
    /// Each with its document and line.
    objects: Vec<(SavedObject<'a>, u32, u32)>,
}

/// The same, as it was read.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Loaded {
    Kubernetes { objects: Vec<LoadedObject>, finished: Vec<PodName> },
    Folder { files: Vec<LoadedFile> },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LoadedObject {
    Namespace(Namespace),
    Node(Node),
    Pod(Pod),
    Policy(PolicySpec),
}

#[derive(Deserialize)]
pub(super) struct LoadedFile {
    path: PathBuf,
    objects: Vec<(LoadedObject, u32, u32)>,
}

impl<'a> Saved<'a> {
    pub(super) fn of(checkpoint: &'a Checkpoint) -> Self {
        match checkpoint {
            Checkpoint::Kubernetes { objects, finished } => {
                Self::Kubernetes { objects: objects.values().filter_map(SavedObject::of).collect(), finished }
            }
            Checkpoint::Folder(files) => {
                let of_file = |(path, held): &'a (PathBuf, Arc<Vec<Held>>)| {
                    let objects = held
                        .iter()
                        .filter_map(|held| Some((SavedObject::of(&held.change)?, held.document, held.line)));
                    // JSON has no bytes that are no text: such a file is read again, or not known.
                    Some(SavedFile { path: path.to_str()?, objects: objects.collect() })
                };
                Self::Folder { files: files.iter().filter_map(of_file).collect() }
            }
        }
    }
}

impl<'a> SavedObject<'a> {
    /// `None` for an object that is gone.
    fn of(change: &'a Change) -> Option<Self> {
        match change {
            Change::Namespace(namespace) => Some(Self::Namespace(namespace)),
            Change::Node(node) => Some(Self::Node(node)),
            Change::Pod(pod) => Some(Self::Pod(pod)),
            Change::Policy(policy) => Some(Self::Policy(policy)),
            _ => None,
        }
    }
}

impl Loaded {
    pub(super) fn checkpoint(self, interner: &Interner) -> Checkpoint {
        match self {
            Self::Kubernetes { objects, finished } => {
                let changes = objects.into_iter().map(|object| object.change(interner));
                let objects = changes.map(|change| (Key::of(&change), change)).collect();
                Checkpoint::Kubernetes { objects, finished }
            }
            Self::Folder { files } => {
                let held = |(object, document, line): (LoadedObject, u32, u32)| Held {
                    change: object.change(interner),
                    document,
                    line,
                };
                let of_file = |file: LoadedFile| {
                    let mut objects: Vec<Held> = file.objects.into_iter().map(held).collect();
                    objects.sort_by_key(Held::key);
                    objects.dedup_by_key(|held| held.key());
                    (file.path, Arc::new(objects))
                };
                Checkpoint::Folder(files.into_iter().map(of_file).collect())
            }
        }
    }
}

impl LoadedObject {
    fn change(self, interner: &Interner) -> Change {
        let labels = |labels: &Labels| match labels.are_known() {
            true => interner.labels(labels.iter()),
            false => Labels::unknown(),
        };
        match self {
            Self::Namespace(namespace) => Change::Namespace(Namespace {
                name: interner.text(&namespace.name),
                labels: labels(&namespace.labels),
            }),
            Self::Node(mut node) => {
                canonical(&mut node.addresses);
                Change::Node(Node { name: interner.text(&node.name), ..node })
            }
            Self::Pod(mut pod) => {
                canonical(&mut pod.addresses);
                pod.ports.iter_mut().for_each(|port| port.name = interner.text(&port.name));
                pod.ports.sort();
                pod.ports.dedup();
                Change::Pod(Pod {
                    name: PodName { namespace: interner.text(&pod.name.namespace), ..pod.name },
                    labels: labels(&pod.labels),
                    node: pod.node.map(|node| interner.text(&node)),
                    ..pod
                })
            }
            Self::Policy(mut policy) => {
                policy.name.namespace = interner.text(&policy.name.namespace);
                let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
                for port in rules.flat_map(|rule| rule.ports.iter_mut().flatten()) {
                    if matches!(port.numbers, PortNumbers::Range(first, last) if first > last) {
                        port.numbers = PortNumbers::Nothing;
                    }
                }
                Change::Policy(Arc::new(policy))
            }
        }
    }
}

fn canonical(addresses: &mut [IpAddr]) {
    addresses.iter_mut().for_each(|address| *address = address.to_canonical());
}
