//! A statement with the signature over its exact bytes.

use std::marker::PhantomData;
use std::ops::Deref;

use data_encoding::BASE64;
use firn_base::{ArchiveId, PublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{DecodeError, Identity, Signature, SignatureError, decode, encode};

/// What may be signed: its kind keeps a signature for one purpose from passing for another.
pub trait Statement: Serialize + DeserializeOwned {
    /// The `<kind>` in `firn/<kind>/1`.
    const KIND: &'static str;
}

/// The bytes of a statement of type `T`, who signed them, and the signature. Unverified until opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed<T> {
    signer: PublicKey,
    signature: Signature,
    bytes: Vec<u8>,
    #[serde(skip)]
    statement: PhantomData<fn() -> T>,
}

/// A statement whose signature was checked. Whether its signer had the right to make it is the holder's
/// question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    signer: PublicKey,
    statement: T,
}

/// Why a signed statement was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The signature does not fit.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The signed bytes are no such statement.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl<T: Statement> Signed<T> {
    /// Signs `statement` in `archive`.
    pub fn seal(identity: &Identity, archive: ArchiveId, statement: &T) -> Self {
        let bytes = encode(statement);
        let signature = identity.sign(T::KIND, archive, &bytes);
        Self { signer: identity.public(), signature, bytes, statement: PhantomData }
    }

    /// Checks the signature and reads the statement.
    pub fn open(&self, archive: ArchiveId) -> Result<Verified<T>, OpenError> {
        self.signature.verify(self.signer, T::KIND, archive, &self.bytes)?;
        Ok(Verified { signer: self.signer, statement: decode(&self.bytes)? })
    }

    /// The statement without any check, for display only.
    pub fn peek(&self) -> Result<T, DecodeError> {
        decode(&self.bytes)
    }

    /// One line of base64, to be handed from person to person.
    pub fn to_text(&self) -> String {
        BASE64.encode(&encode(self))
    }

    /// Reads what [`Self::to_text`] wrote; lines that begin with `#` and white space are left out.
    pub fn from_text(text: &str) -> Option<Self> {
        let line: String = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).collect();
        decode(&BASE64.decode(line.as_bytes()).ok()?).ok()
    }

    /// Who claims to have signed.
    pub const fn signer(&self) -> PublicKey {
        self.signer
    }
}

impl<T> Verified<T> {
    /// Whose signature was found to fit.
    pub const fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The statement itself.
    pub fn into_statement(self) -> T {
        self.statement
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.statement
    }
}
