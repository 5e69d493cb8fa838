//! The diagrams of `docs/protocols/` are what the commands above them draw.

mod support;

use std::fs;
use std::path::Path;

use quorate::ProtocolKind;
use quorate_simulator::Scenario;
use support::{fails, run};

/// The diagrams of a page, each with the command that stands before it in backquotes.
fn diagrams(page: &str) -> Vec<(Option<&str>, String)> {
    let (mut diagrams, mut lines, mut last) = (Vec::new(), page.lines(), "");
    while let Some(line) = lines.next() {
        if line == "```mermaid" {
            let drawn = lines.by_ref().take_while(|line| *line != "```");
            let drawn: String = drawn.map(|line| format!("{line}\n")).collect();
            let command = last.strip_prefix("`quorate ");
            diagrams.push((command.and_then(|c| c.strip_suffix('`')), drawn));
        } else if !line.is_empty() {
            last = line;
        }
    }
    diagrams
}

#[test]
fn every_diagram_of_the_pages_is_what_its_command_draws() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocols");
    for protocol in ProtocolKind::ALL {
        let page = fs::read_to_string(pages.join(format!("{protocol}.md"))).unwrap();
        let diagrams = diagrams(&page);
        assert!(!diagrams.is_empty(), "{protocol}");
        for (command, diagram) in diagrams {
            let command = command.unwrap_or_else(|| panic!("{protocol}: no command: {diagram}"));
            let words: Vec<&str> = command.split_whitespace().collect();
            let drawn = run(&words, 0);
            let mut pairs = diagram.lines().zip(drawn.lines());
            let differ = pairs.find(|(there, now)| there != now);
            assert!(drawn == diagram, "{protocol}.md: {command}: {differ:?}");
        }
    }
}

#[test]
fn a_protocol_draws_the_scenarios_it_has_and_names_them_for_any_other() {
    for protocol in ProtocolKind::ALL {
        let has: &[Scenario] = match protocol.name() {
            "hotstuff" => &Scenario::ROTATING,
            "epaxos" => &Scenario::LEADERLESS,
            _ => &Scenario::ELECTING,
        };
        let names: Vec<String> = has.iter().map(Scenario::to_string).collect();
        let names = names.join(", ");
        for scenario in Scenario::ALL {
            let name = scenario.to_string();
            let to = ["simulate", "--protocol", protocol.name(), "--diagram", "-"];
            let draw = [&to[..], &["--scenario", &name]].concat();
            if has.contains(&scenario) {
                let drawn = run(&draw, 0);
                // In the first view of PBFT the primary is given.
                let shows = match (protocol.name(), scenario) {
                    ("pbft", Scenario::Election) => "leads in 0",
                    _ => "->>",
                };
                assert!(drawn.contains(shows), "{protocol} {scenario}: {drawn}");
            } else {
                let said = fails(&draw, 1);
                let reason = format!("{protocol} has no scenario {scenario}: it has {names}");
                assert!(said.contains(&reason), "{said}");
            }
        }
    }
}

#[test]
fn a_diagram_can_be_of_a_variant_and_leave_kinds_out() {
    let draw = ["simulate", "--scenario", "normal-commit", "--diagram", "-"];
    let of = |more: &[&str]| run(&[&draw[..], more].concat(), 0);
    let hotstuff = ["--protocol", "hotstuff"];
    let three = of(&[&hotstuff[..], &["--set", "rules=three_chain"]].concat());
    assert_ne!(of(&hotstuff), three);
    let without = of(&["--without", "append_entries,accepted"]);
    assert!(without.contains("c200->>"), "{without}");
    assert!(
        !without.contains("append_entries") && !without.contains("accepted"),
        "{without}"
    );
    let said = fails(&[&draw[..], &["--set", "hartbeat_ms=20"]].concat(), 1);
    assert!(
        said.contains("hartbeat_ms") && said.contains("`heartbeat_ms`"),
        "{said}"
    );
}
