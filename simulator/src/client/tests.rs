use super::*;
use rand::SeedableRng as _;

const R: [ReplicaId; 3] = [ReplicaId(0), ReplicaId(1), ReplicaId(2)];

fn opened(client: &Client, answer: Result<Bytes, ProposeError>) -> Told {
    Told::Answer(client.session(), client.sequence, answer)
}

#[test]
fn among_liars_only_what_several_replicas_say_is_believed() {
    let mut client = Client::new(0, (4, 2), 1, 0);
    let yes = opened(&client, Ok(Bytes::new()));
    let no = opened(&client, Err(ProposeError::SessionExpired));
    let other = Told::Answer(session(0, 7), 0, Ok(Bytes::new()));
    assert!(!client.believes(R[0], &yes));
    assert!(!client.believes(R[0], &yes));
    assert!(!client.believes(R[1], &no));
    assert!(!client.believes(R[1], &other));
    assert!(!client.believes(R[2], &other));
    assert!(client.believes(R[2], &yes));
}

#[test]
fn a_replica_without_room_speaks_for_itself_only() {
    let mut client = Client::new(0, (4, 2), 1, 0);
    let full = opened(&client, Err(ProposeError::Overloaded));
    assert!(R.iter().all(|from| !client.believes(*from, &full)));
}

#[test]
fn a_probe_wants_its_own_replica_among_those_it_believes() {
    let mut probe = Client::probe(0, (4, 2), R[2]);
    let yes = opened(&probe, Ok(Bytes::new()));
    assert!(!probe.believes(R[0], &yes));
    assert!(!probe.believes(R[1], &yes));
    assert!(probe.believes(R[2], &yes));
}

#[test]
fn as_many_operations_conflict_as_are_asked_for() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for percent in [0, 2, 50, 100] {
        let mut shared = 0;
        for number in 0..4 {
            let mut client = Client::new(number, (3, 1), 1, 0);
            client.conflicts = Some(percent);
            for _ in 0..2_500 {
                let key = client.draw_key(&mut random);
                shared += u32::from(key == SHARED);
                assert!(key == SHARED || usize::from(key) == number);
            }
        }
        let expected = 100 * percent;
        assert!(shared.abs_diff(expected) <= expected.min(10_000 - expected) / 4);
    }
}

#[test]
fn among_liars_a_request_goes_to_one_replica_first_and_then_to_all() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for (needed, again) in [(1, 1), (2, 4)] {
        let mut client = Client::new(0, (4, needed), 1, 0);
        for count in [1, again] {
            let sent = client.send(&mut random);
            assert!(matches!(sent, Action::Send(to, ..) if to.len() == count));
        }
    }
}

/// Whether a client with one operation has given it up after many tries without an answer.
fn gives_up(insist: bool) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut client, mut records) = (Client::new(0, (3, 1), 1, 0), Records::default());
    client.doing = Doing::Thinking;
    for now in 5..50 {
        if insist {
            client.insist(ReplicaId::all(3).collect());
        }
        client.wake(now, &mut random, &mut records);
        assert!(!insist || client.waits().is_some_and(|(since, _)| since == 5));
    }
    !records.history.is_empty()
}

#[test]
fn an_operation_is_given_up_only_while_there_are_faults() {
    assert!(gives_up(false));
    assert!(!gives_up(true));
}

#[test]
fn a_refusal_ends_an_operation_only_while_there_are_faults() {
    for insist in [false, true] {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let (mut client, mut records) = (Client::new(0, (3, 1), 100, 0), Records::default());
        client.doing = Doing::Thinking;
        while !matches!(client.waits(), Some((_, "a write"))) {
            client.doing = Doing::Thinking;
            client.wake(5, &mut random, &mut records);
        }
        if insist {
            client.insist(ReplicaId::all(3).collect());
        }
        let full = opened(&client, Err(ProposeError::Overloaded));
        client.told(6, (R[0], &full), &mut random, &mut records);
        assert_eq!(client.waits().is_some(), insist);
    }
}

#[test]
fn only_connected_replicas_are_tried_once_the_faults_have_ended() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut client = Client::new(0, (5, 1), 1, 0);
    let mut tried = |client: &mut Client| {
        let sent = (0..60).filter_map(|_| match client.send(&mut random) {
            Action::Send(to, ..) => to.iter().next(),
            _ => None,
        });
        sent.skip(1).collect::<ReplicaSet>()
    };
    assert_eq!(tried(&mut client), ReplicaId::all(5).collect());
    let connected: ReplicaSet = [R[1], ReplicaId(4)].into_iter().collect();
    client.insist(connected);
    assert_eq!(tried(&mut client), connected);
}
