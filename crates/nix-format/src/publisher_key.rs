//! Publishers' keys, and which of them has signed a path info.
//!
//! Always holds: a signature counts only under the key that bears its name, over the record's fingerprint,
//! and ed25519 is checked strictly (no key or point of small order).
//! Leaves to others: which keys an archive accepts, and their rank.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::signature::{is_key_name, split_named};
use crate::{NamedSignature, PathInfo, preview};

/// A Nix public key such as `cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublisherKey {
    name: String,
    key: VerifyingKey,
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePublisherKeyError {
    /// It is not a name, a colon and 32 bytes that make an ed25519 key.
    #[error("`{0}` is not a public key: a name, a colon and 32 bytes in base64")]
    Public(String),
    /// It is not a name, a colon and 64 bytes that make an ed25519 key pair. The text is not repeated.
    #[error("this is not a secret key: a name, a colon and 64 bytes in base64")]
    Secret,
    /// The name is empty, too long, or holds a colon or white space.
    #[error("`{0}` cannot name a key")]
    Name(String),
}

impl PublisherKey {
    /// The key of that name with these 32 bytes.
    pub fn from_parts(name: &str, key: &[u8; 32]) -> Result<Self, ParsePublisherKeyError> {
        if !is_key_name(name) {
            return Err(ParsePublisherKeyError::Name(preview(name)));
        }
        let key = VerifyingKey::from_bytes(key).ok().filter(|key| !key.is_weak());
        let refuse = || ParsePublisherKeyError::Public(preview(name));
        Ok(Self { name: name.to_owned(), key: key.ok_or_else(refuse)? })
    }

    /// The name that signatures repeat.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of the ed25519 public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether `info` carries a signature of this key that holds.
    pub fn verify(&self, info: &PathInfo) -> bool {
        self.has_signed(&info.fingerprint(), &info.signatures)
    }

    /// Whether one of `signatures` is this key's over `fingerprint` (see [`PathInfo::fingerprint`]).
    pub fn has_signed(&self, fingerprint: &str, signatures: &[NamedSignature]) -> bool {
        signatures.iter().filter(|signature| signature.key_name == self.name).any(|signature| {
            let signature = Signature::from_bytes(&signature.bytes);
            self.key.verify_strict(fingerprint.as_bytes(), &signature).is_ok()
        })
    }
}

/// The first of `keys`, which stand in the order of their rank, whose signature on `info` holds.
pub fn accepted_by<'a>(info: &PathInfo, keys: &'a [PublisherKey]) -> Option<&'a PublisherKey> {
    let fingerprint = info.fingerprint();
    keys.iter().find(|key| key.has_signed(&fingerprint, &info.signatures))
}

impl FromStr for PublisherKey {
    type Err = ParsePublisherKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        split_named(text)
            .and_then(|(name, bytes)| Self::from_parts(name, &bytes).ok())
            .ok_or_else(|| ParsePublisherKeyError::Public(preview(text)))
    }
}

impl fmt::Display for PublisherKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublisherKey({self})")
    }
}

/// A Nix secret key, as `nix key generate-secret` prints it. Tests and tools sign with it.
#[derive(Clone)]
pub struct PublisherSecretKey {
    name: String,
    key: SigningKey,
}

impl PublisherSecretKey {
    /// The key of that name made from 32 secret bytes.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, ParsePublisherKeyError> {
        if !is_key_name(name) {
            return Err(ParsePublisherKeyError::Name(preview(name)));
        }
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// The public half.
    pub fn public_key(&self) -> PublisherKey {
        PublisherKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a record's fingerprint. The caller adds the signature to the record.
    pub fn sign(&self, info: &PathInfo) -> NamedSignature {
        let signature = self.key.sign(info.fingerprint().as_bytes());
        NamedSignature { key_name: self.name.clone(), bytes: signature.to_bytes() }
    }

    /// The key as Nix's `secret-key-files` hold it: name, colon, base64 of secret and public half.
    pub fn to_secret_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&self.key.to_keypair_bytes()))
    }
}

impl FromStr for PublisherSecretKey {
    type Err = ParsePublisherKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, bytes) = split_named(text.trim_end()).ok_or(ParsePublisherKeyError::Secret)?;
        let key = SigningKey::from_keypair_bytes(&bytes).map_err(|_| ParsePublisherKeyError::Secret)?;
        Ok(Self { name: name.to_owned(), key })
    }
}

impl fmt::Debug for PublisherSecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublisherSecretKey({})", self.name)
    }
}
