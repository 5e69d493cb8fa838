//! Seeds of `quorate simulate` that failed once, in the worlds in which they did.

mod support;

use support::run;

/// All hardships that there were.
const ALL: &str = "lost,cuts,hubs,mute,hangs,full,limits,clocks";
/// Without links cut so that only one in the middle hears all.
const NO_HUBS: &str = "lost,cuts,mute,hangs,full,limits,clocks";

fn survives(protocol: &str, replicas: &str, seed: &str, hardships: &str) {
    let world = [
        "simulate",
        "-q",
        "--protocol",
        protocol,
        "--replicas",
        replicas,
    ];
    let drawn = ["--seed", seed, "--faults", "all", "--hardships", hardships];
    run(&[&world[..], &drawn].concat(), 0);
}

/// A replica whose disk hangs hears late of what its clients asked for, and had it ordered each 20 ms
/// again; one that lags, of a peer that gives its snapshots late, never caught up with that.
#[test]
fn what_is_asked_for_again_before_it_is_heard_of_is_not_ordered_again() {
    survives("raft", "5", "9543", NO_HUBS);
}

/// Of four peers two had snapshots that fell short, and the two others trickled in turn.
#[test]
fn what_falls_short_is_taken_while_others_trickle() {
    survives("epaxos", "5", "2848", ALL);
}

/// The leader and another had executed what three had not, and gave them nothing or gave it late.
#[test]
fn a_majority_that_cannot_follow_elects_one_of_its_own() {
    survives("multipaxos", "5", "1812", ALL);
}
