use super::*;
use crate::crypto::{Admission, GroupId, Members, SecretKey};

fn session(n: u8) -> SessionId {
    SessionId {
        client: PublicKey([n; 32]),
        number: u64::from(n),
    }
}

fn request(n: u8, sequence: u64, operation: Operation<'_>) -> Request<'_> {
    Request {
        session: session(n),
        sequence,
        answered: sequence / 2,
        operation,
    }
}

fn sample() -> (Vec<Request<'static>>, Batch) {
    let requests = vec![
        request(1, 1, Operation::Open),
        request(1, 2, Operation::Apply(b"put")),
        request(2, 9, Operation::Query(b"")),
        request(1, 3, Operation::Apply(b"")),
    ];
    let mut builder = BatchBuilder::default();
    for request in &requests {
        builder.push(*request);
    }
    (requests, builder.finish())
}

#[test]
fn a_batch_gives_back_its_requests() {
    let (requests, batch) = sample();
    assert_eq!(batch.len(), 4);
    assert_eq!(batch.requests().collect::<Vec<_>>(), requests);
    let parsed = Batch::parse(batch.bytes().clone()).unwrap();
    assert_eq!(parsed, batch);
}

#[test]
fn requests_of_one_session_share_a_header() {
    let mut builder = BatchBuilder::default();
    builder.push(request(1, 1, Operation::Apply(b"x")));
    let one = builder.size();
    builder.push(request(1, 2, Operation::Apply(b"x")));
    assert_eq!(builder.size() - one, one - GROUP_HEADER);
}

#[test]
fn no_truncation_and_no_changed_tag_parses_as_the_same_batch() {
    let (_, batch) = sample();
    for cut in 1..batch.size() {
        let parsed = Batch::parse(batch.bytes().slice(..cut));
        assert!(parsed.is_err() || parsed.unwrap().len() < 4);
    }
    let mut bytes = batch.bytes().to_vec();
    bytes[GROUP_HEADER + 16] = 9;
    assert!(Batch::parse(bytes.into()).is_err());
}

fn client() -> Signer {
    Signer::new(SecretKey::from_seed([9; 32]), GroupId(1))
}

fn signed() -> Batch {
    let session = SessionId {
        client: client().public(),
        number: 4,
    };
    let mut builder = BatchBuilder::default();
    for sequence in 1..=3 {
        builder.push(Request {
            session,
            sequence,
            answered: 1,
            operation: Operation::Apply(b"put"),
        });
    }
    builder.finish().signed(&client())
}

fn verifier(admission: Admission) -> Verifier {
    let replica = SecretKey::from_seed([1; 32]).public();
    Verifier::new(Members::new(GroupId(1), [replica])).admitting(admission)
}

#[test]
fn one_signature_covers_a_group_and_survives_another_batch() {
    let batch = signed();
    assert_eq!(client().made(), 0);
    assert_eq!(Batch::parse(batch.bytes().clone()).unwrap(), batch);
    assert_eq!(
        batch.requests().map(|r| r.sequence).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let mut builder = BatchBuilder::default();
    builder.push_group(&batch.groups().next().unwrap());
    builder.push_group(&batch.groups().next().unwrap());
    let twice = builder.finish();
    assert_eq!((twice.len(), twice.groups().count()), (6, 2));
    let verifier = verifier(Admission::of([client().public()]));
    assert_eq!(twice.verify(&verifier), Ok(()));
    assert_eq!(verifier.checked(), 2);
}

#[test]
fn nothing_in_a_signed_group_can_be_changed() {
    let (batch, verifier) = (signed(), verifier(Admission::Anyone));
    for at in 0..batch.size() {
        let mut bytes = batch.bytes().to_vec();
        bytes[at] ^= 1;
        let changed = Batch::parse(bytes.into()).map(|batch| batch.verify(&verifier));
        assert!(!matches!(changed, Ok(Ok(()))), "byte {at}");
    }
}

#[test]
fn only_admitted_clients_command_and_replicas_only_ask() {
    let stranger = verifier(Admission::nobody());
    assert_eq!(signed().verify(&stranger), Err(Forged::NotAdmitted));
    let (_, unsigned) = sample();
    let open = verifier(Admission::Anyone);
    assert_eq!(unsigned.verify(&open), Err(Forged::NotSigned));
    let replica = Signer::new(SecretKey::from_seed([1; 32]), GroupId(1));
    let of_replica = |operation| {
        let session = SessionId {
            client: replica.public(),
            number: 1,
        };
        let request = Request {
            session,
            ..request(1, 1, operation)
        };
        Batch::of_one(request).signed(&replica).verify(&stranger)
    };
    assert_eq!(of_replica(Operation::Query(b"q")), Ok(()));
    assert_eq!(of_replica(Operation::Apply(b"c")), Err(Forged::NotAdmitted));
}

#[test]
fn an_empty_group_is_refused() {
    assert!(Batch::parse(Bytes::from(vec![0; GROUP_HEADER])).is_err());
    assert!(Batch::parse(Bytes::new()).unwrap().is_empty());
}
