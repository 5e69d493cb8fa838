//! What clients did and saw, kept small while it is measured, and turned into a history after.

use std::io::{self, Write};

use quorate_simulator::history::{Answer, Call, Operation, Outcome};

use super::workload::{ValueId, key_name};

/// What a read saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The key was absent.
    Absent,
    /// A value of this run.
    Value(ValueId),
    /// Something that nobody wrote.
    Foreign,
}

/// What was asked, and of a read what was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A write of this value.
    Put(ValueId),
    /// A read.
    Get(Seen),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was answered.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// It may have happened.
    Unknown,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// When it was asked, in nanoseconds since the run began.
    pub(crate) invoke: u64,
    /// When its end was known, in nanoseconds since the run began.
    pub(crate) returned: u64,
    /// The key's number.
    pub(crate) key: u32,
    /// What it was.
    pub(crate) what: What,
    /// How it ended.
    pub(crate) end: End,
}

/// The operations of one client, one after the other.
pub(crate) type Recording = Vec<Done>;

/// The operations on keys that `wanted` picks, as a history has them.
///
/// A client whose operation ended unknown goes on as another process, because that operation may
/// still be under way.
pub(crate) fn operations<'a>(
    recordings: &'a [Recording],
    wanted: impl Fn(u32) -> bool + Copy + 'a,
) -> impl Iterator<Item = Operation> + 'a {
    let mut process = 0;
    recordings.iter().flat_map(move |recording| {
        let first = process;
        let unknown = recording.iter().filter(|done| done.end == End::Unknown);
        process += 1 + unknown.count() as u64;
        let mut own = first;
        recording.iter().filter_map(move |done| {
            let by = own;
            own += u64::from(done.end == End::Unknown);
            wanted(done.key).then(|| operation(by, done))
        })
    })
}

fn operation(process: u64, done: &Done) -> Operation {
    let (call, answer) = match done.what {
        What::Put(value) => (
            Call::Put {
                value: value.text(),
            },
            None,
        ),
        What::Get(Seen::Absent) => (Call::Get, None),
        What::Get(Seen::Value(value)) => (Call::Get, Some(value.text())),
        What::Get(Seen::Foreign) => (Call::Get, Some(String::from("a value nobody wrote"))),
    };
    let outcome = match done.end {
        End::Ok => Outcome::Ok {
            returned: done.returned,
            answer: Answer::Value(answer),
        },
        End::Fail => Outcome::Fail {
            returned: Some(done.returned),
        },
        End::Unknown => Outcome::Info,
    };
    Operation {
        process,
        key: key_name(done.key),
        call,
        invoke: done.invoke,
        outcome,
    }
}

/// Writes the history, a line an operation.
pub(crate) fn write(recordings: &[Recording], mut to: impl Write) -> io::Result<()> {
    for operation in operations(recordings, |_| true) {
        serde_json::to_writer(&mut to, &operation)?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(key: u32, what: What, end: End) -> Done {
        Done {
            invoke: 1,
            returned: 2,
            key,
            what,
            end,
        }
    }

    #[test]
    fn after_an_unknown_outcome_a_client_is_another_process() {
        let put = |key, end| done(key, What::Put(ValueId::new(0, 0)), end);
        let recordings = [
            vec![put(1, End::Ok), put(2, End::Unknown), put(1, End::Ok)],
            vec![done(1, What::Get(Seen::Absent), End::Ok)],
        ];
        let all: Vec<Operation> = operations(&recordings, |_| true).collect();
        let processes: Vec<u64> = all.iter().map(|operation| operation.process).collect();
        assert_eq!(processes, [0, 0, 1, 2]);
        assert_eq!(all[1].outcome, Outcome::Info);
        let some: Vec<Operation> = operations(&recordings, |key| key == 1).collect();
        let processes: Vec<u64> = some.iter().map(|operation| operation.process).collect();
        assert_eq!(processes, [0, 1, 2]);
    }
}
