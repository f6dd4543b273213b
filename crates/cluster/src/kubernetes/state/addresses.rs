//! The addresses of pods, from the API server and the CNI result cache.

use policy::Change;

use super::State;
use crate::cni::CachedResult;
use crate::key::Key;

impl State {
    /// Sets the current results of the CNI cache, oldest first.
    pub(crate) fn set_cni_results(&mut self, results: Vec<CachedResult>) {
        let changed = self.cni_results != results;
        self.unsettled |= changed;
        self.cni_results_changed |= changed;
        self.cni_results = results;
    }

    /// Updates the addresses of this node's pods from the API server's and the CNI cache's data.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let overrides = self.local.overrides(&self.cni_results);
        let old = std::mem::replace(&mut self.overrides, overrides);
        for name in old.keys().chain(self.overrides.keys()) {
            let key = Key::Pod(name.clone());
            let addresses = self.overrides.get(name).map(Vec::as_slice).or_else(|| self.local.reported(name));
            let (Some(Change::Pod(pod)), Some(addresses)) = (self.objects.get(&key), addresses) else {
                continue;
            };
            if pod.addresses != addresses {
                let pod = policy::Pod { addresses: addresses.to_vec(), ..pod.clone() };
                let objects = &mut self.objects;
                self.delta.record_before(&key, || objects.get(&key).cloned());
                objects.insert(key, Change::Pod(pod));
            }
        }
    }

    /// The version in which a pod's addresses were first reported. A later version that repeats them or drops
    /// one of them does not count.
    pub(super) fn reported(&self, pod: &policy::Pod) -> u64 {
        match self.objects.get(&Key::Pod(pod.name.clone())) {
            Some(Change::Pod(before)) if before.uid == pod.uid => {
                let known = self.local.reported(&pod.name).unwrap_or(&before.addresses);
                let is_known = |address| known.contains(address);
                // ALL of them.
                if pod.addresses.iter().all(is_known) { before.reported } else { pod.reported }
            }
            _ => pod.reported,
        }
    }
}
