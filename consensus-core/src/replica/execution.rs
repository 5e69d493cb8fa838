//! Executing what was ordered: state machine, sessions, frontier and their snapshots.

use std::io::Read as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, TABLE_LIMIT};
use crate::consensus::ProposeError;
use crate::crypto::Digest;
use crate::frontier::Frontier;
use crate::id::UnixTime;
use crate::machine::{RestoreError, StateMachine};
use crate::protocol::{Agreed, Commit, SnapshotRef, Violation};
use crate::request::{Operation, Request};
use crate::session::{Sessions, Standing};
use crate::storage::Snapshot;

use super::effects::Halt;
use super::settings::{Mutant, Settings};

/// The replicated state, and how far it has come.
#[derive(Debug)]
pub(super) struct Execution<S> {
    machine: S,
    sessions: Sessions,
    applied: Frontier,
    entries: u64,
    requests: u64,
    since_snapshot: u64,
    /// The time agreed on last, as the machine was told it.
    agreed: Option<UnixTime>,
}

/// The format of a snapshot's body: another is refused. 2: sessions keep no answers to queries, and
/// are counted by client.
const SNAPSHOT_VERSION: u8 = 2;

/// What precedes the application's state in a snapshot's body.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u8,
    entries: u64,
    at: Frontier,
    sessions: Sessions,
    agreed: Option<UnixTime>,
}

impl<S: StateMachine> Execution<S> {
    pub(super) fn new(machine: S) -> Self {
        Execution {
            machine,
            sessions: Sessions::default(),
            applied: Frontier::default(),
            entries: 0,
            requests: 0,
            since_snapshot: 0,
            agreed: None,
        }
    }

    pub(super) fn machine(&self) -> &S {
        &self.machine
    }

    /// Where a request stands that is about to be ordered.
    pub(super) fn standing(&self, request: &Request<'_>) -> Standing {
        match request.operation {
            Operation::Apply(_) => self.sessions.standing(request.session, request.sequence),
            Operation::Open if self.sessions.is_open(request.session) => {
                Standing::Executed(Bytes::new())
            }
            Operation::Open => Standing::New,
            Operation::Query(_) => {
                let (session, sequence) = (request.session, request.sequence);
                match self.sessions.query_standing(session, sequence) {
                    Standing::Expired => Standing::New,
                    standing => standing,
                }
            }
            Operation::Close if self.sessions.is_open(request.session) => Standing::New,
            Operation::Close => Standing::Executed(Bytes::new()),
        }
    }

    /// `request` as this replica takes it: one that opens a session says how many it has seen
    /// opened, whatever the client says.
    pub(super) fn taken<'a>(&self, request: Request<'a>) -> Request<'a> {
        match request.operation {
            Operation::Open => Request {
                answered: self.sessions.opened(),
                ..request
            },
            Operation::Apply(_) | Operation::Query(_) | Operation::Close => request,
        }
    }

    /// How many sessions have been opened.
    pub(super) fn opened(&self) -> u64 {
        self.sessions.opened()
    }

    pub(super) fn applied(&self) -> &Frontier {
        &self.applied
    }

    /// How many entries have been executed, those in snapshots included.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// How many requests were executed since the start, repeated ones not counted.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether enough has been executed for another snapshot.
    pub(super) fn snapshot_is_due(&self, settings: &Settings) -> bool {
        self.since_snapshot >= settings.snapshot_every_bytes
    }

    /// Begins to execute an entry, whose requests follow.
    pub(super) fn begin(&mut self, commit: &Commit, settings: &Settings) -> Result<(), Violation> {
        if !self.applied.insert(commit.id) {
            return Err(Violation {
                rule: "an entry is executed once",
                detail: format!("{:?} was handed over again", commit.id),
            });
        }
        self.entries += 1;
        self.since_snapshot += commit.batch.size() as u64;
        if let Some(agreed) = &commit.agreed {
            self.agree(agreed, settings);
        }
        Ok(())
    }

    /// Tells the machine what was agreed on. Its time goes on from the last, which is replicated
    /// state: all replicas come to the same.
    fn agree(&mut self, agreed: &Agreed, settings: &Settings) {
        let least = self.agreed.map_or(agreed.time, UnixTime::next);
        let time = match settings.mutated(Mutant::AgreedTimeAsProposed) {
            true => agreed.time,
            false => agreed.time.max(least),
        };
        self.agreed = Some(time);
        self.machine.agreed(&Agreed { time, ..*agreed });
    }

    /// Executes a request; gives its answer.
    pub(super) fn request(
        &mut self,
        request: Request<'_>,
        settings: &Settings,
    ) -> Result<Bytes, ProposeError> {
        let command = match request.operation {
            Operation::Query(_) => return self.query(&request, true),
            Operation::Open => {
                return match self.sessions.open(request.session, request.answered) {
                    true => Ok(Bytes::new()),
                    false => Err(ProposeError::SessionExpired),
                };
            }
            Operation::Close => {
                self.sessions.close(request.session);
                return Ok(Bytes::new());
            }
            Operation::Apply(command) => command,
        };
        let (machine, requests) = (&mut self.machine, &mut self.requests);
        let executed = self.sessions.execute(&request, || {
            *requests += 1;
            machine.apply(command)
        });
        match executed {
            Ok(answer) => Ok(answer),
            Err(Standing::Expired) => Err(ProposeError::SessionExpired),
            Err(_) if settings.mutated(Mutant::ExecuteRepeats) => Ok(self.machine.apply(command)),
            Err(Standing::Executed(answer)) => Ok(answer),
            Err(Standing::Dropped | Standing::New) => Err(ProposeError::AnswerDropped),
        }
    }

    /// A query of an open session is answered as often as it is ordered while its client may wait.
    /// One that is not `wanted` here changes the sessions alike, and has no answer.
    pub(super) fn query(
        &mut self,
        request: &Request<'_>,
        wanted: bool,
    ) -> Result<Bytes, ProposeError> {
        let machine = &self.machine;
        let ask = || match request.operation {
            Operation::Query(query) if wanted => machine.query(query),
            _ => Bytes::new(),
        };
        match self.sessions.query(request, ask) {
            Ok(answer) | Err(Standing::Executed(answer)) => Ok(answer),
            Err(Standing::Expired) => Ok(ask()),
            Err(Standing::Dropped | Standing::New) => Err(ProposeError::AnswerDropped),
        }
    }

    /// A snapshot of the state as it is.
    pub(super) fn snapshot(&mut self, settings: &Settings) -> Result<Snapshot, Halt> {
        self.since_snapshot = 0;
        let body = self.body(settings)?;
        Ok(Snapshot {
            id: SnapshotRef {
                at: self.applied.clone(),
                digest: Digest::of(&body),
                anchor: Bytes::new(),
            },
            body,
        })
    }

    /// Sessions and application state, as snapshots hold them.
    pub(super) fn body(&self, settings: &Settings) -> Result<Bytes, Halt> {
        let sessions = match settings.mutated(Mutant::SessionsLeftOutOfSnapshot) {
            true => Sessions::default(),
            false => self.sessions.clone(),
        };
        let head = Head {
            version: SNAPSHOT_VERSION,
            entries: self.entries,
            at: self.applied.clone(),
            sessions,
            agreed: self.agreed,
        };
        let failed = |error: &dyn std::fmt::Display| Halt::Encode(format!("a snapshot: {error}"));
        let head = codec::encode(&head).map_err(|error| failed(&error))?;
        let mut body = (head.len() as u64).to_le_bytes().to_vec();
        body.extend_from_slice(&head);
        self.machine
            .snapshot(&mut body)
            .map_err(|error| failed(&error))?;
        Ok(body.into())
    }

    /// The digest of the state as it is.
    pub(super) fn digest(&self, settings: &Settings) -> Result<Digest, Halt> {
        Ok(Digest::of(&self.body(settings)?))
    }

    /// Replaces the state by a snapshot's.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        let short = || RestoreError::new("the snapshot is cut short");
        if Digest::of(&snapshot.body) != snapshot.id.digest {
            return Err(RestoreError::new(
                "the body does not have the digest stated",
            ));
        }
        let (length, rest) = snapshot.body.split_at_checked(8).ok_or_else(short)?;
        let length = u64::from_le_bytes(length.try_into().map_err(|_| short())?);
        let length = usize::try_from(length).map_err(|_| short())?;
        let (head, mut state) = rest.split_at_checked(length).ok_or_else(short)?;
        let head: Head = codec::decode_limited::<Head, TABLE_LIMIT>("snapshot", head)
            .map_err(|error| RestoreError::new(error.to_string()))?;
        if head.version != SNAPSHOT_VERSION || head.at != snapshot.id.at {
            return Err(RestoreError::new(
                "the body is not that of the snapshot named",
            ));
        }
        self.machine.restore(&mut state.by_ref())?;
        self.applied = head.at;
        self.entries = head.entries;
        self.sessions = head.sessions;
        self.agreed = head.agreed;
        self.since_snapshot = 0;
        Ok(())
    }
}
