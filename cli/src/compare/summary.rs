//! What came out for each protocol over several rounds: the middle, and how far from it.

use comfy_table::{CellAlignment, Table, presets};
use quorate::ProtocolKind;
use serde::Serialize;

use super::row::Row;

/// One protocol's results over all rounds.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) name: ProtocolKind,
    /// Which of the protocols that were named, counted from 1.
    pub(crate) position: usize,
    /// Acknowledged writes a second.
    pub(crate) commits_per_s: Spread,
    /// Their rate as a share of the first-named protocol's in the same round; `None` if that had
    /// none in some round.
    pub(crate) share_of_first: Option<Spread>,
    /// Of acknowledged writes.
    pub(crate) latency_ms: LatencySpread,
    pub(crate) per_commit: CostSpread,
    /// What the table calls it.
    #[serde(skip)]
    label: String,
}

/// In milliseconds.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct LatencySpread {
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
}

/// Of all replicas together, for each command executed.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct CostSpread {
    pub(crate) messages: Spread,
    pub(crate) syncs: Spread,
}

/// One figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Of an even number of rounds the mean of the two in the middle.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these figures, unless there are none.
    fn of(figures: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        let middle = [last / 2, last.div_ceil(2)].map(|index| figures.get(index));
        let [Some(lower), Some(upper)] = middle else {
            return None;
        };
        Some(Spread {
            median: (lower + upper) / 2.0,
            min: *figures.first()?,
            max: *figures.last()?,
        })
    }

    /// With so many digits after the point.
    fn shown(&self, digits: usize) -> String {
        let Spread { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }

    fn percent(&self) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(|share| share * 100.0);
        format!("{median:.0} % ({min:.0}–{max:.0})")
    }
}

/// A summary for each protocol in the order they were named; none of a single round.
pub(crate) fn summaries(rows: &[Row]) -> Vec<Summary> {
    if rows.iter().all(|row| row.turn.rounds == 1) {
        return Vec::new();
    }
    let last = rows.iter().map(|row| row.turn.position).max();
    let positions = 1..=last.unwrap_or_default();
    positions
        .filter_map(|position| Summary::of(rows, position))
        .collect()
}

impl Summary {
    fn of(rows: &[Row], position: usize) -> Option<Summary> {
        let own = || rows.iter().filter(|row| row.turn.position == position);
        let spread = |figure: fn(&Row) -> f64| Spread::of(own().map(figure));
        let turn = &own().next()?.turn;
        let shares: Option<Vec<f64>> = own().map(|row| share_of_first(rows, row)).collect();
        Some(Summary {
            name: turn.protocol,
            position,
            commits_per_s: spread(|row| row.commits_per_s)?,
            share_of_first: shares.and_then(|shares| Spread::of(shares.into_iter())),
            latency_ms: LatencySpread {
                p50: spread(|row| row.latency_ms.p50)?,
                p99: spread(|row| row.latency_ms.p99)?,
            },
            per_commit: CostSpread {
                messages: spread(|row| row.per_commit.messages)?,
                syncs: spread(|row| row.per_commit.syncs)?,
            },
            label: turn.label(),
        })
    }

    fn rates(&self) -> [String; 3] {
        let share = self.share_of_first.as_ref();
        [
            self.label.clone(),
            self.commits_per_s.shown(0),
            share.map_or_else(String::new, Spread::percent),
        ]
    }

    fn latencies(&self) -> [String; 3] {
        let LatencySpread { p50, p99 } = &self.latency_ms;
        [self.label.clone(), p50.shown(2), p99.shown(2)]
    }
}

/// The row's rate as a share of that of the first-named protocol in the same round.
fn share_of_first(rows: &[Row], row: &Row) -> Option<f64> {
    let first = rows
        .iter()
        .find(|first| first.turn.position == 1 && first.turn.round == row.turn.round)?;
    (first.commits_per_s > 0.0).then_some(row.commits_per_s / first.commits_per_s)
}

/// The summaries of how many they commit, to print.
pub(crate) fn rates(summaries: &[Summary]) -> Table {
    let header = ["protocol", "commits/s", "of the first"];
    table(header, summaries.iter().map(Summary::rates))
}

/// The summaries of how long that takes, to print.
pub(crate) fn latencies(summaries: &[Summary]) -> Table {
    let header = ["protocol", "p50 ms", "p99 ms"];
    table(header, summaries.iter().map(Summary::latencies))
}

fn table(header: [&str; 3], rows: impl Iterator<Item = [String; 3]>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use ProtocolKind::{EPaxos, Raft};

    use super::super::turn::turns;
    use super::*;

    /// The rows of Raft and EPaxos, with these rates in each round.
    fn rows(rates: &[[f64; 2]]) -> Vec<Row> {
        let turns = turns(&[Raft, EPaxos], rates.len() as u32).into_iter();
        let rated = turns.map(|turn| {
            let rate = rates[turn.round as usize - 1][turn.position - 1];
            Row::made_up(turn, rate)
        });
        rated.collect()
    }

    fn spread(median: f64, min: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn of_an_odd_number_of_rounds_the_middle_one_is_the_median() {
        let summaries = summaries(&rows(&[[100.0, 80.0], [400.0, 100.0], [200.0, 300.0]]));
        let named: Vec<_> = summaries.iter().map(|s| (s.name, s.position)).collect();
        assert_eq!(named, [(Raft, 1), (EPaxos, 2)]);
        assert_eq!(summaries[0].commits_per_s, spread(200.0, 100.0, 400.0));
        assert_eq!(summaries[0].share_of_first, Some(spread(1.0, 1.0, 1.0)));
        let epaxos = &summaries[1];
        assert_eq!(epaxos.commits_per_s, spread(100.0, 80.0, 300.0));
        // The median of the shares, not the share of the medians, which is a half.
        assert_eq!(epaxos.share_of_first, Some(spread(0.8, 0.25, 1.5)));
        assert_eq!(epaxos.latency_ms.p50, spread(1.0, 0.8, 3.0));
        assert_eq!(epaxos.latency_ms.p99, spread(10.0, 8.0, 30.0));
        assert_eq!(epaxos.per_commit.messages, spread(101.0, 81.0, 301.0));
        assert_eq!(epaxos.per_commit.syncs, spread(102.0, 82.0, 302.0));
    }

    #[test]
    fn of_an_even_number_of_rounds_the_median_is_the_mean_of_the_two_in_the_middle() {
        let rates = [[100.0, 50.0], [700.0, 700.0], [300.0, 75.0], [200.0, 400.0]];
        let summaries = summaries(&rows(&rates));
        assert_eq!(summaries[0].commits_per_s, spread(250.0, 100.0, 700.0));
        assert_eq!(summaries[1].commits_per_s, spread(237.5, 50.0, 700.0));
        assert_eq!(summaries[1].share_of_first, Some(spread(0.75, 0.25, 2.0)));
    }

    #[test]
    fn a_single_round_has_no_summary() {
        assert!(summaries(&rows(&[[100.0, 50.0]])).is_empty());
        assert!(summaries(&[]).is_empty());
    }

    #[test]
    fn there_is_no_share_of_nothing() {
        let summaries = summaries(&rows(&[[100.0, 50.0], [0.0, 50.0]]));
        assert!(summaries.iter().all(|s| s.share_of_first.is_none()));
        assert_eq!(summaries[1].commits_per_s, spread(50.0, 50.0, 50.0));
    }

    #[test]
    fn a_protocol_that_is_named_twice_is_compared_with_itself() {
        let turns = turns(&[Raft, Raft], 2).into_iter();
        let rows = turns.map(|turn| {
            let rate = turn.position * 100;
            Row::made_up(turn, rate as f64)
        });
        let summaries = summaries(&rows.collect::<Vec<_>>());
        assert_eq!(summaries[1].share_of_first, Some(spread(2.0, 2.0, 2.0)));
        assert_eq!(summaries[1].name, Raft);
        assert_eq!(summaries[1].rates()[0], "raft-2");
    }

    #[test]
    fn the_table_tells_the_middle_and_the_ends() {
        let summaries = summaries(&rows(&[[100.0, 80.0], [400.0, 100.0], [200.0, 300.0]]));
        let tables = [
            (rates(&summaries), ["100 (80–300)", "80 % (25–150)"]),
            (
                latencies(&summaries),
                ["1.00 (0.80–3.00)", "10.00 (8.00–30.00)"],
            ),
        ];
        for (table, expected) in tables {
            let text = table.to_string();
            let line = text.lines().find(|line| line.contains("epaxos")).unwrap();
            let cells: Vec<&str> = line.split(['│', '┆']).map(str::trim).collect();
            assert_eq!(cells[1], "epaxos");
            assert_eq!(cells[2..4], expected, "{text}");
        }
    }
}
