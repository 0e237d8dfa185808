//! Callers that are not ours: without a key, with somebody else's, of another protocol version.

use std::sync::Arc;

use firn_base::{NodeId, PublicKey};
use firn_transport::{Endpoint, quinn};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::world::{LOOPBACK, endpoint, identity, spawn_doubler};

/// Believes anything.
#[derive(Debug)]
struct Credulous(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Dials with a hand-made client that shows `shown` (or nothing) and signs with the key of identity 9.
async fn dial_by_hand(
    server: &Endpoint,
    shown: Option<PublicKey>,
    alpn: &[u8],
) -> Result<u64, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider.clone())));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity(9).to_pkcs8_der()));
            let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
            let public = CertificateDer::from([prefix.as_slice(), shown.as_bytes()].concat());
            let key = provider.key_provider.load_private_key(secret)?;
            let key = rustls::sign::CertifiedKey::new(vec![public], key);
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(key))))
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
    let client = quinn::Endpoint::client(LOOPBACK)?;
    let connection = client.connect_with(config, server.local_address(), "x")?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&[3, 0, 0, 0, 1, 0, 5]).await?;
    send.finish()?;
    let answer = receive.read_to_end(100).await?;
    Ok(firn_wire::decode(answer.get(4..).unwrap_or_default())?)
}

#[tokio::test]
async fn a_caller_without_a_key_or_with_somebody_elses_is_refused() {
    let server = endpoint(1).await;
    let _serving = spawn_doubler(&server);
    let own = identity(9).public();
    assert_eq!(dial_by_hand(&server, Some(own), b"firn/1").await.unwrap(), 10);
    assert!(dial_by_hand(&server, None, b"firn/1").await.is_err());
    assert!(dial_by_hand(&server, Some(identity(2).public()), b"firn/1").await.is_err());
}

#[tokio::test]
async fn a_caller_of_another_protocol_version_is_refused_by_name() {
    let server = endpoint(1).await;
    let _serving = spawn_doubler(&server);
    let own = identity(9).public();
    for other in [b"firn/2".as_slice(), b"h3"] {
        let error = dial_by_hand(&server, Some(own), other).await.unwrap_err();
        assert!(error.to_string().contains("120"), "{error}");
    }

    // The other way round: what we dial speaks another version.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity(9).to_pkcs8_der()));
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let public = CertificateDer::from([prefix.as_slice(), own.as_bytes()].concat());
    let key = rustls::sign::CertifiedKey::new(
        vec![public],
        provider.key_provider.load_private_key(secret).unwrap(),
    );
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(Arc::new(key))));
    config.alpn_protocols = vec![b"firn/2".to_vec()];
    let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let newer =
        quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(config)), LOOPBACK).unwrap();
    let there = newer.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Some(incoming) = newer.accept().await {
            let _ = incoming.await;
        }
    });
    let error = server.connect(NodeId::from(own), &there).await.unwrap_err();
    assert!(error.to_string().contains("does not speak firn/1: update the older"), "{error}");
}
