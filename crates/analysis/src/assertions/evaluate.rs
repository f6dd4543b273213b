//! Evaluates assertions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use cluster::{Manifests, Workload};
use policy::{Decision, Direction, Packet, Verdict};
use serde::Serialize;

use super::file::{Assertion, Assertions, Expect};
use super::pattern::{Pattern, Ports};
use crate::end::{End, WorkloadName};
use crate::layout::{Addresses, Layout};
use crate::model::Model;
use crate::partition::addresses::RegionId;
use crate::partition::ports::PortClass;
use crate::ports::{PortRange, ranges, words};

/// An evaluated assertion.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Checked {
    /// Its name, or what it says.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// Its line in the file, from 1.
    pub line: usize,
    /// Whether it holds.
    pub holds: bool,
    /// Why it can't be evaluated, if that is so. Then it does not hold.
    pub error: Option<String>,
    /// The connections that are not as expected, sorted.
    pub violations: Vec<Violation>,
}

/// Connections that are not as expected.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Violation {
    /// Where they come from.
    pub from: End,
    /// Where they go to.
    pub to: End,
    /// Their destination ports.
    pub ports: Vec<PortRange>,
    /// What decides, one sentence for each direction that matters.
    pub because: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}, {}", self.from, self.to, words(&self.ports))
    }
}

/// Evaluates all assertions of a file.
pub fn check(assertions: &Assertions, manifests: &Manifests, model: &Model, layout: &Layout) -> Vec<Checked> {
    let mut check = Check { manifests, model, layout, allowed: Vec::new() };
    check.allowed = assertions.all.iter().filter_map(|assertion| check.allowed(assertion)).collect();
    let one = |assertion: &Assertion| {
        let result = check.assertion(assertion);
        let (error, violations) = match result {
            Ok(violations) => (None, violations),
            Err(error) => (Some(error), Vec::new()),
        };
        Checked {
            name: assertion.name.clone(),
            file: assertions.file.clone(),
            line: assertion.line,
            holds: error.is_none() && violations.is_empty(),
            error,
            violations,
        }
    };
    assertions.all.iter().map(one).collect()
}

/// One end that is evaluated.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Site {
    Workload(WorkloadName),
    Region(RegionId, IpAddr),
}

struct Check<'a> {
    manifests: &'a Manifests,
    model: &'a Model,
    layout: &'a Layout,
    /// What the assertions of the file expect to be allowed.
    allowed: Vec<Allowed>,
}

/// The ends of an assertion that expects `allowed`.
struct Allowed {
    from: BTreeSet<Site>,
    to: Vec<(BTreeSet<Site>, Ports)>,
}

/// By ends and reasons: the ports.
type Found = BTreeMap<(Site, Site, Vec<String>), BTreeSet<PortClass>>;

impl Check<'_> {
    fn assertion(&self, assertion: &Assertion) -> Result<Vec<Violation>, String> {
        let sources = match assertion.expect {
            Expect::NothingElse => {
                let outside = self.sites(&Pattern::Outside)?;
                self.sites(&Pattern::Workloads).into_iter().flatten().chain(outside).collect()
            }
            Expect::Allowed | Expect::Denied => self.all_sites(&assertion.from)?,
        };
        let mut found = Found::new();
        let mut evaluated = 0_usize;
        for (pattern, ports) in &assertion.to {
            for destination in self.sites(pattern)? {
                let ports = self.ports(ports, &destination)?;
                for source in &sources {
                    let expected = match assertion.expect {
                        Expect::NothingElse => self.allowed_ports(source, &destination),
                        Expect::Allowed | Expect::Denied => BTreeSet::new(),
                    };
                    for (from, to) in self.addresses(source, &destination) {
                        evaluated += ports.len();
                        for port in &ports {
                            let (packet, decision) = self.model.evaluate(from, to, *port);
                            let is_violated = match (assertion.expect, decision.verdict()) {
                                (Expect::Allowed, Verdict::Deny) | (Expect::Denied, Verdict::Allow) => true,
                                (Expect::NothingElse, Verdict::Allow) => !expected.contains(port),
                                _ => false,
                            };
                            if is_violated {
                                let because = self.because(source, &destination, &packet, &decision);
                                let key = (source.clone(), destination.clone(), because);
                                found.entry(key).or_default().insert(*port);
                            }
                        }
                    }
                }
            }
        }
        if evaluated == 0 {
            return Err("no connection between these ends passes a policy: name two pods, or a pod and an \
                        address outside of the cluster"
                .to_owned());
        }
        Ok(self.violations(found))
    }

    /// The ends of ANY of the patterns.
    fn all_sites(&self, patterns: &[Pattern]) -> Result<Vec<Site>, String> {
        let mut sites = BTreeSet::new();
        for pattern in patterns {
            sites.extend(self.sites(pattern)?);
        }
        Ok(sites.into_iter().collect())
    }

    /// The ends of a pattern; an error if there are none.
    fn sites(&self, pattern: &Pattern) -> Result<Vec<Site>, String> {
        let workloads = |matches: &dyn Fn(&WorkloadName) -> bool| -> Vec<Site> {
            let names = self.manifests.workloads.iter().map(WorkloadName::from);
            let placed = names.filter(|name| self.layout.pods().contains_key(name) && matches(name));
            placed.map(Site::Workload).collect()
        };
        let outside = |matches: &dyn Fn(RegionId) -> bool| -> Vec<Site> {
            let regions = self.layout.outside().filter(|(region, _)| matches(*region));
            regions.map(|(region, address)| Site::Region(region, address)).collect()
        };
        let (sites, missing) = match pattern {
            Pattern::Workloads => (workloads(&|_| true), "the folder has no workload".to_owned()),
            Pattern::Namespace(namespace) => (
                workloads(&|name| name.namespace == *namespace),
                format!("the folder has no workload in namespace {namespace}"),
            ),
            Pattern::Workload(namespace, name) => (
                workloads(&|own| own.namespace == *namespace && own.name == *name),
                self.missing(namespace, name),
            ),
            Pattern::Outside => (outside(&|_| true), "no address is outside of the cluster".to_owned()),
            Pattern::Block(block) => (
                outside(&|region| self.layout.regions().is_within(region, block)),
                format!("{block} has no address outside of the cluster: name a workload"),
            ),
        };
        if sites.is_empty() { Err(missing) } else { Ok(sites) }
    }

    /// Why there is no workload of this name, with the nearest one.
    fn missing(&self, namespace: &str, name: &str) -> String {
        let is_it = |workload: &&Workload| {
            *workload.pod.name.namespace == *namespace && *workload.pod.name.name == *name
        };
        if self.manifests.workloads.iter().any(|workload| is_it(&workload)) {
            return format!("{namespace}/{name} uses its node's network, so no policy applies to it");
        }
        let same_name = self.manifests.workloads.iter().find(|workload| *workload.pod.name.name == *name);
        match same_name {
            Some(near) => {
                format!("the folder has no workload {namespace}/{name}; did you mean {}?", near.pod.name)
            }
            None => format!("the folder has no workload {namespace}/{name}"),
        }
    }

    /// The classes of these ports at a destination.
    fn ports(&self, ports: &Ports, destination: &Site) -> Result<Vec<PortClass>, String> {
        let (protocol, first, last) = match ports {
            Ports::All => return Ok(self.layout.ports().to_vec()),
            Ports::Others => {
                let others = self.layout.ports().iter().copied();
                return Ok(others.filter(|class| matches!(class, PortClass::Others(_))).collect());
            }
            Ports::Range(protocol, first, last) => (*protocol, *first, *last),
            Ports::Named(name, protocol) => {
                let Site::Workload(workload) = destination else {
                    return Err(format!("only a workload has a port named {name:?}: give the number"));
                };
                let mut own =
                    self.manifests.workloads.iter().filter(|own| WorkloadName::from(*own) == *workload);
                let port = own.find_map(|own| {
                    own.pod.ports.iter().find(|port| *port.name == **name && port.protocol == *protocol)
                });
                let Some(port) = port else {
                    return Err(format!("{workload} has no container port {name}/{protocol}"));
                };
                (*protocol, port.number, port.number)
            }
        };
        let classes = self.layout.ports().iter().copied();
        Ok(classes.filter(|class| class.is_within(protocol, first, last)).collect())
    }

    /// The pairs of addresses of two ends, one for each family that both have. Empty if both are outside of
    /// the cluster, or the same single pod.
    fn addresses(&self, from: &Site, to: &Site) -> Vec<(IpAddr, IpAddr)> {
        let pods = |name: &WorkloadName, number: usize| -> Addresses {
            self.layout.pods().get(name).and_then(|pods| pods.get(number)).copied().unwrap_or_default()
        };
        let region = |address: IpAddr| -> Addresses {
            if address.is_ipv4() { [Some(address), None] } else { [None, Some(address)] }
        };
        let (source, destination) = match (from, to) {
            (Site::Region(..), Site::Region(..)) => return Vec::new(),
            (Site::Workload(from), Site::Workload(to)) => (pods(from, 0), pods(to, usize::from(from == to))),
            (Site::Workload(from), Site::Region(_, address)) => (pods(from, 0), region(*address)),
            (Site::Region(_, address), Site::Workload(to)) => (region(*address), pods(to, 0)),
        };
        source.into_iter().zip(destination).filter_map(|(from, to)| Some((from?, to?))).collect()
    }

    /// The ends of an assertion, if it expects `allowed` and names what is there.
    fn allowed(&self, assertion: &Assertion) -> Option<Allowed> {
        if assertion.expect != Expect::Allowed {
            return None;
        }
        let sites = |pattern: &Pattern| self.sites(pattern).unwrap_or_default();
        let to = assertion.to.iter().map(|(end, ports)| (sites(end).into_iter().collect(), ports.clone()));
        Some(Allowed { from: assertion.from.iter().flat_map(sites).collect(), to: to.collect() })
    }

    /// The ports on which ANY assertion of the file expects connections between these ends to be allowed.
    fn allowed_ports(&self, from: &Site, to: &Site) -> BTreeSet<PortClass> {
        let assertions = self.allowed.iter().filter(|allowed| allowed.from.contains(from));
        let ends = assertions.flat_map(|allowed| &allowed.to).filter(|(sites, _)| sites.contains(to));
        ends.flat_map(|(_, ports)| self.ports(ports, to).unwrap_or_default()).collect()
    }

    /// What decides: the directions that deny, or both if the connection is allowed.
    fn because(&self, from: &Site, to: &Site, packet: &Packet, decision: &Decision) -> Vec<String> {
        let is_denied = decision.verdict() == Verdict::Deny;
        let mut because = Vec::new();
        for (direction, site) in [(Direction::Egress, from), (Direction::Ingress, to)] {
            let Site::Workload(workload) = site else { continue };
            if is_denied && decision.outcome(direction).verdict == Verdict::Allow {
                continue;
            }
            let list = match direction {
                Direction::Egress => "egress",
                Direction::Ingress => "ingress",
            };
            let explained = self.model.snapshot().explain(packet, decision, direction);
            because.push(format!("{list} of {workload}: {explained}"));
        }
        because
    }

    /// Joins regions with the same ports for the same reason.
    fn violations(&self, found: Found) -> Vec<Violation> {
        let workload = |site: &Site| match site {
            Site::Workload(name) => Some(name.clone()),
            Site::Region(..) => None,
        };
        let mut joined: BTreeMap<_, BTreeSet<RegionId>> = BTreeMap::new();
        for ((from, to, because), ports) in found {
            let region = [&from, &to].into_iter().find_map(|site| match site {
                Site::Region(region, _) => Some(*region),
                Site::Workload(_) => None,
            });
            joined.entry((workload(&from), workload(&to), because, ports)).or_default().extend(region);
        }
        let mut violations: Vec<Violation> = Vec::new();
        for ((from, to, because, ports), regions) in joined {
            let end = |workload: Option<WorkloadName>| match workload {
                Some(name) => End::Workload(name),
                None => End::Outside(self.layout.regions().blocks(&regions)),
            };
            violations.push(Violation { from: end(from), to: end(to), ports: ranges(&ports), because });
        }
        violations.sort();
        violations
    }
}
