//! What of the hardships is drawn for a plan, and how many replicas they may take together.

use quorate_core::id::ReplicaId;
use quorate_core::protocol::FaultModel;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::Hardships;
use super::cuts;
use crate::conditions::MILLISECOND;
use crate::plan::{FOR_GOOD, Fault, Plan, Planned, Victim};

const SECOND: u64 = 1_000 * MILLISECOND;

/// What may take a replica for good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taker {
    Lost,
    Mute,
    Hang,
}

/// What the hardships of a plan have left alone.
pub(crate) struct Left {
    /// Replicas that nothing takes for good, in any order.
    pub(crate) free: Vec<ReplicaId>,
    /// Those that answer no fetch for good.
    pub(crate) mute: Vec<ReplicaId>,
    /// How many more may be taken.
    pub(crate) spare: usize,
    /// Whether those of a quorum may be connected through one in the middle only.
    pub(crate) hubs: bool,
}

/// A plan in the making.
struct Drawing<'a> {
    plan: &'a mut Plan,
    n: usize,
    /// When the faults end.
    time: u64,
    random: &'a mut ChaCha8Rng,
    /// Replicas that nothing has taken for good yet, in any order.
    free: Vec<ReplicaId>,
    /// Those that answer no fetch for good.
    mute: Vec<ReplicaId>,
    /// How many more may be taken.
    spare: usize,
}

impl Plan {
    /// Adds hardships to a plan for `n` replicas whose faults end after `time` nanoseconds.
    pub(crate) fn harden(
        &mut self,
        hardships: Hardships,
        (model, n): (FaultModel, usize),
        time: u64,
        random: &mut ChaCha8Rng,
    ) -> Left {
        let liars = self.liars;
        let free = ReplicaId::all(n).filter(|replica| !liars.contains(*replica));
        let free = shuffled(free.collect(), random);
        let spare = model.tolerated(n).saturating_sub(liars.len());
        let mut drawing = Drawing {
            plan: self,
            n,
            time: time.max(100),
            random,
            free,
            mute: Vec::new(),
            spare,
        };
        let takers = [
            (hardships.lost, Taker::Lost),
            (hardships.mute, Taker::Mute),
            (hardships.hangs, Taker::Hang),
        ];
        let takers = takers
            .into_iter()
            .filter_map(|(on, taker)| on.then_some(taker));
        for taker in shuffled(takers.collect(), drawing.random) {
            drawing.take(taker);
        }
        if hardships.mute {
            drawing.mute_for_a_while();
        }
        if hardships.hangs {
            drawing.hang_for_a_while();
        }
        if hardships.cuts || hardships.hubs {
            let of = (&drawing.free[..], &drawing.mute[..]);
            let (spare, hubs) = (drawing.spare, hardships.hubs);
            let drawn = cuts::drawn((model, n), of, (spare, hubs), drawing.random);
            for (from, to) in drawn.links {
                drawing.begins_for_good(Fault::Cut(from, to));
            }
            drawing.plan.connected = Some(drawn.connected);
        }
        if hardships.clocks {
            drawing.set_clocks();
        }
        if hardships.full {
            drawing.fill_for_a_while();
        }
        Left {
            free: drawing.free,
            mute: drawing.mute,
            spare: drawing.spare,
            hubs: hardships.hubs,
        }
    }
}

impl Drawing<'_> {
    fn add(&mut self, at: u64, lasts: u64, fault: Fault) {
        self.plan.faults.push(Planned { at, lasts, fault });
    }

    fn begins_for_good(&mut self, fault: Fault) {
        let at = self.random.random_range(0..self.time);
        self.add(at, FOR_GOOD, fault);
    }

    /// Takes some of the replicas that are free, mostly at least one.
    fn take(&mut self, taker: Taker) {
        let least = usize::from(self.spare > 0 && self.random.random_bool(0.8));
        let count = self.random.random_range(least..=self.spare);
        self.spare -= count;
        let taken = self.free.split_off(self.free.len() - count);
        match taker {
            Taker::Lost => self.lose(&taken),
            Taker::Hang => {
                for replica in taken {
                    self.begins_for_good(Fault::Hang(Victim::Replica(replica)));
                }
            }
            Taker::Mute => {
                for replica in taken {
                    let answers = self.drawn_patience();
                    self.begins_for_good(Fault::Mute(replica, answers));
                    self.mute.push(replica);
                }
            }
        }
    }

    /// These go down for good; the others go down and come back, in an order of their own.
    fn lose(&mut self, lost: &[ReplicaId]) {
        let at_the_end = self.random.random_bool(0.3);
        for replica in lost {
            let at = match at_the_end {
                true => self.time,
                false => self.random.random_range(self.time / 20..self.time * 2 / 3),
            };
            self.add(at, FOR_GOOD, Fault::Lost(*replica));
        }
        let liars = self.plan.liars;
        let others = ReplicaId::all(self.n).filter(|r| !liars.contains(*r));
        let others = others.filter(|r| at_the_end || !lost.contains(r));
        let others = shuffled(others.collect(), self.random);
        match self.random.random_range(0..3) {
            0 => {}
            1 => self.restart_each(&others),
            _ => self.take_turns(&others),
        }
    }

    fn restart_each(&mut self, replicas: &[ReplicaId]) {
        for replica in replicas {
            let at = self.random.random_range(self.time / 3..self.time);
            let lasts = self.random.random_range(1..=self.time / 6);
            self.add(at, lasts, Fault::Crash(Victim::Replica(*replica)));
        }
    }

    /// Fewer than a majority are up at a time, all in turn, until the end.
    fn take_turns(&mut self, replicas: &[ReplicaId]) {
        let turns = replicas.len() as u64;
        let most = (self.n / 2).min(replicas.len().saturating_sub(1)).max(1);
        let up = self.random.random_range(1..=most) as u64;
        let begins = self.random.random_range(self.time / 20..self.time / 2);
        let turn = (self.time - begins) / turns.max(1);
        for (place, replica) in (0..turns).zip(replicas) {
            let is_up = |slot: u64| (slot + turns - place) % turns < up;
            let mut slot = 0;
            while slot < turns {
                let down = (slot..turns).take_while(|slot| !is_up(*slot)).count() as u64;
                if down > 0 {
                    let crash = Fault::Crash(Victim::Replica(*replica));
                    self.add(begins + slot * turn, down * turn, crash);
                }
                slot += down.max(1);
            }
        }
    }

    /// After how long one that is mute answers all the same, if it does.
    fn drawn_patience(&mut self) -> Option<u64> {
        let answers = self.random.random_bool(0.4);
        answers.then(|| self.random.random_range(2 * SECOND..=30 * SECOND))
    }

    fn mute_for_a_while(&mut self) {
        for replica in ReplicaId::all(self.n) {
            if self.random.random_bool(0.4) {
                let answers = self.drawn_patience();
                let at = self.random.random_range(0..self.time);
                let lasts = self.random.random_range(1..=self.time);
                self.add(at, lasts, Fault::Mute(replica, answers));
            }
        }
    }

    fn hang_for_a_while(&mut self) {
        for _ in 0..self.random.random_range(0..=2) {
            let any = ReplicaId(self.random.random_range(0..self.n) as u8);
            let victim = match self.random.random_bool(0.5) {
                true => Victim::Leader,
                false => Victim::Replica(any),
            };
            let at = self.random.random_range(0..self.time);
            let lasts = self.random.random_range(self.time / 10..=self.time);
            self.add(at, lasts, Fault::Hang(victim));
        }
    }

    /// Disks are full, of one replica or of all together; the log has some room left at first.
    fn fill_for_a_while(&mut self) {
        for _ in 0..self.random.random_range(1..=2) {
            let any = ReplicaId(self.random.random_range(0..self.n) as u8);
            let victim = match self.random.random_range(0..3) {
                0 => Victim::Leader,
                1 => Victim::All,
                _ => Victim::Replica(any),
            };
            let at = self.random.random_range(0..self.time);
            let lasts = self.random.random_range(self.time / 10..=self.time);
            self.add(at, lasts, Fault::Full(victim));
            if self.random.random_bool(0.5) {
                let first = self.random.random_range(0..lasts);
                self.add(at + first, lasts - first, Fault::Hang(victim));
            }
        }
    }

    /// All clocks are as wrong, or each as it happens, until it is set right.
    fn set_clocks(&mut self) {
        let alike = self.random.random_bool(0.5);
        let common = self.drawn_error();
        for replica in ReplicaId::all(self.n) {
            let error = match alike {
                true => common,
                false if self.random.random_bool(0.5) => self.drawn_error(),
                false => continue,
            };
            let lasts = self.random.random_range(self.time / 10..=self.time);
            self.add(0, lasts, Fault::WrongClock(replica, error));
        }
    }

    /// In milliseconds: within what clocks may differ, beyond it, and by a day.
    fn drawn_error(&mut self) -> i64 {
        let most = [900, 40_000, 86_400_000];
        let most = most[self.random.random_range(0..most.len())];
        let error = self.random.random_range(most / 10..=most);
        match self.random.random_bool(0.7) {
            true => error,
            false => -error,
        }
    }
}

/// The same in any order.
pub(super) fn shuffled<T>(mut items: Vec<T>, random: &mut ChaCha8Rng) -> Vec<T> {
    for last in (1..items.len()).rev() {
        items.swap(last, random.random_range(0..=last));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Faults;
    use quorate_core::id::ReplicaSet;
    use rand::SeedableRng as _;

    const TIME: u64 = 3 * SECOND;

    fn drawn(seed: u64, hardships: Hardships, (model, n): (FaultModel, usize)) -> Plan {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let liars = match model {
            FaultModel::Crash => 0,
            FaultModel::Byzantine => model.tolerated(n),
        };
        let mut plan = Plan::drawn(Faults::All, (n, liars), TIME, &mut random);
        plan.harden(hardships, (model, n), TIME, &mut random);
        plan
    }

    /// The replicas that something has for good, and that lie.
    fn taken(plan: &Plan) -> ReplicaSet {
        let for_good = plan.faults.iter().filter(|p| p.lasts == FOR_GOOD);
        let mut taken: ReplicaSet = for_good
            .filter_map(|planned| match planned.fault {
                Fault::Lost(replica)
                | Fault::Mute(replica, _)
                | Fault::Hang(Victim::Replica(replica)) => Some(replica),
                _ => None,
            })
            .collect();
        plan.liars.iter().for_each(|liar| {
            taken.insert(liar);
        });
        taken
    }

    #[test]
    fn no_more_are_taken_for_good_than_the_protocol_tolerates_and_sometimes_so_many() {
        for model in [FaultModel::Crash, FaultModel::Byzantine] {
            for n in 1..=7 {
                let tolerated = model.tolerated(n);
                let plans = (0..200).map(|seed| drawn(seed, Hardships::ALL, (model, n)));
                let most = plans.map(|plan| taken(&plan).len()).max();
                assert_eq!(most, Some(tolerated), "{model:?}, {n} replicas");
            }
        }
    }

    #[test]
    fn some_are_lost_in_the_course_of_the_faults_and_some_at_the_end() {
        let lost = Hardships {
            lost: true,
            ..Hardships::NONE
        };
        let plans = (0..50).map(|seed| drawn(seed, lost, (FaultModel::Crash, 5)));
        let mut ends: Vec<bool> = plans
            .flat_map(|plan| plan.faults)
            .filter(|planned| matches!(planned.fault, Fault::Lost(_)))
            .map(|planned| planned.at == TIME)
            .collect();
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(ends, [false, true]);
    }

    #[test]
    fn replicas_that_take_turns_are_never_up_as_a_majority() {
        for n in [3, 5, 7] {
            let mut plan = Plan::default();
            let mut random = ChaCha8Rng::seed_from_u64(n as u64);
            let mut drawing = Drawing {
                plan: &mut plan,
                n,
                time: TIME,
                random: &mut random,
                free: Vec::new(),
                mute: Vec::new(),
                spare: 0,
            };
            let replicas: Vec<ReplicaId> = ReplicaId::all(n - n / 2).collect();
            drawing.take_turns(&replicas);
            let first = plan.faults.iter().map(|p| p.at).min().unwrap();
            let mut was_up = ReplicaSet::EMPTY;
            for at in (first..TIME - SECOND / 100).step_by(10 * MILLISECOND as usize) {
                let down = |replica: &ReplicaId| {
                    plan.faults.iter().any(|planned| {
                        planned.fault == Fault::Crash(Victim::Replica(*replica))
                            && (planned.at..planned.at + planned.lasts).contains(&at)
                    })
                };
                let up: Vec<_> = replicas.iter().filter(|replica| !down(replica)).collect();
                assert!(up.len() <= n / 2, "{up:?} are up at {at}");
                up.into_iter().for_each(|replica| {
                    was_up.insert(*replica);
                });
            }
            assert_eq!(was_up.len(), replicas.len());
        }
    }

    #[test]
    fn what_is_switched_off_is_not_drawn() {
        for model in [FaultModel::Crash, FaultModel::Byzantine] {
            for seed in 0..20 {
                let none = drawn(seed, Hardships::NONE, (model, 4));
                let all = drawn(seed, Hardships::ALL, (model, 4));
                assert_eq!(none.faults, all.faults[..none.faults.len()]);
                assert_eq!(none.connected, None);
                let new = |planned: &Planned| planned.lasts == FOR_GOOD;
                assert!(!none.faults.iter().any(new));
            }
        }
    }
}
