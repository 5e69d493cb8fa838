//! One seed, from its plan to its report.

use quorate_core::protocol::Protocol;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::conditions::Conditions;
use crate::config::SimulationConfig;
use crate::hardships::Hardships;
use crate::plan::Plan;
use crate::report::{Broken, Failure, Report};
use crate::world::World;

/// The stream of the seed's generator that conditions and plan are drawn from: the world has its
/// own, so that a shorter plan does not change all that is drawn.
const PLANNING: u64 = 1;

/// The stream that hardships are drawn from.
const HARDSHIPS: u64 = 2;

/// The stream that disks put back to older copies are drawn from.
const ROLLBACKS: u64 = 5;

/// Runs the world of `seed` to its end. The same seed and configuration give the same report.
pub fn simulate<P: Protocol>(seed: u64, config: &SimulationConfig<P>) -> Report {
    let (conditions, plan) = drawn(seed, config);
    let mut world = World::new(seed, config.clone(), conditions, plan.clone());
    world.run();
    let failure = world.broken().map(|broken| Failure {
        broken: broken.clone(),
        replay: replay(seed, config),
        shrunk: shrink(seed, config, plan, broken),
    });
    let (trace_hash, summary) = (world.trace_hash(), world.summary());
    let (history, trace) = world.into_records();
    Report {
        seed,
        trace_hash,
        summary,
        failure,
        history,
        trace,
    }
}

/// The conditions and the plan of a seed.
pub fn drawn<P: Protocol>(seed: u64, config: &SimulationConfig<P>) -> (Conditions, Plan) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(PLANNING);
    let conditions = Conditions::drawn(config.faults, &mut random);
    let time = config.fault_time.as_nanos() as u64;
    let sizes = (config.replicas, config.liars);
    let mut plan = Plan::drawn(config.faults, sizes, time, &mut random);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(HARDSHIPS);
    let of = (P::FAULTS, config.replicas);
    let left = plan.harden(config.hardships, of, time, &mut random);
    if config.hardships.rollbacks {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(ROLLBACKS);
        plan.roll_back(of, left, time, &mut random);
    }
    (conditions, plan)
}

fn replay<P: Protocol>(seed: u64, config: &SimulationConfig<P>) -> String {
    let conflicts = match config.conflicts {
        Some(percent) => format!(" --conflicts {percent}"),
        None => String::new(),
    };
    let hardships = match config.hardships {
        Hardships::NONE => String::new(),
        some => format!(" --hardships {some}"),
    };
    format!(
        "quorate simulate --protocol {} --replicas {} --seed {seed} --faults {}{hardships}{conflicts} --trace -",
        P::NAME,
        config.replicas,
        config.faults
    )
}

/// Leaves out faults as long as the same rule is broken: halves first, then ever smaller pieces
/// (delta debugging [Zeller02]); and then replicas that lie, one by one.
fn shrink<P: Protocol>(
    seed: u64,
    config: &SimulationConfig<P>,
    plan: Plan,
    broken: &Broken,
) -> Plan {
    let config = SimulationConfig {
        record: false,
        ..config.clone()
    };
    let (conditions, _) = drawn(seed, &config);
    let mut runs = config.shrink_runs;
    let mut fails = |plan: &Plan| {
        runs = runs.checked_sub(1)?;
        let mut world = World::new(seed, config.clone(), conditions.clone(), plan.clone());
        world.run();
        Some(
            world
                .broken()
                .is_some_and(|other| other.rule == broken.rule),
        )
    };
    let liars = plan.liars;
    let mut shortest = plan;
    let mut piece = shortest.faults.len().div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < shortest.faults.len() {
            let mut shorter = shortest.clone();
            let to = shorter.faults.len().min(from + piece);
            shorter.faults.drain(from..to);
            match fails(&shorter) {
                Some(true) => shortest = shorter,
                Some(false) => from = to,
                None => return shortest,
            }
        }
        piece /= 2;
    }
    for liar in liars.iter() {
        let mut honest = shortest.clone();
        honest.liars.remove(liar);
        if fails(&honest) == Some(true) {
            shortest = honest;
        }
    }
    shortest
}
