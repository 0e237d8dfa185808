//! Who signs: an ed25519 key pair. The id of a machine is its public key.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use firn_base::{ArchiveId, NodeId, PublicKey};
use serde::{Deserialize, Serialize};

/// A signing key with its public half. Made from 32 bytes of the caller's entropy.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

/// An ed25519 signature (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// A signature does not fit its key and bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signature by {signer} does not fit: the bytes or the archive are not those that were signed")]
pub struct SignatureError {
    signer: String,
}

impl Identity {
    /// The identity whose secret is `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// The secret, for its file.
    pub fn seed(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// The public key as the id of a machine.
    pub fn node_id(&self) -> NodeId {
        self.public().into()
    }

    /// The secret in PKCS#8 DER (RFC 8410), as TLS wants it.
    pub fn to_pkcs8_der(&self) -> Vec<u8> {
        // PrivateKeyInfo { version 0, algorithm 1.3.101.112, OCTET STRING { OCTET STRING seed } }.
        const PREFIX: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        [PREFIX.as_slice(), &self.key.to_bytes()].concat()
    }

    /// Signs `bytes` as a statement of `kind` in `archive`.
    pub fn sign(&self, kind: &str, archive: ArchiveId, bytes: &[u8]) -> Signature {
        Signature(self.key.sign(&signed_bytes(kind, archive, bytes)).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Identity({})", self.public().short())
    }
}

impl Signature {
    /// Checks that `signer` signed `bytes` as a statement of `kind` in `archive`.
    pub fn verify(
        &self,
        signer: PublicKey,
        kind: &str,
        archive: ArchiveId,
        bytes: &[u8],
    ) -> Result<(), SignatureError> {
        let refuse = |_| SignatureError { signer: signer.short() };
        let key = VerifyingKey::from_bytes(signer.as_bytes()).map_err(refuse)?;
        // Strict: small-order keys and malleable signatures would let two byte strings pass as one statement.
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        key.verify_strict(&signed_bytes(kind, archive, bytes), &signature).map_err(refuse)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// Wraps 64 bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Signature")
    }
}

// serde knows arrays of up to 32 elements; two halves keep the encoding at 64 bytes.
impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        first.copy_from_slice(&self.0[..32]);
        second.copy_from_slice(&self.0[32..]);
        (first, second).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, second) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&first);
        bytes[32..].copy_from_slice(&second);
        Ok(Self(bytes))
    }
}

fn signed_bytes(kind: &str, archive: ArchiveId, bytes: &[u8]) -> Vec<u8> {
    [b"firn/", kind.as_bytes(), b"/1\0", archive.as_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

    #[test]
    fn a_signature_binds_kind_archive_and_bytes() {
        let identity = Identity::from_seed(&[3; 32]);
        let signature = identity.sign("pass", ARCHIVE, b"bytes");
        let check =
            |kind, archive, bytes: &[u8]| signature.verify(identity.public(), kind, archive, bytes).is_ok();
        assert!(check("pass", ARCHIVE, b"bytes"));
        assert!(!check("ticket", ARCHIVE, b"bytes"));
        assert!(!check("pass", ArchiveId::from_bytes([2; 32]), b"bytes"));
        assert!(!check("pass", ARCHIVE, b"other"));
        assert!(signature.verify(Identity::from_seed(&[4; 32]).public(), "pass", ARCHIVE, b"bytes").is_err());
    }

    #[test]
    fn what_is_signed_is_pinned() {
        assert_eq!(signed_bytes("pass", ARCHIVE, b"x")[..12], *b"firn/pass/1\0");
        assert_eq!(signed_bytes("pass", ARCHIVE, b"x").len(), 12 + 32 + 1);
    }

    #[test]
    fn a_key_that_is_no_point_is_refused() {
        let signature = Identity::from_seed(&[3; 32]).sign("pass", ARCHIVE, b"");
        assert!(signature.verify(PublicKey::from_bytes([0xff; 32]), "pass", ARCHIVE, b"").is_err());
    }
}
