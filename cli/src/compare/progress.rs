//! What is seen while it runs: a bar on a terminal, a line a phase elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far one turn is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    name: String,
}

const TEMPLATE: &str = "{prefix:.bold} [{bar:40}] {msg}";

impl Progress {
    /// For the turn of this name.
    pub(crate) fn new(name: String) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1);
            // The template is a constant that a test has parsed.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(name.clone());
            bar
        });
        Progress { bar, name }
    }

    /// Another phase begins.
    pub(crate) fn phase(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(0);
                bar.set_message(String::from(what));
            }
            None => eprintln!("{}: {what}", self.name),
        }
    }

    /// Of `total` so much has passed, and this is to be said of it.
    pub(crate) fn passed(&self, elapsed: Duration, total: Duration, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.as_millis() as u64);
            bar.set_position(elapsed.min(total).as_millis() as u64);
            bar.set_message(String::from(what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How much of the work is left, told before it begins and after each turn.
#[derive(Debug)]
pub(crate) struct Left {
    turns: usize,
    done: usize,
    since: Instant,
}

impl Left {
    /// For so many turns, each of which takes about so long.
    pub(crate) fn of(turns: usize, each: Duration) -> Self {
        let all = each.saturating_mul(turns as u32).as_secs();
        eprintln!("{turns} to measure, about {all} s");
        let since = Instant::now();
        Left {
            turns,
            done: 0,
            since,
        }
    }

    /// Tells what came out of a turn, and how long the others will take, to judge by those that are
    /// done.
    pub(crate) fn one_is_done(&mut self, name: &str, told: &str) {
        self.done += 1;
        let more = self.turns.saturating_sub(self.done);
        let each = self.since.elapsed().as_secs_f64() / self.done as f64;
        let left = match more {
            0 => String::new(),
            more => format!("; {more} more, about {:.0} s", each * more as f64),
        };
        eprintln!("{name}: {told}{left}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_well_formed() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
