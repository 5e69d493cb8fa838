//! What is relayed as proof: nothing counts but what a quorum has signed. [Castro99 §4.2, §4.4]

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::Invalid;
use quorate_pbft::{Message, PreparedCertificate, View, ViewChange};

use crate::common::{
    checkpoint, checkpoint_certificate, digest_of, new_view, prepare, prepare_signature, prepared,
    prepared_with, proposal, proposal_by, r, signer, verify, view_change,
};

fn shown(certificate: PreparedCertificate) -> Result<(), Invalid> {
    verify(
        2,
        &Message::ViewChange(view_change(2, 2, vec![certificate])),
    )
}

/// "A prepared certificate: a valid pre-prepare message and 2f matching, valid prepare messages
/// signed by different backups with the same view, sequence number, and digest." [§4.4]
#[test]
fn a_prepared_certificate_needs_the_primary_and_2f_different_backups() {
    assert!(shown(prepared(0, 1, "x", &[1, 2])).is_ok());
    assert!(shown(prepared(1, 1, "x", &[0, 3])).is_ok());
    let refused = |certificate, why: &str| {
        let error = shown(certificate).unwrap_err();
        assert!(error.reason.contains(why), "{error}");
    };
    refused(prepared(0, 1, "x", &[1]), "signatures of a quorum");
    refused(prepared(0, 1, "x", &[1, 2, 3]), "signatures of a quorum");
    refused(prepared(0, 1, "x", &[1, 1]), "twice");
    refused(prepared(0, 1, "x", &[2, 1]), "twice");
    refused(prepared(0, 1, "x", &[0, 1]), "twice");
    refused(prepared(0, 1, "x", &[1, 9]), "not signed");
}

/// Signatures from another view, slot, digest or kind of message prove nothing.
#[test]
fn signatures_cannot_be_transplanted() {
    let digest = digest_of(1, "x");
    let with = |view, slot, digest: &Digest| {
        let sign = |author| (r(author), prepare_signature(author, view, slot, digest));
        prepared_with(proposal(0, 1, digest_of(1, "x")), vec![sign(1), sign(2)])
    };
    assert!(shown(with(0, 1, &digest)).is_ok());
    assert!(shown(with(1, 1, &digest)).is_err());
    assert!(shown(with(0, 2, &digest)).is_err());
    assert!(shown(with(0, 1, &digest_of(1, "y"))).is_err());
    let as_prepare = proposal(0, 1, digest).signature;
    let good = prepare_signature(2, 0, 1, &digest);
    let certificate = prepared_with(
        proposal(0, 1, digest),
        vec![(r(1), as_prepare), (r(2), good)],
    );
    assert!(shown(certificate).is_err());
    let impostor = prepared_with(
        proposal_by(1, 0, 1, digest),
        vec![(r(1), prepare_signature(1, 0, 1, &digest)), (r(2), good)],
    );
    assert!(shown(impostor).is_err());
}

/// A vote counts for who is at the other end of the connection, and for nobody else.
#[test]
fn a_vote_is_bound_to_its_sender() {
    assert!(verify(1, &prepare(1, 0, 1, "x")).is_ok());
    assert!(verify(2, &prepare(1, 0, 1, "x")).is_err());
    let vote = checkpoint(1, 4, Digest::of(b"state"));
    assert!(verify(1, &Message::Checkpoint(vote.clone())).is_ok());
    assert!(verify(3, &Message::Checkpoint(vote)).is_err());
    let change = view_change(1, 1, vec![]);
    assert!(verify(1, &Message::ViewChange(change.clone())).is_ok());
    assert!(verify(2, &Message::ViewChange(change)).is_err());
}

/// A certificate for a stable checkpoint has 2f + 1 signers. [§4.3]
#[test]
fn a_checkpoint_certificate_needs_2f_plus_1_signers() {
    let digest = Digest::of(b"state");
    let stable = |authors: &[u8]| {
        verify(
            2,
            &Message::Stable(checkpoint_certificate(4, digest, authors)),
        )
    };
    assert!(stable(&[0, 1, 2]).is_ok());
    assert!(stable(&[1, 2, 3]).is_ok());
    for authors in [
        &[][..],
        &[0, 1],
        &[0, 0, 1],
        &[0, 1, 7],
        &[0, 1, 2, 3],
        &[2, 1, 0],
    ] {
        assert!(stable(authors).is_err(), "{authors:?}");
    }
}

/// A view change shows each slot once, in a view before its own, after its checkpoint. [§4.4]
#[test]
fn a_view_change_is_in_order() {
    let shows =
        |view, certificates| verify(2, &Message::ViewChange(view_change(2, view, certificates)));
    let (one, two) = (prepared(0, 1, "x", &[1, 2]), prepared(0, 2, "y", &[1, 2]));
    assert!(shows(1, vec![one.clone(), two.clone()]).is_ok());
    assert!(shows(1, vec![two.clone(), one.clone()]).is_err());
    assert!(shows(1, vec![one.clone(), one.clone()]).is_err());
    assert!(shows(0, vec![one.clone()]).is_err(), "of its own view");
    let stable = checkpoint_certificate(4, Digest::of(b"state"), &[0, 1, 2]);
    let below = ViewChange::signed(&signer(2), (View(1), r(2)), Some(stable), vec![two]);
    assert!(
        verify(2, &Message::ViewChange(below)).is_err(),
        "slot 2 is in the checkpoint"
    );
    let mut altered = view_change(2, 1, vec![one]);
    altered.prepared.clear();
    assert!(
        verify(2, &Message::ViewChange(altered)).is_err(),
        "something was taken out"
    );
}

/// "One bad certificate": whoever shows it is not heard; what others show still counts. [§4.4]
#[test]
fn a_bad_certificate_spoils_only_the_view_change_that_shows_it() {
    let bad = prepared(1, 1, "y", &[3]);
    let good = prepared(0, 1, "x", &[1, 2]);
    let change = view_change(3, 2, vec![bad.clone()]);
    assert!(verify(3, &Message::ViewChange(change)).is_err());
    let changes = |third| {
        vec![
            view_change(0, 2, vec![]),
            view_change(1, 2, vec![good.clone()]),
            third,
        ]
    };
    let digests = [digest_of(1, "x")];
    let spoilt = new_view(2, changes(view_change(3, 2, vec![bad])), &digests);
    assert!(verify(2, &Message::NewView(Box::new(spoilt))).is_err());
    let sound = new_view(2, changes(view_change(2, 2, vec![])), &digests);
    assert!(verify(2, &Message::NewView(Box::new(sound))).is_ok());
}

/// "2f + 1 valid view-change messages for view v + 1", from different replicas. [§4.4]
#[test]
fn a_new_view_has_the_view_changes_of_a_quorum() {
    let of = |view, senders: &[(u8, u64)]| {
        let changes = senders
            .iter()
            .map(|(from, for_view)| view_change(*from, *for_view, vec![]));
        let new_view = new_view(view, changes.collect(), &[]);
        verify(3, &Message::NewView(Box::new(new_view)))
    };
    assert!(of(1, &[(0, 1), (1, 1), (2, 1)]).is_ok());
    assert!(of(1, &[(0, 1), (1, 1)]).is_err(), "short of one");
    assert!(of(1, &[(0, 1), (1, 1), (1, 1)]).is_err(), "one twice");
    assert!(
        of(1, &[(0, 1), (1, 1), (2, 2)]).is_err(),
        "one for another view"
    );
    assert!(of(1, &[(0, 1), (1, 1), (9, 1)]).is_err(), "a stranger's");
}

/// A new view, and each pre-prepare in it, has the signature of the view's primary. [§4.4]
#[test]
fn a_new_view_is_its_primarys() {
    let changes: Vec<ViewChange> = (0..3).map(|from| view_change(from, 1, vec![])).collect();
    let by = |author: u8, proposer: u8| {
        let proposals = vec![proposal_by(proposer, 1, 1, digest_of(1, "x"))];
        let view = View(1);
        let new_view =
            quorate_pbft::NewView::signed(&signer(author), view, changes.clone(), proposals);
        verify(3, &Message::NewView(Box::new(new_view)))
    };
    assert!(by(1, 1).is_ok());
    assert!(by(3, 1).is_err());
    assert!(by(1, 3).is_err());
}

/// Numbers that would overflow are refused at the door.
#[test]
fn views_and_slots_out_of_reach_are_refused() {
    let far = Message::Commit {
        view: View(1),
        votes: vec![(Slot(u64::MAX), digest_of(1, "x"))],
    };
    assert!(verify(1, &far).is_err());
    assert!(
        verify(
            1,
            &Message::ViewChange(view_change(1, u64::MAX / 2, vec![]))
        )
        .is_err()
    );
    let status = quorate_pbft::Status {
        view: View(0),
        active: true,
        stable: Slot(0),
        executed: Slot(0),
        complete: Slot(0),
        view_changes: vec![View(0); 3],
    };
    assert!(
        verify(1, &Message::Status(status)).is_err(),
        "of three replicas"
    );
    assert_eq!(ReplicaId(1), r(1));
}
