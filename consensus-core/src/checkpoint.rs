//! What replicas that may lie say of their states, until so many say the same that it is proved.
//! [Castro99 §4.3]

use std::collections::BTreeMap;

use crate::codec::{self, Codec};
use crate::crypto::{Digest, Signature};
use crate::frontier::Frontier;
use crate::id::{ReplicaId, Slot};
use crate::protocol::SnapshotRef;

/// The checkpoint messages of each replica: for a slot the first, whose signature has been checked.
/// `S` says which state it is: equal for equal states.
#[derive(Clone, Debug)]
pub struct CheckpointVotes<S> {
    votes: Vec<BTreeMap<Slot, (S, Signature)>>,
    kept: usize,
}

impl<S: Clone + PartialEq> CheckpointVotes<S> {
    /// None yet, of `n` replicas. Of each replica the `kept` latest will be kept: a liar may speak
    /// of any number of slots.
    pub fn new(n: usize, kept: usize) -> Self {
        CheckpointVotes {
            votes: vec![BTreeMap::new(); n],
            kept,
        }
    }

    /// Counts a vote, unless the replica has voted for the slot, and gives the signatures on the same
    /// state, in ascending order of the signers: "until it has 2f + 1 of them for sequence number n
    /// with the same digest d signed by different replicas". [Castro99 §4.3]
    pub fn count(
        &mut self,
        from: ReplicaId,
        (slot, state): (Slot, S),
        signature: Signature,
    ) -> Vec<(ReplicaId, Signature)> {
        if let Some(votes) = self.votes.get_mut(from.index()) {
            votes.entry(slot).or_insert((state.clone(), signature));
            if votes.len() > self.kept {
                votes.pop_first();
            }
        }
        let voters = ReplicaId::all(self.votes.len()).zip(&self.votes);
        let equal = voters.filter_map(|(from, votes)| {
            let (voted, signature) = votes.get(&slot)?;
            (*voted == state).then_some((from, *signature))
        });
        equal.collect()
    }

    /// Forgets what is at or before a stable checkpoint.
    pub fn settle(&mut self, stable: Slot) {
        for votes in &mut self.votes {
            *votes = votes.split_off(&stable.next());
        }
    }
}

/// The proof in a snapshot's anchor, if it is one of this snapshot: `proves` gives the slot and the
/// digest of the state that a proof is of. Its signatures are the caller's to verify.
pub fn proof_in<P: Codec>(
    snapshot: &SnapshotRef,
    proves: impl FnOnce(&P) -> (Slot, Digest),
) -> Result<P, String> {
    let proof: P = codec::decode("anchor", &snapshot.anchor).map_err(|error| error.to_string())?;
    let (slot, digest) = proves(&proof);
    match Frontier::single(slot) == snapshot.at && digest == snapshot.digest {
        true => Ok(proof),
        false => Err(String::from("the anchor proves another snapshot")),
    }
}

/// Which of those who signed, but for `me`, to ask in an attempt for what they have signed that they
/// have. Attempts that come at a steady pace must not all meet the same liar: the golden ratio
/// spreads any arithmetic progression.
pub fn signer_to_ask(
    attempt: usize,
    signers: impl IntoIterator<Item = ReplicaId>,
    me: ReplicaId,
) -> Option<ReplicaId> {
    let others = signers.into_iter().filter(|signer| *signer != me);
    let others: Vec<ReplicaId> = others.collect();
    let fraction = (attempt as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let place = (fraction * others.len() as u64) >> 32;
    others.get(place as usize).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::crypto::{Domain, GroupId, SecretKey, Signer};

    fn slot_and_state(slot: u64, state: &'static str) -> (Slot, &'static str) {
        (Slot(slot), state)
    }

    fn signature(by: u8) -> Signature {
        let signer = Signer::new(SecretKey::from_seed([by; 32]), GroupId(1));
        signer.sign(Domain("checkpoint"), b"state")
    }

    fn voters(
        votes: &mut CheckpointVotes<&'static str>,
        from: u8,
        on: (Slot, &'static str),
    ) -> Vec<u8> {
        let equal = votes.count(ReplicaId(from), on, signature(from));
        assert!(equal.iter().all(|(by, s)| *s == signature(by.0)));
        equal.iter().map(|(by, _)| by.0).collect()
    }

    #[test]
    fn equal_votes_of_different_replicas_are_counted() {
        let mut votes = CheckpointVotes::new(4, 2);
        let (state, other) = (slot_and_state(8, "state"), slot_and_state(8, "other"));
        assert_eq!(voters(&mut votes, 2, state), [2]);
        assert_eq!(voters(&mut votes, 2, state), [2]);
        assert_eq!(voters(&mut votes, 1, other), [1]);
        assert_eq!(voters(&mut votes, 0, slot_and_state(16, "state")), [0]);
        assert_eq!(voters(&mut votes, 0, state), [0, 2]);
        assert_eq!(voters(&mut votes, 1, state), [0, 2], "the first counts");
        assert_eq!(voters(&mut votes, 4, state), [0, 2], "not a replica");
    }

    #[test]
    fn the_latest_votes_of_a_replica_are_kept() {
        let mut votes = CheckpointVotes::new(4, 2);
        for slot in [24, 8, 16] {
            voters(&mut votes, 0, slot_and_state(slot, "state"));
        }
        assert_eq!(voters(&mut votes, 1, slot_and_state(8, "state")), [1]);
        assert_eq!(voters(&mut votes, 1, slot_and_state(16, "state")), [0, 1]);
        votes.settle(Slot(16));
        assert_eq!(voters(&mut votes, 2, slot_and_state(16, "state")), [2]);
        assert_eq!(voters(&mut votes, 2, slot_and_state(24, "state")), [0, 2]);
    }

    #[test]
    fn attempts_at_any_steady_pace_meet_every_other_signer() {
        let me = ReplicaId(0);
        for n in 1..=7 {
            for pace in 1..=12 {
                let signers = || ReplicaId::all(n + 1);
                let met = (0..60).filter_map(|i| signer_to_ask(i * pace, signers(), me));
                let met: BTreeSet<ReplicaId> = met.collect();
                let others: BTreeSet<ReplicaId> = signers().skip(1).collect();
                assert_eq!(met, others, "{n} others, every {pace} rounds");
            }
        }
        assert_eq!(signer_to_ask(1, [me], me), None);
    }
}
