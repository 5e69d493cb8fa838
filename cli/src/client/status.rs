//! Where each replica stands, asked of each.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Table, presets};
use quorate::{ClientConfig, ProtocolKind, ReplicaId};
use quorate_core::protocol::{FaultModel, Role, Status};
use quorate_core::quorum::{Byzantine, Majority};
use quorate_node::client::Report;
use serde_json::{Value, json};

use super::Reach;
use crate::failure::Ending;
use crate::output;

/// How long to wait for a replica, by default.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a replica said, or why it said nothing.
type Answer = Result<Report, String>;

/// Asks all replicas at once, and prints what they say.
pub(super) async fn run(reach: &Reach, all: bool) -> Result<Ending> {
    let config = reach.config()?;
    let answers = ask(&config, reach.timeout.unwrap_or(PATIENCE), all).await?;
    match reach.json {
        true => output::line(object(&config, &answers, all))?,
        false => output::line(table(&config, &answers, all))?,
    }
    Ok(match answers.iter().any(Answer::is_ok) {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

/// After a failure: how many replicas answer, and how many make a quorum by default.
pub(super) async fn tell_who_answers(config: &ClientConfig) -> Result<()> {
    let answers = ask(config, PATIENCE, false).await?;
    let n = answers.len();
    let reports: Vec<&Report> = answers.iter().flatten().collect();
    let protocol = reports
        .first()
        .and_then(|report| report.status.protocol.parse::<ProtocolKind>().ok());
    let faults = protocol.map(ProtocolKind::faults);
    eprintln!("{}", who_answers(reports.len(), n, faults));
    Ok(())
}

/// That `up` of `n` replicas answer. What a quorum is only the replicas know, for it may be
/// configured: said is what it is otherwise, if the protocol is known and fewer answer.
fn who_answers(up: usize, n: usize, faults: Option<FaultModel>) -> String {
    let quorum = faults.map(|faults| match faults {
        FaultModel::Crash => Majority::of(n).size(),
        FaultModel::Byzantine => Byzantine::of(n).strong().size(),
    });
    let by_default = match quorum {
        Some(quorum) if up < quorum => {
            format!(": a quorum is {quorum}, if the replicas are not configured otherwise")
        }
        _ => String::new(),
    };
    format!("{up} of {n} replicas answer{by_default}")
}

async fn ask(config: &ClientConfig, timeout: Duration, digest: bool) -> Result<Vec<Answer>> {
    let mut asked = Vec::with_capacity(config.replicas.len());
    for replica in ReplicaId::all(config.replicas.len()) {
        let mut own = config.clone();
        own.options.first = Some(replica);
        own.options.follow_leader = false;
        own.options.fail_over = false;
        own.options.timeout = timeout;
        let client = quorate::connect(&own)?;
        asked.push(tokio::spawn(async move {
            let report = client.status(digest).await;
            report.map_err(|error| error.to_string())
        }));
    }
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        let answer = answer.await;
        answers.push(answer.unwrap_or_else(|error| Err(error.to_string())));
    }
    Ok(answers)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Peer => "peer",
    }
}

fn object(config: &ClientConfig, answers: &[Answer], all: bool) -> Value {
    let replicas = config.replicas.iter().zip(answers).enumerate();
    let replicas = replicas.map(|(number, (replica, answer))| {
        let mut object = json!({
            "replica": number,
            "address": replica.address,
            "reachable": answer.is_ok(),
        });
        match answer {
            Ok(report) => {
                let Status {
                    protocol,
                    regime,
                    leader,
                    committed,
                    ..
                } = &report.status;
                object["protocol"] = json!(protocol);
                object["role"] = json!(role(report.status.role));
                object["regime"] = json!(regime);
                object["leader"] = json!(leader.map(|leader| leader.0));
                object["committed"] = json!(committed);
                object["executed"] = json!(report.executed);
                if all {
                    object["digest"] = json!(report.digest.map(|digest| digest.to_string()));
                    object["messages_sent"] = json!(report.sent.messages);
                    object["bytes_sent"] = json!(report.sent.bytes);
                }
            }
            Err(reason) => object["error"] = json!(reason),
        }
        object
    });
    json!({ "replicas": replicas.collect::<Vec<_>>() })
}

fn table(config: &ClientConfig, answers: &[Answer], all: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut header = vec![
        "replica",
        "address",
        "protocol",
        "role",
        "term/view",
        "leader",
        "committed",
        "executed",
    ];
    if all {
        header.extend(["messages sent", "bytes sent", "digest"]);
    }
    table.set_header(header);
    for (number, (replica, answer)) in config.replicas.iter().zip(answers).enumerate() {
        let mut row = vec![number.to_string(), replica.address.clone()];
        match answer {
            Ok(report) => {
                let status = &report.status;
                let leader = status.leader.map(|leader| leader.0.to_string());
                row.extend([
                    status.protocol.to_string(),
                    String::from(role(status.role)),
                    status.regime.to_string(),
                    leader.unwrap_or_else(|| String::from("none")),
                    status.committed.to_string(),
                    report.executed.to_string(),
                ]);
                if all {
                    let digest = report.digest.map(|digest| digest.to_string());
                    row.extend([
                        report.sent.messages.to_string(),
                        report.sent.bytes.to_string(),
                        digest.unwrap_or_default(),
                    ]);
                }
            }
            Err(reason) => row.extend([String::new(), format!("unreachable: {reason}")]),
        }
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_quorum_only_the_default_is_said() {
        let crash = Some(FaultModel::Crash);
        let otherwise = "if the replicas are not configured otherwise";
        let said = format!("2 of 5 replicas answer: a quorum is 3, {otherwise}");
        assert_eq!(who_answers(2, 5, crash), said);
        assert_eq!(who_answers(3, 5, crash), "3 of 5 replicas answer");
        assert_eq!(who_answers(0, 5, None), "0 of 5 replicas answer");
        // n - f would be 5.
        let lying = who_answers(3, 6, Some(FaultModel::Byzantine));
        assert!(lying.contains("a quorum is 4, "), "{lying}");
    }
}
