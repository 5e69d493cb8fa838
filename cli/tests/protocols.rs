//! Every protocol by its name: in separate processes, compared, and simulated.

mod support;

use std::fs;

use serde_json::Value;
use support::{Cluster, quorate, run, stderr, text, until};

/// All protocols, with the fewest replicas that survive one failure.
const PROTOCOLS: [(&str, usize); 5] = [
    ("raft", 3),
    ("multipaxos", 3),
    ("epaxos", 3),
    ("pbft", 4),
    ("hotstuff", 4),
];

/// How many replicas answer.
fn reachable(cluster: &Cluster) -> usize {
    let status = cluster.status();
    let reachable = status.iter().filter(|replica| replica["reachable"] == true);
    reachable.count()
}

fn survives_a_kill(protocol: &str, n: usize) {
    let ask =
        |cluster: &Cluster, task: &[&str]| cluster.ask(&[task, &["--timeout", "60"]].concat(), 0);
    let mut cluster = Cluster::init_of(protocol, n);
    (0..n).for_each(|number| cluster.start_node(number));
    assert_eq!(ask(&cluster, &["put", "a", "1"]), "revision 1\n");
    assert_eq!(ask(&cluster, &["get", "a"]), "1\n");
    until("all replicas", || (reachable(&cluster) == n).then_some(()));
    let digests = cluster.digests();
    assert!(digests[0].is_string());
    assert!(digests.iter().all(|digest| *digest == digests[0]));

    cluster.kill(0);
    assert_eq!(ask(&cluster, &["put", "a", "2"]), "revision 2\n");
    assert_eq!(ask(&cluster, &["get", "a"]), "2\n");
    assert_eq!(reachable(&cluster), n - 1);

    cluster.start_node(0);
    assert_eq!(ask(&cluster, &["put", "a", "3"]), "revision 3\n");
    let digests = cluster.digests();
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    for number in 0..n {
        let status = cluster.terminate(number);
        assert_eq!(status.code(), Some(0), "{}", cluster.log(number));
    }
}

#[test]
fn processes_of_raft_survive_a_kill() {
    survives_a_kill("raft", 3);
}

#[test]
fn processes_of_multipaxos_survive_a_kill() {
    survives_a_kill("multipaxos", 3);
}

#[test]
fn processes_of_epaxos_survive_a_kill() {
    survives_a_kill("epaxos", 3);
}

#[test]
fn processes_of_pbft_survive_a_kill() {
    survives_a_kill("pbft", 4);
}

#[test]
fn processes_of_hotstuff_survive_a_kill() {
    survives_a_kill("hotstuff", 4);
}

#[test]
fn every_protocol_is_compared() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("result.json");
    for (protocol, n) in PROTOCOLS {
        let arguments = [
            "compare",
            "--protocol",
            protocol,
            "--clients",
            "4",
            "--read-share",
            "0.3",
            "--keys",
            "20",
            "--duration",
            "1",
            "--warm-up",
            "0.2",
            "--data",
            text(directory.path()),
            "--json",
            text(&json),
        ];
        run(&arguments, 0);
        let result: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let row = &result["protocols"][0];
        assert_eq!(row["name"], protocol);
        assert_eq!(row["replicas"], n);
        for check in ["acknowledged_read_back", "equal_digests", "linearizable"] {
            assert_eq!(row["checks"][check], true, "{row}");
        }
    }
}

#[test]
fn every_protocol_is_simulated() {
    for (protocol, _) in PROTOCOLS {
        let said = run(&["simulate", "--protocol", protocol, "--seeds", "2"], 0);
        assert!(said.contains("2 seeds, 0 failed"), "{protocol}: {said}");
    }
}

#[test]
fn init_makes_as_many_replicas_as_survive_one_failure() {
    for (protocol, n) in PROTOCOLS {
        let directory = tempfile::tempdir().unwrap();
        let init = [
            "init",
            "--protocol",
            protocol,
            "--dir",
            text(directory.path()),
        ];
        let output = quorate(&init);
        assert!(output.status.success() && output.stderr.is_empty());
        let made = |number: usize| {
            let config = directory.path().join(format!("node-{number}.toml"));
            config.exists()
        };
        assert!(made(n - 1) && !made(n), "{protocol}");
    }
}

#[test]
fn init_warns_of_too_few_replicas_to_survive_a_liar() {
    for (protocol, n) in PROTOCOLS {
        let directory = tempfile::tempdir().unwrap();
        let dir = text(directory.path());
        let init = ["init", "--protocol", protocol, "--nodes", "3", "--dir", dir];
        let output = quorate(&init);
        assert!(output.status.success());
        let said = stderr(&output);
        assert_eq!(said.contains("n = 3f + 1"), n > 3, "{protocol}: {said}");
    }
}
