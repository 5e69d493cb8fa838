//! Which faults strike a world, and when.

use std::fmt;
use std::str::FromStr;

use quorate_core::id::{ReplicaId, ReplicaSet};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::conditions::{MILLISECOND, Noise};

/// The kinds of faults that may strike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Faults {
    /// None.
    None,
    /// Frames are lost, repeated, held up; links are cut and slow down.
    Network,
    /// Replicas crash and lose what was not synced, pause, have slow and failing disks.
    Crash,
    /// Replicas lie, in a protocol that survives it.
    Byzantine,
    /// All of these.
    #[default]
    All,
}

impl Faults {
    /// Whether the network has faults.
    pub fn network(self) -> bool {
        matches!(self, Faults::Network | Faults::All)
    }

    /// Whether replicas and disks have faults.
    pub fn crash(self) -> bool {
        matches!(self, Faults::Crash | Faults::All)
    }

    /// Whether replicas may lie, if the protocol survives it.
    pub fn byzantine(self) -> bool {
        matches!(self, Faults::Byzantine | Faults::All)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Faults::None => "none",
            Faults::Network => "network",
            Faults::Crash => "crash",
            Faults::Byzantine => "byzantine",
            Faults::All => "all",
        })
    }
}

/// A word that names no kind of faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown faults '{0}': it must be none, network, crash, byzantine or all")]
pub struct UnknownFaults(String);

impl FromStr for Faults {
    type Err = UnknownFaults;

    fn from_str(word: &str) -> Result<Self, UnknownFaults> {
        match word {
            "none" => Ok(Faults::None),
            "network" => Ok(Faults::Network),
            "crash" => Ok(Faults::Crash),
            "byzantine" => Ok(Faults::Byzantine),
            "all" => Ok(Faults::All),
            other => Err(UnknownFaults(String::from(other))),
        }
    }
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// This replica.
    Replica(ReplicaId),
    /// Whoever leads when it strikes, as far as any replica that is up says so of itself; replica
    /// 0 if none does. Faults that strike leaders find more than those that strike at random.
    Leader,
    /// All replicas, as when the power fails.
    All,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Victim::Replica(replica) => replica.fmt(f),
            Victim::Leader => f.write_str("the leader"),
            Victim::All => f.write_str("all replicas"),
        }
    }
}

/// Which way frames do not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Neither in nor out.
    Both,
    /// Not in.
    In,
    /// Not out.
    Out,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The victim stops, loses what was not synced, or part of it, and restarts at the end.
    Crash(Victim),
    /// The victim does nothing until the end; what arrives waits.
    Pause(Victim),
    /// The victim is cut off from all other replicas.
    Isolate(Victim, Direction),
    /// These replicas and the others are cut off from each other.
    Split(ReplicaSet),
    /// Frames from the first to the second take so many times as long.
    SlowLink(ReplicaId, ReplicaId, u64),
    /// More frames go wrong, everywhere.
    Storm(Noise),
    /// The victim's syncs take so many times as long.
    SlowDisk(Victim, u64),
    /// The victim's disk fails, so that it must stop; it restarts, with what was synced, at the end.
    DiskFailure(Victim),
    /// The replica goes down, and nothing brings it back.
    Lost(ReplicaId),
    /// Frames from the first to the second are lost.
    Cut(ReplicaId, ReplicaId),
    /// The replica answers no request for a snapshot, or each only after so many nanoseconds.
    Mute(ReplicaId, Option<u64>),
    /// No sync ends that the victim begins.
    Hang(Victim),
    /// The victim's disk has no room for snapshots, nor for what its log will need next.
    Full(Victim),
    /// The replica crashes at the end, and finds its disk as it was at the beginning, or empty.
    RolledBack(ReplicaId, bool),
    /// The replica's wall clock is so many milliseconds ahead, or behind if negative, when it starts.
    WrongClock(ReplicaId, i64),
}

/// How long a fault lasts that nothing ends.
pub const FOR_GOOD: u64 = u64::MAX;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Crash(victim) => write!(f, "crash of {victim}"),
            Fault::Pause(victim) => write!(f, "pause of {victim}"),
            Fault::Isolate(victim, Direction::Both) => write!(f, "{victim} cut off"),
            Fault::Isolate(victim, Direction::In) => write!(f, "nothing reaches {victim}"),
            Fault::Isolate(victim, Direction::Out) => write!(f, "nothing leaves {victim}"),
            Fault::Split(side) => write!(f, "{side:?} cut off from the others"),
            Fault::SlowLink(from, to, factor) => write!(f, "{from} to {to} {factor} times slower"),
            Fault::Storm(noise) => write!(
                f,
                "of 1000 frames {} lost, {} repeated, {} overtaken",
                noise.lost, noise.repeated, noise.overtaken
            ),
            Fault::SlowDisk(victim, factor) => write!(f, "disk of {victim} {factor} times slower"),
            Fault::DiskFailure(victim) => write!(f, "disk failure of {victim}"),
            Fault::Lost(replica) => write!(f, "{replica} goes down"),
            Fault::Cut(from, to) => write!(f, "nothing passes from {from} to {to}"),
            Fault::Mute(replica, None) => write!(f, "{replica} answers no fetch"),
            Fault::Mute(replica, Some(after)) => {
                let after = after / MILLISECOND;
                write!(f, "{replica} answers fetches after {after} ms")
            }
            Fault::Hang(victim) => write!(f, "syncs of {victim} hang"),
            Fault::Full(victim) => write!(f, "the disk of {victim} is full"),
            Fault::RolledBack(replica, false) => write!(f, "the disk of {replica} is put back"),
            Fault::RolledBack(replica, true) => write!(f, "the disk of {replica} is emptied"),
            Fault::WrongClock(replica, error) => {
                write!(f, "the wall clock of {replica} is {error} ms ahead")
            }
        }
    }
}

/// A fault and when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, in nanoseconds of virtual time.
    pub at: u64,
    /// How long it lasts, in nanoseconds; [`FOR_GOOD`] if nothing ends it.
    pub lasts: u64,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |nanos: u64| nanos as f64 / MILLISECOND as f64;
        write!(f, "at {:.3} ms for ", millis(self.at))?;
        match self.lasts {
            FOR_GOOD => write!(f, "good: {}", self.fault),
            lasts => write!(f, "{:.3} ms: {}", millis(lasts), self.fault),
        }
    }
}

/// The faults of a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In no particular order.
    pub faults: Vec<Planned>,
    /// The replicas that lie, from the beginning to the end.
    pub liars: ReplicaSet,
    /// Where links are cut for good, the replicas at which clients are to be served all the same.
    pub connected: Option<ReplicaSet>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.liars.is_empty() {
            writeln!(f, "  {:?} lie", self.liars)?;
        }
        let mut lines = self.faults.iter();
        lines.try_for_each(|planned| writeln!(f, "  {planned}"))
    }
}

/// The most faults of a drawn plan.
const MOST_FAULTS: u64 = 12;

impl Plan {
    /// A plan for `n` replicas in which all faults begin within `time` nanoseconds, and at most
    /// `liars` lie.
    pub fn drawn(
        faults: Faults,
        (n, liars): (usize, usize),
        time: u64,
        random: &mut ChaCha8Rng,
    ) -> Plan {
        let mut plan = Plan {
            liars: drawn_liars(faults, n, liars, random),
            ..Plan::default()
        };
        if !faults.network() && !faults.crash() {
            return plan;
        }
        let count = random.random_range(3..=MOST_FAULTS);
        for _ in 0..count {
            let at = random.random_range(time / 20..time);
            let fault = drawn_fault(faults, n, random);
            let lasts = lasting(random);
            plan.faults.push(Planned { at, lasts, fault });
            plan.faults.extend(company(fault, at, random));
        }
        plan
    }
}

/// All that may lie do if there are no other faults.
fn drawn_liars(faults: Faults, n: usize, most: usize, random: &mut ChaCha8Rng) -> ReplicaSet {
    let mut liars = ReplicaSet::EMPTY;
    if most == 0 || !faults.byzantine() {
        return liars;
    }
    let count = match faults {
        Faults::Byzantine => most.min(n),
        _ => random.random_range(0..=most.min(n)),
    };
    while liars.len() < count {
        liars.insert(replica(n, random));
    }
    liars
}

/// A power failure finds more to be lost on busy disks.
fn company(fault: Fault, at: u64, random: &mut ChaCha8Rng) -> Option<Planned> {
    if fault != Fault::Crash(Victim::All) {
        return None;
    }
    let before = random.random_range(MILLISECOND..=50 * MILLISECOND).min(at);
    Some(Planned {
        at: at - before,
        lasts: before,
        fault: Fault::SlowDisk(Victim::All, random.random_range(5..200)),
    })
}

/// Short ones end before anyone notices, long ones cost an election or a snapshot.
fn lasting(random: &mut ChaCha8Rng) -> u64 {
    let most = match random.random_range(0..3) {
        0 => 10,
        1 => 200,
        _ => 1_200,
    };
    random.random_range(MILLISECOND..=most * MILLISECOND)
}

fn drawn_fault(faults: Faults, n: usize, random: &mut ChaCha8Rng) -> Fault {
    let network = match faults {
        Faults::All => random.random_bool(0.5),
        Faults::Network => true,
        Faults::Crash | Faults::Byzantine | Faults::None => false,
    };
    match network {
        true => network_fault(n, random),
        false => replica_fault(n, random),
    }
}

fn network_fault(n: usize, random: &mut ChaCha8Rng) -> Fault {
    match random.random_range(0..8) {
        0..=2 => {
            let direction = [Direction::Both, Direction::In, Direction::Out];
            let which = random.random_range(0..direction.len());
            Fault::Isolate(victim(n, random), direction[which])
        }
        3 | 4 => {
            let side = ReplicaId::all(n).filter(|_| random.random_bool(0.5));
            Fault::Split(side.collect())
        }
        5 => {
            let (from, to) = (replica(n, random), replica(n, random));
            Fault::SlowLink(from, to, random.random_range(5..100))
        }
        _ => Fault::Storm(Noise {
            lost: random.random_range(0..300),
            repeated: random.random_range(0..300),
            overtaken: random.random_range(0..300),
        }),
    }
}

fn replica_fault(n: usize, random: &mut ChaCha8Rng) -> Fault {
    match random.random_range(0..11) {
        0..=3 => Fault::Crash(victim(n, random)),
        4 | 5 => Fault::Crash(Victim::All),
        6 => Fault::Pause(victim(n, random)),
        7 => Fault::Pause(Victim::All),
        8 | 9 => Fault::SlowDisk(victim(n, random), random.random_range(5..200)),
        _ => Fault::DiskFailure(victim(n, random)),
    }
}

fn victim(n: usize, random: &mut ChaCha8Rng) -> Victim {
    match random.random_bool(0.5) {
        true => Victim::Leader,
        false => Victim::Replica(replica(n, random)),
    }
}

fn replica(n: usize, random: &mut ChaCha8Rng) -> ReplicaId {
    ReplicaId(random.random_range(0..n) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn so_many_replicas_lie_as_the_faults_allow() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut liars = |faults| {
            let plans = (0..50).map(|_| Plan::drawn(faults, (7, 2), 1_000_000, &mut random));
            let mut counts: Vec<usize> = plans.map(|plan| plan.liars.len()).collect();
            counts.sort_unstable();
            counts.dedup();
            counts
        };
        assert_eq!(liars(Faults::Byzantine), [2]);
        assert_eq!(liars(Faults::All), [0, 1, 2]);
        assert_eq!(liars(Faults::Crash), [0]);
        assert_eq!(liars(Faults::None), [0]);
    }

    #[test]
    fn every_kind_of_faults_is_read_as_it_is_written() {
        let all = [
            Faults::None,
            Faults::Network,
            Faults::Crash,
            Faults::Byzantine,
            Faults::All,
        ];
        for faults in all {
            assert_eq!(faults.to_string().parse(), Ok(faults));
        }
    }
}
