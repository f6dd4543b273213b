//! Strings, label sets and port lists of a checkpoint, each written once and referred to by number.
//!
//! Thousands of pods of one template share a label set and its strings in memory. Written with each pod, they
//! would take a hundred times as much. From: the objects. To: the file, where the tables come before the
//! objects. Invariant: a number that is not in a table reads as unknown labels, or as no port.

use std::collections::HashMap;

use policy::{Labels, NamedPort, Protocol};
use serde::{Deserialize, Serialize};

use crate::interner::Interner;

/// The tables to write.
#[derive(Debug, Default)]
pub(super) struct Tables<'a> {
    texts: Numbered<&'a str, (usize, usize)>,
    labels: Numbered<&'a Labels, usize>,
    ports: Numbered<&'a [NamedPort], &'a [NamedPort]>,
}

/// Values by number, and the number of each value by its identity.
#[derive(Debug)]
struct Numbered<T, I> {
    values: Vec<T>,
    numbers: HashMap<I, u32>,
}

impl<T, I> Default for Numbered<T, I> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<T, I: Eq + std::hash::Hash> Numbered<T, I> {
    /// Adds a value. Returns whether it is new.
    fn add(&mut self, value: T, identity: I) -> bool {
        let next = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        let is_new = !self.numbers.contains_key(&identity);
        if is_new {
            self.numbers.insert(identity, next);
            self.values.push(value);
        }
        is_new
    }

    fn number(&self, identity: &I) -> Option<u32> {
        self.numbers.get(identity).copied()
    }
}

impl<'a> Tables<'a> {
    /// Adds a label set.
    pub(super) fn add_labels(&mut self, labels: &'a Labels) {
        if let Some(address) = labels.address()
            && self.labels.add(labels, address)
        {
            for text in labels.iter().flat_map(|(key, value)| [key, value]) {
                self.texts.add(text, address_of(text));
            }
        }
    }

    /// Adds the ports of a pod.
    pub(super) fn add_ports(&mut self, ports: &'a [NamedPort]) {
        if self.ports.add(ports, ports) {
            for port in ports {
                self.texts.add(&port.name, address_of(&port.name));
            }
        }
    }

    /// The number of a label set; `None` if the labels are unknown.
    pub(super) fn labels(&self, labels: &Labels) -> Option<u32> {
        self.labels.number(&labels.address()?)
    }

    /// The number of the ports of a pod.
    pub(super) fn ports(&self, ports: &'a [NamedPort]) -> Option<u32> {
        self.ports.number(&ports)
    }

    fn text(&self, text: &str) -> Option<u32> {
        self.texts.number(&address_of(text))
    }
}

/// The address and length of a string in memory. Shared strings are added once, without comparing their
/// content.
fn address_of(text: &str) -> (usize, usize) {
    (text.as_ptr().addr(), text.len())
}

impl Serialize for Tables<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut tables = serializer.serialize_struct("Tables", 3)?;
        tables.serialize_field("texts", &self.texts.values)?;
        tables.serialize_field("labels", &LabelSets(self))?;
        tables.serialize_field("ports", &PortLists(self))?;
        tables.end()
    }
}

struct LabelSets<'a>(&'a Tables<'a>);

impl Serialize for LabelSets<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tables) = self;
        let pair = |(key, value)| (tables.text(key), tables.text(value));
        serializer.collect_seq(
            tables.labels.values.iter().map(|labels| labels.iter().map(pair).collect::<Vec<_>>()),
        )
    }
}

struct PortLists<'a>(&'a Tables<'a>);

impl Serialize for PortLists<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(tables) = self;
        let port = |port: &NamedPort| (tables.text(&port.name), port.protocol, port.number);
        serializer
            .collect_seq(tables.ports.values.iter().map(|ports| ports.iter().map(port).collect::<Vec<_>>()))
    }
}

/// The tables as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct LoadedTables {
    texts: Vec<String>,
    labels: Vec<Vec<(u32, u32)>>,
    ports: Vec<Vec<(u32, Protocol, u16)>>,
}

/// The tables with interned strings.
#[derive(Debug)]
pub(super) struct Interned {
    labels: Vec<Labels>,
    ports: Vec<Vec<NamedPort>>,
}

impl LoadedTables {
    pub(super) fn intern(self, interner: &Interner) -> Interned {
        let Self { texts, labels, ports } = self;
        let text = |number: u32| texts.get(number as usize).map(String::as_str);
        let set = |pairs: Vec<(u32, u32)>| {
            let pairs = pairs.into_iter().map(|(key, value)| Some((text(key)?, text(value)?)));
            // ALL pairs must be readable, or the labels are unknown.
            let pairs: Option<Vec<_>> = pairs.collect();
            pairs.map_or(Labels::unknown(), |pairs| interner.labels(pairs))
        };
        let list = |ports: Vec<(u32, Protocol, u16)>| {
            let ports = ports.into_iter().filter_map(|(name, protocol, number)| {
                Some(NamedPort { name: interner.text(text(name)?), protocol, number })
            });
            let mut ports: Vec<NamedPort> = ports.collect();
            ports.sort();
            ports.dedup();
            ports
        };
        Interned {
            labels: labels.into_iter().map(set).collect(),
            ports: ports.into_iter().map(list).collect(),
        }
    }
}

impl Interned {
    /// The label set with this number.
    pub(super) fn labels(&self, number: Option<u32>) -> Labels {
        number.and_then(|number| self.labels.get(number as usize)).cloned().unwrap_or(Labels::unknown())
    }

    /// The ports with this number.
    pub(super) fn ports(&self, number: Option<u32>) -> Vec<NamedPort> {
        number.and_then(|number| self.ports.get(number as usize)).cloned().unwrap_or_default()
    }
}
