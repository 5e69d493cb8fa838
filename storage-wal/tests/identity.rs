//! A directory is one replica's, and a log begins in it once.

mod support;

use std::fs;
use std::path::Path;

use quorate_core::crypto::{GroupId, PublicKey};
use quorate_core::epoch::{Epoch, Setting};
use quorate_core::id::ReplicaId;
use quorate_core::storage::StorageError;
use quorate_storage_wal::{Identity, Wal};
use support::{Said, contents, epoch, names, open, open_again, options, owner, segment, snapshot};

fn refused(path: &Path) -> StorageError {
    match open_again(path, &options()) {
        Ok(_) => panic!("the log opens"),
        Err(error) => error,
    }
}

fn remove(path: &Path, prefix: &str) {
    for name in names(path, prefix) {
        fs::remove_file(path.join(name)).unwrap();
    }
}

#[test]
fn nothing_is_made_where_nothing_was_prepared() {
    let home = tempfile::tempdir().unwrap();
    let absent = home.path().join("not mounted");
    for path in [home.path(), &absent] {
        let expected = StorageError::Absent {
            path: path.display().to_string(),
        };
        assert_eq!(refused(path), expected);
    }
    assert!(names(home.path(), "").is_empty(), "something was made");
}

#[test]
fn a_prepared_directory_begins_empty_and_goes_on_with_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("in/a/new/place");
    Wal::prepare(&path, &owner(), None).unwrap();
    assert!(!Wal::has_begun(&path).unwrap());
    Wal::prepare(&path, &owner(), None).unwrap();
    open_again(&path, &options()).unwrap().append(&[b"promise"]);
    assert!(Wal::has_begun(&path).unwrap());
    let found = open_again(&path, &options()).unwrap().stored.records;
    assert_eq!(found, [&b"promise"[..]]);
}

#[test]
fn a_directory_with_a_log_is_not_prepared_anew() {
    let home = tempfile::tempdir().unwrap();
    open(home.path()).append(&[b"promise"]);
    let before = contents(home.path());
    let expected = StorageError::Present {
        path: home.path().display().to_string(),
    };
    assert_eq!(Wal::prepare(home.path(), &owner(), None), Err(expected));
    assert!(before == contents(home.path()), "something was changed");
}

#[test]
fn anothers_directory_is_refused_with_both_names() {
    let home = tempfile::tempdir().unwrap();
    open(home.path()).append(&[b"promise"]);
    let before = contents(home.path());
    let others = [
        Identity {
            group: GroupId(2),
            ..owner()
        },
        Identity {
            replica: ReplicaId(1),
            ..owner()
        },
        Identity {
            key: PublicKey([8; 32]),
            ..owner()
        },
        Identity {
            protocol: String::from("other"),
            ..owner()
        },
    ];
    for other in others {
        let (sender, _said) = std::sync::mpsc::channel();
        let listener = support::Listener(sender);
        let opened = Wal::open(home.path(), &other, &epoch(), &options(), listener);
        let error = opened.expect_err("it is another's");
        assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
        let said = error.to_string();
        for name in [owner().to_string(), other.to_string()] {
            assert!(said.contains(&name), "{said}");
        }
    }
    assert!(before == contents(home.path()), "something was changed");
}

#[test]
fn a_log_that_began_and_is_gone_is_missed() {
    let home = tempfile::tempdir().unwrap();
    open(home.path()).append(&[b"promise"]);
    for kind in ["segment-", "spare-"] {
        remove(home.path(), kind);
    }
    let error = refused(home.path());
    assert!(error.to_string().contains("are missing"), "{error}");
    assert!(Wal::has_begun(home.path()).unwrap());
    assert!(Wal::prepare(home.path(), &owner(), None).is_err());
}

#[test]
fn a_log_from_elsewhere_is_not_taken_for_the_one_that_began_here() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(home.path()).append(&[b"promise"]);
    open(other.path()).append(&[b"another"]);
    remove(home.path(), "segment-");
    fs::copy(segment(other.path(), 1), segment(home.path(), 1)).unwrap();
    match refused(home.path()) {
        StorageError::Damaged { path, offset, .. } => {
            assert_eq!(path, segment(home.path(), 1).display().to_string());
            assert_eq!(offset, 24);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_lost_or_damaged_identity_is_reported() {
    let home = tempfile::tempdir().unwrap();
    open(home.path()).append(&[b"promise"]);
    let file = home.path().join("identity");
    let sound = fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    damaged[30] ^= 1;
    let later = [b"quorate data 9", &sound[14..]].concat();
    let cases = [
        (Some(damaged), "does not match its checksum"),
        (Some(later), "format version 9 is not known"),
        (Some(vec![0xff; 9]), "the file is no text"),
        (None, "the file is missing, and there is a log"),
    ];
    for (bytes, reason) in cases {
        match bytes {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let error = refused(home.path());
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(Wal::prepare(home.path(), &owner(), None).is_err());
    }
    fs::write(&file, &sound).unwrap();
    open(home.path());
}

#[test]
fn a_crash_at_the_first_start_leaves_what_can_be_started() {
    let home = tempfile::tempdir().unwrap();
    Wal::prepare(home.path(), &owner(), None).unwrap();
    let file = home.path().join("identity");
    let prepared = fs::read(&file).unwrap();
    drop(open_again(home.path(), &options()).unwrap());
    let begun = fs::read(&file).unwrap();
    assert_ne!(begun, prepared);

    // The first segment has its name, and the identity does not know yet.
    fs::write(&file, &prepared).unwrap();
    fs::write(home.path().join("identity.tmp"), "half").unwrap();
    let mut log = open_again(home.path(), &options()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), begun);
    assert!(!home.path().join("identity.tmp").exists());
    log.append(&[b"promise"]);
    drop(log);

    // With a record, or a snapshot, that was no crash at the first start.
    fs::write(&file, &prepared).unwrap();
    let error = refused(home.path()).to_string();
    assert!(error.contains("no log has begun, and there is"), "{error}");
    fs::write(&file, &begun).unwrap();
    let mut log = open_again(home.path(), &options()).unwrap();
    log.save(1, b"state");
    let ticket = log.give(true, &[]);
    log.until(&Said::Durable(ticket));
    assert_eq!(log.stored.snapshot, None);
    drop(log);
    fs::write(&file, &prepared).unwrap();
    assert!(matches!(refused(home.path()), StorageError::Damaged { .. }));
    fs::write(&file, &begun).unwrap();
    let found = open_again(home.path(), &options()).unwrap().stored;
    assert_eq!(found.snapshot, Some(snapshot(1, b"state")));
}

fn with_lease(lease: u64) -> Epoch {
    epoch().with("settings", vec![Setting::agreed("lease_ms", lease)])
}

fn open_under(path: &Path, epoch: &Epoch) -> Result<Wal, StorageError> {
    let (sender, _said) = std::sync::mpsc::channel();
    let opened = Wal::open(path, &owner(), epoch, &options(), support::Listener(sender));
    opened.map(|(wal, _)| wal)
}

fn disagreement(outcome: Result<Wal, StorageError>) -> String {
    match outcome {
        Err(error @ StorageError::Disagrees { .. }) => error.to_string(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("the log opens"),
    }
}

#[test]
fn a_directory_is_bound_to_the_epoch_it_was_prepared_for_or_first_used_under() {
    for known in [None, Some(&with_lease(300))] {
        let home = tempfile::tempdir().unwrap();
        Wal::prepare(home.path(), &owner(), known).unwrap();
        if known.is_some() {
            disagreement(open_under(home.path(), &with_lease(400)));
            assert!(!Wal::has_begun(home.path()).unwrap());
        }
        drop(open_under(home.path(), &with_lease(300)).unwrap());
        let before = contents(home.path());
        let said = disagreement(open_under(home.path(), &with_lease(400)));
        let expected = "settings.lease_ms is 400 here and 300 there";
        assert!(said.contains(expected), "{said}");
        assert!(before == contents(home.path()), "something was changed");
        drop(open_under(home.path(), &with_lease(300)).unwrap());
    }
}

#[test]
fn another_epoch_is_accepted_unless_something_differs_that_never_may() {
    let home = tempfile::tempdir().unwrap();
    Wal::prepare(home.path(), &owner(), Some(&with_lease(300))).unwrap();
    drop(open_under(home.path(), &with_lease(300)).unwrap());
    let others = Epoch::first(owner().group, "test", &[owner().key, PublicKey([8; 32])]);
    let before = contents(home.path());
    let refused = Wal::accept(home.path(), &owner(), &others).unwrap_err();
    assert!(
        matches!(refused, StorageError::Disagrees { .. }),
        "{refused}"
    );
    assert!(before == contents(home.path()), "something was changed");
    for _ in 0..2 {
        Wal::accept(home.path(), &owner(), &with_lease(400)).unwrap();
    }
    disagreement(open_under(home.path(), &with_lease(300)));
    drop(open_under(home.path(), &with_lease(400)).unwrap());
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_a_directory_that_was_prepared() {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let home = tempfile::tempdir().unwrap();
    let there_before = home.path().join("before");
    fs::create_dir(&there_before).unwrap();
    fs::set_permissions(&there_before, fs::Permissions::from_mode(0o755)).unwrap();
    let new = home.path().join("new");
    for path in [there_before, new.join("place")] {
        Wal::prepare(&path, &owner(), None).unwrap();
        let mut log = open_again(&path, &options()).unwrap();
        log.append(&[b"promise"]);
        log.save(1, b"state");
        drop(log);
        assert_eq!(mode(&path), 0o700, "{}", path.display());
        let files = names(&path, "");
        assert!(files.len() > 4, "{files:?}");
        for name in files {
            assert_eq!(mode(&path.join(&name)), 0o600, "{name}");
        }
        // What was opened up since is its owner's matter, who is told.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let (said, log) = support::said(|| open_again(&path, &options()).unwrap());
        assert!(said.contains("mode=0750"), "{said}");
        drop(log);
        assert_eq!(mode(&path), 0o750);
    }
    assert_eq!(mode(&new), 0o700, "what was made above it");
}
