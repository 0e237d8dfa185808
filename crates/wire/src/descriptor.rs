//! What a program needs to find an archive and to know whom to believe.

use std::fmt;
use std::str::FromStr;

use firn_base::{ArchiveId, NodeId, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{DecodeError, OpenError, Signed, Statement, decode, encode, text_form};

/// One coordinator: who it is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorEntry {
    /// Its identity.
    pub id: NodeId,
    /// Its number in the consensus group.
    pub raft_id: u64,
    /// Host and UDP port, `203.0.113.7:4433`.
    pub address: String,
}

/// The coordinators of an archive, signed by the archive key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// The archive: the public half of the key that signs this.
    pub archive: ArchiveId,
    /// Grows with every roster. A program never goes back to a smaller one.
    pub generation: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// The coordinators.
    pub coordinators: Vec<CoordinatorEntry>,
    /// Those that once were: their identities and numbers are never used again.
    pub retired: Vec<NodeId>,
}

impl Statement for Roster {
    const KIND: &'static str = "roster";
}

/// A roster whose archive key was checked: the one thing that says whose orders count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRoster {
    roster: Roster,
}

/// The signed roster, as a file or a URL. Its text form begins with a line that says what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The archive.
    pub archive: ArchiveId,
    /// Its coordinators.
    pub roster: Signed<Roster>,
}

/// Why a text or roster is no descriptor of an archive.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Not the text form.
    #[error("this is not an archive descriptor: it does not begin with `{MAGIC}`")]
    NotADescriptor,
    /// Not the text form of a draft.
    #[error("this is no draft of a roster: make one with `firn-coordinator roster draft`")]
    NotADraft,
    /// The encoded part is damaged.
    #[error("the text is damaged: fetch it again ({0})")]
    Damaged(String),
    /// The roster's signature does not fit.
    #[error(
        "the roster of this descriptor is not signed by the archive's key: fetch it from the archive's operator ({0})"
    )]
    Signature(#[from] OpenError),
    /// Signed by another key than the archive's, or for another archive.
    #[error("the roster belongs to archive {found}, not to {expected}")]
    WrongArchive {
        /// The archive that was asked for.
        expected: String,
        /// The archive that the roster names.
        found: String,
    },
}

const MAGIC: &str = "firn-archive 1";

impl Descriptor {
    /// Checks the roster against the archive's key.
    pub fn verify(&self) -> Result<VerifiedRoster, DescriptorError> {
        VerifiedRoster::open(&self.roster, self.archive)
    }
}

impl VerifiedRoster {
    /// Checks that `signed` is a roster of `archive`, signed by its key.
    pub fn open(signed: &Signed<Roster>, archive: ArchiveId) -> Result<Self, DescriptorError> {
        let verified = signed.open(archive)?;
        let wrong = |found: String| DescriptorError::WrongArchive { expected: archive.to_string(), found };
        if verified.signer() != PublicKey::from(archive) {
            return Err(wrong(verified.signer().to_string()));
        }
        if verified.archive != archive {
            return Err(wrong(verified.archive.to_string()));
        }
        Ok(Self { roster: verified.into_statement() })
    }

    /// The roster.
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The archive.
    pub const fn archive(&self) -> ArchiveId {
        self.roster.archive
    }

    /// How many of its coordinators are more than half.
    pub const fn majority(&self) -> usize {
        self.roster.coordinators.len() / 2 + 1
    }

    /// Whether `key` is one of the coordinators.
    pub fn has_coordinator(&self, key: PublicKey) -> bool {
        self.entry(NodeId::from(key)).is_some()
    }

    /// What it says of coordinator `id`; none if it does not name it.
    pub fn entry(&self, id: NodeId) -> Option<&CoordinatorEntry> {
        self.roster.coordinators.iter().find(|entry| entry.id == id)
    }

    /// Whether `id` was a coordinator and is none any more.
    pub fn has_retired(&self, id: NodeId) -> bool {
        self.roster.retired.contains(&id)
    }
}

impl fmt::Display for Descriptor {
    /// The text form: magic line, readable comment lines, one line of base64.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comments = vec![format!("archive {}", self.archive)];
        if let Ok(roster) = self.roster.peek() {
            let named =
                |entry: &CoordinatorEntry| format!("coordinator {} at {}", entry.id.short(), entry.address);
            comments.extend(roster.coordinators.iter().map(named));
        }
        text_form::write(formatter, MAGIC, &comments, &encode(self))
    }
}

impl FromStr for Descriptor {
    type Err = DescriptorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text_form::read(MAGIC, text).ok_or(DescriptorError::NotADescriptor)?;
        let bytes = bytes.map_err(DescriptorError::Damaged)?;
        let descriptor: Self =
            decode(&bytes).map_err(|error: DecodeError| DescriptorError::Damaged(error.to_string()))?;
        descriptor.verify()?;
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn descriptor(signer: &Identity, archive: ArchiveId) -> Descriptor {
        let roster = Roster {
            archive,
            generation: 1,
            issued: Timestamp::from_millis(5),
            coordinators: vec![CoordinatorEntry {
                id: NodeId::from_bytes([2; 32]),
                raft_id: 1,
                address: "127.0.0.1:4433".into(),
            }],
            retired: vec![NodeId::from_bytes([3; 32])],
        };
        Descriptor { archive, roster: Signed::seal(signer, archive, &roster) }
    }

    #[test]
    fn a_descriptor_survives_its_text_form() {
        let key = Identity::from_seed(&[1; 32]);
        let descriptor = descriptor(&key, key.public().into());
        assert_eq!(descriptor.to_string().parse::<Descriptor>().unwrap(), descriptor);
        let roster = descriptor.verify().unwrap();
        assert!(roster.has_coordinator(PublicKey::from_bytes([2; 32])));
        assert!(roster.has_retired(NodeId::from_bytes([3; 32])));
        assert!(!roster.has_coordinator(PublicKey::from_bytes([3; 32])));
    }

    #[test]
    fn a_roster_that_another_key_signed_is_refused() {
        let (key, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let forged = descriptor(&other, key.public().into());
        assert!(matches!(forged.verify(), Err(DescriptorError::WrongArchive { .. })));
        assert!("hello".parse::<Descriptor>().is_err());
    }
}
