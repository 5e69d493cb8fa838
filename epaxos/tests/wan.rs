//! Commit latency at five sites around the world, beside a protocol with a leader.
//! \[Moraru13\]
//!
//! In these worlds a message takes half the round trip between its sites, and nothing else takes
//! any time: disks sync and replicas work at once, and a client is where its replica is. One
//! client works at one site at a time, so that nothing conflicts and nothing queues. What is left
//! is how often a protocol crosses which ocean.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::Protocol;
use quorate_core::replica::Settings;
use quorate_epaxos::EPaxos;
use quorate_multipaxos::MultiPaxos;
use quorate_simulator::register::Change;
use quorate_simulator::{Conditions, Distances, SimulationConfig, World};

const SITES: usize = 5;
const NAMES: [&str; SITES] = ["CA", "VA", "IE", "OR", "JP"];
const CA: ReplicaId = ReplicaId(0);

/// Average round trips in milliseconds: California, Virginia, Ireland, Oregon, Japan.
const ROUND_TRIPS: [[f64; SITES]; SITES] = [
    [0.0, 59.9, 141.1, 21.1, 111.7],
    [59.9, 0.0, 70.5, 72.5, 152.4],
    [141.1, 70.5, 0.0, 127.3, 204.4],
    [21.1, 72.5, 127.3, 0.0, 100.9],
    [111.7, 152.4, 204.4, 100.9, 0.0],
];

/// Longer than the longest round trip, by far.
const PATIENT: Duration = Duration::from_secs(2);

/// How often each site is measured.
const ROUNDS: u64 = 5;

fn distances(divided_by: f64) -> Distances {
    let mut distances = Distances::equal(SITES, Duration::ZERO);
    for (one, row) in ReplicaId::all(SITES).zip(ROUND_TRIPS) {
        for (other, millis) in ReplicaId::all(SITES).zip(row) {
            distances.set_round_trip(
                one,
                other,
                Duration::from_secs_f64(millis / 1e3 / divided_by),
            );
        }
    }
    distances
}

/// The latencies at each site, in milliseconds, of a client that is alone and writes a register
/// that nobody else does.
fn measured<P: Protocol>(protocol: P::Config) -> [Vec<f64>; SITES] {
    measured_at::<P>(protocol, 1.0)
}

/// The same, with all sites so many times nearer.
fn measured_at<P: Protocol>(protocol: P::Config, nearer: f64) -> [Vec<f64>; SITES] {
    let config = SimulationConfig::<P> {
        settings: Settings {
            retry_after: PATIENT,
            ..Settings::default()
        },
        ..SimulationConfig::new(SITES, protocol)
    };
    let mut world = World::scripted(1, config, Conditions::wide_area(distances(nearer)));
    world.run_for(10 * PATIENT);
    let session = world.open_session(CA);
    assert!(world.run_until(5 * PATIENT, |world| world.answered(session).is_some()));
    [0, 1, 2, 3, 4].map(|site| {
        let rounds = (0..ROUNDS).map(|value| {
            world.run_for(PATIENT);
            let put = (site, Change::Put(value));
            let latency = world.latency(ReplicaId(site), put, PATIENT);
            assert_eq!(world.broken(), None);
            latency.expect("an answer").as_secs_f64() * 1e3
        });
        rounds.collect()
    })
}

/// Holds every round to what is expected at its site, within a hundredth.
fn assert_close(protocol: &str, measured: &[Vec<f64>; SITES], expected: [f64; SITES]) {
    for ((site, rounds), expected) in NAMES.iter().zip(measured).zip(expected) {
        println!("{protocol} at {site}: {rounds:.1?} ms, and {expected} expected");
        for latency in rounds {
            let error = (latency - expected).abs() / expected;
            assert!(
                error <= 0.01,
                "{protocol} at {site}: {latency} ms, not {expected}"
            );
        }
    }
}

/// The round trip to the nearest two others, which make a majority, and EPaxos's fast quorum, with
/// the site itself.
fn to_a_majority(site: usize) -> f64 {
    let mut row = ROUND_TRIPS[site];
    row.sort_by(f64::total_cmp);
    row[SITES / 2]
}

/// EPaxos that sends nothing again and recovers nothing, and asks a fast quorum only after so many
/// commands.
fn patient(thrifty_after: u32) -> quorate_epaxos::Config {
    quorate_epaxos::Config {
        thrifty_after,
        thrifty_requests: 1,
        retransmit: PATIENT,
        recover_after: PATIENT,
        ..quorate_epaxos::Config::default()
    }
}

#[test]
fn without_conflicts_each_site_waits_for_its_second_nearest_peer() {
    let theory = [0, 1, 2, 3, 4].map(to_a_majority);
    assert_eq!(theory, [59.9, 70.5, 127.3, 72.5, 111.7]);
    let thrifty_after = quorate_epaxos::Config::default().thrifty_after;
    let measured = measured::<EPaxos>(patient(thrifty_after));
    assert_close("EPaxos", &measured, theory);
}

/// A coordinator that asks its successors, wherever they are, asks the others when these do not
/// answer, which costs the wait at most; and then it knows who answers in time.
#[test]
fn asking_a_fast_quorum_only_costs_the_wait_for_it_once() {
    let config = patient(0);
    let wait = config.thrifty_wait.as_secs_f64() * 1e3;
    let mut later = measured::<EPaxos>(config);
    let first = later.each_mut().map(|rounds| vec![rounds.remove(0)]);
    // Oregon's successors are Japan and California. Virginia, asked when these have not answered,
    // answers before Japan.
    let theory = [0, 1, 2, 3, 4].map(to_a_majority);
    let mut once = theory;
    once[3] += wait;
    assert_close("EPaxos, thrifty, at first", &first, once);
    assert_close("EPaxos, thrifty, later", &later, theory);
}

/// Where all answer before the others are asked, the second nearest are asked first.
#[test]
fn those_asked_of_a_fast_quorum_are_the_nearest() {
    let config = patient(2);
    let nearer = 25.0;
    let theory = [0, 1, 2, 3, 4].map(|site| to_a_majority(site) / nearer);
    let measured = measured_at::<EPaxos>(config, nearer);
    assert_close("EPaxos, thrifty and nearer,", &measured, theory);
}

#[test]
fn with_a_leader_each_site_waits_for_the_leader_besides() {
    let theory = [0, 1, 2, 3, 4].map(|site| ROUND_TRIPS[0][site] + to_a_majority(0));
    let stated = [59.9, 119.8, 201.0, 81.0, 171.6];
    let close = |(one, other): (f64, f64)| (one - other).abs() < 0.05;
    assert!(theory.into_iter().zip(stated).all(close), "{theory:?}");
    let measured = measured::<MultiPaxos>(quorate_multipaxos::Config {
        election_timeout: PATIENT,
        heartbeat: PATIENT / 4,
        retransmit: PATIENT,
        preferred: Some(CA),
        ..quorate_multipaxos::Config::default()
    });
    assert_close("Multi-Paxos led from CA", &measured, theory);
}
