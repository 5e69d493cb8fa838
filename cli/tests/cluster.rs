//! Separate processes, one a replica, and commands that use them.

mod support;

use std::fs;

use serde_json::Value;
use support::{Cluster, fails, stderr, text};

#[test]
fn three_processes_keep_keys_and_values() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.ask(&["put", "a", "1"], 0), "revision 1\n");
    assert_eq!(cluster.ask(&["put", "a", "2"], 0), "revision 2\n");
    assert_eq!(cluster.ask(&["get", "a"], 0), "2\n");
    assert_eq!(cluster.ask(&["get", "b"], 3), "");
    assert_eq!(
        cluster.ask(&["cas", "a", "2", "3"], 0),
        "swapped, revision 3\n"
    );
    let not_swapped = cluster.ask(&["cas", "a", "2", "4"], 3);
    assert!(not_swapped.contains("revision 3"), "{not_swapped}");
    cluster.ask(&["cas", "--absent", "b", "x"], 0);
    cluster.ask(&["cas", "--absent", "b", "y"], 3);
    assert_eq!(cluster.ask(&["range"], 0), "a\t3\nb\tx\n");
    assert_eq!(cluster.ask(&["range", "b"], 0), "b\tx\n");
    assert_eq!(cluster.ask(&["range", "--prefix", "a"], 0), "a\t3\n");
    let some: Value =
        serde_json::from_str(&cluster.ask(&["range", "--limit", "1", "--json"], 0)).unwrap();
    assert_eq!(some["more"], true);
    assert_eq!(some["entries"][0]["value"], "3");
    assert_eq!(some["entries"][0]["revision"], 3);
    cluster.ask(&["delete", "b"], 0);
    cluster.ask(&["delete", "b"], 3);

    let table = cluster.ask(&["status"], 0);
    assert!(
        table.contains("leader") && table.contains("follower"),
        "{table}"
    );
    let digests = cluster.digests();
    assert!(digests[0].is_string());
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    for number in 0..3 {
        let status = cluster.terminate(number);
        assert_eq!(status.code(), Some(0), "{}", cluster.log(number));
    }
    (0..3).for_each(|number| cluster.start_node(number));
    cluster.leader();
    assert_eq!(cluster.ask(&["get", "a"], 0), "3\n");
}

#[test]
fn without_a_quorum_a_write_fails_and_the_reason_is_said() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "1"], 0);
    cluster.kill(0);
    cluster.kill(1);
    for task in [&["put", "a", "2"][..], &["get", "a"]] {
        let output = cluster.client(&[task, &["--timeout", "2"]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("1 of 3 replicas answer: a quorum is 2"),
            "{said}"
        );
    }
    let failed = cluster.client(&["put", "a", "2", "--timeout", "2", "--json"]);
    let json: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert!(json["may_have_happened"].is_boolean(), "{json}");
    let status = cluster.status();
    let reachable = status.iter().filter(|replica| replica["reachable"] == true);
    assert_eq!(reachable.count(), 1);

    cluster.start_node(0);
    cluster.leader();
    cluster.ask(&["put", "a", "3"], 0);
}

#[test]
fn a_second_process_on_the_same_port_says_so() {
    let cluster = Cluster::start(3);
    let said = fails(&["node", "--config", text(&cluster.config(0))], 1);
    assert!(said.contains("cannot listen on 127.0.0.1:"), "{said}");
}

#[test]
fn a_stranger_is_not_let_in() {
    let cluster = Cluster::start(3);
    let key = cluster.path("stranger.key");
    support::run(&["keygen", "--out", text(&key)], 0);
    let config = fs::read_to_string(cluster.path("client.toml")).unwrap();
    let config = config.replace("client.key", "stranger.key");
    fs::write(cluster.path("stranger.toml"), config).unwrap();
    let output = cluster.client(&["get", "a", "--config", "stranger.toml", "--timeout", "2"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("0 of 3 replicas answer"), "{said}");
}

#[test]
fn a_replica_without_its_state_starts_only_if_it_is_said_to_be_new() {
    let mut cluster = Cluster::init(3);
    fs::remove_dir_all(cluster.path("node-2.data")).unwrap();
    let config = cluster.config(2);
    let node = ["node", "--config", text(&config)];
    let said = fails(&node, 1);
    for part in [
        "node-2.data holds no replica's state",
        "start it once with --first-start",
        "its disk is missing",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!cluster.path("node-2.data").exists(), "it was made");

    cluster.start_node(0);
    cluster.start_node(1);
    cluster.start_node_with(2, &["--first-start"]);
    cluster.leader();
    cluster.ask(&["put", "a", "1"], 0);
    cluster.digests();
    cluster.terminate(2);
    let said = fails(&[&node[..], &["--first-start"]].concat(), 1);
    assert!(said.contains("start it without --first-start"), "{said}");

    // The disk is not mounted: there is the place for it, and nothing there.
    let aside = cluster.path("aside");
    fs::rename(cluster.path("node-2.data"), &aside).unwrap();
    fs::create_dir(cluster.path("node-2.data")).unwrap();
    let said = fails(&node, 1);
    assert!(said.contains("holds no replica's state"), "{said}");
    fs::remove_dir(cluster.path("node-2.data")).unwrap();
    fs::rename(&aside, cluster.path("node-2.data")).unwrap();
    cluster.start_node(2);
    cluster.digests();
}

#[test]
fn a_replica_does_not_start_with_anothers_state() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "1"], 0);
    for number in 0..3 {
        cluster.terminate(number);
    }
    let good = fs::read_to_string(cluster.config(0)).unwrap();
    let cases = [
        ("node-0.data", "node-1.data", "belongs to replica 1 (key "),
        ("\"raft\"", "\"multipaxos\"", "under raft, but this is"),
    ];
    for (from, to, reason) in cases {
        let config = cluster.path("other.toml");
        fs::write(&config, good.replacen(from, to, 1)).unwrap();
        let said = fails(&["node", "--config", text(&config)], 1);
        assert!(said.contains(reason), "{said}");
        assert!(said.contains("the directory that was prepared for it"));
    }
    let dir = cluster.path("");
    let said = fails(&["init", "--force", "--dir", text(&dir)], 1);
    assert!(
        said.contains("node-0.data holds a replica's data"),
        "{said}"
    );
}

#[test]
fn a_damaged_log_is_refused_by_file_and_offset() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "to be damaged"], 0);
    cluster.ask(&["put", "a", "and something after it"], 0);
    cluster.digests();
    cluster.terminate(0);
    let data = cluster.path("node-0.data");
    let entries = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries
        .filter(|path| text(path).contains("segment"))
        .collect();
    segments.sort();
    let mut bytes = fs::read(&segments[0]).unwrap();
    let value = b"to be damaged";
    let mut windows = bytes.windows(value.len());
    let place = windows.position(|window| window == value).unwrap();
    bytes[place] ^= 0x10;
    fs::write(&segments[0], &bytes).unwrap();
    let said = fails(&["node", "--config", text(&cluster.config(0))], 1);
    assert!(said.contains(text(&segments[0])), "{said}");
    assert!(said.contains("is damaged at byte"), "{said}");
    assert_eq!(fs::read(&segments[0]).unwrap(), bytes);
}
