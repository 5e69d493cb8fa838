//! Queries that every replica answers at once.

use quorate_core::session::WINDOW;

use tokio::task::JoinHandle;

use super::*;

impl World {
    /// The number of the query that all four are asked at once.
    async fn peeks(&mut self) -> u64 {
        let (mut asked, mut number) = (ReplicaSet::EMPTY, None);
        while asked.len() < N {
            match self.heard.recv().await.unwrap() {
                (to, Ask::Peek(peek, query)) => {
                    assert_eq!(query, bytes("?"));
                    assert_eq!(*number.get_or_insert(peek), peek);
                    assert!(asked.insert(to));
                }
                (to, Ask::Follow(_)) => self.say(to, &Reply::Opened(0)),
                other => panic!("{other:?}"),
            }
        }
        number.unwrap()
    }

    fn peeked(&self, from: u8, number: u64, at: u64, answer: &str) {
        self.say(r(from), &Reply::Peeked(number, at, bytes(answer)));
    }

    /// The query has to be ordered, and is answered then by three, and not by two.
    async fn is_ordered(&mut self, answer: JoinHandle<Result<Bytes, ReadError>>) {
        let (_, batch) = self.batch().await;
        let asked = batch.requests().last().unwrap().operation;
        assert_eq!(asked, Operation::Query(b"?"));
        self.answer(r(0), &batch, Ok(bytes("ordered")));
        self.answer(r(1), &batch, Ok(bytes("ordered")));
        moment().await;
        assert!(!answer.is_finished());
        self.answer(r(2), &batch, Ok(bytes("ordered")));
        assert_eq!(answer.await.unwrap(), Ok(bytes("ordered")));
    }
}

#[tokio::test(start_paused = true)]
async fn three_equal_answers_at_one_point_suffice() {
    let mut world = World::new(fast_reads());
    let answer = world.read("?");
    let number = world.peeks().await;
    world.peeked(3, number, 7, "a lie");
    world.peeked(0, number, 7, "x");
    world.peeked(1, number, 7, "x");
    // The same one again is not another one, and another query's is none to this.
    world.peeked(1, number, 7, "x");
    world.peeked(2, number + 1, 7, "x");
    moment().await;
    assert!(!answer.is_finished());
    world.peeked(2, number, 7, "x");
    assert_eq!(answer.await.unwrap(), Ok(bytes("x")));
    assert!(world.ask().await.is_none(), "something was ordered");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_caught_up_may_answer_anew() {
    let mut world = World::new(fast_reads());
    let answer = world.read("?");
    let number = world.peeks().await;
    for (from, at) in [(0, 7), (1, 7), (2, 6), (2, 7)] {
        assert!(!answer.is_finished());
        world.peeked(from, number, at, "x");
        moment().await;
    }
    assert_eq!(answer.await.unwrap(), Ok(bytes("x")));
}

#[tokio::test(start_paused = true)]
async fn answers_that_differ_have_the_query_ordered_at_once() {
    let splits = [
        [(7, "x"), (7, "x"), (8, "x"), (8, "x")],
        [(7, "x"), (7, "x"), (7, "y"), (7, "y")],
        [(7, "x"), (8, "x"), (7, "x"), (7, "y")],
    ];
    for split in splits {
        let mut world = World::new(fast_reads());
        let start = Instant::now();
        let answer = world.read("?");
        let number = world.peeks().await;
        for (from, (at, said)) in (0..).zip(split) {
            assert!(!answer.is_finished());
            world.peeked(from, number, at, said);
        }
        world.is_ordered(answer).await;
        assert!(start.elapsed() < fast_reads().patience / PARTS);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_beside_a_lagging_replica_has_the_query_ordered() {
    let mut world = World::new(fast_reads());
    let answer = world.read("?");
    let number = world.peeks().await;
    world.peeked(0, number, 7, "x");
    world.peeked(1, number, 7, "x");
    world.peeked(2, number, 6, "old");
    world.is_ordered(answer).await;
}

#[tokio::test(start_paused = true)]
async fn a_query_is_ordered_in_time_even_if_commands_go_on_being_answered() {
    let mut world = World::new(fast_reads());
    world.opened().await;
    let start = Instant::now();
    let answer = world.read("?");
    let number = world.peeks().await;
    world.peeked(0, number, 7, "x");
    loop {
        let _command = world.propose("+");
        let (_, batch) = world.batch().await;
        tokio::time::sleep(fast_reads().patience / PARTS / 10).await;
        for replica in 0..3 {
            world.answer_all(r(replica), &batch, &bytes("ordered"));
        }
        let mut operations = batch.requests().map(|request| request.operation);
        if operations.any(|operation| operation == Operation::Query(b"?")) {
            break;
        }
        assert!(start.elapsed() < fast_reads().patience, "it is starved");
    }
    assert_eq!(answer.await.unwrap(), Ok(bytes("ordered")));
}

#[tokio::test(start_paused = true)]
async fn more_queries_than_a_session_has_room_for_are_all_answered() {
    let mut world = World::new(fast_reads());
    let answers: Vec<_> = (0..2 * WINDOW).map(|_| world.read("?")).collect();
    let mut answered = 0;
    while answered < 2 * WINDOW {
        let mut batches = vec![world.batch().await.1];
        while let Some((_, ask)) = world.ask().await {
            if let Ask::Propose(batch) = ask {
                batches.push(batch);
            }
        }
        let requests = batches.iter().flat_map(Batch::requests);
        let highest = requests.map(|request| request.sequence).max().unwrap();
        assert!(highest - answered <= WINDOW);
        for (replica, batch) in (0..3).flat_map(|r| batches.iter().map(move |b| (r, b))) {
            world.answer_all(r(replica), batch, &bytes("ordered"));
        }
        answered = highest;
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap(), Ok(bytes("ordered")));
    }
}

#[tokio::test(start_paused = true)]
async fn commands_need_three_equal_answers() {
    let mut world = World::new(fast_reads());
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    world.answer(r(0), &batch, Ok(bytes("1")));
    world.answer(r(1), &batch, Ok(bytes("1")));
    world.answer(r(3), &batch, Ok(bytes("a lie")));
    moment().await;
    assert!(!answer.is_finished());
    world.answer(r(2), &batch, Ok(bytes("1")));
    assert_eq!(answer.await.unwrap(), Ok(bytes("1")));
}
