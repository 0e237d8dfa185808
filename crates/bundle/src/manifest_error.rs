//! Why a manifest, or a piece of one, was refused.

use std::fmt;

use crate::cursor::Truncated;

/// A piece of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestPart {
    /// The 80 bytes at its beginning.
    Header,
    /// Where the blocks lie.
    BlockDirectory,
    /// A block of records.
    Block,
    /// One record.
    Record,
    /// The chunks and patches of one object.
    ChunkList,
    /// The bundle's own chunks.
    ChunkTable,
    /// The bundle's frames.
    FrameTable,
    /// Chunks in other bundles.
    ForeignTable,
}

impl fmt::Display for ManifestPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Header => "header",
            Self::BlockDirectory => "block directory",
            Self::Block => "block",
            Self::Record => "record",
            Self::ChunkList => "chunk list",
            Self::ChunkTable => "chunk table",
            Self::FrameTable => "frame table",
            Self::ForeignTable => "foreign chunk table",
        })
    }
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The magic is another one.
    #[error("these bytes are no manifest: the magic does not match")]
    Magic,
    /// Written by a newer program.
    #[error(
        "the manifest has format version {found}, this program knows versions up to {known}: update the program"
    )]
    TooNew {
        /// The version it states.
        found: u16,
        /// The newest version that this program reads.
        known: u16,
    },
    /// The bytes do not have the root of the content header.
    #[error("the manifest is not the one that the content header names: its BLAKE3 differs")]
    Root,
    /// Fewer or more bytes than the fields need.
    #[error("the manifest is damaged: its {part} {number} has the wrong length")]
    Length {
        /// Where.
        part: ManifestPart,
        /// Which one, counted from 0.
        number: u32,
    },
    /// A field has a value that it must not have.
    #[error("the manifest is damaged: its {part} {number} is refused because {why}")]
    Damaged {
        /// Where.
        part: ManifestPart,
        /// Which one or which entry of it, counted from 0.
        number: u32,
        /// What is wrong, as a clause.
        why: &'static str,
    },
    /// Someone asked for an entry that the table does not have.
    #[error("the manifest has no entry {number} in its {part}")]
    NoEntry {
        /// Which table.
        part: ManifestPart,
        /// The entry asked for.
        number: u64,
    },
    /// A frame that needs a dictionary.
    #[error("frame {0} needs a dictionary, which this program cannot use: update the program")]
    Dictionary(u32),
}

/// Where a parser is: names the piece in its errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) part: ManifestPart,
    pub(crate) number: u32,
}

impl Place {
    pub(crate) const fn new(part: ManifestPart, number: u32) -> Self {
        Self { part, number }
    }

    pub(crate) const fn refuse(self, why: &'static str) -> ManifestError {
        ManifestError::Damaged { part: self.part, number: self.number, why }
    }

    pub(crate) const fn cut_off(self) -> ManifestError {
        ManifestError::Length { part: self.part, number: self.number }
    }

    /// For `map_err` on a cursor's reads.
    pub(crate) fn truncated(self) -> impl Fn(Truncated) -> ManifestError + Copy {
        move |Truncated| self.cut_off()
    }
}
