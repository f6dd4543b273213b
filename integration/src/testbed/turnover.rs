//! Pods that come and go while the testbed stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::Testbed;
use crate::command::ip;
use crate::namespace::Namespace;
use crate::server::Server;
use crate::specs::PodSpec;
use crate::wiring;

impl Testbed {
    /// Adds a pod in the order of a kubelet: its namespace, its interface, its server, and then its manifest. It gets the
    /// first free addresses of its node, so those of a pod that [`Testbed::remove_pod`] took away.
    pub fn add_pod(&mut self, name: &str, node: &str, labels: &[(&str, &str)], ports: &[&str]) -> Result<()> {
        self.plug_pod(name, node, labels, ports)?;
        self.manifests.write_cluster(&self.cluster).map(drop)
    }

    /// [`Testbed::add_pod`] without the manifest: the pod runs, and the API server does not know its addresses yet.
    pub fn plug_pod(
        &mut self,
        name: &str,
        node: &str,
        labels: &[(&str, &str)],
        ports: &[&str],
    ) -> Result<()> {
        self.cluster.push_pod(name, node, labels, ports, false)?;
        self.plug(name)
    }

    /// Plugs a pod in again that [`Testbed::unplug_pod`] took away, with the addresses that it had.
    pub fn replug_pod(&mut self, pod: PodSpec) -> Result<()> {
        let name = pod.full_name();
        self.cluster.pods.push(pod);
        self.plug(&name)
    }

    fn plug(&mut self, name: &str) -> Result<()> {
        // Names of pods and interfaces are used again in a cluster; here each one is new, so that logs can be read.
        static PLUGGED: AtomicU32 = AtomicU32::new(100);
        let number = PLUGGED.fetch_add(1, Ordering::Relaxed);
        let pod = self.cluster.pod_named(name)?;
        let node = self.cluster.node_named(&pod.node)?;
        let namespace = Namespace::create(&format!("{number}-{}", name.replace('/', ".")))?;
        namespace.sysctls(&wiring::EVERYWHERE)?;
        let attachment = self.cluster.attachment;
        let device = format!("veth{number}");
        let lines =
            attachment.plug(&device, pod, node, (namespace.name(), &self.cluster.hardware_address(pod)));
        ip(self.namespace(&node.name)?, &lines).with_context(|| format!("plugging in {name}"))?;
        ip(&namespace, &attachment.pod(pod, node)).with_context(|| format!("plugging in {name}"))?;
        namespace.wait_for_links()?;
        let server = Server::start(&namespace, name, &pod.addresses, &pod.ports)?;
        self.servers.insert(name.to_owned(), server);
        self.namespaces.insert(name.to_owned(), Arc::new(namespace));
        self.devices.insert(name.to_owned(), device);
        Ok(())
    }

    /// Removes a pod: its server, its interface, its namespace, and then its manifest.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.servers.remove(name);
        self.unplug_pod(name)?;
        self.manifests.write_cluster(&self.cluster).map(drop)
    }

    /// Takes a pod away at once, without the manifest: its server can't say goodbye, and the API server does not know it yet.
    pub fn unplug_pod(&mut self, name: &str) -> Result<PodSpec> {
        let pod = self.cluster.pod_named(name)?.clone();
        let device = self.devices.remove(name).with_context(|| format!("{name:?} is not plugged in"))?;
        ip(self.namespace(&pod.node)?, &format!("link del {device}\n"))?;
        self.servers.remove(name);
        self.namespaces.remove(name);
        self.cluster.pods.retain(|pod| pod.full_name() != name);
        Ok(pod)
    }

    /// Gives a pod other labels, without the manifest.
    pub fn relabel_pod(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let pod = self.cluster.pods.iter_mut().find(|pod| pod.full_name() == name);
        let pod = pod.with_context(|| format!("there is no pod {name:?}"))?;
        pod.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(())
    }
}
