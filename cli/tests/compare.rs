//! `quorate compare`, the main job.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{command, ended, fails, run, signal, text};

/// Compares for a second, checks what must hold of any result, and gives the row of
/// `protocol`.
fn compare(protocol: &str, clients: u32, read_share: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("result.json");
    let history = directory.path().join("history.jsonl");
    let (clients, data) = (clients.to_string(), text(directory.path()));
    let arguments = [
        "compare",
        "--protocol",
        protocol,
        "--clients",
        &clients,
        "--read-share",
        read_share,
        "--keys",
        "50",
        "--duration",
        "1",
        "--warm-up",
        "0.2",
        "--data",
        data,
        "--json",
        text(&json),
        "--history",
        text(&history),
    ];
    let table = run(&arguments, 0);
    assert!(
        table.contains(protocol) && table.contains("passed"),
        "{table}"
    );

    let result: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert!(result["machine"]["cpu"].is_string(), "{result}");
    assert_eq!(result["workload"]["value_size"], 256);
    let row = result["protocols"][0].clone();
    assert_eq!(row["name"], protocol);
    assert_eq!(row["replicas"], 3);
    for check in ["acknowledged_read_back", "equal_digests", "linearizable"] {
        assert_eq!(row["checks"][check], true, "{row}");
    }
    let checked = run(&["check-history", text(&history)], 0);
    let operations = fs::read_to_string(&history).unwrap().lines().count();
    let expected = format!("linearizable: {operations} operations on 50 keys");
    assert_eq!(checked.trim(), expected);
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "replicas' data is left: {left:?}");
    row
}

#[test]
fn a_cluster_is_driven_checked_and_measured() {
    for protocol in ["raft", "multipaxos"] {
        is_measured(&compare(protocol, 8, "0"));
    }
}

fn is_measured(row: &Value) {
    let number = |pointer: &str| {
        let number = row.pointer(pointer).and_then(Value::as_f64);
        number.unwrap_or_else(|| panic!("no {pointer} in {row}"))
    };
    assert!(number("/commits_per_s") > 0.0);
    let (p50, p99, p999) = (
        number("/latency_ms/p50"),
        number("/latency_ms/p99"),
        number("/latency_ms/p999"),
    );
    assert!(0.0 < p50 && p50 <= p99 && p99 <= p999);
    assert!(number("/per_commit/messages") > 0.0);
    // Each of three replicas receives the value, or has it already.
    assert!(number("/per_commit/bytes") > 2.0 * 256.0);
    assert!(number("/per_commit/syncs") > 0.0);
    assert_eq!(number("/per_commit/signatures_made"), 0.0);
    assert_eq!(number("/per_commit/signatures_checked"), 0.0);
    assert!(row["reads"].is_null());
}

#[test]
fn reads_are_measured_beside_writes() {
    for protocol in ["raft", "multipaxos"] {
        let row = compare(protocol, 4, "0.5");
        assert!(row["reads"]["per_s"].as_f64().unwrap() > 0.0);
        assert!(row["reads"]["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
        assert!(row["commits_per_s"].as_f64().unwrap() > 0.0);
    }
}

/// Compares with these arguments, and `directory` for the replicas' data: what is printed, and what
/// is written as JSON.
fn reported(directory: &Path, arguments: &[&str]) -> (String, Value) {
    let json = directory.join("result.json");
    let places = ["--data", text(directory), "--json", text(&json)];
    let told = run(&[&["compare"], arguments, &places].concat(), 0);
    let result = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    (told, result)
}

#[test]
fn a_tuned_protocol_is_measured_as_tuned() {
    let directory = tempfile::tempdir().unwrap();
    let tuning = directory.path().join("tuning.toml");
    fs::write(&tuning, "[settings]\nmax_pending = 99\n").unwrap();
    let arguments = [
        "--protocol",
        "raft",
        "--clients",
        "8",
        "--duration",
        "0.5",
        "--warm-up",
        "0.2",
        "--tuning",
        text(&tuning),
    ];
    let (told, result) = reported(directory.path(), &arguments);
    assert!(told.contains(", tuned"));
    let tuned = &result["workload"]["tuning"]["settings"];
    assert_eq!(tuned["max_pending"], 99);
}

#[test]
fn clients_spread_over_the_replicas_stay_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "--placement",
        "spread",
        "--clients",
        "8",
        "--duration",
        "0.5",
        "--warm-up",
        "0.2",
    ];
    let (told, result) = reported(directory.path(), &arguments);
    assert!(told.contains("spread over the replicas"));
    assert_eq!(result["workload"]["placement"], "spread");
    for row in result["protocols"].as_array().unwrap() {
        assert_eq!(row["checks"]["linearizable"], true, "{row}");
        let forwarded = row.pointer("/per_commit/messages_by_kind/forward");
        let forwarded = forwarded.map_or(0.0, |each| each.as_f64().unwrap());
        // Only EPaxos has no leader to forward to.
        assert_eq!(forwarded > 0.0, row["name"] != "epaxos", "{row}");
    }
}

/// Raft has nothing that conflicts could slow down; EPaxos has.
#[test]
fn each_phase_of_conflicts_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "--protocol",
        "raft,epaxos",
        "--conflicts",
        "0,100,0",
        "--clients",
        "4",
        "--keys",
        "50",
        "--duration",
        "1.5",
        "--warm-up",
        "0.2",
    ];
    let (told, result) = reported(directory.path(), &arguments);
    assert!(told.contains("50 keys, 0, then 100, then 0 % conflicts"));
    assert_eq!(
        result["workload"]["conflicts"],
        serde_json::json!([0, 100, 0])
    );
    for (row, protocol) in result["protocols"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["raft", "epaxos"])
    {
        assert_eq!(row["name"], protocol);
        for check in ["acknowledged_read_back", "equal_digests", "linearizable"] {
            assert_eq!(row["checks"][check], true, "{row}");
        }
        phases_are_told(row, &told);
    }
}

/// The three phases of a row, in the row itself and in what was printed.
fn phases_are_told(row: &Value, told: &str) {
    let name = row["name"].as_str().unwrap();
    let phases = row["phases"].as_array().unwrap();
    let conflicts: Vec<_> = phases.iter().map(|phase| &phase["conflicts"]).collect();
    assert_eq!(conflicts, [0, 100, 0]);
    let (mut commits, mut seconds) = (0.0, 0.0);
    for (number, phase) in phases.iter().enumerate() {
        let figure = |name: &str| phase[name].as_f64().unwrap();
        commits += figure("commits_per_s") * figure("seconds");
        seconds += figure("seconds");
        assert_eq!(phase["fast_path"].is_number(), name == "epaxos", "{phase}");
        let first = [
            (number + 1).to_string(),
            format!("{} %", phase["conflicts"]),
        ];
        let after = told.split_once(&format!("{name}, phases:\n")).unwrap().1;
        let line = cells(after, &[&first[0], &first[1]]);
        assert_eq!(line[2], format!("{:.0}", figure("commits_per_s")), "{told}");
    }
    let all = row["commits_per_s"].as_f64().unwrap() * seconds;
    assert!(
        (commits - all).abs() < 0.5,
        "{commits} of {all} are in a phase"
    );
    assert_eq!(phases[0]["share_of_first"], 1.0);
}

#[test]
fn rounds_rotate_the_order_and_are_summed_up() {
    let directory = tempfile::tempdir().unwrap();
    let history = directory.path().join("h.jsonl");
    let arguments = [
        "--protocol",
        "raft,multipaxos",
        "--rounds",
        "2",
        "--clients",
        "8",
        "--duration",
        "0.3",
        "--warm-up",
        "0.2",
        "--history",
        text(&history),
    ];
    let (told, result) = reported(directory.path(), &arguments);
    assert_eq!(result["workload"]["rounds"], 2);
    let rows = result["protocols"].as_array().unwrap();
    let order: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["round"].as_u64().unwrap(),
                row["name"].as_str().unwrap(),
            )
        })
        .collect();
    let rotated = [
        (1, "raft"),
        (1, "multipaxos"),
        (2, "multipaxos"),
        (2, "raft"),
    ];
    assert_eq!(order, rotated);
    for (round, protocol) in order {
        let line = cells(&told, &[protocol, &round.to_string(), "3"]);
        assert_eq!(line.last(), Some(&"passed"), "{told}");
        let history = format!("h.{protocol}.round-{round}.jsonl");
        let history = directory.path().join(history);
        run(&["check-history", text(&history)], 0);
    }
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 5, "only results are left");
    is_summed_up(&result["summary"], rows, &told);
}

/// The cells of the line of a printed table that starts with these.
fn cells<'a>(told: &'a str, first: &[&str]) -> Vec<&'a str> {
    let lines = told.lines().map(|line| {
        let cells = line.split(['│', '┆']).map(str::trim);
        cells.filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    });
    let mut lines = lines.filter(|cells| cells.starts_with(first));
    lines
        .next()
        .unwrap_or_else(|| panic!("no {first:?} in {told}"))
}

/// The summary of two rounds of Raft and Multi-Paxos, in JSON and in print.
fn is_summed_up(summary: &Value, rows: &[Value], told: &str) {
    assert_eq!(summary.as_array().unwrap().len(), 2, "{summary}");
    for (index, name) in ["raft", "multipaxos"].into_iter().enumerate() {
        let sum = &summary[index];
        assert_eq!(sum["name"], name);
        assert_eq!(sum["position"], index + 1);
        let figures = [
            "/commits_per_s",
            "/latency_ms/p50",
            "/latency_ms/p99",
            "/per_commit/messages",
            "/per_commit/syncs",
        ];
        for figure in figures {
            is_spread(sum, figure, of_both_rounds(rows, name, figure));
        }
        let [own, first] = [name, "raft"].map(|n| of_both_rounds(rows, n, "/commits_per_s"));
        is_spread(sum, "/share_of_first", [0, 1].map(|r| own[r] / first[r]));

        let median = |figure: &str| sum.pointer(figure).unwrap()["median"].as_f64().unwrap();
        let line = cells(told, &[name, &spread_told(&sum["commits_per_s"])]);
        assert!(line[2].starts_with(&format!("{:.0} % (", median("/share_of_first") * 100.0)));
        let latencies = told.split("p99 ms").last().unwrap();
        let line = cells(latencies, &[name]);
        assert!(line[1].starts_with(&format!("{:.2} (", median("/latency_ms/p50"))));
    }
}

/// A figure of a protocol in each of two rounds.
fn of_both_rounds(rows: &[Value], name: &str, figure: &str) -> [f64; 2] {
    [1, 2].map(|round| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row["name"] == name && row["round"] == round);
        row.unwrap().pointer(figure).unwrap().as_f64().unwrap()
    })
}

/// The median of two figures is their mean.
fn is_spread(sum: &Value, figure: &str, [first, second]: [f64; 2]) {
    let told = sum.pointer(figure).unwrap();
    let expected = [
        ("median", (first + second) / 2.0),
        ("min", first.min(second)),
        ("max", first.max(second)),
    ];
    for (name, expected) in expected {
        let told = told[name].as_f64().unwrap();
        let apart = (told - expected).abs();
        assert!(apart <= expected * 1e-9, "{figure} {name}: {sum}");
    }
}

fn spread_told(spread: &Value) -> String {
    let [median, min, max] = ["median", "min", "max"].map(|name| spread[name].as_f64().unwrap());
    format!("{median:.0} ({min:.0}–{max:.0})")
}

#[test]
fn where_nothing_can_be_written_is_said_before_the_work() {
    let said = fails(&["compare", "--json", "/absent/result.json"], 1);
    assert!(said.contains("cannot write /absent/result.json"), "{said}");
    let said = fails(&["compare", "--data", "/absent"], 1);
    assert!(
        said.contains("cannot make a directory in /absent"),
        "{said}"
    );
}

#[test]
#[cfg(unix)]
fn an_interruption_ends_it_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "compare",
        "--duration",
        "600",
        "--data",
        text(directory.path()),
    ];
    let mut child = command(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let measuring = said.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.starts_with("raft: measuring"))
    });
    assert!(measuring.is_some());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    signal(&child, "INT");
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    assert_eq!(ended(&mut child).code(), Some(130), "{rest:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
