//! Which requests are sent, when, and again.

use super::*;
use quorate_core::crypto::{GroupId, SecretKey};

fn openings(asks: &[Ask]) -> Vec<u64> {
    let batches = asks.iter().map(|ask| match ask {
        Ask::Propose(batch) => batch,
        other => panic!("{other:?}"),
    });
    let requests = batches.flat_map(Batch::requests);
    requests
        .map(|request| match request.operation {
            Operation::Open => request.answered,
            _ => panic!("{request:?}"),
        })
        .collect()
}

fn signing() -> Commands {
    let signer = Signer::new(SecretKey::from_seed([1; 32]), GroupId(1));
    let client = signer.public();
    let trust = Trust {
        needed: 2,
        signer: Some(signer),
    };
    Commands::new(SessionId { client, number: 1 }, trust)
}

/// The session may be open by then, and one of two counts that it has signed be later than
/// that.
#[test]
fn a_client_signs_one_count_a_session() {
    let mut commands = signing();
    assert!(commands.unsent().is_empty());
    commands.seen(4);
    commands.seen(5);
    assert_eq!(openings(&commands.unsent()), [5]);
    commands.seen(9);
    commands.renew();
    assert_eq!(openings(&commands.unsent()), [5]);
    let client = commands.session().client;
    commands.reopen(SessionId { client, number: 2 });
    commands.seen(9);
    assert_eq!(openings(&commands.unsent()), [9]);
}

fn answered(commands: &mut Commands, sequence: u64, result: Result<Bytes, ProposeError>) {
    let request = (commands.session().number, sequence);
    assert!(!commands.answer(ReplicaId(0), request, result));
}

fn propose(commands: &mut Commands) -> oneshot::Receiver<Result<Bytes, ProposeError>> {
    let (caller, outcome) = oneshot::channel();
    let deadline = Instant::now() + Duration::from_secs(3600);
    commands.add(What::Apply(Bytes::new()), Caller::Propose(caller), deadline);
    outcome
}

/// Refuses a command, some times before it is sent again, so often, and gives how many
/// milliseconds it waited each time.
async fn refusals(commands: &mut Commands, sequence: u64, times: usize) -> Vec<u128> {
    let mut waits = Vec::new();
    for _ in 0..times {
        assert_eq!(commands.unsent().len(), 1);
        let refused = Instant::now();
        for _ in 0..3 {
            answered(commands, sequence, Err(ProposeError::Overloaded));
        }
        let again = commands.again().unwrap();
        tokio::time::sleep_until(again).await;
        waits.push((again - refused).as_millis());
        commands.ask_again(again);
    }
    waits
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_over_and_over_is_sent_more_and_more_rarely() {
    let client = signing().session().client;
    let trust = Trust {
        needed: 1,
        signer: None,
    };
    let mut commands = Commands::new(SessionId { client, number: 1 }, trust);
    let opening = refusals(&mut commands, OPEN, 3).await;
    assert_eq!(opening, [50, 100, 200]);
    commands.unsent();
    answered(&mut commands, OPEN, Ok(Bytes::new()));
    let (mut first, mut second) = (propose(&mut commands), propose(&mut commands));
    // Both are sent, and sent again: nobody knows whether they were taken the first time.
    commands.unsent();
    commands.renew();
    let waits = refusals(&mut commands, 1, 8).await;
    assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    commands.unsent();
    answered(&mut commands, 1, Ok(Bytes::new()));
    assert!(first.try_recv().is_ok() && second.try_recv().is_err());
    commands.renew();
    assert_eq!(refusals(&mut commands, 2, 2).await, [50, 100]);
}
