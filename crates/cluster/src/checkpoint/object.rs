//! The format of a checkpoint on disk, and its conversion back to valid objects.
//!
//! From and to: JSON. Invariant: objects that are read keep the invariants of the types in `policy`, whatever
//! the file says. Strings and labels that objects share are stored once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;
use policy::{Change, Labels, Namespace, Node, Pod, PodName, PodUid, PolicySpec, PortNumbers, Workload};
use serde::ser::{SerializeStruct as _, SerializeStructVariant as _};
use serde::{Deserialize, Serialize, Serializer};

use super::contents::Checkpoint;
use super::tables::{Interned, LoadedTables, Tables};
use crate::interner::Interner;
use crate::key::Key;
use crate::manifest::ManifestObject;

/// A checkpoint to write: tables, then the objects that refer to them.
pub(super) struct Saved<'a> {
    tables: Tables<'a>,
    source: SavedSource<'a>,
}

/// The known objects of a source.
enum SavedSource<'a> {
    Kubernetes { objects: &'a OrdMap<Key, Change>, finished: &'a [PodName] },
    Folder(&'a [(PathBuf, Arc<Vec<ManifestObject>>)]),
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum SavedObject<'a> {
    Namespace { name: &'a str, labels: Option<u32> },
    Node(&'a Node),
    Pod(SavedPod<'a>),
    Policy(&'a PolicySpec),
}

/// A pod that refers to its labels and ports by their numbers.
#[derive(Serialize)]
struct SavedPod<'a> {
    name: &'a PodName,
    labels: Option<u32>,
    addresses: &'a [IpAddr],
    ports: Option<u32>,
    node: Option<&'a str>,
    host_network: bool,
    reported: u64,
    created: i64,
    uid: PodUid,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a Workload>,
}

/// A checkpoint as it was read.
#[derive(Deserialize)]
pub(super) struct Loaded {
    tables: LoadedTables,
    source: LoadedSource,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LoadedSource {
    Kubernetes { objects: Vec<LoadedObject>, finished: Vec<PodName> },
    Folder { files: Vec<LoadedFile> },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LoadedObject {
    Namespace { name: String, labels: Option<u32> },
    Node(Node),
    Pod(LoadedPod),
    Policy(PolicySpec),
}

#[derive(Deserialize)]
struct LoadedPod {
    name: PodName,
    labels: Option<u32>,
    addresses: Vec<IpAddr>,
    ports: Option<u32>,
    node: Option<String>,
    host_network: bool,
    reported: u64,
    created: i64,
    uid: PodUid,
    #[serde(default)]
    workload: Option<Workload>,
}

#[derive(Deserialize)]
struct LoadedFile {
    path: PathBuf,
    /// Each with its document and line.
    objects: Vec<(LoadedObject, u32, u32)>,
}

impl<'a> Saved<'a> {
    pub(super) fn of(checkpoint: &'a Checkpoint) -> Self {
        let mut tables = Tables::default();
        let source = match checkpoint {
            Checkpoint::Kubernetes { objects, finished } => {
                objects.values().for_each(|change| enter(&mut tables, change));
                SavedSource::Kubernetes { objects, finished }
            }
            Checkpoint::Folder(files) => {
                let held = files.iter().flat_map(|(_, held)| held.iter());
                held.for_each(|held| enter(&mut tables, &held.change));
                SavedSource::Folder(files)
            }
        };
        Self { tables, source }
    }
}

/// Adds the values that an object refers to.
fn enter<'a>(tables: &mut Tables<'a>, change: &'a Change) {
    match change {
        Change::Namespace(namespace) => tables.add_labels(&namespace.labels),
        Change::Pod(pod) => {
            tables.add_labels(&pod.labels);
            tables.add_ports(&pod.ports);
        }
        _ => {}
    }
}

impl Serialize for Saved<'_> {
    /// Serializes object by object, so that there is no second form of all of them in memory.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut saved = serializer.serialize_struct("Saved", 2)?;
        saved.serialize_field("tables", &self.tables)?;
        saved.serialize_field("source", &InTables(&self.tables, &self.source))?;
        saved.end()
    }
}

/// A value together with the tables that it refers to.
struct InTables<'a, T>(&'a Tables<'a>, T);

impl Serialize for InTables<'_, &SavedSource<'_>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tables, source) = self;
        match source {
            SavedSource::Kubernetes { objects, finished } => {
                let mut fields = serializer.serialize_struct_variant("Source", 0, "kubernetes", 2)?;
                fields.serialize_field("objects", &InTables(tables, *objects))?;
                fields.serialize_field("finished", finished)?;
                fields.end()
            }
            SavedSource::Folder(files) => {
                let mut fields = serializer.serialize_struct_variant("Source", 1, "folder", 1)?;
                fields.serialize_field("files", &InTables(tables, *files))?;
                fields.end()
            }
        }
    }
}

impl Serialize for InTables<'_, &OrdMap<Key, Change>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tables, objects) = self;
        serializer.collect_seq(objects.values().filter_map(|change| SavedObject::of(change, tables)))
    }
}

impl Serialize for InTables<'_, &[(PathBuf, Arc<Vec<ManifestObject>>)]> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tables, files) = self;
        // JSON can't represent a path that is not UTF-8. Such a file is not saved.
        let files = files.iter().filter_map(|(path, held)| Some((path.to_str()?, held)));
        serializer.collect_seq(files.map(|(path, held)| SavedFile { path, objects: InTables(tables, held) }))
    }
}

#[derive(Serialize)]
struct SavedFile<'a> {
    path: &'a str,
    objects: InTables<'a, &'a Arc<Vec<ManifestObject>>>,
}

impl Serialize for InTables<'_, &Arc<Vec<ManifestObject>>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tables, held) = self;
        let objects = held.iter();
        serializer.collect_seq(
            objects
                .filter_map(|held| Some((SavedObject::of(&held.change, tables)?, held.document, held.line))),
        )
    }
}

impl<'a> SavedObject<'a> {
    /// `None` for an object that is gone.
    fn of(change: &'a Change, tables: &Tables<'a>) -> Option<Self> {
        match change {
            Change::Namespace(Namespace { name, labels }) => {
                Some(Self::Namespace { name, labels: tables.labels(labels) })
            }
            Change::Node(node) => Some(Self::Node(node)),
            Change::Pod(pod) => Some(Self::Pod(SavedPod {
                name: &pod.name,
                labels: tables.labels(&pod.labels),
                addresses: &pod.addresses,
                ports: tables.ports(&pod.ports),
                node: pod.node.as_deref(),
                host_network: pod.host_network,
                reported: pod.reported,
                created: pod.created,
                uid: pod.uid,
                workload: pod.workload.as_deref(),
            })),
            Change::Policy(policy) => Some(Self::Policy(policy)),
            _ => None,
        }
    }
}

impl Loaded {
    pub(super) fn checkpoint(self, interner: &Interner) -> Checkpoint {
        let tables = self.tables.intern(interner);
        match self.source {
            LoadedSource::Kubernetes { objects, finished } => {
                let changes = objects.into_iter().map(|object| object.change(&tables, interner));
                let objects = changes.map(|change| (Key::of(&change), change)).collect();
                Checkpoint::Kubernetes { objects, finished }
            }
            LoadedSource::Folder { files } => {
                let held = |(object, document, line): (LoadedObject, u32, u32)| ManifestObject {
                    change: object.change(&tables, interner),
                    document,
                    line,
                };
                let of_file = |file: LoadedFile| {
                    let mut objects: Vec<ManifestObject> = file.objects.into_iter().map(held).collect();
                    objects.sort_by_key(ManifestObject::key);
                    objects.dedup_by_key(|held| held.key());
                    (file.path, Arc::new(objects))
                };
                Checkpoint::Folder(files.into_iter().map(of_file).collect())
            }
        }
    }
}

impl LoadedObject {
    fn change(self, tables: &Interned, interner: &Interner) -> Change {
        match self {
            Self::Namespace { name, labels } => {
                Change::Namespace(Namespace { name: interner.text(&name), labels: tables.labels(labels) })
            }
            Self::Node(mut node) => {
                canonical(&mut node.addresses);
                let labels = match node.labels.are_known() {
                    true => interner.labels(node.labels.iter()),
                    false => Labels::unknown(),
                };
                Change::Node(Node { name: interner.text(&node.name), labels, ..node })
            }
            Self::Pod(LoadedPod {
                name,
                labels,
                mut addresses,
                ports,
                node,
                host_network,
                reported,
                created,
                uid,
                workload,
            }) => {
                canonical(&mut addresses);
                Change::Pod(Pod {
                    name: PodName { namespace: interner.text(&name.namespace), ..name },
                    labels: tables.labels(labels),
                    addresses,
                    ports: tables.ports(ports),
                    node: node.map(|node| interner.text(&node)),
                    host_network,
                    reported,
                    created,
                    uid,
                    workload: workload.map(|Workload { kind, name }| {
                        Arc::new(Workload { kind: interner.text(&kind), name: interner.text(&name) })
                    }),
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
