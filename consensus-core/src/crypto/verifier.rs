//! Who may say something, and whether it was they who said it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::VerifyingKey;

use super::scheme::{Equation, Scheme};
use super::{BadSignature, Digest, Digester, Domain, GroupId, PublicKey, Signature, statement};
use crate::id::ReplicaId;

mod unchecked;

#[cfg(feature = "mutants")]
pub use unchecked::Unchecked;

/// Who is in the cluster: a public key a replica.
#[derive(Clone, Debug)]
pub struct Members {
    group: GroupId,
    keys: Arc<[PublicKey]>,
    checking: Arc<[Option<VerifyingKey>]>,
}

impl Members {
    /// The members of `group`, in the order of their [`ReplicaId`].
    pub fn new(group: GroupId, keys: impl Into<Arc<[PublicKey]>>) -> Self {
        let keys = keys.into();
        Members {
            group,
            checking: keys.iter().map(PublicKey::checking).collect(),
            keys,
        }
    }

    /// The cluster's number.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// How many replicas there are.
    pub fn n(&self) -> usize {
        self.keys.len()
    }

    /// All replicas.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ReplicaId> + ExactSizeIterator {
        ReplicaId::all(self.n())
    }

    /// The key of `replica`, if it is a member.
    pub fn key(&self, replica: ReplicaId) -> Option<PublicKey> {
        self.keys.get(replica.index()).copied()
    }

    /// The member that has `key`, if there is one.
    pub fn find(&self, key: PublicKey) -> Option<ReplicaId> {
        let index = self.keys.iter().position(|member| *member == key)?;
        Some(ReplicaId(index as u8))
    }

    fn checking(&self, replica: ReplicaId) -> Result<&VerifyingKey, BadSignature> {
        let key = self.checking.get(replica.index());
        key.and_then(Option::as_ref).ok_or(BadSignature)
    }
}

/// Which clients are let in.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Any client that proves some key.
    Anyone,
    /// These keys only.
    Keys(AdmittedKeys),
}

/// The keys of clients that are let in.
#[derive(Clone, Debug)]
pub struct AdmittedKeys(Arc<BTreeMap<PublicKey, Option<VerifyingKey>>>);

impl Admission {
    /// These keys only.
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let keys = keys.into_iter().map(|key| (key, key.checking()));
        Admission::Keys(AdmittedKeys(Arc::new(keys.collect())))
    }

    /// No client at all.
    pub fn nobody() -> Self {
        Admission::of([])
    }

    /// These keys as well.
    pub fn and(self, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let Admission::Keys(AdmittedKeys(known)) = self else {
            return self;
        };
        let mut known = Arc::unwrap_or_clone(known);
        known.extend(keys.into_iter().map(|key| (key, key.checking())));
        Admission::Keys(AdmittedKeys(Arc::new(known)))
    }

    /// The keys that are let in, in order; none if any is.
    pub fn keys(&self) -> Option<impl Iterator<Item = PublicKey>> {
        match self {
            Admission::Anyone => None,
            Admission::Keys(AdmittedKeys(known)) => Some(known.keys().copied()),
        }
    }

    /// Whether the client with this key is let in.
    pub fn admits(&self, key: PublicKey) -> bool {
        match self {
            Admission::Anyone => true,
            Admission::Keys(keys) => keys.0.contains_key(&key),
        }
    }
}

/// What a member is said to have signed.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The member.
    pub by: ReplicaId,
    /// What for.
    pub domain: Domain,
    /// The statement.
    pub bytes: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

/// Checks signatures of members and clients, and counts. Cheap to clone; clones count together,
/// and remember together what has been found good.
#[derive(Clone, Debug)]
pub struct Verifier {
    members: Members,
    admission: Admission,
    scheme: Scheme,
    checked: Arc<AtomicU64>,
    known: Arc<Mutex<Known>>,
    /// The statements of each member that were found good, each by itself.
    statements: Arc<[Mutex<Known>]>,
    #[cfg(feature = "mutants")]
    without: Option<Unchecked>,
}

/// How many digests make a generation of [`Known`].
pub(super) const GENERATION: usize = 2048;

/// What has been found good, by digest: the last generation, and the one before it.
#[derive(Debug, Default)]
struct Known {
    recent: BTreeSet<Digest>,
    older: BTreeSet<Digest>,
}

impl Known {
    fn contains(&self, digest: &Digest) -> bool {
        self.recent.contains(digest) || self.older.contains(digest)
    }

    fn insert(&mut self, digest: Digest) {
        if self.recent.len() >= GENERATION {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest);
    }
}

fn once_in<E>(
    known: &Mutex<Known>,
    digest: Digest,
    check: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(&digest) {
        return Ok(());
    }
    check()?;
    known().insert(digest);
    Ok(())
}

/// What a member's claim is remembered by: all of it.
fn digest_of(claim: &Claim<'_>) -> Digest {
    let mut digester = Digester::default();
    digester.update(claim.domain.0.as_bytes());
    digester.update(&[0]);
    digester.update(&claim.signature.to_bytes());
    digester.update(claim.bytes);
    digester.finish()
}

impl Verifier {
    /// Checks for the members given, and admits no client.
    pub fn new(members: Members) -> Self {
        Verifier {
            statements: members.ids().map(|_| Mutex::default()).collect(),
            members,
            admission: Admission::nobody(),
            scheme: Scheme::default(),
            checked: Arc::default(),
            known: Arc::default(),
            #[cfg(feature = "mutants")]
            without: None,
        }
    }

    /// Checks by `check`, unless what has this digest has passed a check of late: a certificate
    /// that comes with many messages is verified once. The digest must be over all that is
    /// checked, signatures included, and over what it is.
    pub fn once<E>(&self, digest: Digest, check: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        once_in(&self.known, digest, check)
    }

    /// Checks one claim by itself, unless just this was found good of late. Each member's claims are
    /// remembered apart, so that nobody can have another's forgotten.
    ///
    /// By itself, because what is good here must be good wherever it is shown again: among others a
    /// malformed signature may pass ([`Verifier::verify_all`]), with some others and not with the next.
    pub fn verify_once(&self, claim: Claim<'_>) -> Result<(), BadSignature> {
        if self.overlooks(&claim) {
            return Ok(());
        }
        let known = self.statements.get(claim.by.index());
        let check = || self.verify(claim.by, claim.domain, claim.bytes, claim.signature);
        once_in(known.ok_or(BadSignature)?, digest_of(&claim), check)
    }

    /// Notes a claim that needs no check, because this replica has signed it itself.
    pub fn know(&self, claim: Claim<'_>) {
        if let Some(known) = self.statements.get(claim.by.index()) {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(digest_of(&claim));
        }
    }

    /// Takes requests of these clients.
    pub fn admitting(self, admission: Admission) -> Self {
        Verifier { admission, ..self }
    }

    /// Checks by `scheme`.
    pub fn by(self, scheme: Scheme) -> Self {
        Verifier { scheme, ..self }
    }

    /// The members.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whose requests are taken.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Checks that `signature` is `replica`'s on `bytes` for `domain`.
    pub fn verify(
        &self,
        replica: ReplicaId,
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        self.verify_all([Claim {
            by: replica,
            domain,
            bytes,
            signature,
        }])
    }

    /// Checks all claims at once, which takes about half the time of checking each.
    ///
    /// The outcome depends on the claims and their order only, so that all replicas come to the
    /// same one. Two or more are checked by one equation with weights drawn from the claims, which
    /// a signer may, with some trying, make true of a malformed signature of its own, though never
    /// of one for another key. \[Chalkias20\]
    pub fn verify_all<'a>(
        &self,
        claims: impl IntoIterator<Item = Claim<'a>>,
    ) -> Result<(), BadSignature> {
        let mut batch = Equation::new(self.scheme);
        for claim in claims {
            if self.overlooks(&claim) {
                continue;
            }
            let key = self.members.checking(claim.by)?;
            let statement = statement(self.members.group, claim.domain, claim.bytes);
            batch.add(key, statement, claim.signature);
        }
        self.checked
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.holds()
    }

    /// Checks what clients have signed, as [`Verifier::verify_all`] does.
    pub(crate) fn verify_clients(
        &self,
        domain: Domain,
        claims: &[(PublicKey, Vec<u8>, Signature)],
    ) -> Result<(), BadSignature> {
        let mut batch = Equation::new(self.scheme);
        for (key, bytes, signature) in claims {
            let key = self.checking(key)?;
            let statement = statement(self.members.group, domain, bytes);
            batch.add(&key, statement, signature);
        }
        self.checked
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        batch.holds()
    }

    /// A client's key as one to check with. Looked at once: where the clients are known, when they
    /// become so, and otherwise when they come.
    fn checking(&self, key: &PublicKey) -> Result<VerifyingKey, BadSignature> {
        if let Admission::Keys(keys) = &self.admission
            && let Some(checking) = keys.0.get(key)
        {
            return checking.ok_or(BadSignature);
        }
        let mut name = Digester::default();
        name.update(b"client key\0");
        name.update(&key.0);
        let good = || key.checking().map(drop).ok_or(BadSignature);
        self.once(name.finish(), good)?;
        VerifyingKey::from_bytes(&key.0).map_err(|_| BadSignature)
    }

    /// How many signatures have been checked.
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }
}
