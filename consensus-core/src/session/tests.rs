//! The table of sessions.

use super::*;
use crate::request::Operation;

fn id(number: u64) -> SessionId {
    SessionId {
        client: PublicKey([1; 32]),
        number,
    }
}

fn answer(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn execute(sessions: &mut Sessions, number: u64, sequence: u64, answered: u64, text: &'static str) {
    let request = Request {
        session: id(number),
        sequence,
        answered,
        operation: Operation::Apply(b""),
    };
    assert_eq!(
        sessions.execute(&request, || answer(text)),
        Ok(answer(text))
    );
    let again = sessions.execute(&request, || answer("again"));
    assert_ne!(again, Ok(answer("again")), "{request:?}");
}

#[test]
fn a_request_is_new_once() {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.standing(id(1), 1), Standing::Expired);
    assert!(sessions.open(id(1), 0));
    assert_eq!(sessions.standing(id(1), 1), Standing::New);
    execute(&mut sessions, 1, 1, 0, "one");
    assert!(sessions.open(id(1), 0));
    assert_eq!(
        sessions.standing(id(1), 1),
        Standing::Executed(answer("one"))
    );
}

#[test]
fn order_inside_the_window_does_not_matter() {
    let run = |order: [(u64, u64); 3]| {
        let mut sessions = Sessions::default();
        assert!(sessions.open(id(1), 0));
        for (sequence, answered) in order {
            execute(&mut sessions, 1, sequence, answered, "x");
        }
        sessions
    };
    let one = run([(1, 0), (2, 1), (3, 2)]);
    assert_eq!(one, run([(3, 2), (1, 0), (2, 1)]));
    assert_eq!(one.standing(id(1), 1), Standing::Dropped);
    assert_eq!(one.standing(id(1), 2), Standing::Executed(answer("x")));
}

#[test]
fn answers_are_kept_for_a_window() {
    let mut sessions = Sessions::default();
    assert!(sessions.open(id(1), 0));
    for sequence in 1..=WINDOW + 10 {
        execute(&mut sessions, 1, sequence, 0, "x");
    }
    assert_eq!(sessions.standing(id(1), 10), Standing::Dropped);
    assert_eq!(
        sessions.standing(id(1), 11),
        Standing::Executed(answer("x"))
    );
}

#[test]
fn answers_that_are_too_large_are_dropped_in_any_order_alike() {
    let large = Bytes::from(vec![b'x'; ANSWER_BYTES / 2 + 1]);
    let run = |order: [u64; 3]| {
        let mut sessions = Sessions::default();
        assert!(sessions.open(id(1), 0));
        for sequence in order {
            let request = Request {
                session: id(1),
                sequence,
                answered: 0,
                operation: Operation::Apply(b""),
            };
            let answer = if sequence == 1 {
                answer("x")
            } else {
                large.clone()
            };
            assert_eq!(sessions.execute(&request, || answer.clone()), Ok(answer));
        }
        sessions
    };
    let one = run([1, 2, 3]);
    for order in [[1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        assert_eq!(one, run(order), "{order:?}");
    }
    assert_eq!(one.standing(id(1), 1), Standing::Dropped);
    assert_eq!(one.standing(id(1), 2), Standing::Dropped);
    assert_eq!(one.standing(id(1), 3), Standing::Executed(large));
}

fn of(client: u8, number: u64) -> SessionId {
    SessionId {
        client: PublicKey([client; 32]),
        number,
    }
}

fn request(session: SessionId, sequence: u64) -> Request<'static> {
    Request {
        session,
        sequence,
        answered: 0,
        operation: Operation::Apply(b""),
    }
}

fn open(sessions: &mut Sessions, session: SessionId) {
    assert!(sessions.open(session, sessions.opened()), "{session:?}");
}

#[test]
fn the_session_that_its_client_has_not_used_for_longest_is_forgotten() {
    let mut sessions = Sessions::default();
    let most = SESSIONS_PER_CLIENT as u64;
    for number in 0..most {
        open(&mut sessions, id(number));
    }
    execute(&mut sessions, 0, 1, 0, "x");
    open(&mut sessions, id(u64::MAX));
    assert_eq!(sessions.len(), SESSIONS_PER_CLIENT);
    assert_eq!(sessions.standing(id(1), 1), Standing::Expired);
    assert_ne!(sessions.standing(id(0), 2), Standing::Expired);
}

#[test]
fn a_client_that_opens_sessions_without_end_has_none_of_another_forgotten() {
    let mut sessions = Sessions::default();
    open(&mut sessions, of(1, 0));
    let seen = sessions.opened();
    for number in 0..2 * MAX_SESSIONS as u64 {
        open(&mut sessions, of(2, number));
    }
    assert_eq!(sessions.len(), SESSIONS_PER_CLIENT + 1);
    assert_eq!(sessions.standing(of(1, 0), 1), Standing::New);
    // Nor does it have the opening of another, under way for long, come too late.
    assert!(sessions.open(of(3, 0), seen));
}

#[test]
fn where_there_are_too_many_the_client_with_the_most_has_one_forgotten() {
    let mut sessions = Sessions::default();
    let each = SESSIONS_PER_CLIENT as u64;
    for client in 1..=3 {
        (0..each).for_each(|number| open(&mut sessions, of(client, number)));
    }
    for number in 0..each {
        open(&mut sessions, of(4 + (number % 8) as u8, number));
    }
    assert_eq!(sessions.len(), MAX_SESSIONS);
    open(&mut sessions, of(100, 0));
    open(&mut sessions, of(101, 0));
    assert_eq!(sessions.len(), MAX_SESSIONS);
    let kept = |client| sessions.clients[&PublicKey([client; 32])].sessions as u64;
    assert_eq!((kept(1), kept(2), kept(3)), (each, each - 1, each - 1));
    assert_eq!((kept(4), kept(100), kept(101)), (each / 8, 1, 1));
}

#[test]
fn a_late_copy_of_an_opening_does_not_bring_a_forgotten_session_back() {
    let mut sessions = Sessions::default();
    assert!(sessions.open(id(0), 0));
    execute(&mut sessions, 0, 1, 0, "x");
    for number in 1..=SESSIONS_PER_CLIENT as u64 {
        open(&mut sessions, id(number));
    }
    assert_eq!(sessions.standing(id(0), 1), Standing::Expired);
    assert!(!sessions.open(id(0), 0));
    assert_eq!(sessions.standing(id(0), 1), Standing::Expired);
    open(&mut sessions, id(u64::MAX));
}

#[test]
fn a_closed_session_is_not_opened_again_by_a_late_copy_and_keeps_nothing() {
    let mut sessions = Sessions::default();
    assert!(sessions.open(id(0), 0));
    execute(&mut sessions, 0, 1, 0, "x");
    sessions.close(id(0));
    assert_eq!(sessions.answer_bytes(), 0);
    for number in 1..=2 * SESSIONS_PER_CLIENT as u64 {
        assert!(!sessions.open(id(0), 0));
        assert_eq!(sessions.standing(id(0), 1), Standing::Expired);
        open(&mut sessions, id(number));
    }
    sessions.close(id(0));
    assert_eq!(sessions.standing(id(0), 1), Standing::Expired);
}

/// The opening of one is under way while others of the same client come and go.
#[test]
fn closing_sessions_does_not_have_the_opening_of_another_come_too_late() {
    let mut sessions = Sessions::default();
    let seen = sessions.opened();
    for number in 0..SESSIONS_PER_CLIENT as u64 {
        open(&mut sessions, id(number));
        sessions.close(id(number));
    }
    assert!(sessions.open(id(u64::MAX), seen));
}

fn query(sessions: &mut Sessions, sequence: u64, answered: u64) -> Result<Bytes, Standing> {
    let query = Request {
        operation: Operation::Query(b""),
        answered,
        ..request(id(1), sequence)
    };
    sessions.query(&query, || Bytes::from(vec![b'x'; ANSWER_BYTES]))
}

#[test]
fn a_query_is_answered_again_while_its_client_may_wait_and_its_answer_is_not_kept() {
    let mut sessions = Sessions::default();
    assert!(sessions.open(id(1), 0));
    for _ in 0..3 {
        assert_eq!(sessions.query_standing(id(1), 5), Standing::New);
        assert!(query(&mut sessions, 5, 5).is_ok());
    }
    assert_eq!(sessions.answer_bytes(), 0);
    // It does not let a command pass for new that has its number.
    assert_eq!(sessions.standing(id(1), 5), Standing::Dropped);
    execute(&mut sessions, 1, 6, 6, "x");
    assert_eq!(query(&mut sessions, 5, 5), Err(Standing::Dropped));
    assert_eq!(sessions.query_standing(id(1), 5), Standing::Dropped);
    let far = 7 + WINDOW;
    assert!(query(&mut sessions, far, 6).is_ok());
    assert_eq!(query(&mut sessions, 7, 6), Err(Standing::Dropped));
    assert!(query(&mut sessions, 8, 6).is_ok());
    assert_eq!(
        sessions.query(&request(id(2), 1), Bytes::new),
        Err(Standing::Expired)
    );
}

#[test]
fn all_answers_together_are_bounded_whatever_the_order_between_two_openings() {
    let large = Bytes::from(vec![b'x'; 3 << 18]);
    let count = 4 * ALL_ANSWER_BYTES as u64 / ANSWER_BYTES as u64;
    let run = |from: &dyn Fn(u64) -> u64| {
        let mut sessions = Sessions::default();
        for number in 0..count {
            open(&mut sessions, id(number));
            for sequence in 1..=2 {
                let answer = || large.slice(..large.len() >> sequence);
                sessions
                    .execute(&request(id(number), sequence), answer)
                    .unwrap();
            }
            assert!(sessions.answer_bytes() <= ALL_ANSWER_BYTES);
        }
        for number in 0..count {
            let small = || Bytes::from_static(b"x");
            sessions
                .execute(&request(id(from(number)), 3), small)
                .unwrap();
        }
        sessions
    };
    let one = run(&|number| number);
    assert!(one.answer_bytes() <= ALL_ANSWER_BYTES);
    assert!(one == run(&|number| count - 1 - number));
    // Each keeps its share: the last answer, and what else there is room for.
    assert_eq!(one.standing(id(0), 3), Standing::Executed(answer("x")));
    assert_eq!(one.standing(id(0), 1), Standing::Dropped);
}

#[test]
fn an_answer_larger_than_a_share_is_not_kept() {
    let mut sessions = Sessions::default();
    assert!(sessions.open(id(1), 0));
    let with = |bytes: usize| move || Bytes::from(vec![b'x'; bytes]);
    let most = ANSWER_BYTES - ANSWER_OVERHEAD;
    sessions.execute(&request(id(1), 1), with(most)).unwrap();
    assert_eq!(sessions.answer_bytes(), ANSWER_BYTES);
    sessions
        .execute(&request(id(1), 2), with(most + 1))
        .unwrap();
    assert_eq!(sessions.answer_bytes(), 0);
    assert_eq!(sessions.standing(id(1), 2), Standing::Dropped);
}

/// A query may be executed after a command that says that its client has the answer: at a replica
/// that executes in another order, where order is free.
#[test]
fn in_which_order_queries_and_commands_are_executed_does_not_matter() {
    let run = |query_first: bool, answered: u64| {
        let mut sessions = Sessions::default();
        assert!(sessions.open(id(1), 0));
        (1..5).for_each(|sequence| execute(&mut sessions, 1, sequence, 0, "x"));
        let ask = |sessions: &mut Sessions| drop(query(sessions, 5, 0));
        if query_first {
            ask(&mut sessions);
        }
        execute(&mut sessions, 1, answered, answered, "x");
        if !query_first {
            ask(&mut sessions);
        }
        sessions
    };
    for answered in [6, 4 + WINDOW, 5 + WINDOW, 6 + WINDOW] {
        assert!(run(true, answered) == run(false, answered), "{answered}");
    }
}

/// Who is forgotten next is known without looking through the table, and is the one that a look
/// through it finds, after a restart too.
#[test]
fn who_is_forgotten_next_follows_from_the_table() {
    let mut sessions = Sessions::default();
    let client = |n: u64| PublicKey([n as u8; 32]);
    let oldest = |sessions: &Sessions, client| {
        let own = sessions.table.iter().filter(|(id, _)| id.client == client);
        own.min_by_key(|(id, s)| (!s.closed, s.used, **id))
            .map(|(id, _)| *id)
    };
    for step in 0..3_000 {
        let (client, number) = (client(step * step % 5), step % 11);
        let id = SessionId { client, number };
        match step * 7 % 4 {
            0 => sessions.close(id),
            1 => sessions.forget_one_of(client),
            2 => drop(sessions.open(id, sessions.opened())),
            _ => drop(sessions.execute(&request(id, step), Bytes::new)),
        }
        assert_eq!(sessions.ages, Ages::of(&sessions.table, &sessions.clients));
        assert_eq!(sessions.ages.oldest_of(client), oldest(&sessions, client));
        let most = sessions.clients.iter();
        let most = most.max_by_key(|(key, c)| (c.sessions, **key));
        assert_eq!(sessions.ages.of_the_most(), most.map(|(key, _)| *key));
    }
    let written = crate::codec::encode(&sessions).unwrap();
    let read: Sessions = crate::codec::decode("sessions", &written).unwrap();
    assert!(read == sessions && !sessions.is_empty());
}
