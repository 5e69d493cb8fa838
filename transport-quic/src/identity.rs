//! Keys become TLS configurations: both ends prove theirs in the handshake.
//!
//! The identity is an Ed25519 key, sent as a raw public key [RFC7250] in place of a certificate:
//! there is no name, date or authority to check, only which key it is. A caller pins the key it
//! dials. Whoever is called learns the caller's key in the handshake and decides after it, since
//! only then is it known whether a replica or a client has called.

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionId, ConnectionIdGenerator};
use quorate_core::crypto::{Digest, GroupId, PublicKey, SecretKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring as provider;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use zeroize::Zeroizing;

/// What comes before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo [RFC8410 §4].
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What comes before the 32 bytes of an Ed25519 seed in PKCS #8 [RFC8410 §7].
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The name in every handshake: identity is the key, so that it says nothing.
pub(crate) const SERVER_NAME: &str = "quorate";

/// Who calls: the two protocols a replica answers, by ALPN. The group is part of the name, so
/// that two clusters do not mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Replica,
    Client,
}

impl Caller {
    pub(crate) fn alpn(self, group: GroupId) -> Vec<u8> {
        let name = match self {
            Caller::Replica => "quorate/1",
            Caller::Client => "quorate-client/1",
        };
        format!("{name}/{:016x}", group.0).into_bytes()
    }

    /// Who has called, on a connection that has been accepted.
    pub(crate) fn of(connection: &Connection, group: GroupId) -> Option<Caller> {
        let data = connection.handshake_data()?;
        let protocol = data.downcast::<HandshakeData>().ok()?.protocol?;
        [Caller::Replica, Caller::Client]
            .into_iter()
            .find(|caller| caller.alpn(group) == protocol)
    }
}

/// The key the other end of `connection` has proved.
pub(crate) fn proved_key(connection: &Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    certificates.first().and_then(|raw| parse_spki(raw))
}

/// One suite, the fastest on machines that have AES in hardware, and one key exchange: there is
/// no foreign implementation to negotiate with.
fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![provider::kx_group::X25519],
        ..provider::default_provider()
    })
}

fn certified(key: &SecretKey) -> Result<Arc<CertifiedKey>, Error> {
    let pkcs8 = Zeroizing::new([&PKCS8_PREFIX[..], &key.seed()[..]].concat());
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    let signing = provider::sign::any_eddsa_type(&pkcs8)?;
    let spki = CertificateDer::from(spki(key.public()));
    Ok(Arc::new(CertifiedKey::new(vec![spki], signing)))
}

fn spki(key: PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], &key.0].concat()
}

fn parse_spki(der: &[u8]) -> Option<PublicKey> {
    let key = der.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(PublicKey)
}

/// TLS for whoever is called: replicas and clients of `group`, any key that is proved.
pub(crate) fn server(key: &SecretKey, group: GroupId) -> Result<QuicServerConfig, Error> {
    let resolver = AlwaysResolvesServerRawPublicKeys::new(certified(key)?);
    let mut config = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyKey(RawKeys::default())))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![Caller::Replica.alpn(group), Caller::Client.alpn(group)];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    QuicServerConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}

/// TLS for the caller: proves `key`, and demands `pinned` of the other end.
pub(crate) fn client(
    key: &SecretKey,
    pinned: PublicKey,
    caller: Caller,
    group: GroupId,
) -> Result<QuicClientConfig, Error> {
    let resolver = AlwaysResolvesClientRawPublicKeys::new(certified(key)?);
    let verifier = PinnedKey {
        pinned,
        keys: RawKeys::default(),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![caller.alpn(group)];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    QuicClientConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}

/// Checks handshake signatures by raw keys.
#[derive(Debug)]
struct RawKeys(WebPkiSupportedAlgorithms);

impl Default for RawKeys {
    fn default() -> Self {
        RawKeys(provider::default_provider().signature_verification_algorithms)
    }
}

impl RawKeys {
    fn parse(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<PublicKey, Error> {
        if !intermediates.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        parse_spki(end_entity).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, signed, &self.0)
    }
}

fn only_tls13() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
}

/// Accepts one key.
#[derive(Debug)]
struct PinnedKey {
    pinned: PublicKey,
    keys: RawKeys,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = self.keys.parse(end_entity, intermediates)?;
        if key != self.pinned {
            let reason = format!("it holds key {key}, not {}", self.pinned);
            return Err(Error::General(reason));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.keys.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts any key that is proved; whether it may stay is decided when it is known who calls.
#[derive(Debug)]
struct AnyKey(RawKeys);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.parse(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The key under stateless resets [RFC9000 §10.3]. It follows from the identity, so that a
/// replica that has restarted can tell its peers at once that their connections are gone.
pub(crate) fn reset_key(key: &SecretKey) -> Arc<ring::hmac::Key> {
    let label = Zeroizing::new([&b"quorate stateless reset"[..], &key.seed()[..]].concat());
    let secret = Digest::of(&label);
    Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret.0))
}

/// Connection ids of plain random bytes. The default generator recognises only ids of its own
/// life, and drops the packets that should be answered with a stateless reset.
pub(crate) struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        // Without entropy there is no TLS either; the id only routes packets.
        if getrandom::fill(&mut bytes).is_err() {
            tracing::error!("the system gives no random bytes");
        }
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_key_parses_to_itself_and_nothing_else_parses() {
        let key = SecretKey::from_seed([5; 32]).public();
        let der = spki(key);
        assert_eq!(parse_spki(&der), Some(key));
        assert_eq!(parse_spki(&der[..43]), None);
        assert_eq!(parse_spki(&[&der[..], &[0]].concat()), None);
        let mut other_algorithm = der;
        other_algorithm[8] = 0x71;
        assert_eq!(parse_spki(&other_algorithm), None);
    }

    #[test]
    fn the_signing_key_is_the_identity() {
        let key = SecretKey::from_seed([6; 32]);
        let certified = certified(&key).unwrap();
        let public = certified.key.public_key().unwrap();
        assert_eq!(parse_spki(public.as_ref()), Some(key.public()));
    }

    #[test]
    fn groups_and_callers_have_names_of_their_own() {
        let names = [
            Caller::Replica.alpn(GroupId(1)),
            Caller::Replica.alpn(GroupId(2)),
            Caller::Client.alpn(GroupId(1)),
        ];
        assert_ne!(names[0], names[1]);
        assert_ne!(names[0], names[2]);
    }
}
