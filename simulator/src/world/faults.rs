//! Faults that begin and end.

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::Protocol;

use super::{Active, Event, World};
use crate::host::Item;
use crate::plan::{Fault, Victim};
use crate::trace::Happening;

impl<P: Protocol> World<P> {
    pub(super) fn schedule_faults(&mut self) {
        let end = self.config.fault_time.as_nanos() as u64;
        for (number, planned) in self.plan.faults.iter().enumerate() {
            if planned.at < end {
                let ends = (planned.at + planned.lasts).min(end);
                self.queue.schedule(planned.at, Event::FaultBegins(number));
                self.queue.schedule(ends, Event::FaultEnds(number));
            }
        }
        self.queue.schedule(end, Event::Heal);
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
                Fault::Isolate(..) | Fault::Split(_) | Fault::SlowLink(..) | Fault::Storm(_) => {}
            }
        }
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
            | Fault::Isolate(victim, _) => victim,
            Fault::Split(_) | Fault::SlowLink(..) | Fault::Storm(_) => return ReplicaSet::EMPTY,
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
                Fault::Pause(_)
                | Fault::Isolate(..)
                | Fault::Split(_)
                | Fault::SlowLink(..)
                | Fault::Storm(_) => {}
            }
        }
        self.apply_network_faults();
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
                Fault::Crash(_) | Fault::DiskFailure(_) | Fault::Pause(_) | Fault::SlowDisk(..) => {
                }
            }
        }
    }

    /// Ends all faults: every replica is up, the network is good, and probes begin.
    pub(super) fn heal(&mut self) {
        let numbers: Vec<usize> = self.active.keys().copied().collect();
        for number in numbers {
            self.fault_ends(number);
        }
        for machine in self.all_machines() {
            self.restart_if_down(machine);
        }
        for host in &mut self.hosts {
            host.disk.factor = 1;
            host.busy_until = host.busy_until.min(self.now);
        }
        self.network.calm();
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
