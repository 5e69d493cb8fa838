//! Whose the directory is, what its replica agrees on with the others, and whether a log was ever
//! begun in it.
//!
//! A replica that comes up without its state, or with another's, may vote twice in one term or
//! ballot: it has forgotten what it promised, and the others count on it. So a directory is made
//! by [`prepare`] only, when somebody says that its replica has never run, and a log begins in it
//! once. And one that goes on under other members or quorums than its log was written under counts
//! as agreed what is not: so the directory is bound to the [`Epoch`] that it is used under, and keeps
//! all of it, to tell what differs. All of that is in one small file of text, for people to read too.

use std::fmt;

use quorate_core::codec::FORMAT_VERSION;
use quorate_core::crypto::{GroupId, PublicKey};
use quorate_core::epoch::Epoch;
use quorate_core::id::ReplicaId;
use quorate_core::storage::StorageError;

use crate::disk::Disk;
use crate::files::Files;
use crate::recovery::Found;
use crate::segment::{self, LOG_OFFSET};

/// The file's name.
const NAME: &str = "identity";

/// Whose a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub group: GroupId,
    /// The replica's number in it.
    pub replica: ReplicaId,
    /// The replica's public key.
    pub key: PublicKey,
    /// The protocol whose records these are.
    pub protocol: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity {
            group,
            replica,
            key,
            protocol,
        } = self;
        write!(
            f,
            "replica {} (key {key}) of group {:016x} under {protocol}",
            replica.0, group.0
        )
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) owner: Identity,
    /// The identity of the log; none before one has begun.
    pub(crate) log: Option<u64>,
    /// What the log is written under; none where that was not yet known when it was prepared.
    pub(crate) epoch: Option<Epoch>,
}

impl Deed {
    fn encode(&self) -> String {
        let Identity {
            group,
            replica,
            key,
            protocol,
        } = &self.owner;
        let log = self
            .log
            .map_or_else(|| String::from(NOT_BEGUN), |log| format!("{log:016x}"));
        let epoch = self.epoch.as_ref().map(Epoch::to_string);
        let text = format!(
            "{TITLE}{FORMAT_VERSION}\ngroup {:016x}\nreplica {}\nkey {key}\nprotocol {protocol}\nlog {log}\n{}",
            group.0,
            replica.0,
            epoch.unwrap_or_default()
        );
        let checksum = crc32fast::hash(text.as_bytes());
        format!("{text}checksum {checksum:08x}\n")
    }

    fn decode(text: &str) -> Result<Deed, String> {
        let version = text
            .strip_prefix(TITLE)
            .and_then(|rest| rest.lines().next())
            .ok_or("the file does not start like an identity")?;
        if version != FORMAT_VERSION.to_string() {
            return Err(format!("format version {version} is not known"));
        }
        // What is read must be exactly what would be written: that checks the checksum as well.
        let deed = Deed::read(text).filter(|deed| deed.encode() == text);
        deed.ok_or_else(|| String::from("the file does not match its checksum"))
    }

    fn read(text: &str) -> Option<Deed> {
        let mut lines = text.lines().skip(1);
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let group = u64::from_str_radix(field("group")?, 16).ok()?;
        let replica = field("replica")?.parse().ok()?;
        let key = field("key")?.parse().ok()?;
        let protocol = String::from(field("protocol")?);
        let log = match field("log")? {
            NOT_BEGUN => None,
            log => Some(u64::from_str_radix(log, 16).ok()?),
        };
        let owner = Identity {
            group: GroupId(group),
            replica: ReplicaId(replica),
            key,
            protocol,
        };
        let agreed = lines.take_while(|line| !line.starts_with("checksum "));
        let agreed: String = agreed.map(|line| format!("{line}\n")).collect();
        let epoch = match agreed.as_str() {
            "" => None,
            agreed => Some(Epoch::parse(agreed)?),
        };
        Some(Deed { owner, log, epoch })
    }

    /// What the directory says, if it says anything.
    pub(crate) fn load(disk: &Disk) -> Result<Option<Deed>, StorageError> {
        if !disk.holds(NAME)? {
            return Ok(None);
        }
        let bytes = disk.read(NAME)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let offset = error.valid_up_to() as u64;
            disk.damaged(NAME, offset, "the file is no text")
        })?;
        let deed = Deed::decode(text).map_err(|reason| disk.damaged(NAME, 0, &reason))?;
        Ok(Some(deed))
    }

    /// Puts this in the place of what the directory said.
    pub(crate) fn save(&self, disk: &Disk) -> Result<(), StorageError> {
        let temporary = format!("{NAME}.tmp");
        let mut file = disk.create(&temporary)?;
        file.write(self.encode().as_bytes())?;
        file.sync()?;
        disk.rename(&temporary, NAME)?;
        disk.sync()
    }

    /// What the directory says to `own`, which is about to use it.
    pub(crate) fn of(disk: &Disk, own: &Identity) -> Result<Deed, StorageError> {
        let Some(deed) = Deed::load(disk)? else {
            return Err(match has_log(disk)? {
                true => unnamed(disk),
                false => StorageError::Absent {
                    path: disk.display(),
                },
            });
        };
        if deed.owner != *own {
            return Err(StorageError::Foreign {
                path: disk.display(),
                owner: deed.owner.to_string(),
                own: own.to_string(),
            });
        }
        Ok(deed)
    }

    /// An error that names what differs if the directory is used under another epoch.
    pub(crate) fn agrees(&self, disk: &Disk, epoch: &Epoch) -> Result<(), StorageError> {
        match &self.epoch {
            Some(bound) if bound != epoch => Err(StorageError::Disagrees {
                path: disk.display(),
                differences: epoch.differences(bound),
                digest: epoch.digest(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that the log found is the one that began here; if none had, this one has. From now on
    /// the directory is bound to `epoch`.
    pub(crate) fn claim(
        self,
        disk: &Disk,
        epoch: &Epoch,
        found: &Found,
        snapshot: bool,
    ) -> Result<(), StorageError> {
        let bound = Deed {
            log: Some(found.log),
            epoch: Some(epoch.clone()),
            ..self.clone()
        };
        match self.log {
            Some(log) if log == found.log => match self == bound {
                true => Ok(()),
                false => bound.save(disk),
            },
            Some(_) => {
                let reason = "the segment is of another log than began here";
                Err(disk.damaged(&segment::name(found.first), LOG_OFFSET, reason))
            }
            // A crash may have come between the first segment and this; nothing more than that
            // segment was made before it.
            None if found.first == 1 && found.records.is_empty() && !snapshot => bound.save(disk),
            None => {
                let reason = "the file says that no log has begun, and there is one";
                Err(disk.damaged(NAME, 0, reason))
            }
        }
    }
}

const TITLE: &str = "quorate data ";

const NOT_BEGUN: &str = "none";

/// Makes `path` the directory of a replica that has never run.
pub(crate) fn prepare(
    disk: &Disk,
    owner: &Identity,
    epoch: Option<&Epoch>,
) -> Result<(), StorageError> {
    disk.make()?;
    let _lock = disk.lock()?;
    if has_begun(disk)? {
        return Err(StorageError::Present {
            path: disk.display(),
        });
    }
    let deed = Deed {
        owner: owner.clone(),
        log: None,
        epoch: epoch.cloned(),
    };
    deed.save(disk)
}

/// Binds the directory to another epoch, if no more differs than may.
pub(crate) fn accept(disk: &Disk, own: &Identity, epoch: &Epoch) -> Result<(), StorageError> {
    Deed::of(disk, own)?;
    let _lock = disk.lock()?;
    let deed = Deed::of(disk, own)?;
    let Err(error) = deed.agrees(disk, epoch) else {
        return Ok(());
    };
    if matches!(&error, StorageError::Disagrees { differences, .. } if !differences.may_be_accepted())
    {
        return Err(error);
    }
    tracing::warn!(path = disk.display(), %error, "other settings are accepted");
    let epoch = Some(epoch.clone());
    Deed { epoch, ..deed }.save(disk)
}

/// Whether a log has begun here.
pub(crate) fn has_begun(disk: &Disk) -> Result<bool, StorageError> {
    match Deed::load(disk)? {
        Some(deed) if deed.log.is_some() => Ok(true),
        Some(_) => has_log(disk),
        None if has_log(disk)? => Err(unnamed(disk)),
        None => Ok(false),
    }
}

fn has_log(disk: &Disk) -> Result<bool, StorageError> {
    Ok(disk.exists()? && !Files::list(disk)?.are_none())
}

fn unnamed(disk: &Disk) -> StorageError {
    disk.damaged(NAME, 0, "the file is missing, and there is a log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Faults;

    fn deed(log: Option<u64>) -> Deed {
        let owner = Identity {
            group: GroupId(0xfeed),
            replica: ReplicaId(2),
            key: PublicKey([7; 32]),
            protocol: String::from("raft"),
        };
        let epoch = log.map(|_| Epoch::first(owner.group, "raft", &[owner.key]));
        Deed { owner, log, epoch }
    }

    #[test]
    fn what_is_written_is_read() {
        for deed in [deed(None), deed(Some(0)), deed(Some(u64::MAX))] {
            assert_eq!(Deed::decode(&deed.encode()), Ok(deed));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let text = deed(Some(9)).encode();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(Deed::decode(&changed).is_err(), "{changed}");
            assert!(Deed::decode(&text[..at]).is_err(), "{at}");
        }
    }

    /// One that was begun before directories were bound.
    #[test]
    fn a_log_that_is_bound_to_nothing_is_bound_when_it_is_claimed() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::new(home.path(), Faults::default());
        let bound = deed(Some(9));
        let header = segment::Header {
            number: 1,
            log: 9,
            size: 512,
        };
        segment::make_first(&disk, header).unwrap();
        let found = crate::recovery::read(&disk, &[1], None).unwrap();
        let unbound = Deed {
            epoch: None,
            ..bound.clone()
        };
        let epoch = bound.epoch.clone().unwrap();
        unbound.claim(&disk, &epoch, &found, false).unwrap();
        assert_eq!(Deed::load(&disk), Ok(Some(bound)));
    }
}
