//! Votes and certificates. [Yin19 §3, §4.2]

use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Event, Protocol};
use quorate_core::quorum::Byzantine;
use quorate_hotstuff::{
    Message, QuorumCertificate, Statement, TimeoutCertificate, TimeoutShare, View,
};

use crate::common::{
    HotstuffNode, Node, block, certificate, config, forged, genesis, given_up, proposal,
    proposal_with, r, reencoded, signatures, timeout_certificate, verify, vote, votes,
};

/// "There are no two certificates in one view": each correct replica votes once in a view, and any
/// two quorums have a correct replica in common. [Yin19 §4.6, Lemma 1]
#[test]
fn no_two_blocks_are_certified_in_one_view() {
    let n = 7;
    let quorum = Byzantine::of(n).strong().size();
    let sets = |size: usize| (0u32..1 << n).filter(move |set| set.count_ones() as usize == size);
    for (one, other) in sets(quorum).flat_map(|one| sets(quorum).map(move |other| (one, other))) {
        assert!(sets(Byzantine::of(n).faulty()).all(|liars| one & other & !liars != 0));
    }
    let mut node = Node::of_four(3, &config());
    let [x, y] = ["x", "y"].map(|text| block(1, &genesis(), &[text]));
    assert_eq!(node.votes_for(proposal(&x)), [x.id()]);
    assert_eq!(node.votes_for(proposal(&y)), []);
}

/// If more than f replicas lie, there may be two: a replica that sees it stops.
#[test]
fn two_certificates_in_one_view_stop_a_replica() {
    let mut node = Node::of_four(3, &config());
    let [x, y] = ["x", "y"].map(|text| block(1, &genesis(), &[text]));
    node.learn(&x.id());
    node.checks = false;
    node.learn(&y.id());
    assert!(node.protocol.check().is_err());
}

/// Of each voter the last vote is kept and no other: votes for views far ahead take no room
/// (`check` counts them after each), and hide nobody else's.
#[test]
fn votes_for_later_views_are_bounded_and_keep_nothing_from_being_certified() {
    let mut leader = Node::of_four(2, &config());
    let proposed = block(1, &genesis(), &["x"]);
    leader.receive(r(1), proposal(&proposed));
    for view in (5..400).step_by(4) {
        let later = block(view, &genesis(), &[]);
        leader.receive(r(3), vote(3, &later.id()));
    }
    assert_eq!(leader.view(), 1);
    for voter in [0, 1] {
        leader.receive(r(voter), vote(voter, &proposed.id()));
    }
    assert_eq!(leader.view(), 2);
}

/// The genesis block is certified without votes, and nothing else is. [Yin19 §4.1]
#[test]
fn only_the_genesis_block_needs_no_votes() {
    let known = Message::Certified(QuorumCertificate::genesis());
    assert!(verify(0, &known).is_ok());
    let mut other = block(1, &genesis(), &["x"]).id();
    assert!(verify(0, &Message::Certified(forged(&other, &[]))).is_err());
    other.view = View::GENESIS;
    let signed = crate::common::certificate_by(&other, &[0, 1, 2]);
    assert!(verify(0, &Message::Certified(signed)).is_err());
}

/// A certificate counts for its view, height and block only. [Yin19 §4.2]
#[test]
fn a_certificate_counts_for_what_was_signed() {
    let id = block(5, &genesis(), &["x"]).id();
    let good = certificate(&id);
    assert!(verify(0, &Message::Certified(good.clone())).is_ok());
    let signatures = signatures(&good);
    let (mut view, mut height, mut digest) = (id, id, id);
    view.view = View(6);
    height.height = height.height.next();
    digest.digest = genesis().digest;
    for other in [view, height, digest] {
        let error = verify(0, &Message::Certified(forged(&other, &signatures))).unwrap_err();
        assert!(error.reason.contains("not its signer's"), "{error}");
    }
}

/// A certificate that comes with many messages is verified once.
#[test]
fn no_certificate_is_verified_twice() {
    let mut node = Node::of_four(0, &config());
    let first = block(1, &genesis(), &["x"]);
    let checked = |node: &Node| node.context.verifier.checked();
    node.learn(&first.id());
    let before = checked(&node);
    assert!(before >= 3, "2f + 1 signatures are checked");
    for _ in 0..5 {
        node.learn(&first.id());
    }
    assert_eq!(checked(&node), before);
    // A proposal that carries it: its own signature is new, and its client's.
    node.receive(r(2), proposal(&block(2, &first.id(), &["y"])));
    assert_eq!(checked(&node), before + 2);
}

/// A proposal carries the certificate of its parent, of an earlier view, and why its view has
/// begun. [Yin19 §5; Gelashvili21 §4]
#[test]
fn a_proposal_shows_why_its_view_has_begun() {
    let far = block(3, &genesis(), &["x"]);
    assert!(verify(3, &proposal(&far)).is_ok());
    let because = |timeout| verify(3, &proposal_with(&far, timeout));
    assert!(because(None).is_err());
    assert!(because(Some(given_up(1, &genesis()))).is_err());
    let of_another = verify(1, &proposal(&far)).unwrap_err();
    assert!(of_another.reason.contains("signed by its sender"));
    let later = block(1, &block(4, &genesis(), &[]).id(), &["x"]);
    assert!(verify(1, &proposal_with(&later, None)).is_err());
}

/// A time-out certificate carries the highest certificate that its signers speak of.
/// [Gelashvili21 §4]
#[test]
fn a_timeout_certificate_carries_the_highest_certificate_of_its_signers() {
    let high = certificate(&block(1, &genesis(), &["x"]).id());
    let none = certificate(&genesis());
    let shows = [(0, none.clone()), (1, high.clone()), (2, none.clone())];
    let mut certificate = timeout_certificate(2, &shows);
    assert_eq!(certificate.highest, high);
    let message = |certificate| Message::TimedOut(Box::new(certificate));
    assert!(verify(3, &message(certificate.clone())).is_ok());
    certificate.highest = none;
    assert!(verify(3, &message(certificate)).is_err());
}

/// That certificate is one that a quorum has signed, and what the signers speak of is what they
/// have signed. [Gelashvili21 §4]
#[test]
fn nothing_in_a_timeout_certificate_can_be_made_up() {
    let message = |certificate| Message::TimedOut(Box::new(certificate));
    let (one, other) = (block(1, &genesis(), &["x"]), block(1, &genesis(), &["y"]));
    let of_another = forged(&other.id(), &signatures(&certificate(&one.id())));
    let shows = [0, 1, 2].map(|author| (author, of_another.clone()));
    let made_up = timeout_certificate(2, &shows);
    assert!(verify(3, &message(made_up)).is_err());
    // A quorum had a certificate of view 1; without it, they would have had none.
    let good = given_up(2, &one.id());
    assert!(verify(3, &message(good.clone())).is_ok());
    type Shares = Vec<(ReplicaId, TimeoutShare)>;
    let (view, _, mut shares): (View, QuorumCertificate, Shares) = reencoded(&good);
    for (_, share) in &mut shares {
        share.high = View::GENESIS;
    }
    let hidden: TimeoutCertificate = reencoded(&(view, QuorumCertificate::genesis(), shares));
    assert!(verify(3, &message(hidden)).is_err());
}

/// What contradicts an earlier statement is found though later ones have come since: as long as
/// that is of the last 32 views.
#[test]
fn equivocation_in_an_earlier_view_is_found() {
    let [x, y] = ["x", "y"].map(|text| block(1, &genesis(), &[text]));
    for (current, found) in [(5, true), (33, true), (34, false)] {
        let mut node = Node::of_four(0, &config());
        node.receive(r(1), proposal(&x));
        node.receive(r(3), vote(3, &x.id()));
        let later = given_up(current - 1, &genesis());
        node.receive(r(0), Message::TimedOut(Box::new(later)));
        let later = block(current, &genesis(), &[]);
        node.receive(r((current % 4) as u8), proposal(&later));
        node.receive(r(3), vote(3, &later.id()));
        node.receive(r(1), proposal(&y));
        node.receive(r(3), vote(3, &y.id()));
        let found_in = node.protocol.equivocations().iter();
        let who: Vec<_> = found_in.map(|e| (e.by, e.what)).collect();
        let both = [(r(1), Statement::Proposal), (r(3), Statement::Vote)];
        assert_eq!(who == both, found, "{current}: {who:?}");
        assert_eq!(who.is_empty(), !found, "{current}: {who:?}");
    }
}

/// Statements of views far away take no room (`check` counts them), and put no others out.
#[test]
fn statements_of_views_far_away_do_not_hide_an_equivocation() {
    let [x, y] = ["x", "y"].map(|text| block(1, &genesis(), &[text]));
    let mut node = Node::of_four(2, &config());
    node.receive(r(3), vote(3, &x.id()));
    for view in 1..200 {
        let far = block(1_000 * view, &genesis(), &[]);
        node.receive(r(3), vote(3, &far.id()));
    }
    node.receive(r(3), vote(3, &y.id()));
    assert_eq!(node.protocol.equivocations().len(), 1);
}

/// Two blocks signed in one view by one key are evidence, kept once and reported.
#[test]
fn equivocation_is_evidence() {
    let [x, y, z] = ["x", "y", "z"].map(|text| block(1, &genesis(), &[text]));
    let mut node = Node::of_four(2, &config());
    for block in [&x, &y, &z] {
        node.receive(r(1), proposal(block));
        node.receive(r(3), vote(3, &block.id()));
    }
    let found = node.protocol.equivocations();
    let who: Vec<_> = found.iter().map(|e| (e.by, e.what)).collect();
    assert_eq!(who, [(r(1), Statement::Proposal), (r(3), Statement::Vote)]);
    assert_eq!((found[0].first.0, found[0].second.0), (x.id(), y.id()));
    let told = |event: &&Event| matches!(event, Event::Equivocation { .. });
    assert_eq!(node.events.iter().filter(told).count(), 2);
    assert_eq!(votes(&node.take()), [], "its vote went to itself");
}
