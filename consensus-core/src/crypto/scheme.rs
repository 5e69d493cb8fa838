//! How statements are signed, and how signatures are checked.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey, verify_batch};

use super::{BadSignature, Digester, Signature};

/// A signature scheme. All replicas and clients of a cluster have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Ed25519 \[RFC8032\].
    #[default]
    Ed25519,
    /// A digest of the public key and the statement. **Anybody can make it**: for simulated worlds,
    /// whose liars sign with their own keys only, and where Ed25519 is most of what is computed.
    Forgeable,
}

impl Scheme {
    pub(super) fn sign(self, key: &SigningKey, statement: &[u8]) -> Signature {
        match self {
            Scheme::Ed25519 => Signature::from_dalek(&key.sign(statement)),
            Scheme::Forgeable => forgeable(&key.verifying_key(), statement),
        }
    }
}

fn forgeable(key: &VerifyingKey, statement: &[u8]) -> Signature {
    let mut digester = Digester::default();
    digester.update(key.as_bytes());
    digester.update(statement);
    let digest = digester.finish().0;
    Signature {
        r: digest,
        s: digest,
    }
}

/// Signatures that are checked together.
#[derive(Default)]
pub(super) struct Equation {
    scheme: Scheme,
    keys: Vec<VerifyingKey>,
    statements: Vec<Vec<u8>>,
    signatures: Vec<Signature>,
}

impl Equation {
    pub(super) fn new(scheme: Scheme) -> Self {
        Equation {
            scheme,
            ..Equation::default()
        }
    }

    pub(super) fn add(&mut self, key: &VerifyingKey, statement: Vec<u8>, signature: &Signature) {
        self.keys.push(*key);
        self.statements.push(statement);
        self.signatures.push(*signature);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn holds(&self) -> Result<(), BadSignature> {
        match self.scheme {
            Scheme::Ed25519 => self.holds_in_ed25519(),
            Scheme::Forgeable => self.is_of_digests(),
        }
    }

    fn holds_in_ed25519(&self) -> Result<(), BadSignature> {
        let checked = match (&self.keys[..], &self.statements[..], &self.signatures[..]) {
            ([], ..) => return Ok(()),
            ([key], [statement], [signature]) => {
                key.verify_strict(statement, &signature.to_dalek())
            }
            (keys, statements, signatures) => {
                let statements: Vec<&[u8]> = statements.iter().map(Vec::as_slice).collect();
                let signatures: Vec<_> = signatures.iter().map(|s| s.to_dalek()).collect();
                verify_batch(&statements, &signatures, keys)
            }
        };
        checked.map_err(|_| BadSignature)
    }

    fn is_of_digests(&self) -> Result<(), BadSignature> {
        let made = self.keys.iter().zip(&self.statements);
        let made = made.map(|(key, statement)| forgeable(key, statement));
        match made.eq(self.signatures.iter().copied()) {
            true => Ok(()),
            false => Err(BadSignature),
        }
    }
}
