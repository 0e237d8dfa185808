//! TLS 1.3 with raw public keys (RFC 7250): a peer is its ed25519 key, and nothing else is believed.
//!
//! Always holds: both sides show an ed25519 key and prove it; ALPN is `firn/1`; no session is resumed and no
//! 0-RTT data is taken, so nothing can be replayed and no ticket carries the time of day. Leaves to others:
//! what a key may do.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use firn_base::PublicKey;
use firn_wire::Identity;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use crate::{Clock, Environment};

/// The protocol's name in the handshake: another version gets another name.
pub(crate) const ALPN: &[u8] = b"firn/1";

/// The alert by which a TLS stack says that it does not speak the protocol asked for (RFC 7301).
pub(crate) const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// RFC 7250 has no names; TLS wants one, and it is not sent.
pub(crate) const SERVER_NAME: &str = "firn.invalid";

// SubjectPublicKeyInfo { algorithm 1.3.101.112, BIT STRING } of RFC 8410, up to the key's 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// One identity's half of every handshake.
#[derive(Debug)]
pub(crate) struct TlsParty {
    provider: Arc<CryptoProvider>,
    time: Arc<EnvironmentTime>,
    key: Arc<CertifiedKey>,
}

impl TlsParty {
    pub(crate) fn new(environment: &Environment, identity: &Identity) -> Result<Self, Error> {
        let mut provider = rustls::crypto::ring::default_provider();
        // AES-128 before AES-256: as good against every known attack, and a quarter cheaper per byte.
        provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256];
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.to_pkcs8_der()));
        let signing_key = provider.key_provider.load_private_key(private)?;
        let public = CertificateDer::from([SPKI_PREFIX.as_slice(), identity.public().as_bytes()].concat());
        Ok(Self {
            provider: Arc::new(provider),
            time: Arc::new(EnvironmentTime(environment.clock().clone())),
            key: Arc::new(CertifiedKey::new(vec![public], signing_key)),
        })
    }

    pub(crate) fn time_source(&self) -> Arc<dyn quinn::TimeSource> {
        self.time.clone()
    }

    /// The accepting side: any ed25519 key may come; the roles decide what it may do.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, Error> {
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(self.verifier(None, Arc::default())))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
            .try_into()
            .map_err(|_| Error::General("the cipher suite of QUIC's first packets is missing".into()))
    }

    /// The dialling side: `expected` is the one key that is accepted. What key came is left in `found`.
    pub(crate) fn client(
        &self,
        expected: PublicKey,
        found: Arc<OnceLock<PublicKey>>,
    ) -> Result<QuicClientConfig, Error> {
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.time.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(Some(expected), found)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config
            .try_into()
            .map_err(|_| Error::General("the cipher suite of QUIC's first packets is missing".into()))
    }

    fn verifier(&self, expected: Option<PublicKey>, found: Arc<OnceLock<PublicKey>>) -> KeyVerifier {
        KeyVerifier { algorithms: self.provider.signature_verification_algorithms, expected, found }
    }
}

/// The key that a peer showed and proved in a finished handshake.
pub(crate) fn peer_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match identity.as_slice() {
        [only] => key_of(only),
        _ => None,
    }
}

fn key_of(shown: &CertificateDer<'_>) -> Option<PublicKey> {
    let key = shown.strip_prefix(&SPKI_PREFIX)?;
    Some(PublicKey::from_bytes(key.try_into().ok()?))
}

/// Accepts a raw ed25519 key: the expected one, or any where none is expected.
#[derive(Debug)]
struct KeyVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    expected: Option<PublicKey>,
    found: Arc<OnceLock<PublicKey>>,
}

impl KeyVerifier {
    fn check(&self, shown: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<(), Error> {
        let key = key_of(shown).filter(|_| further.is_empty());
        let key = key.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let _ = self.found.set(key);
        if self.expected.is_some_and(|expected| expected != key) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(Error::InvalidCertificate(CertificateError::BadSignature));
        }
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The environment's clock, as TLS and QUIC ask for it.
#[derive(Debug)]
struct EnvironmentTime(Arc<dyn Clock>);

impl TimeProvider for EnvironmentTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().as_millis())))
    }
}

impl quinn::TimeSource for EnvironmentTime {
    fn now(&self) -> SystemTime {
        let since_epoch = Duration::from_millis(self.0.now().as_millis());
        UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
    }
}
