//! Who leads: failure detection, duels, and handing over. [Lamport01 §2.4; vanRenesse15 §3;
//! Chandra07 §5.2]

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Event, Role};
use quorate_multipaxos::{Config, Message, Timer};

use crate::common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, b, echo, heartbeat, prepare, promise, r,
    rejected,
};

/// A replica starts as follower, and campaigns when it has not heard of a leader for long enough.
#[test]
fn a_replica_that_hears_of_no_leader_campaigns() {
    let mut node = Node::fresh(0, 3, &Config::default());
    assert_eq!((node.role(), node.known_leader()), (Role::Follower, None));
    let waited = node.wait_for_campaign();
    let shortest = Config::default().election_timeout;
    assert!((shortest..=shortest * 2).contains(&waited));
    assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(1, 0)));
    let asked = node.take();
    assert_eq!(
        asked,
        [(r(1), prepare(b(1, 0), 1)), (r(2), prepare(b(1, 0), 1))]
    );
    let regime = b(1, 0).number();
    assert!(node.events.contains(&Event::Campaign { regime }));
}

/// A replica that hears of its leader does not campaign.
#[test]
fn heartbeats_keep_a_follower_from_campaigning() {
    let mut node = Node::fresh(0, 3, &Config::default());
    for round in 1..100 {
        node.pass(Duration::from_millis(200));
        node.receive(r(1), heartbeat(b(1, 1), 0, round));
    }
    assert_eq!((node.role(), node.ballot()), (Role::Follower, b(1, 1)));
    assert_eq!(node.known_leader(), Some(r(1)));
    assert!(node.wait_for_campaign() <= Config::default().election_timeout * 2);
}

/// A leader sends heartbeats, which say how far all is chosen.
#[test]
fn a_leader_sends_heartbeats() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    let leader = cluster.node(0);
    for round in 2..5 {
        let before = leader.now;
        leader.fire(Timer::Heartbeat);
        assert!(leader.now.since(before) <= Config::default().heartbeat);
        let beat = heartbeat(b(1, 0), 0, round);
        assert_eq!(leader.take(), [(r(1), beat.clone()), (r(2), beat)]);
    }
}

/// Phase 1 takes one round of messages, whatever the others have accepted; then the leader says
/// so at once.
#[test]
fn an_election_ends_in_one_round_of_messages() {
    let mut cluster = Cluster::new(5, &Config::default());
    cluster.elect(2);
    let kinds = [
        ["prepare"; 4],
        ["promise"; 4],
        ["heartbeat"; 4],
        ["echo"; 4],
    ];
    assert_eq!(cluster.delivered(), kinds.concat());
    assert!(cluster.nodes.iter().all(|n| n.known_leader() == Some(r(2))));
}

/// A candidate or leader of a lower ballot gives way to one of a higher.
#[test]
fn a_higher_ballot_ends_candidacy_and_leadership() {
    let higher = [
        prepare(b(9, 1), 1),
        accept(b(9, 1), &[(1, "x")], 0),
        heartbeat(b(9, 1), 0, 1),
    ];
    for message in higher {
        for mut node in [Node::candidate(3, 2, &[]), Node::leader(3, 2)] {
            node.receive(r(1), message.clone());
            assert_eq!((node.role(), node.ballot()), (Role::Follower, b(9, 1)));
            let leads = !matches!(message, Message::Prepare(_));
            assert_eq!(node.known_leader(), leads.then_some(r(1)), "{message:?}");
        }
    }
    let mut leader = Node::leader(3, 2);
    leader.receive(r(1), rejected(b(2, 0), b(3, 2)));
    assert_eq!(leader.role(), Role::Follower, "preempted");
}

/// Two proposers duel, and one wins: the waits are drawn anew, and from wider intervals.
/// [Lamport01 §2.4; vanRenesse15 §3]
#[test]
fn two_proposers_duel_and_one_wins() {
    let mut cluster = Cluster::new(3, &Config::default());
    // Each is preempted by the other again and again: 1's Prepare overtakes 0's proposals.
    for _ in 0..3 {
        for id in [0, 1] {
            cluster.node(id).wait_for_campaign();
            let asked = cluster.node(id).take();
            let rival = 1 - id;
            for (to, message) in asked {
                if to == r(rival) {
                    cluster.node(rival).receive(r(id), message);
                }
            }
        }
    }
    for _ in 0..10_000 {
        for id in 0..3 {
            cluster.node(id).pass(Duration::from_millis(1));
        }
        cluster.deliver();
        let leads = |node: &Node| node.role() == Role::Leader;
        let leader = cluster.nodes.iter().find(|node| leads(node)).map(|n| n.me);
        let known = |node: &Node| node.known_leader();
        if leader.is_some() && cluster.nodes.iter().all(|node| known(node) == leader) {
            let ballot = cluster.nodes[0].ballot();
            for _ in 0..2_000 {
                for id in 0..3 {
                    cluster.node(id).pass(Duration::from_millis(1));
                }
                cluster.deliver();
            }
            assert_eq!(cluster.nodes[0].ballot(), ballot, "and stays");
            return;
        }
    }
    panic!("nobody has won");
}

/// The waits of a proposer that is preempted again and again grow, up to a bound.
#[test]
fn waits_grow_with_failures() {
    let longest = |failures: u64| {
        let waits = (0..60).map(|seed| {
            let mut node = Node::candidate(3, 2 + seed, &[]);
            for round in 0..failures {
                if round > 0 {
                    node.wait_for_campaign();
                }
                let ballot = node.ballot();
                node.receive(r(1), rejected(ballot, b(ballot.round + 1, 1)));
            }
            node.wait_for_campaign()
        });
        waits.max().unwrap_or_default()
    };
    let timeout = Config::default().election_timeout;
    let never = timeout * 9;
    assert!(longest(1) <= timeout * 3);
    assert!(longest(3) > timeout * 3);
    assert!(longest(8) <= never);
}

/// A lost Prepare or Promise is no reason for another ballot.
#[test]
fn a_candidate_asks_again_in_the_same_ballot() {
    let mut node = Node::candidate(5, 2, &[]);
    node.receive(r(1), promise(b(2, 0), &[]));
    node.take();
    for _ in 0..20 {
        node.fire(Timer::Retransmit);
        let asked: Vec<ReplicaId> = node.take().into_iter().map(|(to, _)| to).collect();
        assert_eq!(asked, [r(2), r(3), r(4)]);
    }
    assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(2, 0)));
    node.receive(r(4), promise(b(2, 0), &[]));
    assert_eq!(node.role(), Role::Leader);
}

/// A leader that no quorum answers stops claiming to lead.
#[test]
fn a_leader_that_has_lost_its_quorum_stops_claiming_to_lead() {
    let mut leader = Node::leader(5, 1);
    let patience = Config::default().election_timeout * 2;
    for round in 1..40 {
        leader.receive(r(1), echo(b(1, 0), &[], round, 0));
        leader.receive(r(2), echo(b(1, 0), &[], round, 0));
        leader.pass(Duration::from_millis(50));
    }
    assert_eq!(leader.role(), Role::Leader);
    leader.pass(patience / 2);
    leader.receive(r(1), echo(b(1, 0), &[], 45, 0));
    assert_eq!(leader.role(), Role::Leader, "one of four is not enough");
    leader.pass(patience);
    assert_ne!(leader.role(), Role::Leader);
    assert_eq!(leader.known_leader(), None);
    leader.propose("x");
    assert_eq!(leader.proposed(r(1)), []);
}

/// A leader of three, elected after so long, to which 1 echoes each heartbeat for so long; and
/// accepts what it is told if it is said to.
fn echoed(config: &Config, took: Duration, lasts: Duration, accepts: bool) -> Node {
    let mut node = Node::with(0, 3, config, Vec::new());
    node.wait_for_campaign();
    node.pass(took);
    node.receive(r(1), promise(b(1, 0), &[]));
    assert_eq!(node.role(), Role::Leader);
    let (began, beat) = (node.now, config.heartbeat);
    for round in 1.. {
        if node.now.since(began) + beat > lasts {
            break;
        }
        node.propose("x");
        let slots: &[u64] = if accepts { &[round] } else { &[] };
        node.receive(r(1), echo(b(1, 0), &[], round, 0));
        node.receive(r(1), echo(b(1, 0), slots, round, 0));
        node.pass(beat);
    }
    node
}

/// A follower whose disk hangs, or whose window is full, hears the leader and accepts nothing: with
/// others the cluster may have a quorum that does. A leader that has chosen nothing of what it has
/// proposed for two time-outs makes way, and stands back until others have had the time to be elected.
#[test]
fn a_leader_that_is_heard_and_chooses_nothing_makes_way() {
    let config = Config::default();
    let patience = config.election_timeout * 2;
    let beat = config.heartbeat;
    let at = |lasts, accepts| echoed(&config, Duration::ZERO, lasts, accepts);
    assert_eq!(at(patience - beat, false).role(), Role::Leader);
    assert_eq!(at(patience * 10, true).role(), Role::Leader, "it chooses");
    let mut node = at(patience + beat, false);
    assert_eq!((node.role(), node.known_leader()), (Role::Follower, None));
    assert!(node.wait_for_campaign() >= config.election_timeout * 4 - beat);
}

/// With nothing to choose a leader that is heard leads on.
#[test]
fn a_leader_that_has_nothing_to_choose_leads_on() {
    let mut leader = Node::leader(3, 1);
    for round in 1..200 {
        leader.receive(r(1), echo(b(1, 0), &[], round, 0));
        leader.pass(Config::default().heartbeat);
    }
    assert_eq!(leader.role(), Role::Leader);
}

/// Where disks are slow all choosing takes long, and the next leader would choose nothing sooner: phase
/// 1, which waits for two disks one after the other, has shown how long.
#[test]
fn a_leader_whose_election_took_long_is_as_patient() {
    let config = Config::default();
    let took = Duration::from_secs(3);
    let at = |lasts| echoed(&config, took, lasts, false).role();
    assert_eq!(at(took * 2 - config.heartbeat), Role::Leader);
    assert_eq!(at(took * 2 + config.heartbeat), Role::Follower);
}

/// The preferred replica waits half as long as the others.
#[test]
fn the_preferred_replica_campaigns_first() {
    let wait = |preferred: u8| {
        let config = Config {
            preferred: Some(r(preferred)),
            ..Config::default()
        };
        Node::with(0, 3, &config, Vec::new()).wait_for_campaign()
    };
    let timeout = Config::default().election_timeout;
    assert!(wait(0) <= timeout);
    assert!(wait(1) >= timeout);
}

/// A leader hands over to the preferred replica once that has caught up, and nothing is lost.
#[test]
fn a_leader_hands_over_to_the_preferred_replica() {
    let config = Config {
        preferred: Some(r(2)),
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.propose(0, "a");
    let settled = config.election_timeout * 10;
    let mut passed = Duration::ZERO;
    while cluster.node(0).role() == Role::Leader {
        assert!(passed < settled * 2);
        passed += config.heartbeat;
        cluster.beat(0);
    }
    assert!(passed >= settled);
    assert_eq!(cluster.node(2).role(), Role::Leader);
    assert_eq!(cluster.node(0).known_leader(), Some(r(2)));
    cluster.propose(1, "b");
    cluster.beat(2);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["a", "b"]);
    }
}

/// Only its leader can hand a ballot over.
#[test]
fn nobody_campaigns_for_a_leader_that_it_does_not_follow() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), heartbeat(b(2, 1), 0, 1));
    let ballot = b(1, 2);
    node.receive(r(2), Message::HandOver { ballot });
    assert_eq!(node.role(), Role::Follower);
    let ballot = b(2, 1);
    node.receive(r(1), Message::HandOver { ballot });
    assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(3, 0)));
}
