//! Replicas whose data directories were put back to older copies, or prepared anew: what they had
//! promised is gone, so the others let them in no more.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use support::{Cluster, until};

/// What the others say when they refuse one that has forgotten.
const REFUSED: &str = "refused: a replica has forgotten what it said";

fn data(cluster: &Cluster) -> std::path::PathBuf {
    cluster.path("node-2.data")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // A segment made ahead may have been renamed meanwhile; a copy of it is not needed.
        fs::copy(file.path(), to.join(file.file_name())).ok();
    }
}

/// Puts the copy in the place of replica 2's data.
fn put_back(cluster: &Cluster, kept: &Path) {
    fs::remove_dir_all(data(cluster)).unwrap();
    copy(kept, &data(cluster));
}

/// The others refuse replica 2, and it says so itself; they serve without it.
fn is_refused(cluster: &Cluster, why: &str) {
    for number in 0..2 {
        until(&format!("replica {number} to refuse"), || {
            let log = cluster.log(number);
            let mut lines = log.lines();
            lines
                .any(|line| line.contains(REFUSED) && line.contains(why))
                .then_some(())
        });
    }
    until("replica 2 to say so", || {
        let log = cluster.log(2);
        let mut lines = log.lines();
        let own = lines.any(|line| line.contains("it says of this replica") && line.contains(why));
        own.then_some(())
    });
    cluster.ask(&["put", "after", "1"], 0);
    assert_eq!(cluster.ask(&["get", "after"], 0), "1\n");
    let status = cluster.status();
    assert_ne!(status[2]["role"], "leader", "{status:?}");
    assert!(
        status[2]["executed"].as_u64() < status[0]["executed"].as_u64(),
        "{status:?}"
    );
}

#[test]
fn a_copy_from_before_the_last_start_is_let_in_by_nobody() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "1"], 0);
    assert_eq!(cluster.terminate(2).code(), Some(0));
    let kept = cluster.path("kept");
    copy(&data(&cluster), &kept);
    // A clean copy in the same place is the same replica.
    cluster.start_node(2);
    cluster.leader();
    let caught_up = |cluster: &Cluster| {
        until("all replicas to have executed the same", || {
            let status = cluster.status();
            let all = [0, 1, 2].map(|number: usize| status[number]["executed"].as_u64());
            (all[0].is_some() && all[1] == all[0] && all[2] == all[0]).then_some(())
        });
    };
    cluster.ask(&["put", "a", "2"], 0);
    caught_up(&cluster);
    cluster.kill(2);
    put_back(&cluster, &kept);
    cluster.start_node(2);
    is_refused(&cluster, "both made start number 2");
}

#[test]
fn a_copy_from_within_the_present_life_is_let_in_by_nobody() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "1"], 0);
    let kept = cluster.path("kept");
    copy(&data(&cluster), &kept);
    let copied = SystemTime::now();
    // Until both others have kept what they were told two seconds later.
    until("the others to remember", || {
        cluster.ask(&["put", "a", "2"], 0);
        let kept = |number: usize| {
            let file = cluster.path(&format!("node-{number}.data/lives"));
            let written = fs::metadata(file).unwrap().modified().unwrap();
            written >= copied + Duration::from_secs(2)
        };
        (kept(0) && kept(1)).then_some(())
    });
    cluster.kill(2);
    put_back(&cluster, &kept);
    cluster.start_node(2);
    is_refused(&cluster, "and had been durable to");
}

#[test]
fn data_that_was_removed_is_not_begun_anew() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "1"], 0);
    assert_eq!(cluster.terminate(2).code(), Some(0));
    fs::remove_dir_all(data(&cluster)).unwrap();
    cluster.start_node_with(2, &["--first-start"]);
    is_refused(&cluster, "both made start number 1");
    // That it starts again makes it no other.
    let told = |cluster: &Cluster| {
        let log = cluster.log(2);
        let lines = log.lines();
        lines
            .filter(|line| line.contains("it says of this replica"))
            .count()
    };
    for _ in 0..3 {
        assert_eq!(cluster.terminate(2).code(), Some(0));
        let before = told(&cluster);
        cluster.start_node(2);
        until("both others to refuse it again", || {
            (told(&cluster) >= before + 2).then_some(())
        });
        is_refused(&cluster, "both made start number 1");
    }
}
