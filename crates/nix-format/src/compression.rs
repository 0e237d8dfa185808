//! How a published NAR file is compressed.

use std::fmt;

use crate::preview;

/// The compression that a path info names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Compression {
    /// The NAR itself.
    None,
    /// xz, what the public cache wrote from 2016 to 2025.
    Xz,
    /// bzip2, what it wrote before.
    Bzip2,
    /// Zstandard, what it writes since.
    Zstd,
}

/// A compression that is not read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compression `{name}` is unknown; none, xz, bzip2 and zstd can be read")]
pub struct UnknownCompression {
    name: String,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Xz, Self::Bzip2, Self::Zstd];

    /// Reads the value of a narinfo's `Compression` line; an empty or absent one means bzip2, as in Nix.
    pub fn from_narinfo(value: Option<&str>) -> Result<Self, UnknownCompression> {
        let name = value.filter(|name| !name.is_empty()).unwrap_or("bzip2");
        Self::ALL
            .into_iter()
            .find(|compression| compression.name() == name)
            .ok_or_else(|| UnknownCompression { name: preview(name) })
    }

    /// The name in a narinfo.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
        }
    }

    /// What Nix appends to `.nar` in file names: `.xz`, `.bz2`, `.zst` or nothing.
    pub const fn file_suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Xz => ".xz",
            Self::Bzip2 => ".bz2",
            Self::Zstd => ".zst",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compression_is_read_from_its_name() {
        for compression in Compression::ALL {
            assert_eq!(Compression::from_narinfo(Some(&compression.to_string())), Ok(compression));
        }
    }

    #[test]
    fn no_compression_line_means_bzip2() {
        assert_eq!(Compression::from_narinfo(None), Ok(Compression::Bzip2));
        assert_eq!(Compression::from_narinfo(Some("")), Ok(Compression::Bzip2));
    }

    #[test]
    fn an_unknown_compression_is_refused_by_name() {
        let error = Compression::from_narinfo(Some("foo")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the compression `foo` is unknown; none, xz, bzip2 and zstd can be read"
        );
    }
}
