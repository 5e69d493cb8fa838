//! When something is asked again, and of whom.

use super::*;

/// The time until all are asked, in milliseconds.
fn first_wait() -> u128 {
    (options().patience / PARTS).as_millis()
}

impl World {
    /// Waits until every replica has been asked something, and gives for how many milliseconds,
    /// and how often the first of them was asked meanwhile.
    async fn asked_of_all(&mut self) -> (u128, usize) {
        let start = Instant::now();
        let (mut asked, mut of_first) = (ReplicaSet::EMPTY, 0);
        while asked.len() < N {
            let (to, _) = self.batch().await;
            asked.insert(to);
            of_first += usize::from(to == r(0));
        }
        while self.heard.try_recv().is_ok() {}
        (start.elapsed().as_millis(), of_first)
    }
}

#[tokio::test(start_paused = true)]
async fn that_replicas_are_overloaded_does_not_have_anything_sent_again_sooner() {
    for liars in 0..=3 {
        let mut world = World::new(options());
        world.opened().await;
        let answer = world.propose("+");
        let (_, batch) = world.batch().await;
        for liar in 0..liars {
            world.answer(r(liar), &batch, Err(ProposeError::Overloaded));
        }
        assert_eq!(world.asked_of_all().await, (first_wait(), 1), "{liars}");
        world.believed(answer, &batch).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_whoever_is_overloaded_at_first() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let opening = loop {
        match world.heard.recv().await.unwrap() {
            (to, Ask::Follow(_)) => world.say(to, &Reply::Opened(0)),
            (_, Ask::Propose(batch)) => break batch,
            other => panic!("{other:?}"),
        }
    };
    for replica in [r(0), r(3)] {
        world.answer(replica, &opening, Err(ProposeError::Overloaded));
    }
    let (_, batch) = world.batch().await;
    world.believed(answer, &batch).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_asked_of_all_more_and_more_rarely() {
    let options = ClientOptions {
        timeout: Duration::from_secs(60),
        ..options()
    };
    let mut world = World::new(options);
    world.opened().await;
    let answer = world.propose("a");
    let (_, batch) = world.batch().await;
    let mut waits = Vec::new();
    for _ in 0..6 {
        waits.push(world.asked_of_all().await.0);
        world.answer(r(0), &batch, Err(ProposeError::Overloaded));
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 2000, 2000]);
    let next = world.propose("b");
    world.batch().await;
    world.believed(answer, &batch).await;
    assert_eq!(world.asked_of_all().await.0, first_wait());
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_the_primary_passes_over_is_asked_of_all_whatever_else_is_answered() {
    let mut world = World::new(options());
    world.opened().await;
    let passed_over = world.propose("a");
    let (_, first) = world.batch().await;
    world.answer(r(0), &first, Err(ProposeError::Overloaded));
    let start = Instant::now();
    let mut asked = ReplicaSet::EMPTY;
    for command in 0.. {
        let answer = world.propose(&command.to_string());
        let (to, batch) = world.batch().await;
        asked.insert(to);
        world.believed(answer, &batch).await;
        // Not a part of the time after which all are asked: that is to be heard here.
        tokio::time::sleep(Duration::from_millis(7)).await;
        while let Ok((to, _)) = world.heard.try_recv() {
            asked.insert(to);
        }
        if asked.len() == N {
            break;
        }
        assert!(start.elapsed() < options().timeout, "never");
    }
    world.believed(passed_over, &first).await;
}
