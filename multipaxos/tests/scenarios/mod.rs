//! What tests of rules that are switched off share.

#![allow(dead_code, reason = "each test file has its own scenarios")]

use quorate_multipaxos::{Ballot, Config, Mutant};

use crate::common::{Node, PaxosNode, b, records};

/// With every rule, and without one: what `scenario` says of harm done.
#[track_caller]
pub(crate) fn harms_only(mutant: Mutant, scenario: impl Fn(&Config) -> bool) {
    let mut config = Config::default();
    assert!(!scenario(&config), "harm without {mutant:?}");
    config.mutant = Some(mutant);
    assert!(scenario(&config), "no harm from {mutant:?}");
}

/// Replica `me` of three, whose invariants are not checked.
pub(crate) fn node(
    config: &Config,
    me: u8,
    promised: Ballot,
    held: &[(u64, Ballot, &str)],
) -> Node {
    let mut node = Node::with(me, 3, config, records(promised, held));
    node.checks = false;
    node
}

/// Replica 0 of three, which has just begun phase 1 in `round`.
pub(crate) fn candidate(config: &Config, round: u64, held: &[(u64, Ballot, &str)]) -> Node {
    let mut node = node(config, 0, b(round - 1, 1), held);
    node.wait_for_campaign();
    assert_eq!(node.ballot(), b(round, 0));
    node
}
