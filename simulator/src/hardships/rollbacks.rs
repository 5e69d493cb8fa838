//! Replicas whose disks are put back to older copies.

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::FaultModel;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::cuts::{Pair, connected, hear_each_other};
use super::drawing::{Left, shuffled};
use crate::plan::{Fault, Plan, Planned};

impl Plan {
    /// Puts disks back, of as many of the replicas that are `left` as may still be taken, and that the others
    /// don't need in order to hear each other.
    pub(crate) fn roll_back(
        &mut self,
        (model, n): (FaultModel, usize),
        left: Left,
        time: u64,
        random: &mut ChaCha8Rng,
    ) {
        let quorum = n - model.tolerated(n);
        let time = time.max(100);
        let mut others = left.free.clone();
        let mut spare = left.spare;
        for replica in shuffled(left.free, random) {
            if spare == 0 {
                return;
            }
            others.retain(|other| *other != replica);
            match self.served_without(replica, (model, quorum, left.hubs), (&others, &left.mute)) {
                Some(served) => self.connected = served,
                None => {
                    others.push(replica);
                    continue;
                }
            }
            spare -= 1;
            let at = random.random_range(0..time);
            let lasts = random.random_range(1..=time - at);
            let fault = Fault::RolledBack(replica, random.random_bool(0.3));
            self.faults.push(Planned { at, lasts, fault });
        }
    }

    /// Where clients are to be served whether this replica is refused or not; nothing if it is needed.
    fn served_without(
        &self,
        replica: ReplicaId,
        (model, quorum, hubs): (FaultModel, usize, bool),
        (others, mute): (&[ReplicaId], &[ReplicaId]),
    ) -> Option<Option<ReplicaSet>> {
        let Some(served) = self.connected else {
            return Some(None);
        };
        if model == FaultModel::Byzantine {
            return (!served.contains(replica)).then_some(Some(served));
        }
        let cut = self
            .faults
            .iter()
            .filter_map(|planned| match planned.fault {
                Fault::Cut(from, to) => Some((from, to)),
                _ => None,
            });
        let links: Vec<Pair> = cut.collect();
        let suffices = match hubs {
            true => !connected(&links, others, quorum).is_empty(),
            false => hear_each_other(&links, others, quorum),
        };
        let without = connected(&links, &[others, mute].concat(), quorum);
        let served: ReplicaSet = served.iter().filter(|r| without.contains(*r)).collect();
        (suffices && !served.is_empty()).then_some(Some(served))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardships::Hardships;
    use crate::plan::{FOR_GOOD, Faults, Victim};
    use rand::SeedableRng as _;

    const TIME: u64 = 3_000_000_000;

    /// A plan without rollbacks, and the same with them.
    fn drawn(seed: u64, (model, n): (FaultModel, usize)) -> (Plan, Plan) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut plan = Plan::drawn(Faults::Crash, (n, 0), TIME, &mut random);
        let hardships = Hardships {
            lost: true,
            cuts: true,
            hubs: seed.is_multiple_of(2),
            ..Hardships::NONE
        };
        let left = plan.harden(hardships, (model, n), TIME, &mut random);
        let before = plan.clone();
        plan.roll_back((model, n), left, TIME, &mut random);
        (before, plan)
    }

    fn taken(plan: &Plan) -> usize {
        let takes = |planned: &&Planned| match planned.fault {
            Fault::RolledBack(..) => true,
            Fault::Lost(_) | Fault::Mute(..) | Fault::Hang(Victim::Replica(_)) => {
                planned.lasts == FOR_GOOD
            }
            _ => false,
        };
        plan.faults.iter().filter(takes).count()
    }

    /// Whether a quorum of those that nothing takes hear each other.
    fn remain_together(plan: &Plan, (model, n): (FaultModel, usize)) -> bool {
        let (mut links, mut remain) = (Vec::new(), ReplicaId::all(n).collect::<ReplicaSet>());
        for planned in &plan.faults {
            match planned.fault {
                Fault::Cut(from, to) => links.push((from, to)),
                Fault::Lost(replica) | Fault::RolledBack(replica, _) => {
                    remain.remove(replica);
                }
                _ => {}
            }
        }
        let remain: Vec<ReplicaId> = remain.iter().collect();
        hear_each_other(&links, &remain, n - model.tolerated(n))
    }

    #[test]
    fn disks_are_put_back_of_no_more_than_may_be_taken_and_the_other_faults_stay() {
        for model in [FaultModel::Crash, FaultModel::Byzantine] {
            for n in [3, 4, 5, 7] {
                let mut seen = 0;
                for seed in 0..200 {
                    let (before, plan) = drawn(seed, (model, n));
                    assert!(taken(&plan) <= model.tolerated(n), "{model:?}, {n}: {plan}");
                    assert_eq!(plan.faults[..before.faults.len()], before.faults);
                    assert!(plan.connected.is_none_or(|served| !served.is_empty()));
                    assert!(
                        seed % 2 == 0 || remain_together(&plan, (model, n)),
                        "{plan}"
                    );
                    seen += plan.faults.len() - before.faults.len();
                }
                assert_eq!(seen > 0, model.tolerated(n) > 0, "{model:?}, {n}");
            }
        }
    }
}
