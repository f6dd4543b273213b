use super::*;
use crate::selector::Selector;
use crate::spec::{Action, IpBlock, NamespaceMatch, Peer, PolicySpec, RuleSpec, Subject, Tier};

/// A policy with this many entries.
fn policy(namespace: &str, name: &str, cost: usize) -> PolicySpec {
    let block = IpBlock {
        cidr: "10.0.0.0/8".parse().expect("a CIDR"),
        except: std::iter::repeat_n("10.1.0.0/16".parse().expect("a CIDR"), cost - 18).collect(),
    };
    let rule =
        RuleSpec { name: None, action: Action::Accept, peers: Some(vec![Peer::Block(block)]), ports: None };
    PolicySpec {
        name: PolicyName::network_policy(namespace, name),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject {
            namespaces: NamespaceMatch::Named(namespace.into()),
            pods: Selector::All([].into()),
        },
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![rule],
        egress: Vec::new(),
        omitted: None,
    }
}

fn enter(admission: &mut Admission, policies: impl IntoIterator<Item = PolicySpec>) -> Vec<String> {
    policies.into_iter().for_each(|policy| admission.enter(&policy.name, policy.cost(), true));
    settle(admission)
}

/// The policies for which the decision changed, in words.
fn settle(admission: &mut Admission) -> Vec<String> {
    let differing = admission.settle();
    let in_words = |name: &PolicyName| {
        format!("{} {}", name.name, if admission.is_admitted(name) { "admitted" } else { "refused" })
    };
    differing.iter().map(in_words).collect()
}

fn leave(admission: &mut Admission, namespace: &str, name: &str) -> Vec<String> {
    admission.leave(&PolicyName::network_policy(namespace, name));
    settle(admission)
}

#[test]
fn s44_policies_beyond_the_budget_of_their_namespace_only_isolate() {
    let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
    let policies = [policy("a", "large", 80), policy("a", "small", 20), policy("b", "other", 100)];
    assert!(enter(&mut admission, policies).is_empty());
    assert_eq!(admission.refusals().count(), 0);
    // One entry too many.
    assert_eq!(enter(&mut admission, [policy("a", "more", 18)]), ["large refused"]);
    let refused: Vec<Refusal> = admission.refusals().collect();
    let policy_name = PolicyName::network_policy("a", "large");
    let large = Refusal { policy: policy_name, cost: 80, rulesets: 1, namespace: 118, limit: 100 };
    assert_eq!(refused, [large]);
    // Entered again, it is still refused.
    assert!(enter(&mut admission, [policy("a", "large", 80)]).is_empty());
    assert_eq!(admission.refusals().count(), 1);
    assert_eq!(leave(&mut admission, "a", "small"), ["large admitted"]);
    assert_eq!(admission.refusals().count(), 0);
}

#[test]
fn a_policy_costs_its_entries_in_each_ruleset() {
    let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
    assert!(enter(&mut admission, [policy("a", "common", 27), policy("a", "other", 18)]).is_empty());
    let common = PolicyName::network_policy("a", "common");
    admission.set_rulesets(&common, 2);
    assert!(settle(&mut admission).is_empty());
    admission.set_rulesets(&common, 3);
    assert_eq!(settle(&mut admission), ["common refused"]);
    let refusal = Refusal { policy: common.clone(), cost: 27, rulesets: 3, namespace: 126, limit: 100 };
    assert_eq!(admission.refusals().collect::<Vec<_>>(), [refusal]);
    admission.set_rulesets(&common, 4);
    assert!(settle(&mut admission).is_empty(), "three count as four");
    admission.set_rulesets(&common, 0);
    assert_eq!(settle(&mut admission), ["common admitted"]);
}

#[test]
fn a_policy_with_omitted_rules_is_refused_and_uses_no_budget() {
    let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
    let omitted = policy("a", "omitted", 60).omit_rules();
    admission.enter(&omitted.name, omitted.cost(), omitted.omitted.is_none());
    assert!(settle(&mut admission).is_empty() && !admission.is_admitted(&omitted.name));
    assert!(enter(&mut admission, [policy("a", "large", 100)]).is_empty());
    let refused: Vec<(PolicyName, Cost)> =
        admission.refusals().map(|refusal| (refusal.policy, refusal.cost)).collect();
    assert_eq!(refused, [(omitted.name, 60)]);
    assert_eq!(enter(&mut admission, [policy("a", "omitted", 60)]), ["omitted admitted", "large refused"]);
}

#[test]
fn the_cheapest_refused_policies_are_named_and_the_others_counted() {
    let mut admission = Admission::new(Budget { namespace: 100, total: 1_000 });
    enter(&mut admission, (0..50).map(|n| policy("a", &format!("p{n:02}"), 20)));
    let named: Vec<Refusal> = admission.refusals().collect();
    assert_eq!((named.len(), &*named[0].policy.name), (NAMED, "p05"));
    let more = |admission: &Admission| admission.more_refusals().map(|(_, more)| more).collect::<Vec<_>>();
    assert_eq!(more(&admission), [25]);
    (0..30).for_each(|n| drop(leave(&mut admission, "a", &format!("p{n:02}"))));
    assert_eq!((admission.refusals().count(), more(&admission)), (15, vec![]));
}

#[test]
fn if_the_total_is_exceeded_the_largest_namespaces_get_less() {
    let mut admission = Admission::new(Budget { namespace: 200, total: 400 });
    let fill =
        |namespace: &'static str| (0..10).map(move |n| policy(namespace, &format!("{namespace}{n}"), 20));
    assert!(enter(&mut admission, fill("a").chain(fill("b"))).is_empty());
    // The limits: 40 for c, and 180 for each of the others.
    assert_eq!(enter(&mut admission, [policy("c", "c0", 40)]), ["a9 refused", "b9 refused"]);
    assert!(admission.refusals().all(|refusal| refusal.limit == 180));
    assert_eq!(leave(&mut admission, "c", "c0"), ["a9 admitted", "b9 admitted"]);
}

#[test]
fn large_policies_that_fit_again_are_readmitted_step_by_step() {
    let mut admission = Admission::new(Budget { namespace: 100_000, total: 200_000 });
    let policies = ["a", "b", "c", "d"].map(|namespace| policy(namespace, namespace, 60_000));
    assert_eq!(enter(&mut admission, policies).len(), 4);
    admission.begin();
    assert_eq!(leave(&mut admission, "d", "d"), ["a admitted"]);
    assert!(admission.is_behind());
    admission.begin();
    assert_eq!(settle(&mut admission), ["b admitted"]);
    admission.begin();
    assert_eq!(settle(&mut admission), ["c admitted"]);
    assert!(!admission.is_behind());
}

#[test]
fn the_order_of_arrival_makes_no_difference() {
    let all: Vec<PolicySpec> = (0..30).map(|n| policy("a", &format!("p{n:02}"), 18 + n * 7 % 30)).collect();
    let budget = Budget { namespace: 600, total: 1_000 };
    let refused_of = |batches: Vec<Vec<PolicySpec>>| {
        let mut admission = Admission::new(budget);
        for batch in batches {
            enter(&mut admission, batch);
        }
        admission.refusals().collect::<Vec<_>>()
    };
    let at_once = refused_of(vec![all.clone()]);
    assert!(!at_once.is_empty());
    assert_eq!(refused_of(all.iter().rev().map(|policy| vec![policy.clone()]).collect()), at_once);
    assert_eq!(refused_of(all.chunks(7).map(<[PolicySpec]>::to_vec).collect()), at_once);
}
