//! What lies of any protocol's own have in common: a [`Tamper`](crate::Tamper) of a protocol whose
//! certificates are signatures of a quorum is made with these.

use quorate_core::codec::{self, Codec};
use quorate_core::crypto::Signature;
use quorate_core::id::ReplicaId;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// The signatures of a certificate, each with who signed.
pub type Signatures = Vec<(ReplicaId, Signature)>;

/// Spoils the signatures of a certificate in a cluster of `n`: signers that are there twice, unknown
/// or too few, or have signed something else.
pub fn forge(random: &mut ChaCha8Rng, n: usize, signatures: &mut Signatures) {
    match random.random_range(0..4) {
        0 => {
            if let [first, .., last] = signatures.as_mut_slice() {
                *last = *first;
            }
        }
        1 => {
            if let Some((last, _)) = signatures.last_mut() {
                *last = ReplicaId(n as u8);
            }
        }
        2 => {
            signatures.pop();
        }
        _ => {
            if let [(_, first), .., (_, last)] = signatures.as_mut_slice() {
                std::mem::swap(first, last);
            }
        }
    }
}

/// Takes a certificate apart, has `change` spoil its parts, and puts it together again; as it was
/// if `T` is not written as `Parts` are. A certificate's own constructors make no bad one.
pub fn respelled<T: Codec + Clone, Parts: Codec>(
    certificate: &T,
    change: impl FnOnce(Parts) -> Parts,
) -> T {
    let parts = reencoded::<T, Parts>(certificate);
    let changed = parts.and_then(|parts| reencoded(&change(parts)));
    changed.unwrap_or_else(|| certificate.clone())
}

/// Reads as a `U` what a `T` is written as.
fn reencoded<T: Codec, U: Codec>(value: &T) -> Option<U> {
    codec::decode("certificate", &codec::encode(value).ok()?).ok()
}

/// What is sent instead of a message: `lie` of it, alone, or after or before the truth; or, `truths`
/// times as often as each of these, the truth alone.
pub fn mixed<M: Clone>(
    random: &mut ChaCha8Rng,
    truths: u32,
    message: M,
    lie: impl FnOnce(&mut ChaCha8Rng, M) -> M,
) -> Vec<M> {
    match random.random_range(0..3 + truths) {
        0 => vec![lie(random, message)],
        1 => vec![message.clone(), lie(random, message)],
        2 => vec![lie(random, message.clone()), message],
        _ => vec![message],
    }
}
