//! What is read from one file.

use policy::Change;

use crate::key::Key;
use crate::problem::Problem;

/// The content of one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileContent {
    /// The objects, sorted by name, each once.
    pub(crate) objects: Vec<ManifestObject>,
    /// Parts of these objects that were not understood.
    pub flaws: Vec<Problem>,
    /// Documents and objects that were not understood. If there is one, the file as a whole is broken.
    pub failures: Vec<Problem>,
    /// Objects of kinds that verdicts do not depend on.
    pub others: usize,
    /// If the file has content but no Kubernetes object (values of a chart, say, or a template): why there is
    /// none. Empty for a manifest.
    pub no_manifest: Vec<Problem>,
}

impl FileContent {
    /// Whether there is any problem.
    pub(crate) fn has_problems(&self) -> bool {
        !self.flaws.is_empty() || !self.failures.is_empty() || !self.no_manifest.is_empty()
    }

    /// The objects, each as a change for a consumer that does not have it.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.objects.iter().map(|object| &object.change)
    }
}

/// An object and its location in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ManifestObject {
    /// The object, as a change that adds it.
    pub change: Change,
    /// The document, from 1.
    pub document: u32,
    /// The line in the file, from 1; 0 if the document has several objects.
    pub line: u32,
}

impl ManifestObject {
    /// The object's key.
    pub(crate) fn key(&self) -> Key {
        Key::of(&self.change)
    }
}
