//! Services, for commands that resolve one to its pods. Verdicts don't depend on Services, so no source for
//! agents reads them, and an agent needs no permission for them.
//!
//! ```text
//!   folder -> manifest::values -+
//!                               +-> core::Service -> [ Service ], or why it is not understood
//!   API server -> list ---------+
//! ```
//!
//! From: a folder of manifests, or one list of an API server. To: [`Services`]. Invariant: a Service that is
//! not understood is a [`Problem`], never left out in silence.

mod convert;
mod lists;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use policy::{Labels, Protocol};

use crate::problem::Problem;

/// The Services of a source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Services {
    /// Those that were understood, sorted by namespace and name.
    pub services: Vec<Service>,
    /// The others.
    pub problems: Vec<Problem>,
}

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where its traffic goes.
    pub backend: Backend,
    /// `spec.clusterIPs`. Empty for a headless Service, and for one that has no address yet, as in a
    /// repository of manifests.
    pub cluster_ips: Vec<IpAddr>,
    /// Whether `spec.clusterIP` is `None`: DNS answers with the addresses of the pods, so clients use the
    /// pods' ports.
    pub is_headless: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// Where the traffic of a Service goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// To the pods of its namespace that have ALL of these labels.
    Pods(BTreeMap<String, String>),
    /// To endpoints that another program maintains, because the Service has no selector.
    Endpoints,
    /// To this DNS name.
    ExternalName(String),
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// `protocol`; TCP if it is absent.
    pub protocol: Protocol,
    /// `port`: where clients connect to.
    pub port: u16,
    /// `targetPort`: where the traffic goes on each pod.
    pub target: TargetPort,
}

/// The port of a pod to which a Service sends traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetPort {
    /// This number.
    Number(u16),
    /// The port of this name. Pods can have different numbers for it.
    Name(String),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServicePort {
    /// `postgres 5432/TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name} ")?;
        }
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl Services {
    /// The Service of this name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.namespace == namespace && service.name == name)
    }

    /// The Service with this cluster IP.
    pub fn at(&self, address: IpAddr) -> Option<&Service> {
        self.services.iter().find(|service| service.cluster_ips.contains(&address))
    }
}

impl Backend {
    /// Whether traffic goes to pods of the Service's namespace with these labels: ALL labels of the selector
    /// are among them.
    pub fn selects(&self, labels: &Labels) -> bool {
        match self {
            Self::Pods(selector) => {
                selector.iter().all(|(key, value)| labels.value(key) == Some(value.as_str()))
            }
            Self::Endpoints | Self::ExternalName(_) => false,
        }
    }
}
