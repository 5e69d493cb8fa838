//! Short scripted runs, to be drawn.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::Protocol;

use crate::conditions::Conditions;
use crate::config::SimulationConfig;
use crate::diagram::{Excerpt, sequence_diagram};
use crate::register::Change;
use crate::world::World;

/// How long a message takes in a scenario: long enough to be told from nothing, short enough for
/// any time-out.
const DELAY: Duration = Duration::from_millis(1);

/// How long anything a scenario waits for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A short run that shows one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// A command is ordered and answered.
    NormalCommit,
    /// A cluster that has just started finds its leader.
    Election,
    /// The leader crashes while it works; another takes over and serves.
    LeaderCrash,
    /// The leader is cut off, the others go on without it, and it comes back.
    PartitionAndHeal,
    /// A replica that was away too long fetches a snapshot.
    SnapshotFetch,
    /// Two replicas propose commands that conflict at once.
    Conflict,
    /// A replica crashes when one of the others has heard of its command, and another one gets
    /// that decided.
    CoordinatorCrash,
}

/// A word that names no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scenario '{0}': it must be one of {all}", all = listed(&Scenario::ALL))]
pub struct UnknownScenario(String);

/// The scenario did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scenario {scenario}: {what} did not happen within {PATIENCE:?} of virtual time")]
pub struct ScenarioFailed {
    scenario: Scenario,
    what: &'static str,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scenario::NormalCommit => "normal-commit",
            Scenario::Election => "election",
            Scenario::LeaderCrash => "leader-crash",
            Scenario::PartitionAndHeal => "partition-and-heal",
            Scenario::SnapshotFetch => "snapshot-fetch",
            Scenario::Conflict => "conflict",
            Scenario::CoordinatorCrash => "coordinator-crash",
        })
    }
}

impl FromStr for Scenario {
    type Err = UnknownScenario;

    fn from_str(word: &str) -> Result<Self, UnknownScenario> {
        let mut all = Scenario::ALL.into_iter();
        all.find(|scenario| scenario.to_string() == word)
            .ok_or_else(|| UnknownScenario(String::from(word)))
    }
}

impl Scenario {
    /// All scenarios.
    pub const ALL: [Scenario; 7] = [
        Scenario::NormalCommit,
        Scenario::Election,
        Scenario::LeaderCrash,
        Scenario::PartitionAndHeal,
        Scenario::SnapshotFetch,
        Scenario::Conflict,
        Scenario::CoordinatorCrash,
    ];

    /// Those of a protocol whose replicas agree on a leader.
    pub const ELECTING: [Scenario; 5] = [
        Scenario::NormalCommit,
        Scenario::Election,
        Scenario::LeaderCrash,
        Scenario::PartitionAndHeal,
        Scenario::SnapshotFetch,
    ];

    /// Those of a protocol in which the number of a view says who leads it.
    pub const ROTATING: [Scenario; 4] = [
        Scenario::NormalCommit,
        Scenario::LeaderCrash,
        Scenario::PartitionAndHeal,
        Scenario::SnapshotFetch,
    ];

    /// Those of a protocol without a leader.
    pub const LEADERLESS: [Scenario; 5] = [
        Scenario::NormalCommit,
        Scenario::Conflict,
        Scenario::CoordinatorCrash,
        Scenario::PartitionAndHeal,
        Scenario::SnapshotFetch,
    ];

    /// Plays the scenario with equal message delays, and draws the stretch of it that matters, up
    /// to so many arrows.
    pub fn diagram<P: Protocol>(
        self,
        seed: u64,
        config: &SimulationConfig<P>,
        arrows: usize,
    ) -> Result<String, ScenarioFailed> {
        let excerpt = Excerpt {
            arrows,
            ..Excerpt::default()
        };
        self.draw(seed, config, &excerpt)
    }

    /// Plays the scenario with equal message delays, and draws what the excerpt shows of the
    /// stretch that matters; its window does not count.
    pub fn draw<P: Protocol>(
        self,
        seed: u64,
        config: &SimulationConfig<P>,
        excerpt: &Excerpt,
    ) -> Result<String, ScenarioFailed> {
        let config = SimulationConfig {
            record: true,
            ..config.clone()
        };
        let conditions = Conditions::unit_delay(DELAY);
        let mut stage = Stage {
            world: World::scripted(seed, config, conditions),
            scenario: self,
        };
        let window = match self {
            Scenario::NormalCommit => stage.normal_commit(),
            Scenario::Election => stage.election(),
            Scenario::LeaderCrash => stage.leader_crash(),
            Scenario::PartitionAndHeal => stage.partition_and_heal(),
            Scenario::SnapshotFetch => stage.snapshot_fetch(),
            Scenario::Conflict => stage.conflict(),
            Scenario::CoordinatorCrash => stage.coordinator_crash(),
        }?;
        let excerpt = Excerpt {
            window,
            ..excerpt.clone()
        };
        Ok(sequence_diagram(stage.world.trace(), &excerpt))
    }
}

/// The names of these, to be read.
fn listed(scenarios: &[Scenario]) -> String {
    let names = scenarios.iter().map(Scenario::to_string);
    names.collect::<Vec<_>>().join(", ")
}

struct Stage<P: Protocol> {
    world: World<P>,
    scenario: Scenario,
}

type Played = Result<Range<u64>, ScenarioFailed>;

impl<P: Protocol> Stage<P> {
    fn wait(
        &mut self,
        what: &'static str,
        enough: impl Fn(&World<P>) -> bool,
    ) -> Result<(), ScenarioFailed> {
        match self.world.run_until(PATIENCE, enough) {
            true => Ok(()),
            false => Err(ScenarioFailed {
                scenario: self.scenario,
                what,
            }),
        }
    }

    /// Who leads, once all replicas know; any replica, in a protocol without a leader.
    fn settled(&mut self) -> Result<ReplicaId, ScenarioFailed> {
        let session = self.world.open_session(ReplicaId(0));
        self.wait("the opening of a session", |w| {
            w.answered(session).is_some()
        })?;
        self.world.run_for(20 * DELAY);
        Ok(self.world.leader().unwrap_or(ReplicaId(0)))
    }

    /// When the stretch to be drawn begins: once what came before is over.
    fn begin(&mut self) -> u64 {
        self.world.run_for(DELAY / 2);
        self.world.now()
    }

    fn put(&mut self, at: ReplicaId, value: u64) -> Result<(), ScenarioFailed> {
        let put = self.world.submit(at, 0, Change::Put(value));
        self.wait("the answer to a put", |w| w.answered(put).is_some())
    }

    fn others(&self, than: ReplicaId) -> impl Iterator<Item = ReplicaId> + use<P> {
        ReplicaId::all(self.world.size()).filter(move |replica| *replica != than)
    }

    fn other(&self, than: ReplicaId) -> ReplicaId {
        self.others(than).next().unwrap_or(than)
    }

    fn normal_commit(&mut self) -> Played {
        let leader = self.settled()?;
        let from = self.begin();
        self.put(leader, 1)?;
        self.world.run_for(3 * DELAY);
        Ok(from..self.world.now())
    }

    fn election(&mut self) -> Played {
        // A leader that nobody has to make known has not been elected.
        self.wait("an election", |w| {
            w.leader().is_some() && w.summary().leaders > 0
        })?;
        self.world.run_for(3 * DELAY);
        Ok(0..self.world.now())
    }

    fn leader_crash(&mut self) -> Played {
        let leader = self.settled()?;
        let other = self.other(leader);
        self.put(leader, 1)?;
        let from = self.begin();
        self.world.submit(leader, 0, Change::Put(2));
        self.world.run_for(DELAY / 2);
        self.world.crash(leader);
        self.put(other, 3)?;
        self.world.restart(leader);
        self.world.run_for(3 * DELAY);
        Ok(from..self.world.now())
    }

    fn partition_and_heal(&mut self) -> Played {
        let leader = self.settled()?;
        let other = self.other(leader);
        self.put(leader, 1)?;
        let from = self.begin();
        self.world.isolate(leader);
        self.world.submit(leader, 0, Change::Put(2));
        self.put(other, 3)?;
        self.world.mend();
        self.put(leader, 4)?;
        self.world.run_for(3 * DELAY);
        Ok(from..self.world.now())
    }

    fn snapshot_fetch(&mut self) -> Played {
        let leader = self.settled()?;
        let away = self.other(leader);
        self.put(leader, 1)?;
        self.world.crash(away);
        let taken = self.world.summary().snapshots_taken;
        for value in 2..200 {
            self.put(leader, value)?;
        }
        if self.world.summary().snapshots_taken == taken {
            return Err(ScenarioFailed {
                scenario: self.scenario,
                what: "a snapshot",
            });
        }
        let from = self.begin();
        self.world.restart(away);
        self.wait("the fetch of a snapshot", |w| {
            w.summary().snapshots_installed > 0
        })?;
        self.world.run_for(3 * DELAY);
        Ok(from..self.world.now())
    }

    fn conflict(&mut self) -> Played {
        let first = self.settled()?;
        let second = self.other(first);
        let from = self.begin();
        let puts = [(first, 1), (second, 2)]
            .map(|(at, value)| self.world.submit(at, 0, Change::Put(value)));
        self.wait("the answers to two puts", |w| {
            puts.iter().all(|put| w.answered(*put).is_some())
        })?;
        self.world.run_for(3 * DELAY);
        Ok(from..self.world.now())
    }

    fn coordinator_crash(&mut self) -> Played {
        let coordinator = self.settled()?;
        let hears = self.other(coordinator);
        let from = self.begin();
        for other in self.others(coordinator).filter(|other| *other != hears) {
            self.world.cut(coordinator, other);
        }
        let ordered = self.world.summary().entries;
        self.world.submit(coordinator, 0, Change::Put(1));
        self.world.run_for(3 * DELAY / 2);
        self.world.crash(coordinator);
        self.world.mend();
        self.wait("the recovery of a command", |w| {
            w.summary().entries > ordered
        })?;
        self.world.run_for(3 * DELAY);
        Ok(from..self.world.now())
    }
}
