//! Wrong usage, keys, configuration, histories and simulations.

mod support;

use std::fs;

use support::{fails, quorate, run, stderr, text};

#[test]
fn what_is_mistyped_is_corrected() {
    let cases: [(&[&str], &str); 13] = [
        (&["compar"], "'compare'"),
        (&["compare", "--clientz", "3"], "'--clients'"),
        (&["compare", "--protocol", "rft"], "'raft'"),
        (&["compare", "--read-share", "2"], "from 0 to 1"),
        (&["compare", "--placement", "spred"], "'spread'"),
        (&["compare", "--conflicts", "0,many"], "'many'"),
        (
            &["compare", "--conflicts", "0,,100"],
            "'--conflicts <LIST>'",
        ),
        (
            &["compare", "--conflicts", "0,101"],
            "101 is not in 0..=100",
        ),
        (&["compare", "--rounds", "0"], "0 is not in 1..=99"),
        (&["compare", "--rounds", "100"], "100 is not in 1..=99"),
        (&["simulate", "--faults", "crush"], "'crash'"),
        (&["simulate", "--hardships", "lost,rain"], "'rain'"),
        (&["cas", "key", "old"], "<VALUE>"),
    ];
    for (arguments, hint) in cases {
        let said = fails(arguments, 2);
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
}

#[test]
fn clients_that_should_not_conflict_need_a_key_each() {
    let few = ["compare", "--conflicts", "0,100", "--clients", "9"];
    let said = fails(&[&few[..], &["--keys", "9"]].concat(), 1);
    let reason = "a key for each of the 9 clients and one that they share: --keys 9 is too few";
    assert!(said.contains(reason), "{said}");
}

#[test]
fn nothing_is_measured_in_no_time() {
    let said = fails(&["compare", "--duration", "0"], 2);
    assert!(
        said.contains("nothing can be measured in no time"),
        "{said}"
    );
}

#[test]
fn a_tuning_that_cannot_work_is_refused_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tuning.toml");
    fs::write(&file, "[protocols.hotstuff]\nrulez = \"three_chain\"\n").unwrap();
    let said = fails(&["compare", "--tuning", text(&file)], 1);
    for hint in ["tuning.toml", "rulez", "`rules`"] {
        assert!(said.contains(hint), "{said}");
    }
    let never = "[protocols.hotstuff]\nleaders = { stable = { views = 0 } }\n";
    fs::write(&file, never).unwrap();
    let said = fails(
        &["compare", "--protocol", "hotstuff", "--tuning", text(&file)],
        1,
    );
    assert!(said.contains("leaders.stable.views"), "{said}");
}

#[test]
fn a_key_is_written_once_and_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret.key");
    let public = run(&["keygen", "--out", text(&path)], 0);
    assert_eq!(public.trim().len(), 64);
    let secret = fs::read_to_string(&path).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let said = fails(&["keygen", "--out", text(&path)], 1);
    assert!(said.contains("secret.key"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), secret);
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused_to_nodes_and_clients() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    run(&["init", "--dir", text(directory.path())], 0);
    let node = directory.path().join("node-0.toml");
    let client = directory.path().join("client.toml");
    let uses: [(&str, &[&str]); 2] = [
        ("node-0.key", &["node", "--config", text(&node)]),
        ("client.key", &["get", "a", "--config", text(&client)]),
    ];
    for (key, arguments) in uses {
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(directory.path().join(key), permissions).unwrap();
            let said = fails(arguments, 1);
            for part in [key, &format!("{mode:04o}"), "chmod 600"] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }
}

#[test]
fn init_replaces_only_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let init = ["init", "--nodes", "3", "--dir", text(directory.path())];
    run(&init, 0);
    let config = directory.path().join("node-0.toml");
    let first = fs::read_to_string(&config).unwrap();
    let said = fails(&init, 1);
    assert!(said.contains("node-0.toml is there already"), "{said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), first);
    let force = [&init[..], &["--force"]].concat();
    run(&force, 0);
    assert_ne!(fs::read_to_string(&config).unwrap(), first);
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("a:1,b", "`b` is not an address"),
        ("a:1,b:0", "`b:0` is not an address"),
        ("a:1,a:1", "are the same"),
    ];
    for (addresses, reason) in cases {
        let init = [
            "init",
            "--addresses",
            addresses,
            "--dir",
            text(directory.path()),
        ];
        let said = fails(&init, 1);
        assert!(said.contains(reason), "{said}");
    }
    let said = fails(&["init", "--nodes", "3", "--base-port", "65534"], 1);
    assert!(said.contains("not enough ports"), "{said}");
}

#[test]
fn a_configuration_that_cannot_be_used_is_named_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    run(&["init", "--dir", text(directory.path())], 0);
    let said = fails(&["node", "--config", "absent.toml"], 1);
    assert!(said.contains("absent.toml"), "{said}");

    let good = fs::read_to_string(directory.path().join("node-0.toml")).unwrap();
    let cases = [
        ("me = 0", "me = \"x\"", "line 4"),
        ("me = 0", "me = 9", "me = 9 but there are 3 replicas"),
        ("me = 0", "mi = 0", "unknown field `mi`"),
        ("raft", "rift", "no protocol `rift` is compiled in"),
        ("node-0.key", "absent.key", "absent.key"),
        (
            "node-0.key",
            "node-1.key",
            "give it the key file that belongs to",
        ),
        ("node-0.key", "node-0.toml", "not a secret key"),
    ];
    for (from, to, reason) in cases {
        let path = directory.path().join("bad.toml");
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let said = fails(&["node", "--config", text(&path)], 1);
        assert!(said.contains(reason), "{to}: {said}");
    }
}

const PUT: &str = r#"{"process":0,"op":"put","key":"a","value":"x","expected":null,"result":null,"invoke":1,"return":2,"outcome":"ok"}"#;

#[test]
fn a_history_is_judged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let get = |result: &str| {
        let get = PUT
            .replace("\"put\"", "\"get\"")
            .replace("\"value\":\"x\"", "\"value\":null")
            .replace("\"result\":null", &format!("\"result\":{result}"));
        get.replace("\"invoke\":1,\"return\":2", "\"invoke\":3,\"return\":4")
    };
    let check = ["check-history", text(&path)];

    fs::write(&path, format!("{PUT}\n{}\n", get("\"x\""))).unwrap();
    let said = run(&check, 0);
    assert_eq!(said.trim(), "linearizable: 2 operations on 1 keys");

    fs::write(&path, format!("{PUT}\n{}\n", get("null"))).unwrap();
    let said = run(&check, 1);
    assert!(said.contains("not linearizable: key \"a\""), "{said}");

    fs::write(&path, format!("{PUT}\n{{\"process\":0\n")).unwrap();
    let said = fails(&check, 1);
    assert!(said.contains("history.jsonl, line 2"), "{said}");
    fails(&["check-history", "absent.jsonl"], 1);
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    let one = run(&["simulate", "--seed", "7"], 0);
    assert!(one.starts_with("seed 7  trace "), "{one}");
    assert_eq!(run(&["simulate", "--seed", "7"], 0), one);
    let many = run(&["simulate", "--seed", "6", "--seeds", "3"], 0);
    let lines: Vec<&str> = many.lines().collect();
    assert_eq!(lines.len(), 4, "{many}");
    assert_eq!(lines[1], one.trim_end());
    assert!(lines[3].starts_with("3 seeds, 0 failed"), "{many}");
}

#[test]
fn a_run_can_be_read_and_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.txt");
    let diagram = directory.path().join("diagram.mmd");
    let arguments = [
        "simulate",
        "--faults",
        "none",
        "--trace",
        text(&trace),
        "--diagram",
        text(&diagram),
    ];
    run(&arguments, 0);
    assert!(fs::read_to_string(&trace).unwrap().contains(" -> r1  "));
    let drawn = fs::read_to_string(&diagram).unwrap();
    assert!(drawn.starts_with("sequenceDiagram\n"), "{drawn}");
    let several = [&arguments[..], &["--seeds", "2"]].concat();
    let said = fails(&several, 1);
    assert!(said.contains("of a single seed"), "{said}");
    let drawn = run(&["simulate", "--diagram", "-", "--scenario", "election"], 0);
    assert!(drawn.contains("->>"), "{drawn}");
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let mut command = support::command(&["simulate", "--trace", "-"]);
    let piped = std::process::Stdio::piped;
    let mut child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn help_is_there_for_every_command() {
    let commands = [
        "compare",
        "simulate",
        "check-history",
        "keygen",
        "init",
        "node",
        "put",
        "get",
        "delete",
        "cas",
        "range",
        "status",
    ];
    let help = run(&["--help"], 0);
    for command in commands {
        assert!(help.contains(&format!("  {command} ")), "{help}");
        assert!(quorate(&[command, "--help"]).status.success());
    }
}

/// The keys of a configuration and of all tables in it.
fn keys(table: &toml::Table) -> Vec<String> {
    let all = table.iter().flat_map(|(key, value)| {
        let within = value.as_table().map(keys).unwrap_or_default();
        std::iter::once(key.clone()).chain(within)
    });
    all.collect()
}

#[test]
fn every_duration_is_configured_in_milliseconds() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in ["raft", "multipaxos", "epaxos", "pbft", "hotstuff"] {
        let dir = directory.path().join(protocol);
        run(&["init", "--protocol", protocol, "--dir", text(&dir)], 0);
        for name in ["node-0.toml", "client.toml"] {
            let written = fs::read_to_string(dir.join(name)).unwrap();
            let table: toml::Table = written.parse().unwrap();
            let of_protocols = table.get("protocols").and_then(toml::Value::as_table);
            assert!(
                of_protocols.is_none_or(|of| of.keys().eq([protocol])),
                "{written}"
            );
            let keys = keys(&table);
            assert!(keys.iter().any(|key| key.ends_with("_ms")), "{written}");
            let apart = |key: &String| ["secs", "nanos"].contains(&key.as_str());
            assert!(!keys.iter().any(apart), "{written}");
        }
    }
    let [tuning, json] = ["tuning.toml", "result.json"].map(|name| directory.path().join(name));
    let given = "raft = { election_timeout_ms = 400 }\npbft = { max_clock_skew_ms = 900 }\n";
    fs::write(&tuning, format!("[protocols]\n{given}")).unwrap();
    let compare = ["compare", "--protocol", "raft", "--clients", "2"];
    let short = ["--duration", "0.2", "--warm-up", "0"];
    let files = ["--tuning", text(&tuning), "--json", text(&json)];
    run(&[&compare[..], &short, &files].concat(), 0);
    let result: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let tuned = &result["workload"]["tuning"]["protocols"];
    assert_eq!(tuned["raft"]["election_timeout_ms"], 400);
    assert_eq!(tuned["pbft"]["max_clock_skew_ms"], 900);
}

#[test]
fn lies_are_simulated_only_where_some_can_be_told() {
    let byzantine = ["simulate", "--faults", "byzantine", "--protocol"];
    let refused = |more: &[&str], reason: &str| {
        let said = fails(&[&byzantine[..], more].concat(), 1);
        assert!(said.contains(reason), "{more:?}: {said}");
    };
    for protocol in ["pbft", "hotstuff"] {
        for few in ["1", "3"] {
            let reason = format!("{few} replicas of {protocol} survive none that lies");
            refused(&[protocol, "--replicas", few], &reason);
            refused(&[protocol, "--replicas", few], "takes at least 4 replicas");
        }
    }
    for protocol in ["raft", "multipaxos", "epaxos"] {
        refused(&[protocol, "--replicas", "4"], "not replicas that lie");
    }
    let lied = run(&[&byzantine[..], &["pbft"]].concat(), 0);
    assert!(!lied.contains("lies 0;"), "{lied}");
}
