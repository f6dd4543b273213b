//! Sorted, disjoint intervals of addresses, in runs: one run for each value of the bits of a trie's first
//! step.

use ipnet::IpNet;

use super::bits::{Bits, Value};
use crate::snapshot::ids::number_of;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Runs<B> {
    /// The start of each run in `starts` and `values`; the last element is the end of the last run.
    begins: Vec<u32>,
    /// The first address of each interval.
    starts: Vec<B>,
    /// The value of each interval.
    values: Vec<Value>,
}

impl<B> Default for Runs<B> {
    fn default() -> Self {
        Self { begins: vec![0], starts: Vec::new(), values: Vec::new() }
    }
}

impl<B: Bits> Runs<B> {
    /// Adds a run: its first address with its value, and the intervals that follow. Returns the run's number.
    pub(super) fn push(&mut self, begin: B, value: Value, more: &[(B, Value)]) -> u32 {
        for (start, value) in [(begin, value)].iter().chain(more) {
            self.starts.push(*start);
            self.values.push(*value);
        }
        self.begins.push(number_of(self.starts.len()));
        number_of(self.begins.len() - 2)
    }

    /// The value at an address that is in this run.
    pub(super) fn find(&self, run: u32, address: B) -> Value {
        let (from, to) = (self.begins[run as usize] as usize, self.begins[run as usize + 1] as usize);
        // The first interval starts at or before every address of the run.
        let after = self.starts[from..to].partition_point(|start| *start <= address);
        self.values[from + after - 1]
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.begins) + size_of_val(&*self.starts) + size_of_val(&*self.values)
    }
}

/// Converts prefixes to intervals, so that each has the value of its longest prefix. Returns the first
/// addresses, ascending from 0, and their values. Prefixes are of one family and sorted, outer ones first;
/// the first is the empty prefix.
pub(super) fn intervals<B: Bits>(prefixes: &[(IpNet, Value)]) -> Vec<(B, Value)> {
    let mut intervals: Vec<(B, Value)> = Vec::with_capacity(2 * prefixes.len());
    let mut set = |start: B, value: Value| match intervals.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        Some(last) if last.1 == value => {}
        _ => intervals.push((start, value)),
    };
    // The last addresses and values of the prefixes that contain the current one.
    let mut around: Vec<(B, Value)> = Vec::new();
    for (prefix, value) in prefixes {
        let (begin, end) = (B::of(prefix.network()), B::of(prefix.broadcast()));
        leave(&mut around, Some(begin), &mut set);
        set(begin, *value);
        around.push((end, *value));
    }
    leave(&mut around, None, &mut set);
    intervals
}

/// Leaves the prefixes that end before an address, or all of them. After each, the value of its outer prefix
/// applies.
fn leave<B: Bits>(around: &mut Vec<(B, Value)>, before: Option<B>, mut set: impl FnMut(B, Value)) {
    while let Some((end, _)) = around.pop_if(|(end, _)| before.is_none_or(|begin| *end < begin)) {
        if let (Some(start), Some((_, value))) = (end.next(), around.last()) {
            set(start, *value);
        }
    }
}
