//! Faults that begin and end.

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::Protocol;

use super::{Active, Event, World};
use crate::disk::Lane;
use crate::host::Item;
use crate::plan::{Direction, FOR_GOOD, Fault, Planned, Victim};
use crate::trace::Happening;

impl<P: Protocol> World<P> {
    pub(super) fn schedule_faults(&mut self) {
        let end = self.config.fault_time.as_nanos() as u64;
        for (number, planned) in self.plan.faults.iter().enumerate() {
            let for_good = planned.lasts == FOR_GOOD;
            if planned.at < end || for_good {
                self.queue.schedule(planned.at, Event::FaultBegins(number));
            }
            if planned.at < end && !for_good {
                let ends = (planned.at + planned.lasts).min(end);
                self.queue.schedule(ends, Event::FaultEnds(number));
            }
        }
        self.queue.schedule(end, Event::Heal);
    }

    /// Sets clocks that are wrong from the beginning.
    pub(super) fn set_clocks(&mut self) {
        for planned in &self.plan.faults {
            if let (0, Fault::WrongClock(replica, error)) = (planned.at, planned.fault) {
                self.summary.wrong_clocks += 1;
                for machine in self.machines([replica].into_iter().collect()) {
                    self.hosts[machine.index()].clock_error = error;
                }
            }
        }
    }

    pub(super) fn fault_begins(&mut self, number: usize) {
        let Some(planned) = self.plan.faults.get(number).copied() else {
            return;
        };
        let fault = planned.fault;
        let victims = self.victims(fault);
        self.say(11, number, || format!("begins: {fault}"));
        for victim in self.machines(victims) {
            match fault {
                Fault::Crash(_) => self.stop(victim),
                Fault::DiskFailure(_) => self.arrive(victim, Item::DiskFailed),
                Fault::Pause(_) => {
                    self.summary.pauses += 1;
                    let until = self.now + planned.lasts;
                    let host = self.host(victim);
                    host.busy_until = host.busy_until.max(until);
                }
                Fault::SlowDisk(_, factor) => self.host(victim).disk.factor = factor,
                Fault::Lost(_) => {
                    self.stop(victim);
                    self.summary.lost += 1;
                }
                Fault::Hang(_) => self.host(victim).disk.hangs = true,
                Fault::RolledBack(_, emptied) => self.copy_disk(number, victim, emptied),
                Fault::Full(_) => {
                    self.summary.disks_full += 1;
                    self.host(victim).disk.full = true;
                    self.schedule_turn(victim);
                }
                Fault::Isolate(..)
                | Fault::Split(_)
                | Fault::SlowLink(..)
                | Fault::Storm(_)
                | Fault::Cut(..)
                | Fault::Mute(..)
                | Fault::WrongClock(..) => {}
            }
        }
        self.summary.links_cut += u64::from(matches!(fault, Fault::Cut(..)));
        self.summary.partitions += u64::from(matches!(fault, Fault::Isolate(..) | Fault::Split(_)));
        self.active.insert(number, Active { fault, victims });
        self.apply_network_faults();
    }

    fn victims(&self, fault: Fault) -> ReplicaSet {
        let victim = match fault {
            Fault::Crash(victim)
            | Fault::DiskFailure(victim)
            | Fault::Pause(victim)
            | Fault::SlowDisk(victim, _)
            | Fault::Hang(victim)
            | Fault::Full(victim)
            | Fault::Isolate(victim, _) => victim,
            Fault::Lost(replica)
            | Fault::WrongClock(replica, _)
            | Fault::RolledBack(replica, _) => Victim::Replica(replica),
            Fault::Split(_)
            | Fault::SlowLink(..)
            | Fault::Storm(_)
            | Fault::Cut(..)
            | Fault::Mute(..) => return ReplicaSet::EMPTY,
        };
        match victim {
            Victim::Replica(replica) => [replica].into_iter().collect(),
            Victim::Leader => [self.leader().unwrap_or(ReplicaId(0))]
                .into_iter()
                .collect(),
            Victim::All => ReplicaId::all(self.config.replicas).collect(),
        }
    }

    pub(super) fn fault_ends(&mut self, number: usize) {
        let Some(Active { fault, victims }) = self.active.remove(&number) else {
            return;
        };
        self.say(12, number, || format!("ends: {fault}"));
        for victim in self.machines(victims) {
            match fault {
                Fault::Crash(_) | Fault::DiskFailure(_) => self.restart_if_down(victim),
                Fault::SlowDisk(..) => self.host(victim).disk.factor = 1,
                Fault::Hang(_) | Fault::Full(_) => self.go_on_syncing(victim),
                Fault::WrongClock(..) => self.set_clock_right(victim),
                Fault::RolledBack(..) => self.put_disk_back(number, victim),
                Fault::Pause(_)
                | Fault::Isolate(..)
                | Fault::Split(_)
                | Fault::SlowLink(..)
                | Fault::Storm(_)
                | Fault::Lost(_)
                | Fault::Cut(..)
                | Fault::Mute(..) => {}
            }
        }
        self.apply_network_faults();
    }

    fn go_on_syncing(&mut self, victim: ReplicaId) {
        let member = self.member(victim);
        let (mut hangs, mut full) = (false, false);
        for active in self.active.values().filter(|a| a.victims.contains(member)) {
            hangs |= matches!(active.fault, Fault::Hang(_));
            full |= matches!(active.fault, Fault::Full(_));
        }
        let disk = &mut self.host(victim).disk;
        let was_full = std::mem::replace(&mut disk.full, full);
        disk.hangs = hangs;
        self.begin_sync(victim, Lane::Appends);
        self.begin_sync(victim, Lane::Saves);
        if was_full != full {
            self.schedule_turn(victim);
        }
    }

    /// A clock is set right, and the replica restarted: it looks at it only then.
    fn set_clock_right(&mut self, victim: ReplicaId) {
        self.host(victim).clock_error = 0;
        self.stop(victim);
        self.restart_unless_kept_down(victim);
    }

    /// Whether a replica is down for good.
    pub(super) fn is_lost(&self, member: ReplicaId) -> bool {
        let lost = |active: &Active| active.fault == Fault::Lost(member);
        self.active.values().any(lost)
    }

    /// Whether a replica answers no fetch; and after how long all the same, if it does.
    pub(super) fn is_mute(&self, member: ReplicaId) -> Option<Option<u64>> {
        self.active.values().find_map(|active| match active.fault {
            Fault::Mute(replica, after) if replica == member => Some(after),
            _ => None,
        })
    }

    /// The replicas at which clients are to be served: those that do not lie, are not lost, and
    /// whose disks do not hang; where links are cut for good, those that are connected.
    pub(super) fn served(&self) -> ReplicaSet {
        let hangs = |active: &Active, replica| {
            matches!(active.fault, Fault::Hang(_)) && active.victims.contains(replica)
        };
        let is_served = |replica: &ReplicaId| {
            self.is_correct(*replica)
                && !self.is_lost(*replica)
                && !self.past.refused.contains(*replica)
                && !self.active.values().any(|active| hangs(active, *replica))
                && self.is_connected(*replica)
        };
        ReplicaId::all(self.n()).filter(is_served).collect()
    }

    /// Whether it is not links cut for good that keep clients of a replica from being served.
    pub(super) fn is_connected(&self, replica: ReplicaId) -> bool {
        let connected = self.plan.connected;
        connected.is_none_or(|connected| connected.contains(replica))
    }

    /// Restarts a replica unless a fault will do so when it ends: one that was paused may notice
    /// only later that its disk has failed.
    pub(super) fn restart_unless_kept_down(&mut self, replica: ReplicaId) {
        let member = self.member(replica);
        let keeps_down = |active: &Active| {
            let stops = matches!(active.fault, Fault::Crash(_) | Fault::DiskFailure(_));
            stops && active.victims.contains(member)
        };
        if !self.active.values().any(keeps_down) {
            self.start(replica);
        }
    }

    pub(super) fn restart_if_down(&mut self, replica: ReplicaId) {
        if self.host(replica).replica.is_none() {
            self.start(replica);
        }
    }

    fn apply_network_faults(&mut self) {
        self.network.mend();
        for Active { fault, victims } in self.active.values() {
            match *fault {
                Fault::Isolate(_, direction) => {
                    let victims = victims.iter();
                    victims.for_each(|victim| self.network.isolate(victim, direction));
                }
                Fault::Split(side) => self.network.split(side),
                Fault::SlowLink(from, to, factor) => self.network.slow(from, to, factor),
                Fault::Storm(noise) => self.network.storm(noise),
                Fault::Cut(from, to) => self.network.cut(from, to),
                Fault::Crash(_)
                | Fault::DiskFailure(_)
                | Fault::Pause(_)
                | Fault::SlowDisk(..)
                | Fault::Lost(_)
                | Fault::Mute(..)
                | Fault::Hang(_)
                | Fault::Full(_)
                | Fault::RolledBack(..)
                | Fault::WrongClock(..) => {}
            }
        }
        for refused in self.past.refused.iter() {
            self.network.isolate(refused, Direction::Both);
        }
    }

    /// Ends all faults but those that stay for good: every other replica is up, the rest of the
    /// network is good, and probes begin.
    pub(super) fn heal(&mut self) {
        let numbers: Vec<usize> = self.active.keys().copied().collect();
        for number in numbers {
            let for_good = |planned: &Planned| planned.lasts == FOR_GOOD;
            if !self.plan.faults.get(number).is_some_and(for_good) {
                self.fault_ends(number);
            }
        }
        for machine in self.all_machines() {
            self.restart_if_down(machine);
        }
        for host in &mut self.hosts {
            host.disk.factor = 1;
            host.busy_until = host.busy_until.min(self.now);
        }
        self.network.calm();
        self.apply_network_faults();
        self.served = self.served();
        self.healed_at = Some(self.now);
        self.say(13, 0, || String::from("all faults have ended"));
        self.begin_probes();
    }

    fn say(&mut self, word: u64, number: usize, text: impl FnOnce() -> String) {
        self.trace.note(
            self.now,
            &[word, number as u64],
            || Happening::World(text()),
        );
    }
}
