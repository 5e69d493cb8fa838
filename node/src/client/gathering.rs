//! Calls that come together are sent together.

use tokio::sync::mpsc;

use super::Call;

/// How many calls, or news, are taken at a time.
pub(super) const TURN: usize = 256;

/// How often all tasks that are ready run before what has come is sent: callers that were answered
/// together call again together, and share a frame, a datagram and, where they need one, a
/// signature. `docs/performance.md` has what it brings.
const YIELDS: usize = 4;

/// Lets all tasks that are ready run, and adds the calls that they have brought, up to a turn's.
pub(super) async fn gather(calls: &mut mpsc::Receiver<Call>, gathered: &mut Vec<Call>) {
    for _ in 0..YIELDS {
        tokio::task::yield_now().await;
    }
    while gathered.len() < TURN
        && let Ok(call) = calls.try_recv()
    {
        gathered.push(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn calls_of_tasks_that_are_ready_go_with_the_one_that_came() {
        let (caller, mut calls) = mpsc::channel(TURN);
        let call = || Call::Propose(Bytes::new(), oneshot::channel().0);
        for _ in 0..2 {
            let caller = caller.clone();
            tokio::spawn(async move { caller.send(call()).await });
        }
        let mut gathered = vec![call()];
        gather(&mut calls, &mut gathered).await;
        assert_eq!(gathered.len(), 3);
    }

    #[tokio::test]
    async fn no_more_calls_are_gathered_than_make_a_turn() {
        let (caller, mut calls) = mpsc::channel(2 * TURN);
        for _ in 0..TURN + 1 {
            let call = Call::Propose(Bytes::new(), oneshot::channel().0);
            assert!(caller.try_send(call).is_ok());
        }
        let mut gathered = Vec::new();
        gather(&mut calls, &mut gathered).await;
        assert_eq!((gathered.len(), calls.len()), (TURN, 1));
    }
}
