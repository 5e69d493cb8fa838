//! What all replicas must have alike: members, quorums, ways of reading. A replica that differs does
//! not start on its data, and is let in by no other.

mod support;

use std::fs;
use std::path::PathBuf;

use support::{Cluster, fails, run, text, until};
use toml::{Table, Value};

/// Changes a replica's configuration.
fn edit(cluster: &Cluster, number: usize, change: impl FnOnce(&mut Table)) {
    let path = cluster.config(number);
    let mut config: Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

fn members(config: &mut Table) -> &mut Vec<Value> {
    config["replicas"].as_array_mut().unwrap()
}

/// The settings of the protocol.
fn protocol<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    let protocols = config["protocols"].as_table_mut().unwrap();
    protocols[name].as_table_mut().unwrap()
}

fn two_more(cluster: &Cluster, config: &mut Table) {
    for name in ["new-3", "new-4"] {
        let key = cluster.path(name);
        fs::remove_file(&key).ok();
        let mut replica = Table::new();
        let public = run(&["keygen", "--out", text(&key)], 0);
        replica.insert("key".into(), public.trim().into());
        replica.insert("address".into(), "127.0.0.1:1".into());
        members(config).push(replica.into());
    }
}

/// Starts a replica, which must not start.
fn refused(cluster: &Cluster, number: usize, more: &[&str]) -> String {
    let config = cluster.config(number);
    let node = ["node", "--config", text(&config)];
    fails(&[&node[..], more].concat(), 1)
}

/// Waits until a replica has said so.
fn says(cluster: &Cluster, number: usize, what: &str) {
    until(&format!("replica {number} to say: {what}"), || {
        cluster.log(number).contains(what).then_some(())
    });
}

fn remove_data(cluster: &Cluster, number: usize) {
    fs::remove_dir_all(cluster.path(&format!("node-{number}.data"))).unwrap();
}

#[test]
fn a_replica_does_not_start_under_another_list_of_members_than_its_log() {
    let mut cluster = Cluster::start(3);
    cluster.ask(&["put", "a", "1"], 0);
    (0..3).for_each(|number| assert_eq!(cluster.terminate(number).code(), Some(0)));
    let good = fs::read_to_string(cluster.config(0)).unwrap();
    let check = |change: &dyn Fn(&mut Table), expected: &[&str]| {
        fs::write(cluster.config(0), &good).unwrap();
        edit(&cluster, 0, |config| change(config));
        let said = refused(&cluster, 0, &[]);
        for part in expected {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(said.contains("can never be another"), "{said}");
    };
    check(
        &|config| members(config).truncate(1),
        &[
            "member.01 is absent here and ",
            "member.02 is absent here and ",
        ],
    );
    check(
        &|config| members(config).swap(1, 2),
        &["member.01 is ", "member.02 is "],
    );
    check(
        &|config| two_more(&cluster, config),
        &["member.03 is ", "member.04 is ", "here and absent there"],
    );
    fs::write(cluster.config(0), &good).unwrap();
    (0..3).for_each(|number| cluster.start_node(number));
    cluster.leader();
    assert_eq!(cluster.ask(&["get", "a"], 0), "1\n");
}

#[test]
fn replicas_with_the_members_in_another_order_refuse_each_other_and_say_why() {
    let mut cluster = Cluster::init(3);
    remove_data(&cluster, 2);
    edit(&cluster, 2, |config| members(config).swap(0, 1));
    cluster.start_node(0);
    cluster.start_node(1);
    cluster.start_node_with(2, &["--first-start"]);
    for number in 0..3 {
        says(&cluster, number, "configured otherwise: member.00 is ");
    }
    cluster.ask(&["put", "a", "1"], 0);
}

/// Three replicas of Multi-Paxos, the last of which was never started and has one setting otherwise.
fn one_differs(name: &str, value: &Value, here: &str, there: &str) {
    let mut cluster = Cluster::init_of("multipaxos", 3);
    remove_data(&cluster, 2);
    edit(&cluster, 2, |config| {
        // It would lead, were it let in.
        let settings = protocol(config, "multipaxos");
        settings.insert("preferred".into(), 2.into());
        settings.insert(name.into(), value.clone());
    });
    cluster.start_node(0);
    cluster.start_node(1);
    cluster.start_node_with(2, &["--first-start"]);
    let differs = |a, b| {
        format!("configured otherwise: protocols.multipaxos.{name} is {a} here and {b} there")
    };
    says(&cluster, 0, &differs(here, there));
    says(&cluster, 1, &differs(here, there));
    says(&cluster, 2, &differs(there, here));
    cluster.ask(&["put", "a", "1"], 0);
    let status = cluster.status();
    assert_ne!(status[2]["role"], "leader", "{status:?}");
    assert_eq!(status[2]["executed"], 0, "{status:?}");
}

#[test]
fn a_replica_with_other_quorums_is_not_let_in() {
    let quorums: Table = "flexible = { q1 = 3, q2 = 1 }".parse().unwrap();
    let there = "flexible q1 = 3 q2 = 1";
    one_differs("quorums", &quorums.into(), "majority", there);
}

#[test]
fn a_replica_that_reads_by_lease_is_not_let_in_where_others_do_not() {
    one_differs("reads", &"lease".into(), "quorum", "lease");
}

/// The digest that is to be given to have other settings accepted.
fn digest(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    let digest = words.iter().rev().find(|word| word.len() == 64);
    String::from(*digest.unwrap())
}

#[test]
fn settings_are_changed_with_all_replicas_stopped_and_only_those_that_may_be() {
    let mut cluster = Cluster::init_of("multipaxos", 3);
    (0..3).for_each(|number| cluster.start_node(number));
    cluster.ask(&["put", "a", "1"], 0);
    (0..3).for_each(|number| assert_eq!(cluster.terminate(number).code(), Some(0)));
    for number in 0..3 {
        edit(&cluster, number, |config| {
            protocol(config, "multipaxos").insert("reads".into(), "lease".into());
        });
    }
    let said = refused(&cluster, 0, &[]);
    let expected = "protocols.multipaxos.reads is lease here and quorum there";
    assert!(said.contains(expected), "{said}");
    let accept = digest(&said);
    assert_eq!(
        digest(&refused(&cluster, 1, &[])),
        accept,
        "the same on all"
    );
    let other = "0".repeat(64);
    let said = refused(&cluster, 0, &["--accept-settings", &other]);
    assert!(said.contains("to be accepted have the digest"), "{said}");

    let accepting = ["--accept-settings", accept.as_str()];
    (0..3).for_each(|number| cluster.start_node_with(number, &accepting));
    cluster.ask(&["put", "b", "2"], 0);
    assert_eq!(cluster.ask(&["get", "a"], 0), "1\n");
    (0..3).for_each(|number| assert_eq!(cluster.terminate(number).code(), Some(0)));

    // From now on it is the directory's; members and quorums never change so.
    cluster.start_node(0);
    cluster.start_node_with(1, &accepting);
    assert_eq!(cluster.ask(&["get", "b"], 0), "2\n");
    let changes: [&dyn Fn(&mut Table); 2] = [&|config| members(config).truncate(1), &|config| {
        let quorums: Table = "flexible = { q1 = 3, q2 = 1 }".parse().unwrap();
        protocol(config, "multipaxos").insert("quorums".into(), quorums.into());
    }];
    let good = fs::read_to_string(cluster.config(2)).unwrap();
    for (number, change) in changes.into_iter().enumerate() {
        fs::write(cluster.config(2), &good).unwrap();
        edit(&cluster, 2, |config| {
            if number == 0 {
                members(config).swap(0, 2);
                config.insert("me".into(), 0.into());
            }
            change(config);
        });
        let own = digest(&refused(&cluster, 2, &["--accept-settings", &other]));
        let said = refused(&cluster, 2, &["--accept-settings", &own]);
        let part = match number {
            0 => "belongs to replica 2",
            _ => "protocols.multipaxos.quorums is flexible",
        };
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn who_may_command_is_agreed_on_where_replicas_may_lie() {
    for (protocol, n, agreed) in [("pbft", 4, true), ("raft", 3, false)] {
        let mut cluster = Cluster::init_of(protocol, n);
        // Who commands is bound to a directory when a replica is first started on it.
        (0..n).for_each(|number| cluster.start_node(number));
        cluster.ask(&["put", "a", "1"], 0);
        (0..n).for_each(|number| assert_eq!(cluster.terminate(number).code(), Some(0)));
        let key: PathBuf = cluster.path("another.key");
        let public = run(&["keygen", "--out", text(&key)], 0);
        edit(&cluster, 0, |config| {
            let clients = config["clients"].as_array_mut().unwrap();
            clients.push(public.trim().into());
        });
        if agreed {
            let said = refused(&cluster, 0, &[]);
            let expected = format!("client.{} is admitted here and absent there", public.trim());
            assert!(said.contains(&expected), "{said}");
            assert!(said.contains("--accept-settings"), "{said}");
        } else {
            (0..n).for_each(|number| cluster.start_node(number));
            assert_eq!(cluster.ask(&["get", "a"], 0), "1\n");
        }
    }
}
