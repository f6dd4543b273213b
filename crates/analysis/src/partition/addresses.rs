//! Regions of addresses.
//!
//! From: every prefix that a policy contains, and those that are no outside addresses (pods, nodes). To:
//! regions: a prefix without the prefixes inside of it. Invariant: each address is in exactly one region, and
//! each prefix is the union of the regions at and below it, so two addresses of a region are in the same
//! prefixes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::end::Block;

/// The index of a region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegionId(usize);

/// All regions of both families. See the module.
#[derive(Clone, Debug)]
pub struct Regions(Vec<Region>);

#[derive(Clone, Debug)]
struct Region {
    prefix: IpNet,
    parent: Option<usize>,
    /// The prefixes directly inside, in order.
    children: Vec<usize>,
    /// Whether its addresses are outside of the cluster.
    is_outside: bool,
    /// Whether a policy contains this prefix.
    is_of_policy: bool,
}

impl Regions {
    /// The regions between the prefixes of `policies` and of `inside`, whose addresses are not outside of the
    /// cluster.
    pub fn new(policies: &BTreeSet<IpNet>, inside: &BTreeSet<IpNet>) -> Self {
        let mut inside = inside.clone();
        // IPv4 addresses in IPv6 form are IPv4 addresses (semantics 26).
        let mapped = Ipv6Net::new(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96);
        inside.extend(mapped.map(IpNet::V6));
        let roots = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let prefixes: BTreeSet<IpNet> =
            policies.iter().chain(&inside).map(IpNet::trunc).chain(roots).collect();
        let mut regions: Vec<Region> = Vec::with_capacity(prefixes.len());
        let mut around: Vec<usize> = Vec::new();
        // In this order a prefix comes after those that contain it.
        for prefix in prefixes {
            while around.pop_if(|outer| !regions[*outer].prefix.contains(&prefix)).is_some() {}
            let parent = around.last().copied();
            let index = regions.len();
            if let Some(parent) = parent {
                regions[parent].children.push(index);
            }
            let is_outside =
                parent.is_none_or(|parent| regions[parent].is_outside) && !inside.contains(&prefix);
            let is_of_policy = policies.contains(&prefix);
            regions.push(Region { prefix, parent, children: Vec::new(), is_outside, is_of_policy });
            around.push(index);
        }
        Self(regions)
    }

    /// The regions outside of the cluster that have addresses, each with one of them.
    pub fn outside(&self) -> impl Iterator<Item = (RegionId, IpAddr)> + '_ {
        let outside = (0..self.0.len()).filter(|index| self.0[*index].is_outside);
        outside.filter_map(|index| Some((RegionId(index), self.addresses_of(index).next()?)))
    }

    /// The region with this address.
    pub fn region_of(&self, address: IpAddr) -> Option<RegionId> {
        let containing = self.0.iter().rposition(|region| region.prefix.contains(&address));
        containing.map(RegionId)
    }

    /// The prefixes of policies that contain a region, from the outermost.
    pub fn policy_prefixes(&self, region: RegionId) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> =
            self.upwards(region.0).filter(|region| region.is_of_policy).map(|region| region.prefix).collect();
        prefixes.reverse();
        prefixes
    }

    /// Whether `prefix` contains the region.
    pub fn is_within(&self, region: RegionId, prefix: &IpNet) -> bool {
        prefix.contains(&self.0[region.0].prefix)
    }

    /// The addresses in `network`: first those in the fewest prefixes of policies, without single addresses.
    pub fn free_addresses<'a>(&'a self, network: &'a IpNet) -> impl Iterator<Item = IpAddr> + 'a {
        let is_single = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
        let within = self.0.iter().enumerate().filter(|(_, region)| network.contains(&region.prefix));
        let mut candidates: Vec<(usize, usize)> = within
            .filter(|(_, region)| !is_single(&region.prefix) || region.prefix == *network)
            .map(|(index, _)| (self.upwards(index).filter(|region| region.is_of_policy).count(), index))
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().flat_map(|(_, index)| self.addresses_of(index))
    }

    /// A set of regions as blocks with exceptions. Addresses that are not outside of the cluster count as
    /// part of what is around them, so that they are not listed.
    pub fn blocks(&self, set: &BTreeSet<RegionId>) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        // By region: the block to which it belongs.
        let mut block_of: Vec<Option<usize>> = Vec::with_capacity(self.0.len());
        for (index, region) in self.0.iter().enumerate() {
            let around = region.parent.and_then(|parent| block_of[parent]);
            let is_neutral = !region.is_outside || self.addresses_of(index).next().is_none();
            let block = match (around, set.contains(&RegionId(index))) {
                (around, _) if is_neutral => around,
                (Some(around), true) => Some(around),
                (None, true) => {
                    blocks.push(Block { cidr: region.prefix, except: Vec::new() });
                    Some(blocks.len() - 1)
                }
                (Some(around), false) => {
                    blocks[around].except.push(region.prefix);
                    None
                }
                (None, false) => None,
            };
            block_of.push(block);
        }
        blocks
    }

    fn upwards(&self, index: usize) -> impl Iterator<Item = &Region> {
        std::iter::successors(self.0.get(index), |region| self.0.get(region.parent?))
    }

    /// The addresses of a region, in order.
    fn addresses_of(&self, index: usize) -> impl Iterator<Item = IpAddr> + '_ {
        let region = &self.0[index];
        let is_ipv4 = region.prefix.addr().is_ipv4();
        let (first, last) = bounds(&region.prefix);
        // The gaps before each child, and after the last. `None` follows the last address of IPv6.
        let (mut gaps, mut next) = (Vec::new(), Some(first));
        for child in &region.children {
            let (child_first, child_last) = bounds(&self.0[*child].prefix);
            gaps.extend(next.filter(|from| *from < child_first).map(|from| (from, child_first - 1)));
            next = child_last.checked_add(1);
        }
        gaps.extend(next.filter(|from| *from <= last).map(|from| (from, last)));
        gaps.into_iter().flat_map(|(from, to)| from..=to).map(move |number| address(number, is_ipv4))
    }
}

/// The first and last address of a prefix, as numbers.
fn bounds(prefix: &IpNet) -> (u128, u128) {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (number(prefix.network()), number(prefix.broadcast()))
}

fn address(number: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_ipv4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
    }

    #[test]
    fn each_region_has_an_address_and_is_a_prefix_without_those_inside() {
        let regions =
            Regions::new(&nets(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/25", "192.0.2.128/25"]), &nets(&[]));
        let outside: Vec<String> = regions.outside().map(|(_, address)| address.to_string()).collect();
        assert_eq!(outside, ["0.0.0.0", "10.0.0.0", "10.1.0.0", "192.0.2.0", "192.0.2.128", "::"]);
        let of = |text: &str| regions.region_of(text.parse().expect("an address")).expect("a region");
        assert_eq!(of("10.1.2.3"), of("10.1.255.255"));
        assert_ne!(of("10.1.2.3"), of("10.2.0.0"));
        assert_eq!(regions.policy_prefixes(of("10.1.2.3")).len(), 2);
    }

    #[test]
    fn sets_of_regions_are_blocks_with_exceptions() {
        let regions = Regions::new(&nets(&["10.0.0.0/8", "10.1.0.0/16"]), &nets(&["10.244.0.0/16"]));
        let of = |text: &str| regions.region_of(text.parse().expect("an address")).expect("a region");
        let shown = |addresses: &[&str]| -> Vec<String> {
            let set = addresses.iter().map(|address| of(address)).collect();
            regions.blocks(&set).iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(&["1.1.1.1", "10.0.0.1", "10.1.0.1"]), ["0.0.0.0/0"]);
        assert_eq!(shown(&["1.1.1.1", "10.1.0.1"]), ["0.0.0.0/0 except 10.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(shown(&["10.0.0.1"]), ["10.0.0.0/8 except 10.1.0.0/16"], "pods are not listed");
    }

    #[test]
    fn pods_are_placed_outside_of_the_blocks_in_their_network() {
        let network: IpNet = "10.244.0.0/24".parse().expect("a CIDR");
        let regions = Regions::new(
            &nets(&["10.244.0.0/26", "10.0.0.0/8"]),
            &nets(&["10.244.0.0/24", "10.244.0.65/32"]),
        );
        let free: Vec<String> = regions.free_addresses(&network).take(2).map(|a| a.to_string()).collect();
        assert_eq!(free, ["10.244.0.64", "10.244.0.66"]);
        assert_eq!(regions.free_addresses(&network).count(), 255);
    }

    #[test]
    fn the_ends_of_the_address_space_are_handled() {
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let policies = nets(&["255.255.255.255/32", "ffff::/16", "::/128", &format!("{last}/128")]);
        let regions = Regions::new(&policies, &nets(&[]));
        assert!(regions.outside().any(|(_, address)| address.to_string() == last));
        assert!(regions.outside().any(|(_, address)| address.to_string() == "255.255.255.255"));
        assert!(regions.outside().any(|(_, address)| address.to_string() == "::1"));
        assert!(regions.outside().any(|(_, address)| address.to_string() == "ffff::"));
    }
}
