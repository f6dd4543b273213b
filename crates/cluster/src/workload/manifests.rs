//! What the manifests of a folder say, workloads and Services included.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use policy::{Budget, Change, Namespace, PodName, PolicyName};

use super::Workload;
use super::kind::WorkloadKind;
use super::place::Place;
use super::template::{Template, template};
use crate::convert::{self, FieldPath, Kind, Recognition};
use crate::folder::{Folder, FolderError, contents, is_of_missing_namespaces};
use crate::interner::Interner;
use crate::key::Key;
use crate::manifest::{self, PlacedObject};
use crate::problem::{Problem, ProblemLocation};
use crate::service::{Backend, Service};

/// The effect of a workload that is not understood.
const NO_WORKLOAD: &str = "the workload is left out";
/// The effect of a Service that is not understood.
const NO_SERVICE: &str = "the Service is left out";

/// The content of a folder, or of one file.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// Namespaces, nodes and policies, each as a change that adds it. Pods are among the workloads.
    pub changes: Vec<Change>,
    /// What was not understood. Namespaces without an object are not among them: see
    /// [`Manifests::undescribed`].
    pub problems: Vec<Problem>,
    /// Workloads and bare pods, sorted by namespace, name and kind. Finished pods are left out.
    pub workloads: Vec<Workload>,
    /// Services with a selector, sorted by namespace and name.
    pub services: Vec<Service>,
    places: BTreeMap<Key, Place>,
}

impl Manifests {
    /// Reads all manifests in a folder, or one file. Of an object that occurs more than once, the one in the
    /// file whose path sorts last counts, and within a file the last one.
    pub fn read(path: &Path, budget: Budget) -> Result<Self, FolderError> {
        let failure = |error| FolderError::Read { path: path.to_owned(), error };
        let is_file = fs::metadata(path).map_err(failure)?.is_file();
        let (interner, mut read, files) = if is_file {
            let bytes = contents(path).map_err(failure)?;
            let interner = Arc::new(Interner::new());
            let content = manifest::read(path, &bytes, &interner);
            let changes = content.changes().cloned().collect();
            let problems = [content.flaws, content.failures, content.no_manifest].concat();
            (interner, Self { changes, problems, ..Self::default() }, vec![path.to_owned()])
        } else {
            let (folder, update) = Folder::read(path, budget)?;
            let read =
                Self { changes: update.changes, problems: update.problems.to_vec(), ..Self::default() };
            (Arc::clone(folder.interner()), read, Folder::manifests(path))
        };
        let mut collector = Collector::default();
        for file in files {
            // A file that can't be read is a problem of the folder already.
            let Ok(bytes) = contents(&file) else { continue };
            for object in manifest::placed(&bytes) {
                collector.object(&file, object, &interner);
            }
        }
        let Collector { workloads, services, places, problems } = collector;
        read.problems.extend(problems);
        read.workloads = workloads.into_values().collect();
        read.services = services.into_values().collect();
        read.places = places;
        // Pods are among the workloads. A namespace without an object may be described in another folder.
        let is_described =
            |namespace: &Namespace| read.places.contains_key(&Key::Namespace(Arc::clone(&namespace.name)));
        read.changes.retain(|change| match change {
            Change::Pod(_) => false,
            Change::Namespace(namespace) => is_described(namespace),
            _ => true,
        });
        read.problems.retain(|problem| !is_of_missing_namespaces(problem));
        Ok(read)
    }

    /// Adds the objects of `more`. Of an object that both have, that of `more` counts.
    pub fn extend(&mut self, more: Self) {
        let Self { changes, problems, workloads, services, places } = more;
        let replaced: BTreeSet<Key> = changes.iter().map(Key::of).collect();
        self.changes.retain(|change| !replaced.contains(&Key::of(change)));
        self.changes.extend(changes);
        self.problems.extend(problems);
        self.workloads.retain(|own| !workloads.iter().any(|new| order(new) == order(own)));
        self.workloads.extend(workloads);
        self.workloads.sort_by(|a, b| order(a).cmp(&order(b)));
        let named = |service: &Service| (service.namespace.clone(), service.name.clone());
        let replaced: BTreeSet<_> = services.iter().map(named).collect();
        self.services.retain(|own| !replaced.contains(&named(own)));
        self.services.extend(services);
        self.services.sort_by_key(named);
        self.places.extend(places);
    }

    /// Where a policy is defined.
    pub fn place_of_policy(&self, name: &PolicyName) -> Option<&Place> {
        self.places.get(&Key::Policy(name.clone()))
    }

    /// Where a namespace is defined.
    pub fn place_of_namespace(&self, name: &Arc<str>) -> Option<&Place> {
        self.places.get(&Key::Namespace(Arc::clone(name)))
    }

    /// The namespaces that have workloads or policies, and no object. Their labels are unknown (semantics
    /// 37).
    pub fn undescribed(&self) -> BTreeSet<Arc<str>> {
        let policies = self.changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some(&policy.name.namespace),
            _ => None,
        });
        let workloads = self.workloads.iter().map(|workload| &workload.pod.name.namespace);
        let is_described =
            |name: &&Arc<str>| name.is_empty() || self.places.contains_key(&Key::Namespace(Arc::clone(name)));
        policies.chain(workloads).filter(|name| !is_described(name)).cloned().collect()
    }
}

/// The order of workloads, which identifies each.
fn order(workload: &Workload) -> (&PodName, WorkloadKind) {
    (&workload.pod.name, workload.kind)
}

/// The objects found so far.
#[derive(Default)]
struct Collector {
    workloads: BTreeMap<(PodName, WorkloadKind), Workload>,
    services: BTreeMap<(String, String), Service>,
    places: BTreeMap<Key, Place>,
    problems: Vec<Problem>,
}

impl Collector {
    fn object(&mut self, file: &Path, placed: PlacedObject, interner: &Interner) {
        let PlacedObject { object, document, line } = placed;
        let (Some(api_version), Some(kind)) = (&object.api_version, &object.kind) else { return };
        let place = Place { file: file.to_owned(), document, line, at: object.at.clone() };
        if let Some(kind) = WorkloadKind::of(api_version, kind) {
            let is_finished =
                matches!(object.fields["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if kind == WorkloadKind::Pod && is_finished {
                return;
            }
            match template(kind, &object.fields, &object.duplicates, interner) {
                Ok(Template { pod, ports, flaws }) => {
                    let name = format!("{kind} {}", pod.name);
                    // The folder reports the flaws of pods.
                    for flaw in flaws.into_iter().filter(|_| kind != WorkloadKind::Pod) {
                        let what = format!("{}: {}", flaw.at, flaw.what);
                        self.problem(&place, Some(&flaw.at), &name, what, flaw.effect);
                    }
                    let workload = Workload { kind, pod, ports, place };
                    let key = (workload.pod.name.clone(), kind);
                    if let Some(earlier) = self.workloads.insert(key, workload)
                        && kind != WorkloadKind::Pod
                    {
                        let what = "the same object is defined again later".to_owned();
                        self.problem(&earlier.place, None, &name, what, "the later one counts");
                    }
                }
                Err(unusable) if kind != WorkloadKind::Pod => {
                    let name = name_of(kind.name(), &object.fields);
                    self.problem(&place, Some(&unusable.at), &name, unusable.to_string(), NO_WORKLOAD);
                }
                Err(_) => {}
            }
        } else if api_version == "v1" && kind == "Service" {
            self.service(&place, object.fields);
        } else if let Recognition::Supported(kind) = Kind::of(api_version, kind)
            && let Ok(converted) = convert::convert(kind, &object.fields, &object.duplicates, interner)
        {
            self.places.insert(Key::of(&converted.change), place);
        }
    }

    fn service(&mut self, place: &Place, fields: serde_json::Value) {
        let name = name_of("Service", &fields);
        match Service::from_value(fields) {
            Ok(service) if matches!(service.backend, Backend::Pods(_)) => {
                self.services.insert((service.namespace.clone(), service.name.clone()), service);
            }
            Ok(_) => {}
            Err(what) => self.problem(place, None, &name, what, NO_SERVICE),
        }
    }

    fn problem(
        &mut self,
        place: &Place,
        field: Option<&FieldPath>,
        object: &str,
        what: String,
        effect: &str,
    ) {
        let line = field.map_or(place.line, |field| place.line_of(field));
        self.problems.push(Problem {
            location: ProblemLocation::File {
                path: place.file.clone(),
                document: place.document,
                line: Some(line),
            },
            object: Some(object.to_owned()),
            what,
            effect: effect.to_owned(),
        });
    }
}

/// `Deployment web/frontend`, from fields that may be anything.
fn name_of(kind: &str, fields: &serde_json::Value) -> String {
    let metadata = &fields["metadata"];
    let part = |name: &str| metadata[name].as_str().unwrap_or("?").to_owned();
    format!("{kind} {}/{}", part("namespace"), part("name"))
}
