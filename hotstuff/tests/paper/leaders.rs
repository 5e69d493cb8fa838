//! Who leads: in turn, but for those that the chain shows not to deliver. [Diem21; Cohen22] What
//! follows from a chain alone is tested beside `src/standing.rs`.

use quorate_core::id::ReplicaId;
use quorate_hotstuff::{
    Block, Config, Leaders, Message, Mutant, Proposal, QuorumCertificate, View,
};

use crate::common::{
    Cluster, HotstuffCluster, HotstuffNode, Node, cluster, command, genesis, kinds, proposals, r,
    signer, two_chain, votes,
};

/// Leaders by what the chain shows.
fn by_reputation(mutant: Option<Mutant>) -> Config {
    Config {
        leaders: Leaders::Reputation,
        checkpoint_every: 1 << 20,
        mutant,
        ..two_chain()
    }
}

/// Delivers all messages, and gives the proposals among them with who has made each.
fn deliver(cluster: &mut Cluster) -> Vec<(ReplicaId, Proposal)> {
    let mut made: Vec<(ReplicaId, Proposal)> = Vec::new();
    loop {
        for node in &cluster.nodes {
            let new = proposals(&node.sent).into_iter().next();
            made.extend(new.map(|proposal| (node.me, proposal)));
        }
        if !cluster.deliver_round() {
            return made;
        }
    }
}

/// What four replicas propose of which replica 2 never delivers.
fn without_replica_2() -> Vec<(ReplicaId, Proposal)> {
    let mut cluster = cluster(4, &by_reputation(None));
    cluster.lose(|from, _, message| from == r(2) && matches!(message, Message::Proposal(_)));
    let mut made = Vec::new();
    for round in 0..12 {
        cluster.node(3).propose(&format!("{round}"));
        made.extend(deliver(&mut cluster));
        if cluster.node(3).commands().len() <= round {
            for node in &mut cluster.nodes {
                if node.timers.contains_key(&quorate_hotstuff::Timer::View) {
                    node.fire(quorate_hotstuff::Timer::View);
                }
            }
            made.extend(deliver(&mut cluster));
        }
    }
    cluster.assert_invariants();
    cluster.tick(4);
    let nodes = &cluster.nodes;
    assert!(nodes.iter().all(|node| node.commands().len() == 12));
    made.retain(|(by, _)| *by != r(2));
    made
}

/// A replica's turns go to the others once it has let one pass.
#[test]
fn who_does_not_deliver_is_passed_over() {
    let made = without_replica_2();
    let stand_ins = made.iter().filter(|(_, p)| p.block.view().0 % 4 == 2);
    assert!(stand_ins.count() >= 3, "{} blocks", made.len());
    let in_turn = |(by, p): &(ReplicaId, Proposal)| u64::from(by.0) == p.block.view().0 % 4;
    let others = made.iter().filter(|(_, p)| p.block.view().0 % 4 != 2);
    assert!(others.clone().count() >= 9 && others.clone().all(in_turn));
}

/// Whether a replica that has the block that a view extends, but has committed nothing, takes
/// another for its leader than those that have.
fn disagrees(mutant: Option<Mutant>) -> bool {
    let made = without_replica_2();
    let stands_in = |pair: &&[(ReplicaId, Proposal)]| pair[1].1.block.view().0 % 4 == 2;
    let last = made.windows(2).rfind(stands_in).expect("a stand-in");
    let [(_, before), (leader, proposal)] = last else {
        unreachable!("a window of two")
    };
    let mut late = Node::of_four(1, &by_reputation(mutant));
    late.receive(r(0), Message::Certified(proposal.certificate.clone()));
    late.receive(r(0), Message::Blocks(vec![before.block.clone()]));
    assert!(late.commands().is_empty());
    late.known_leader() != Some(*leader)
}

/// Replicas that have committed more or less agree: the block that a view extends says who leads.
#[test]
fn all_who_have_the_block_that_a_view_extends_agree_on_its_leader() {
    assert!(!disagrees(None));
    assert!(disagrees(Some(Mutant::LeadersByOwnCommits)));
}

fn votes_for_what_leaders_say(mutant: Option<Mutant>) -> bool {
    let mut node = Node::of_four(3, &by_reputation(mutant));
    let lie = Block::new(View(1), genesis(), vec![command("x")]);
    let genesis = QuorumCertificate::genesis();
    let proposal = Proposal::signed(&signer(1), lie, genesis, None);
    node.receive(r(1), Message::Proposal(Box::new(proposal)));
    !votes(&node.take()).is_empty()
}

/// A liar that leads could exclude whom it likes.
#[test]
fn a_block_that_says_what_is_not_so_of_leaders_gets_no_vote() {
    assert!(!votes_for_what_leaders_say(None));
    assert!(votes_for_what_leaders_say(Some(Mutant::StandingUnchecked)));
}

/// A replica that lacks the block that says who leads asks the proposer for it, and votes then.
#[test]
fn a_proposal_waits_for_the_block_that_says_who_leads() {
    let made = without_replica_2();
    let (by, last) = made.last().cloned().expect("a proposal");
    let id = last.block.id();
    let me = (0..4).map(r).find(|id| *id != by).expect("another");
    let mut late = Node::of_four(me.0, &by_reputation(None));
    late.receive(by, Message::Proposal(Box::new(last)));
    assert_eq!(kinds(&late.sent_to(by)), ["fetch_blocks"]);
    let rest: Vec<Block> = made.iter().rev().map(|(_, p)| p.block.clone()).collect();
    late.receive(by, Message::Blocks(rest[1..].to_vec()));
    assert!(late.commands().len() >= 10, "{:?}", late.commands());
    let records = late.records();
    let voted = records.iter().rev().find_map(|record| match record {
        quorate_hotstuff::Record::Voted(block) => Some(*block),
        _ => None,
    });
    assert_eq!(voted, Some(id));
}
