//! Disks that are put back to older copies, and what replicas remember of each other.
//!
//! A real replica tells all others how far its log is durable, once a second, and each remembers it. Here all have
//! been told before a replica says anything that rests on it: one memory stands for those of all. A copy
//! that is younger than what was told last, which real replicas may let in, is not drawn.

use std::collections::BTreeMap;

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::life::{Life, Met};
use quorate_core::protocol::Protocol;

use super::World;
use crate::disk;

/// What was, and who remembers it.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Disks as they were when the fault with this number began.
    copies: BTreeMap<usize, disk::Copy>,
    /// The lives that replicas are in.
    own: BTreeMap<ReplicaId, Life>,
    /// What the others remember of each.
    met: BTreeMap<ReplicaId, Met>,
    /// Those that are refused.
    pub(super) refused: ReplicaSet,
    /// How many lives there have been: no two are the same.
    lives: u64,
}

impl<P: Protocol> World<P> {
    pub(super) fn copy_disk(&mut self, number: usize, victim: ReplicaId, emptied: bool) {
        let copy = match emptied {
            true => disk::Copy::default(),
            false => self.host(victim).disk.copy(),
        };
        self.past.copies.insert(number, copy);
    }

    /// It crashes, and comes back with the copy.
    pub(super) fn put_disk_back(&mut self, number: usize, victim: ReplicaId) {
        let Some(copy) = self.past.copies.remove(&number) else {
            return;
        };
        self.stop(victim);
        self.summary.rollbacks += 1;
        self.host(victim).disk.put_back(copy);
        self.restart_unless_kept_down(victim);
    }

    /// Whoever comes back with less than it said is refused from then on, whatever it does later.
    pub(super) fn begin_life(&mut self, replica: ReplicaId) {
        let member = self.member(replica);
        if !self.config.remembers || !self.is_correct(replica) || self.past.refused.contains(member)
        {
            return;
        }
        self.past.lives += 1;
        let nonce = self.past.lives;
        let life = self.host(replica).disk.begin_life(nonce);
        self.past.own.insert(member, life);
        if let Err(refusal) = Met::next(self.past.met.get(&member).copied(), life) {
            self.past.refused.insert(member);
            self.summary.refused += 1;
            let text = format!("is refused: {refusal}");
            self.note(replica, &[14, u64::from(member.0)], true, &text);
            self.network.isolate(member, crate::plan::Direction::Both);
        }
    }

    /// A replica says something: the others know by then how far its log is durable.
    pub(super) fn speaks(&mut self, replica: ReplicaId) {
        let member = self.member(replica);
        let position = self.host(replica).disk.position();
        if let (Some(life), false) = (
            self.past.own.get(&member),
            self.past.refused.contains(member),
        ) {
            let met = Met {
                number: life.number,
                nonce: life.nonce,
                position,
            };
            self.past.met.insert(member, met);
        }
    }
}
