//! Adding and removing pods of a running testbed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::Testbed;
use crate::command::ip;
use crate::namespace::NetworkNamespace;
use crate::server::Server;
use crate::specs::PodSpec;
use crate::wiring;

impl Testbed {
    /// Adds a pod in the order of a kubelet: its namespace, its interface, its server, and then its manifest.
    /// The pod gets the first free addresses of its node, such as those of a pod that [`Testbed::remove_pod`]
    /// removed.
    pub fn add_pod(&mut self, name: &str, node: &str, labels: &[(&str, &str)], ports: &[&str]) -> Result<()> {
        self.attach_pod(name, node, labels, ports)?;
        self.manifests.write_cluster(&self.cluster).map(drop)
    }

    /// [`Testbed::add_pod`] without the manifest: the pod runs, but agents don't know its addresses yet.
    pub fn attach_pod(
        &mut self,
        name: &str,
        node: &str,
        labels: &[(&str, &str)],
        ports: &[&str],
    ) -> Result<()> {
        self.cluster.push_pod(name, node, labels, ports, false)?;
        self.attach(name)
    }

    /// Attaches a pod that [`Testbed::detach_pod`] removed, with the addresses that it had.
    pub fn reattach_pod(&mut self, pod: PodSpec) -> Result<()> {
        let name = pod.full_name();
        self.cluster.pods.push(pod);
        self.attach(&name)
    }

    fn attach(&mut self, name: &str) -> Result<()> {
        // Other than in a cluster, the names of interfaces are not reused, so that logs are unambiguous.
        static ATTACHED: AtomicU32 = AtomicU32::new(100);
        let number = ATTACHED.fetch_add(1, Ordering::Relaxed);
        let pod = self.cluster.pod_named(name)?;
        let node = self.cluster.node_named(&pod.node)?;
        let namespace = NetworkNamespace::create(&format!("{number}-{}", name.replace('/', ".")))?;
        namespace.sysctls(&wiring::EVERYWHERE)?;
        let attachment = self.cluster.attachment;
        let device = format!("veth{number}");
        let lines =
            attachment.attach(&device, pod, node, (namespace.name(), &self.cluster.hardware_address(pod)));
        ip(self.namespace(&node.name)?, &lines).with_context(|| format!("attaching {name}"))?;
        ip(&namespace, &attachment.pod(pod, node)).with_context(|| format!("attaching {name}"))?;
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
        self.detach_pod(name)?;
        self.manifests.write_cluster(&self.cluster).map(drop)
    }

    /// Removes a pod at once, without the manifest: its server can't close its connections, and agents don't
    /// know of it yet.
    pub fn detach_pod(&mut self, name: &str) -> Result<PodSpec> {
        let pod = self.cluster.pod_named(name)?.clone();
        let device = self.devices.remove(name).with_context(|| format!("{name:?} is not attached"))?;
        ip(self.namespace(&pod.node)?, &format!("link del {device}\n"))?;
        self.servers.remove(name);
        self.namespaces.remove(name);
        self.cluster.pods.retain(|pod| pod.full_name() != name);
        Ok(pod)
    }

    /// Changes the labels of a pod, without the manifest.
    pub fn relabel_pod(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let pod = self.cluster.pods.iter_mut().find(|pod| pod.full_name() == name);
        let pod = pod.with_context(|| format!("there is no pod {name:?}"))?;
        pod.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(())
    }
}
