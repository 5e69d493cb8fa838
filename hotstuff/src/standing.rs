//! Who leads which view: each replica in turn, less those that let their last turns pass. What is
//! needed to say so is in the block that a view extends, so that all who have that block agree.
//! [Diem21; Cohen22]
//!
//! Every block says how each replica stands when the block is added to its parent: that follows
//! from how it stood at the parent, from the views that the block skips, and from who has
//! certified the parent. Replicas vote for no block that says anything else, so one that is
//! certified says what is true.
//!
//! | what the chain shows | what follows |
//! |---|---|
//! | a view between a block and its parent | its leader did not deliver, and rests: four times as long with each such turn |
//! | a certified block | its leader has delivered: its rest is over, and it counts one failed turn less |
//! | a signature by a replica that rested for want of any | it is back: its rest is over |
//!
//! No more than f rest at a time, those whose rest ends last: f + 1 correct replicas lead always.

use quorate_core::crypto::Digester;
use quorate_core::id::{ReplicaId, ReplicaSet, Slot};
use quorate_core::quorum::Byzantine;
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockId, View};
use crate::mutant::Mutant;

/// For how many blocks a replica rests whose first turn has failed.
const REST: u64 = 16;

/// After so many failed turns its rest grows no longer: to 4,096 blocks.
const MOST_FAILED: u8 = 5;

/// The longest rest, in blocks.
const LONGEST: u64 = REST << (2 * (MOST_FAILED as u64 - 1));

/// How a replica stands as a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The height of the last block whose parent's certificate it has signed.
    seen: Slot,
    /// Its turns that failed, less those that did not.
    failed: u8,
    /// It rests until this height.
    until: Slot,
    /// It had signed nothing for a while when it failed: a signature ends its rest.
    away: bool,
}

/// How all replicas stand as leaders once a block is added to the chain. Empty where leaders do not
/// depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Who has proposed the block.
    leader: Option<ReplicaId>,
    places: Vec<Place>,
}

/// What a block adds to its parent, as far as leaders are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) parent: BlockId,
    /// Who signed the parent's certificate that the block's proposal shows.
    pub(crate) signers: ReplicaSet,
    pub(crate) view: View,
    pub(crate) leader: ReplicaId,
}

impl Standing {
    /// How `n` replicas stand at the genesis block.
    pub(crate) fn of(n: usize) -> Standing {
        Standing {
            leader: None,
            places: vec![Place::default(); n],
        }
    }

    /// Of how many replicas it speaks.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// How all stand at a block on this one's.
    pub(crate) fn after(&self, step: &Step) -> Standing {
        let height = step.parent.height.next();
        let mut next = self.clone();
        next.leader = Some(step.leader);
        if let Some(place) = self.leader.and_then(|by| next.place(by)) {
            place.failed = place.failed.saturating_sub(1);
            (place.until, place.away) = (height.min(place.until), false);
        }
        for signer in step.signers.iter() {
            if let Some(place) = next.place(signer) {
                place.seen = height;
                if std::mem::take(&mut place.away) && !Mutant::RestForGood.is_off() {
                    place.until = height;
                }
            }
        }
        for failed in self.failed(step).iter() {
            next.charge(failed, height);
        }
        next
    }

    fn place(&mut self, replica: ReplicaId) -> Option<&mut Place> {
        self.places.get_mut(replica.index())
    }

    /// Who led the views between a block and its parent. Of a gap longer than a lap the first lap
    /// counts.
    fn failed(&self, step: &Step) -> ReplicaSet {
        let first = step.parent.view.next();
        let last = step.view.0.min(first.0 + self.places.len() as u64);
        let skipped = (first.0..last).map(View);
        skipped
            .map(|view| self.leader(view, &step.parent))
            .collect()
    }

    fn charge(&mut self, replica: ReplicaId, height: Slot) {
        // A replica that is up and near signs one certificate in two at least, as a rule.
        let while_away = 2 * self.places.len() as u64;
        let Some(place) = self.place(replica) else {
            return;
        };
        place.away = height.0 > place.seen.0 + while_away;
        let rest = match place.away {
            _ if Mutant::RestForGood.is_off() => u64::MAX >> 2,
            true => LONGEST,
            false => {
                place.failed = (place.failed + 1).min(MOST_FAILED);
                REST << (2 * (u64::from(place.failed) - 1))
            }
        };
        place.until = Slot(height.0 + rest);
    }

    /// Who rests at `height`: of those who should the f that should longest.
    pub(crate) fn resting(&self, height: Slot) -> ReplicaSet {
        let all = ReplicaId::all(self.places.len()).zip(&self.places);
        let rest = all.filter(|(_, place)| place.until > height);
        let mut rest: Vec<(Slot, ReplicaId)> = rest.map(|(id, p)| (p.until, id)).collect();
        rest.sort_unstable_by(|one, other| other.cmp(one));
        let most = match Mutant::AllMayRest.is_off() {
            true => usize::MAX,
            false => Byzantine::of(self.places.len().max(1)).faulty(),
        };
        rest.iter().take(most).map(|(_, id)| *id).collect()
    }

    /// Who leads `view`, if its block extends `parent`, of which this is the standing: whoever's
    /// turn it is; in place of one that rests, one of the others, another in each lap.
    pub(crate) fn leader(&self, view: View, parent: &BlockId) -> ReplicaId {
        let n = self.places.len().max(1) as u64;
        let in_turn = ReplicaId((view.0 % n) as u8);
        let resting = self.resting(parent.height.next());
        if !resting.contains(in_turn) {
            return in_turn;
        }
        let others = ReplicaId::all(self.places.len()).filter(|id| !resting.contains(*id));
        let others: Vec<ReplicaId> = others.collect();
        let place = view.0 / n % others.len().max(1) as u64;
        others.get(place as usize).copied().unwrap_or(in_turn)
    }

    /// Puts it under the digest of its block.
    pub(crate) fn digest(&self, digester: &mut Digester) {
        let leader = self.leader.map_or(u64::MAX, |leader| u64::from(leader.0));
        digester.update(&leader.to_le_bytes());
        digester.update(&(self.places.len() as u64).to_le_bytes());
        for place in &self.places {
            digester.update(&place.seen.0.to_le_bytes());
            digester.update(&place.until.0.to_le_bytes());
            digester.update(&[place.failed, u8::from(place.away)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Block;

    /// A chain of four replicas' blocks, as far as leaders are concerned.
    struct Chain {
        tip: BlockId,
        standing: Standing,
        view: View,
        /// Who signs the certificates.
        signers: [u8; 3],
    }

    impl Chain {
        fn new() -> Chain {
            Chain {
                tip: BlockId::genesis(),
                standing: Standing::of(4),
                view: View(1),
                signers: [0, 1, 2],
            }
        }

        /// Who leads the next `count` views, of which those that `fails` names do not deliver.
        fn run(&mut self, count: usize, fails: &[u8]) -> Vec<u8> {
            let leaders = (0..count).map(|_| {
                let leader = self.standing.leader(self.view, &self.tip);
                if !fails.contains(&leader.0) {
                    self.deliver(leader);
                }
                self.view = self.view.next();
                leader.0
            });
            leaders.collect()
        }

        fn deliver(&mut self, leader: ReplicaId) {
            let signers = self.signers.into_iter().map(ReplicaId).collect();
            let (view, parent) = (self.view, self.tip);
            self.standing = self.standing.after(&Step {
                parent,
                signers,
                view,
                leader,
            });
            self.tip = Block::with(view, parent, self.standing.clone(), Vec::new()).id();
        }
    }

    fn count(leaders: &[u8], who: u8) -> usize {
        leaders.iter().filter(|leader| **leader == who).count()
    }

    #[test]
    fn leaders_rotate_while_all_deliver() {
        assert_eq!(Chain::new().run(8, &[]), [1, 2, 3, 0, 1, 2, 3, 0]);
    }

    #[test]
    fn who_signs_but_does_not_deliver_rests_four_times_as_long_with_each_turn() {
        let leaders = Chain::new().run(16_000, &[2]);
        let turns = leaders.iter().enumerate().filter(|(_, by)| **by == 2);
        let turns: Vec<usize> = turns.map(|(view, _)| view).collect();
        let rests: Vec<usize> = turns.windows(2).map(|w| w[1] - w[0]).collect();
        let expected = [16, 64, 256, 1_024, 4_096, 4_096, 4_096];
        assert_eq!(rests.len(), expected.len(), "{rests:?}");
        for (rest, least) in rests.iter().zip(expected) {
            assert!((least..least + 8).contains(rest), "{rests:?}");
        }
        for id in [0, 1, 3] {
            assert!(count(&leaders, id) > 5_000, "the others share its turns");
        }
    }

    #[test]
    fn who_is_away_is_tried_twice_and_leads_again_when_it_signs() {
        let mut chain = Chain::new();
        chain.run(8, &[]);
        chain.signers = [0, 1, 3];
        let away = chain.run(3_000, &[2]);
        assert_eq!(count(&away, 2), 2);
        chain.signers = [0, 1, 2];
        assert_eq!(count(&chain.run(8, &[]), 2), 2);
    }

    /// A liar that comes back again and again, to let its turn pass, is not away.
    #[test]
    fn who_signs_in_time_and_fails_again_does_not_shorten_its_rest() {
        let mut chain = Chain::new();
        let mut failed = 0;
        for _ in 0..100 {
            chain.signers = [0, 1, 3];
            failed += count(&chain.run(40, &[2]), 2);
            chain.signers = [0, 1, 2];
            failed += count(&chain.run(10, &[2]), 2);
        }
        assert!(failed <= 12, "{failed} turns in 5,000 views");
    }

    #[test]
    fn a_leader_that_delivers_is_forgiven() {
        let mut chain = Chain::new();
        chain.run(6, &[2]);
        chain.run(400, &[]);
        let place = chain.standing.places[2];
        assert_eq!((place.failed, place.until <= chain.tip.height), (0, true));
    }

    fn rests_for_good() -> bool {
        let mut chain = Chain::new();
        chain.run(3, &[2]);
        count(&chain.run(60, &[]), 2) == 0
    }

    #[test]
    fn a_correct_replica_that_failed_once_is_not_excluded_for_good() {
        assert!(!rests_for_good());
        Mutant::verify_without(Some(Mutant::RestForGood));
        assert!(rests_for_good());
        Mutant::verify_without(None);
    }

    /// Whether replica 3 leads alone once the others have failed.
    fn leads_alone() -> bool {
        let mut chain = Chain::new();
        chain.run(7, &[0, 1, 2]);
        count(&chain.run(8, &[]), 3) == 8
    }

    #[test]
    fn no_more_than_f_rest_however_many_fail() {
        assert!(!leads_alone());
        Mutant::verify_without(Some(Mutant::AllMayRest));
        assert!(leads_alone());
        Mutant::verify_without(None);
        let mut chain = Chain::new();
        for lap in 0..40 {
            chain.run(7, &[0, 1, 2]);
            chain.run(lap % 5, &[]);
            assert!(chain.standing.resting(chain.tip.height.next()).len() <= 1);
        }
    }

    #[test]
    fn a_long_gap_counts_for_a_lap() {
        let mut chain = Chain::new();
        chain.run(5, &[]);
        chain.view = View(1 << 40);
        chain.deliver(ReplicaId(0));
        assert_eq!(chain.standing.len(), 4);
    }
}
