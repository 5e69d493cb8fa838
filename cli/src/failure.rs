//! How the command ends, and what it says when it failed.

use std::process::ExitCode;

/// How the command ended, as its exit status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What was asked has been done.
    Done,
    /// It failed, or a check did.
    Failed,
    /// The key is absent, or not as expected.
    Absent,
    /// The person at the terminal ended it.
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> ExitCode {
        ExitCode::from(match ending {
            Ending::Done => 0,
            Ending::Failed => 1,
            Ending::Absent => 3,
            Ending::Interrupted => 130,
        })
    }
}

/// Prints the error and its causes, but for causes that the line before has named already.
pub(crate) fn print(error: &anyhow::Error) {
    eprintln!("{}", text(error));
}

fn text(error: &anyhow::Error) -> String {
    let mut text = String::from("error: ");
    let mut said = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if said.contains(cause.trim()) {
            continue;
        }
        if !said.is_empty() {
            text.push_str("\n  because: ");
        }
        text.push_str(cause.trim());
        said = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("disk full")
            .context("cannot write: disk full")
            .context("the log stopped");
        let expected = "error: the log stopped\n  because: cannot write: disk full";
        assert_eq!(text(&error), expected);
    }
}
