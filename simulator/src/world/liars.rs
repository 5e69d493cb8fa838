//! Replicas that lie: each runs on two machines, and its adversary stands between them and the
//! rest of the world.

use bytes::Bytes;
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::Protocol;
use quorate_core::storage::Snapshot;

use super::World;
use crate::adversary::{Adversary, Lie, Twin};
use crate::client::Told;
use crate::host;

impl<P: Protocol> World<P> {
    /// Gives each replica that lies its adversary and its second machine.
    pub(super) fn add_liars(&mut self, seed: u64) {
        let (n, liars) = (self.n(), self.plan.liars);
        let patience = self.config.liar_patience.as_nanos() as u64;
        for liar in liars.iter() {
            let context = self.host(liar).context([liar.0; 32], 0);
            let tamper = self.config.tamper.map(|make| make(context));
            let adversary = Adversary::new(seed, (liar, n), patience, tamper);
            self.adversaries.insert(liar, adversary);
            let second = host::second(&self.hosts[liar.index()], &self.conditions);
            self.hosts.push(second);
        }
        for host in &mut self.hosts {
            host.distrusts = liars;
        }
    }

    /// All machines: the members' own, in their order, and then the second ones of those that lie.
    pub(super) fn all_machines(&self) -> impl Iterator<Item = ReplicaId> + use<P> {
        ReplicaId::all(self.hosts.len())
    }

    /// The member whose key a machine has.
    pub(super) fn member(&self, machine: ReplicaId) -> ReplicaId {
        self.hosts[machine.index()].id
    }

    /// Whether a machine is that of a replica that does not lie.
    pub(super) fn is_correct(&self, machine: ReplicaId) -> bool {
        !self.plan.liars.contains(self.member(machine))
    }

    fn twin(&self, machine: ReplicaId) -> Twin {
        match machine.index() < self.n() {
            true => Twin::First,
            false => Twin::Second,
        }
    }

    /// One of a member's machines. Those that do not lie have but the first.
    fn machine(&self, member: ReplicaId, twin: Twin) -> ReplicaId {
        let place = self.adversaries.keys().position(|liar| *liar == member);
        match (place, twin) {
            (Some(place), Twin::Second) => ReplicaId((self.n() + place) as u8),
            _ => member,
        }
    }

    /// The machines of some members.
    pub(super) fn machines(&self, members: ReplicaSet) -> Vec<ReplicaId> {
        let first = members.iter();
        let second = self.plan.liars.iter().filter(|l| members.contains(*l));
        first
            .chain(second.map(|liar| self.machine(liar, Twin::Second)))
            .collect()
    }

    /// The machines that hear a frame that has come to a member.
    pub(super) fn hearers(&mut self, to: ReplicaId, frame: &Bytes) -> Vec<ReplicaId> {
        let Some(adversary) = self.adversaries.get_mut(&to) else {
            return vec![to];
        };
        adversary.remember(frame);
        let hearers = adversary.hearers();
        hearers.iter().map(|twin| self.machine(to, *twin)).collect()
    }

    /// The machine that hears a client's wish.
    pub(super) fn asked(&mut self, to: ReplicaId) -> ReplicaId {
        match self.adversaries.get_mut(&to).map(Adversary::asked) {
            Some(twin) => self.machine(to, twin),
            None => to,
        }
    }

    /// What leaves a lying member when one of its machines has a message for `to`.
    pub(super) fn lies(
        &mut self,
        machine: ReplicaId,
        to: ReplicaId,
        message: &P::Message,
    ) -> Vec<Lie> {
        let (member, twin) = (self.member(machine), self.twin(machine));
        let Some(adversary) = self.adversaries.get_mut(&member) else {
            return Vec::new();
        };
        let changed = adversary.reconsider(self.now);
        let envelope = self.hosts[member.index()].envelope();
        let lies = adversary.lies((twin, to), message, |message| envelope.seal(message).ok());
        if let Some(text) = changed {
            self.note(member, &[20, u64::from(member.0)], true, &text);
        }
        lies
    }

    /// What a client hears from a machine.
    pub(super) fn heard(&mut self, machine: ReplicaId, told: Told) -> Option<Told> {
        let member = self.member(machine);
        match self.adversaries.get_mut(&member) {
            Some(adversary) => adversary.answers(told),
            None => Some(told),
        }
    }

    /// The snapshot that a member gives to those that ask.
    pub(super) fn offered(&mut self, by: ReplicaId) -> Option<Snapshot> {
        let offer = self.hosts.get(by.index())?.offer.as_ref()?;
        let snapshot = offer.as_ref().clone();
        match self.adversaries.get_mut(&by) {
            Some(adversary) => adversary.offers(snapshot),
            None => Some(snapshot),
        }
    }

    /// How many lies have been told.
    pub(super) fn count_lies(&self) -> u64 {
        self.adversaries.values().map(|liar| liar.lies).sum()
    }
}
