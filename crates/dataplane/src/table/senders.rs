//! The keys by which rules distinguish senders of packets.

use super::family::Family;
use crate::nft::expression::{Address, Expression, KeyPart};

/// The key of a sender: its address if it was checked at its port. Any host can forge sources outside this
/// node's pod CIDRs, so all of them count as one sender, 0.0.0.0 or `::`.
pub(super) fn senders(family: &Family) -> [Vec<Expression>; 2] {
    let source = Expression::LoadPayload((family.payload)(Address::Source));
    let of_pods = |is_in| family.is_it().into_iter().chain([source.clone(), is_in]);
    let zero = |word| Expression::LoadKeyPart(KeyPart::Number(0), word);
    [
        of_pods(Expression::InSet(family.pod_cidrs)).collect(),
        of_pods(Expression::NotInSet(family.pod_cidrs)).chain((0..family.words).map(zero)).collect(),
    ]
}
