//! Why bytes are no content header, coding header or shard file header.

use crate::cursor::Truncated;

/// Which structure was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderKind {
    /// What a bundle holds.
    Content,
    /// One erasure-coded form of a bundle.
    Coding,
    /// The front of a shard file.
    ShardFile,
    /// The end of a shard file.
    Trailer,
}

impl std::fmt::Display for HeaderKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Content => "content header",
            Self::Coding => "coding header",
            Self::ShardFile => "shard file header",
            Self::Trailer => "shard file trailer",
        })
    }
}

/// Why a header was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer or more bytes than the fields need.
    #[error("the {0} has the wrong length: the bytes are cut off or are something else")]
    Length(HeaderKind),
    /// The magic is another one.
    #[error("these bytes are no {0}: the magic does not match")]
    Magic(HeaderKind),
    /// Written by a newer program.
    #[error(
        "the {kind} has format version {found}, this program knows versions up to {known}: update the program"
    )]
    TooNew {
        /// Which structure.
        kind: HeaderKind,
        /// The version it states.
        found: u16,
        /// The newest version that this program reads.
        known: u16,
    },
    /// A field has a value that it must not have.
    #[error("the {kind} is damaged: {what}")]
    Invalid {
        /// Which structure.
        kind: HeaderKind,
        /// What is wrong.
        what: &'static str,
    },
    /// The checksum of a shard file's header and tree is another one.
    #[error("header or outboard tree of the shard file are damaged: the checksum in the trailer differs")]
    Checksum,
}

/// What a truncated read of `kind` is reported as.
pub(crate) fn cut_off(kind: HeaderKind) -> impl Fn(Truncated) -> HeaderError {
    move |Truncated| HeaderError::Length(kind)
}

/// A refusal of `kind` for the reason `what`.
pub(crate) const fn invalid(kind: HeaderKind, what: &'static str) -> HeaderError {
    HeaderError::Invalid { kind, what }
}

/// Refuses version 0 and versions above `known`.
pub(crate) const fn check_version(kind: HeaderKind, found: u16, known: u16) -> Result<(), HeaderError> {
    if found == 0 {
        return Err(invalid(kind, "its version is zero"));
    }
    if found > known {
        return Err(HeaderError::TooNew { kind, found, known });
    }
    Ok(())
}
