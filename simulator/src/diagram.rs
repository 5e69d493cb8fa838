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
    /// The kinds of messages that are left out.
    pub without: Vec<String>,
}

impl Default for Excerpt {
    /// All, up to 60 arrows.
    fn default() -> Self {
        Excerpt {
            window: 0..u64::MAX,
            arrows: 60,
            without: Vec::new(),
        }
    }
}

/// Draws the lines of a trace: an arrow for each message where it arrives, a crossed one where it
/// is lost, a note for what else is worth it.
pub fn sequence_diagram(lines: &[Line], excerpt: &Excerpt) -> String {
    let drawn = worth_drawing(lines, excerpt);
    let parties = participants(&drawn);
    let mut text = String::from("sequenceDiagram\n");
    for party in &parties {
        let (kind, name) = match party {
            Party::Client(_) => ("actor", String::from("client")),
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

/// The lines to be drawn. Of messages of a kind that are lost one after the other on the same way
/// the first is enough.
fn worth_drawing<'a>(lines: &'a [Line], excerpt: &Excerpt) -> Vec<&'a Line> {
    let (mut drawn, mut arrows, mut lost) = (Vec::new(), 0, BTreeSet::new());
    for line in lines.iter().filter(|l| excerpt.window.contains(&l.at)) {
        match &line.what {
            Happening::Message {
                from,
                to,
                kind,
                fate,
                ..
            } => {
                if excerpt.without.contains(kind) {
                    continue;
                }
                let first = match fate {
                    Fate::Lost => lost.insert((from, to, kind)),
                    Fate::Arrived { .. } => {
                        lost.remove(&(from, to, kind));
                        true
                    }
                };
                if !first {
                    continue;
                }
                if arrows == excerpt.arrows {
                    break;
                }
                arrows += 1;
            }
            Happening::Local { notable: false, .. } => continue,
            Happening::Local { .. } | Happening::World(_) => {}
        }
        drawn.push(line);
    }
    drawn
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

/// How many of a message's values its arrow shows.
const VALUES: usize = 4;

/// A message's kind with the first plain values it holds: term, slot and the like.
fn label(kind: &str, says: &str) -> String {
    let mut shown: Vec<(&str, &str)> = Vec::new();
    for (name, value) in values(says) {
        if shown.len() < VALUES && shown.iter().all(|(known, _)| *known != name) {
            shown.push((name, value));
        }
    }
    let shown: Vec<String> = shown.iter().map(|(n, v)| format!("{n} {v}")).collect();
    escaped(&format!("{kind} {}", shown.join(", ")))
}

/// The fields of a `Debug` text that hold no others, by name: those of one small word. Signatures
/// tell a reader nothing.
fn values(says: &str) -> impl Iterator<Item = (&str, &str)> {
    says.split([',', '{', '}', '[', ']', '(', ')'])
        .filter_map(|field| {
            let (name, value) = field.split_once(':')?;
            let (name, value) = (name.trim(), value.trim());
            let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let plain = !value.is_empty() && value.chars().all(small) && name != "signature";
            plain.then_some((name, value))
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
                text: String::from("Append { term: t3, at: Position { slot: 7 }, entries: [] }"),
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
        assert!(diagram.contains("r0->>r1: AppendEntries term t3, slot 7\n"));
        assert!(diagram.contains("r0-xr1: AppendEntries"));
    }

    #[test]
    fn an_excerpt_limits_time_and_arrows() {
        let arrived = |at| message(at, Fate::Arrived { sent: at });
        let lines: Vec<Line> = (0..9).map(arrived).collect();
        let arrows = |window, arrows| {
            let excerpt = Excerpt {
                window,
                arrows,
                ..Excerpt::default()
            };
            sequence_diagram(&lines, &excerpt).matches("->>").count()
        };
        assert_eq!(arrows(2..5, 60), 3);
        assert_eq!(arrows(0..9, 4), 4);
    }

    #[test]
    fn a_kind_that_is_left_out_takes_no_arrow_from_the_others() {
        let mut lines = [1, 2, 3].map(|at| message(at, Fate::Arrived { sent: at }));
        if let Happening::Message { kind, .. } = &mut lines[0].what {
            *kind = String::from("Status");
        }
        let excerpt = Excerpt {
            arrows: 2,
            without: vec![String::from("Status")],
            ..Excerpt::default()
        };
        let diagram = sequence_diagram(&lines, &excerpt);
        assert_eq!(diagram.matches(": AppendEntries").count(), 2);
        assert!(!diagram.contains("Status"));
    }

    #[test]
    fn of_losses_in_a_row_the_first_is_drawn() {
        let lost = |at| message(at, Fate::Lost);
        let lines = [
            lost(0),
            lost(1),
            message(2, Fate::Arrived { sent: 0 }),
            lost(3),
        ];
        let diagram = sequence_diagram(&lines, &Excerpt::default());
        assert_eq!(diagram.matches("-x").count(), 2);
    }
}
