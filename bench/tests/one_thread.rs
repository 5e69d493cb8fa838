//! The clusters that the benches measure do what they are measured for.

use quorate_bench::{Bare, ByValue, Driven, Enclosure, Host, Load, OneThread, Sealed};
use quorate_core::crypto::GroupId;
use quorate_core::protocol::FaultModel;
use quorate_core::replica::Settings;
use quorate_core::wire::Envelope;
use quorate_raft::{Config, Message, Raft};

const BATCHES: u64 = 20;
const BATCH: u64 = 64;

/// All has been executed where it was proposed; the others learn of the last batch's commit with
/// the next.
fn assert_executed<H: Host>(cluster: &OneThread<H>) {
    assert_eq!(cluster.proposer().executed(), BATCHES * BATCH);
    for host in cluster.hosts() {
        assert!(host.executed() >= (BATCHES - 1) * BATCH);
        assert!(host.executed() <= BATCHES * BATCH);
    }
}

fn bare(snapshot_every: u64) -> OneThread<Bare<Raft>> {
    let mut load = Load::new(1, BATCH, 128, FaultModel::Crash);
    let mut cluster = OneThread::bare(&Config::default(), snapshot_every);
    for _ in 0..BATCHES {
        cluster.commit([load.batch(BATCH as usize)]);
    }
    cluster
}

#[test]
fn bare_replicas_commit_what_is_proposed() {
    assert_executed(&bare(u64::MAX));
}

#[test]
fn bare_replicas_commit_across_snapshots() {
    assert_executed(&bare(20_000));
}

#[test]
fn bare_replicas_commit_several_batches_of_a_turn() {
    let mut load = Load::new(1, BATCH, 128, FaultModel::Crash);
    let mut cluster: OneThread<Bare<Raft>> = OneThread::bare(&Config::default(), u64::MAX);
    for _ in 0..BATCHES {
        let batches: Vec<_> = (0..BATCH).map(|_| load.batch(1)).collect();
        cluster.commit(batches);
    }
    assert_executed(&cluster);
}

fn driven<E: Enclosure<Message> + Clone>(
    enclosure: &E,
    settings: &Settings,
) -> OneThread<Driven<Raft, E>> {
    let mut load = Load::new(3, BATCH, 128, FaultModel::Crash);
    let mut cluster = OneThread::driven(&Config::default(), settings, enclosure);
    let opens = load.sessions();
    cluster.commit(&mut load, opens);
    for _ in 0..BATCHES {
        cluster.commit(&mut load, BATCH as usize);
    }
    let opened = opens as u64;
    assert_eq!(cluster.proposer().answered(), BATCHES * BATCH + opened);
    cluster
}

fn sealed() -> Sealed {
    Sealed(Envelope::new(GroupId(1), 0))
}

#[test]
fn driven_replicas_execute_and_answer_what_is_proposed() {
    assert_executed(&driven(&ByValue, &Settings::default()));
    assert_executed(&driven(&sealed(), &Settings::default()));
}

#[test]
fn driven_replicas_execute_across_snapshots() {
    let settings = Settings {
        snapshot_every_bytes: 20_000,
        ..Settings::default()
    };
    assert_executed(&driven(&sealed(), &settings));
}

#[test]
fn frames_change_nothing_but_their_count_in_bytes() {
    let (by_value, sealed) = (
        driven(&ByValue, &Settings::default()),
        driven(&sealed(), &Settings::default()),
    );
    for (one, other) in by_value.hosts().iter().zip(sealed.hosts()) {
        let (one, other) = (one.replica(), other.replica());
        assert_eq!(one.digest().unwrap(), other.digest().unwrap());
        let (sent, framed) = (one.ledger().total_sent(), other.ledger().total_sent());
        assert_eq!((sent.messages, sent.bytes), (framed.messages, 0));
        assert!(framed.bytes > framed.messages);
    }
}

#[test]
fn a_batch_costs_what_the_paper_says() {
    let cluster = driven(&ByValue, &Settings::default());
    let sent = |host: &Driven<Raft, ByValue>| host.replica().ledger().total_sent().messages;
    let messages: u64 = cluster.hosts().iter().map(sent).sum();
    let others = cluster.hosts().len() as u64 - 1;
    let entries = cluster.proposer().replica().ledger().entries;
    // The election costs as much as two entries: each of the others is asked first, and then for its
    // vote, and answers.
    assert_eq!(messages, 2 * others * (entries + 2));
}
