//! Replies that are kept, and requests that are executed once. [Castro99 §4.1]

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_pbft::Pbft;
use quorate_simulator::register::{Change, Outcome};
use quorate_simulator::{Conditions, SimulationConfig, Submission, World};

use crate::common::{config, r};

const DELAY: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(20);

/// Four replicas with their drivers, a client with a session, and equal message delays.
fn world() -> World<Pbft> {
    let config = SimulationConfig::new(4, config());
    let mut world = World::scripted(1, config, Conditions::unit_delay(DELAY));
    let opened = world.open_session(r(0));
    assert!(world.run_until(LONG, |w| w.answered(opened).is_some()));
    world.run_for(10 * DELAY);
    world
}

/// A change that can be done once only: the second time it does not find what it expects.
fn once() -> Change {
    Change::Cas {
        expected: None,
        value: 7,
    }
}

fn outcome(world: &mut World<Pbft>, submission: Submission) -> (ReplicaId, Option<Outcome>) {
    assert!(world.run_until(LONG, |w| w.answered(submission).is_some()));
    let answered = world.answered(submission).unwrap();
    (answered.by, answered.outcome)
}

fn pre_prepares(world: &World<Pbft>) -> u64 {
    let ledger = world.total_ledger();
    let sent = ledger.sent.get("pre_prepare");
    sent.map_or(0, |traffic| traffic.messages)
}

/// "If the request has already been processed, the replicas simply re-send the reply; replicas
/// remember the last reply message they sent to each client." [§4.1]
#[test]
fn a_reply_is_kept_and_sent_again() {
    let mut world = world();
    let put = world.submit(r(0), 1, once());
    assert_eq!(outcome(&mut world, put).1, Some(Outcome::Swapped(true)));
    world.run_for(10 * DELAY);
    let ordered = pre_prepares(&world);
    for replica in [2, 0, 3] {
        world.submit_again(put, r(replica));
        let told = outcome(&mut world, put);
        assert_eq!(told, (r(replica), Some(Outcome::Swapped(true))));
    }
    world.run_for(10 * DELAY);
    assert_eq!(pre_prepares(&world), ordered, "nothing is ordered for that");
}

/// A request that the primary of one view has ordered, and that the client has told others of
/// meanwhile, is executed once, whichever views its slots are of. [§4.1, §4.4]
#[test]
fn a_request_ordered_in_two_views_is_executed_once() {
    let mut world = world();
    // Only replica 1 hears of the slot that the first primary gives; 2 and 3 leave the view.
    world.split([r(0), r(1)].into_iter().collect());
    let ordered = pre_prepares(&world);
    let put = world.submit(r(0), 1, once());
    world.run_for(10 * DELAY);
    assert!(pre_prepares(&world) > ordered);
    assert!(world.answered(put).is_none());
    for replica in [2, 3] {
        world.submit_again(put, r(replica));
    }
    world.run_for(Duration::from_secs(1));
    assert!(world.answered(put).is_none());
    world.mend();
    let first = outcome(&mut world, put);
    assert_eq!(first.1, Some(Outcome::Swapped(true)));
    world.run_for(LONG);
    assert_ne!(world.leader(), Some(r(0)), "another view");
    for replica in 0..4 {
        world.submit_again(put, r(replica));
        let told = outcome(&mut world, put);
        assert_eq!(told, (r(replica), Some(Outcome::Swapped(true))));
    }
}
