//! The points at which verdicts and compiles are measured, each with a name by which it can be selected.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{PeerKind, Shape};

/// How many points to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Every point, for figures that are published.
    Full,
    /// A few small ones, to check that the measurement works.
    Quick,
}

/// One point: a [`Shape`] as it appears in figures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Pods in the cluster.
    pub pods: usize,
    /// Policies; all select the server.
    pub policies: usize,
    /// Rules of each policy.
    pub rules: usize,
    /// The kind of peers in rules.
    pub peers: PeerKind,
    /// Cluster-wide policies, which select every pod. Absent from older figures.
    #[serde(default)]
    pub cluster_policies: usize,
}

impl Extent {
    /// The extent for the flag `--quick`.
    pub fn of(quick: bool) -> Self {
        if quick { Self::Quick } else { Self::Full }
    }

    /// All points, small clusters first.
    pub fn points(self) -> Vec<Point> {
        let (pods, policies, rules): (&[usize], &[usize], &[usize]) = match self {
            Self::Full => (&[100, 10_000, 100_000], &[1, 10, 100, 1_000, 5_000], &[1, 5, 25]),
            Self::Quick => (&[100, 1_500], &[1, 100], &[1, 5]),
        };
        let mut points = Vec::new();
        for &pods in pods {
            for &policies in policies {
                for &rules in rules {
                    let point = |peers| Point { pods, policies, rules, peers, cluster_policies: 0 };
                    points.extend(PeerKind::value_variants().iter().copied().map(point));
                }
            }
        }
        let (pods, policies, cluster_policies) = match self {
            Self::Full => (10_000, 1_000, 100),
            Self::Quick => (1_500, 100, 10),
        };
        let point = |peers| Point { pods, policies, rules: 5, peers, cluster_policies };
        points.extend(PeerKind::value_variants().iter().copied().map(point));
        points
    }
}

impl Point {
    /// The headings of the table columns that describe a point.
    pub const COLUMNS: [&str; 5] = ["pods", "policies", "rules each", "peers", "cluster policies"];

    /// The cells of these columns.
    pub fn cells(self) -> [String; 5] {
        let Self { pods, policies, rules, peers, cluster_policies } = self;
        let [pods, policies, rules, cluster_policies] =
            [pods, policies, rules, cluster_policies].map(|count| count.to_string());
        [pods, policies, rules, peers.to_string(), cluster_policies]
    }
}

impl From<Point> for Shape {
    fn from(point: Point) -> Self {
        let Point { pods, policies, rules, peers, cluster_policies } = point;
        Self { pods, policies, rules, peers, cluster_policies }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, policies, rules, peers, cluster_policies } = self;
        write!(f, "{pods}-pods-{policies}-policies-{rules}-rules-{peers}")?;
        match cluster_policies {
            0 => Ok(()),
            _ => write!(f, "-{cluster_policies}-cluster-policies"),
        }
    }
}

impl FromStr for Point {
    type Err = Error;

    /// Reads the name that [`Display`](fmt::Display) writes.
    fn from_str(name: &str) -> Result<Self> {
        let parts: Vec<&str> = name.split('-').collect();
        let (parts, cluster) = match parts.as_slice() {
            [parts @ .., count, "cluster", "policies"] => (parts, Some(*count)),
            parts => (parts, None),
        };
        let &[pods, "pods", policies, "policies", rules, "rules", peers] = parts else {
            bail!(
                "{name:?} is not a point of the grid: write it like 10000-pods-1000-policies-5-rules-selector, \
                 with cluster-wide policies 10000-pods-1000-policies-5-rules-selector-100-cluster-policies"
            )
        };
        let number = |text: &str| {
            text.parse::<usize>()
                .ok()
                .filter(|number| *number > 0)
                .with_context(|| format!("{name:?}: {text:?} must be a number of at least 1"))
        };
        let point = Self {
            pods: number(pods)?,
            policies: number(policies)?,
            rules: number(rules)?,
            peers: PeerKind::from_str(peers, true)
                .map_err(|_| anyhow::anyhow!("{name:?}: peers are `selector` or `ipblock`, not {peers:?}"))?,
            cluster_policies: cluster.map(number).transpose()?.unwrap_or_default(),
        };
        if point.pods < 2 {
            bail!("{name:?}: a server alone has no peer; at least 2 pods are needed");
        }
        Ok(point)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_point_parses_from_its_name() {
        for extent in [Extent::Full, Extent::Quick] {
            let points = extent.points();
            assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), points.len(), "each point once");
            for point in points {
                assert_eq!(point.to_string().parse::<Point>().unwrap(), point);
            }
        }
        assert_eq!(Extent::Full.points().len(), 3 * 5 * 3 * 2 + 2);
    }

    #[test]
    fn an_unknown_point_is_an_error() {
        for (name, sentence) in [
            ("", "is not a point of the grid"),
            ("10-pods-1-policies-1-rules", "is not a point of the grid"),
            ("10-pods-1-policies-1-rules-names", "peers are `selector` or `ipblock`"),
            ("10-pods-1-policies-1-rules-selector-5-policies", "is not a point of the grid"),
            ("10-pods-1-policies-1-rules-selector-0-cluster-policies", "at least 1"),
            ("10-pods-0-policies-1-rules-selector", "at least 1"),
            ("1-pods-1-policies-1-rules-selector", "at least 2 pods"),
        ] {
            assert!(name.parse::<Point>().unwrap_err().to_string().contains(sentence), "{name}");
        }
    }
}
