//! A stretch of a run as a Mermaid sequence diagram.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use crate::conditions::MILLISECOND;
use crate::trace::{Fate, Happening, Line, Party};

/// What of a trace a diagram shows.
#[derive(Clone, Debug)]
pub struct Excerpt {
    /// The instants shown, in nanoseconds of virtual time.
    pub window: Range<u64>,
    /// At most so many arrows.
    pub arrows: usize,
}

impl Default for Excerpt {
    /// All, up to 60 arrows.
    fn default() -> Self {
        Excerpt {
            window: 0..u64::MAX,
            arrows: 60,
        }
    }
}

/// Draws the lines of a trace: an arrow for each message where it arrives, a crossed one where it
/// is lost, a note for what else is worth it.
pub fn sequence_diagram(lines: &[Line], excerpt: &Excerpt) -> String {
    let (mut drawn, mut arrows) = (Vec::new(), 0);
    for line in lines.iter().filter(|l| excerpt.window.contains(&l.at)) {
        match &line.what {
            Happening::Message { .. } if arrows == excerpt.arrows => break,
            Happening::Message { .. } => arrows += 1,
            Happening::Local { notable: false, .. } => continue,
            Happening::Local { .. } | Happening::World(_) => {}
        }
        drawn.push(line);
    }
    let parties = participants(&drawn);
    let mut text = String::from("sequenceDiagram\n");
    for party in &parties {
        let (kind, name) = match party {
            Party::Client(number) => ("actor", format!("client {number}")),
            Party::Replica(replica) => ("participant", format!("replica {}", replica.0)),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {kind} {party} as {name}");
    }
    for line in drawn {
        draw(&mut text, line, &parties);
    }
    text
}

fn participants(lines: &[&Line]) -> BTreeSet<Party> {
    let mut parties = BTreeSet::new();
    for line in lines {
        match &line.what {
            Happening::Message { from, to, .. } => parties.extend([*from, *to]),
            Happening::Local { party, .. } => parties.extend([*party]),
            Happening::World(_) => {}
        }
    }
    parties
}

fn draw(text: &mut String, line: &Line, parties: &BTreeSet<Party>) {
    let _ = match &line.what {
        Happening::Message {
            from,
            to,
            kind,
            text: says,
            fate,
        } => {
            let arrow = match fate {
                Fate::Arrived { .. } => "->>",
                Fate::Lost => "-x",
            };
            writeln!(text, "    {from}{arrow}{to}: {}", label(kind, says))
        }
        Happening::Local {
            party, text: says, ..
        } => {
            writeln!(
                text,
                "    Note over {party}: {}, {}",
                escaped(says),
                time(line.at)
            )
        }
        Happening::World(says) => match (parties.first(), parties.last()) {
            (Some(first), Some(last)) => {
                writeln!(text, "    Note over {first},{last}: {}", escaped(says))
            }
            _ => Ok(()),
        },
    };
}

fn time(at: u64) -> String {
    format!("{:.1} ms", at as f64 / MILLISECOND as f64)
}

/// How many of a message's numbers its arrow shows.
const NUMBERS: usize = 4;

/// A message's kind with the first numbers it holds: term, slot and the like.
fn label(kind: &str, says: &str) -> String {
    let numbers: Vec<String> = numbers(says).take(NUMBERS).collect();
    escaped(&format!("{kind} {}", numbers.join(", ")))
}

/// The fields of a `Debug` text whose values are numbers or truth values, as `name value`.
fn numbers(says: &str) -> impl Iterator<Item = String> {
    says.split([',', '{', '}', '[', ']', '(', ')'])
        .filter_map(|field| {
            let (name, value) = field.split_once(':')?;
            let (name, value) = (name.trim(), value.trim());
            let plain = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
            plain.then(|| format!("{name} {value}"))
        })
}

/// Mermaid ends a statement at `;` and takes `#` for an entity.
fn escaped(text: &str) -> String {
    text.trim().replace([';', '#', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::id::ReplicaId;

    fn message(at: u64, fate: Fate) -> Line {
        Line {
            at,
            what: Happening::Message {
                from: Party::Replica(ReplicaId(0)),
                to: Party::Replica(ReplicaId(1)),
                kind: String::from("AppendEntries"),
                text: String::from("Append { term: 3, at: Position { slot: 7 }, entries: [] }"),
                fate,
            },
        }
    }

    #[test]
    fn messages_are_arrows_and_lost_ones_crossed() {
        let lines = [
            message(1, Fate::Arrived { sent: 0 }),
            message(2, Fate::Lost),
        ];
        let diagram = sequence_diagram(&lines, &Excerpt::default());
        assert!(diagram.starts_with("sequenceDiagram\n    participant r0 as replica 0\n"));
        assert!(diagram.contains("r0->>r1: AppendEntries term 3, slot 7\n"));
        assert!(diagram.contains("r0-xr1: AppendEntries"));
    }

    #[test]
    fn an_excerpt_limits_time_and_arrows() {
        let lines: Vec<Line> = (0..9).map(|at| message(at, Fate::Lost)).collect();
        let arrows = |window, arrows| {
            let excerpt = Excerpt { window, arrows };
            sequence_diagram(&lines, &excerpt).matches("-x").count()
        };
        assert_eq!(arrows(2..5, 60), 3);
        assert_eq!(arrows(0..9, 4), 4);
    }
}
