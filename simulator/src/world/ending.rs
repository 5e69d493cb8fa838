//! When a world has come to its end, and what must hold then.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::Protocol;
use quorate_core::replica::Replica;

use super::World;
use crate::history::{History, Outcome};
use crate::host::Host;
use crate::linearizability;
use crate::register::CommandId;
use crate::report::Rule;

impl<P: Protocol> World<P> {
    /// Whether the faults have ended, all clients have done what they wanted, and all replicas
    /// that serve have executed the same and come to rest.
    pub(super) fn is_done(&self) -> bool {
        if self.healed_at.is_none() || self.unfinished > 0 {
            return false;
        }
        let mut applied = self
            .hosts
            .iter()
            .filter(|host| self.served.contains(host.id))
            .map(|host| host.replica.as_ref().map(Replica::applied));
        let first = applied.next().flatten();
        first.is_some()
            && applied.all(|other| other == first)
            && self.unsettled().is_none()
            && (self.is_whole() || self.unlearnt().is_none())
    }

    /// Whether all replicas that do not lie serve: if they have executed the same, nothing that any
    /// of them acknowledged is on its way any more.
    fn is_whole(&self) -> bool {
        ReplicaId::all(self.n()).all(|r| self.served.contains(r) || !self.is_correct(r))
    }

    /// A replica that serves and what it lacks of what was acknowledged.
    fn unlearnt(&self) -> Option<(ReplicaId, CommandId)> {
        let serve = self.hosts.iter().filter(|h| self.served.contains(h.id));
        serve.into_iter().find_map(|host| {
            let machine = host.replica.as_ref()?.machine();
            let mut acknowledged = self.records.acknowledged.iter();
            let lacks = acknowledged.find(|c| !machine.has_applied(**c))?;
            Some((host.id, *lacks))
        })
    }

    /// A replica that serves and has not come to rest, with what it lacks.
    fn unsettled(&self) -> Option<(ReplicaId, String)> {
        let settled = self.config.settled?;
        let serves = |host: &&Host<P>| self.served.contains(host.id);
        self.hosts.iter().filter(serves).find_map(|host| {
            let lacks = settled(host.replica.as_ref()?.protocol()).err()?;
            Some((host.id, lacks))
        })
    }

    /// Bounds every wait, and not the time for all of them together: a cluster that is slow and
    /// serves each client is alive.
    pub(super) fn check_deadline(&mut self) {
        let Some(healed_at) = self.healed_at else {
            return;
        };
        let limit = self.config.recovery_limit.as_nanos() as u64;
        let waits = self
            .clients
            .iter()
            .enumerate()
            .filter_map(|(number, client)| {
                let (since, what) = client.waits()?;
                Some((since, number, what))
            });
        // Clients that wait for nothing wake up by themselves.
        let (since, who) = match waits.min() {
            Some((since, number, what)) => (since, Some((number, what))),
            None if self.unfinished == 0 => (self.last_finished_at, None),
            None => return,
        };
        let waited = self.now.saturating_sub(since.max(healed_at));
        if waited > limit && !self.is_done() {
            let detail = self.lateness(Duration::from_nanos(waited), who);
            self.found((Rule::Liveness, detail));
        }
    }

    /// What is late, and how far everyone is.
    fn lateness(&self, waited: Duration, who: Option<(usize, &str)>) -> String {
        let mut detail = match who {
            Some((number, what)) => format!(
                "client {number} has waited {waited:?} for {what} since the faults have ended, \
                 and {} clients are not done",
                self.unfinished
            ),
            None => format!("{waited:?} after all clients were done, the replicas are not"),
        };
        for replica in self.hosts.iter().filter_map(|host| host.replica.as_ref()) {
            let (status, applied) = (replica.status(), replica.applied());
            detail.push_str(&format!("; {status:?} has executed {applied:?}"));
        }
        if let Some((replica, lacks)) = self.unlearnt() {
            detail.push_str(&format!("; {replica} has not executed {lacks:?}"));
        }
        if let Some((replica, lacks)) = self.unsettled() {
            detail.push_str(&format!("; {replica} is not at rest: {lacks}"));
        }
        detail
    }

    pub(super) fn check_end(&mut self) {
        self.count_operations();
        if self.broken.is_none() && !self.is_done() {
            self.found((Rule::Liveness, String::from("nothing happens any more")));
        }
        if self.broken.is_none() {
            self.check_states();
        }
        if self.broken.is_none() {
            self.check_history();
        }
    }

    fn count_operations(&mut self) {
        for operation in &self.records.history {
            match operation.outcome {
                Outcome::Ok { .. } => self.summary.ok += 1,
                Outcome::Fail { .. } => self.summary.failed += 1,
                Outcome::Info => self.summary.unknown += 1,
            }
        }
    }

    fn check_states(&mut self) {
        if let Some((id, lost)) = self.unlearnt() {
            let detail = format!("{lost:?} was acknowledged and is not in the state of {id}");
            return self.found((Rule::Durability, detail));
        }
        for index in 0..self.hosts.len() {
            let host = &self.hosts[index];
            let (id, Some(replica)) = (host.id, &host.replica) else {
                continue;
            };
            if self.plan.liars.contains(id) {
                continue;
            }
            match replica.digest() {
                Ok((_, digest)) => {
                    let equal = self.checker.state(id, replica.applied(), digest);
                    self.check(equal);
                }
                Err(halt) => self.found((Rule::Invariant, format!("{id} halted: {halt}"))),
            }
        }
    }

    /// Holds what clients saw to what one copy would have shown them.
    fn check_history(&mut self) {
        let history = History {
            operations: self.records.history.clone(),
        };
        if let Err(failure) = linearizability::check(&history, linearizability::Bound::default()) {
            self.found((Rule::Linearizability, failure.to_string()));
        }
    }
}
