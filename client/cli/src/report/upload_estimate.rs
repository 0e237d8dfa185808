//! What a publish would send to nodes, before anything is packed.
//!
//! Always holds: an estimate names what it rests on: this archive, or where it is empty what was measured on corpora
//! elsewhere and the scheme. Leaves to others: what there is to publish (`firn-client`).

use std::fmt;

use firn_base::{ByteCount, Scheme};
use firn_client::{FrameCompression, PublishSummary};
use firn_wire::ArchiveStatus;

use super::redundancy;

/// What bundles take in hundredths: of published files in .nar.xz, and of NARs.
///
/// One version of 190 different packages (benches/RESULTS.md, *different*, 2026-11-27: 236.60 MB of NARs, 56.18 MB as
/// .nar.xz, payload 1.237 and 1.022 of the latter; rounded up). Rebuilds of packages that are there already take far
/// less, and how many of them there are nobody knows beforehand: so the estimate is rather too high.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// zstd, level 6.
    Zstd,
    /// LZMA, level 6.
    Lzma,
    /// Published files as they are.
    Verbatim,
}

/// What a publish would send to nodes, by a rule of thumb that it states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct UploadEstimate {
    files: ByteCount,
    nars: ByteCount,
    basis: Basis,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Basis {
    /// How many times it stores its bundles.
    Archive { redundancy: f64 },
    /// It stores nothing yet.
    Measurements { packing: Packing, scheme: Scheme, has_nodes: bool },
}

impl From<FrameCompression> for Packing {
    fn from(compression: FrameCompression) -> Self {
        match compression {
            FrameCompression::Zstd(_) => Self::Zstd,
            FrameCompression::Lzma(_) => Self::Lzma,
        }
    }
}

impl Packing {
    /// Of published files, and of NARs.
    const fn hundredths(self) -> (u64, u64) {
        match self {
            Self::Zstd => (124, 30),
            Self::Lzma => (102, 25),
            Self::Verbatim => (100, 100),
        }
    }

    /// The payload of bundles. Published files that are not compressed say nothing, nor do NARs that do not compress:
    /// the less of both counts.
    const fn payload(self, files: u64, nars: u64) -> u64 {
        let (of_files, of_nars) = self.hundredths();
        let by_files = files.saturating_mul(of_files) / 100;
        let by_nars = nars.saturating_mul(of_nars) / 100;
        match self {
            Self::Verbatim => by_files,
            _ if by_files < by_nars => by_files,
            _ => by_nars,
        }
    }
}

impl UploadEstimate {
    /// None where there is nothing to send.
    pub(crate) fn new(summary: &PublishSummary, status: &ArchiveStatus, packing: Packing) -> Option<Self> {
        let basis = match redundancy(status.stored.0, status.payload.0) {
            Some(redundancy) => Basis::Archive { redundancy },
            None => Basis::Measurements {
                packing,
                scheme: status.scheme.or_else(|| Scheme::for_width(usize::MAX))?,
                has_nodes: status.scheme.is_some(),
            },
        };
        (summary.source.0 > 0).then_some(Self { files: summary.source, nars: summary.content, basis })
    }

    /// Bytes of all shards.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate that is shown with two digits"
    )]
    pub(crate) fn upload(self) -> ByteCount {
        match self.basis {
            Basis::Archive { redundancy } => ByteCount((self.files.0 as f64 * redundancy) as u64),
            Basis::Measurements { packing, scheme, .. } => {
                let payload = packing.payload(self.files.0, self.nars.0);
                ByteCount((payload as f64 * f64::from(scheme.n()) / f64::from(scheme.k())) as u64)
            }
        }
    }

    /// What it rests on, in a word.
    pub(crate) const fn basis(self) -> &'static str {
        match self.basis {
            Basis::Archive { .. } => "archive",
            Basis::Measurements { .. } => "measurements",
        }
    }
}

impl fmt::Display for UploadEstimate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, upload) = (self.files, self.upload());
        write!(formatter, "their published files have {files}: about {upload} to send, ")?;
        match self.basis {
            Basis::Archive { redundancy } => write!(
                formatter,
                "if bundles take as much as these, stored {redundancy:.2} times as in this archive today"
            ),
            Basis::Measurements { packing, scheme, has_nodes } => {
                let (of_files, of_nars) = packing.hundredths();
                match packing {
                    Packing::Verbatim => write!(formatter, "the files as they are, coded {scheme}")?,
                    Packing::Zstd | Packing::Lzma => write!(
                        formatter,
                        "coded {scheme}, assuming that bundles take {of_files} % of .nar.xz files or {of_nars} % of NARs, as was \
                         measured for one version of many packages; rebuilds of the same packages take far less"
                    )?,
                }
                if !has_nodes {
                    write!(formatter, " (no node is active yet: the scheme is that of a large fleet)")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example_status;
    use super::*;

    fn summary() -> PublishSummary {
        PublishSummary {
            source: ByteCount(1_000_000),
            content: ByteCount(4_200_000),
            ..PublishSummary::default()
        }
    }

    fn empty(scheme: Option<Scheme>) -> ArchiveStatus {
        ArchiveStatus { payload: ByteCount(0), stored: ByteCount(0), scheme, ..example_status() }
    }

    #[test]
    fn an_estimate_says_what_it_rests_on() {
        let status = ArchiveStatus { payload: ByteCount(100), stored: ByteCount(250), ..example_status() };
        let estimate = UploadEstimate::new(&summary(), &status, Packing::Zstd).unwrap();
        assert_eq!((estimate.upload().0, estimate.basis()), (2_500_000, "archive"));
        assert_eq!(
            estimate.to_string(),
            "their published files have 1.0 MB: about 2.5 MB to send, if bundles take as much as these, stored 2.50 times as in this archive today"
        );
    }

    #[test]
    fn an_empty_archive_is_estimated_by_its_scheme_and_by_what_was_measured() {
        let estimate =
            |packing| UploadEstimate::new(&summary(), &empty(Scheme::new(4, 6).ok()), packing).unwrap();
        assert_eq!(
            [Packing::Zstd, Packing::Lzma, Packing::Verbatim].map(|packing| estimate(packing).upload().0),
            [1_860_000, 1_530_000, 1_500_000]
        );
        assert_eq!(estimate(Packing::Zstd).basis(), "measurements");
        assert_eq!(
            estimate(Packing::Zstd).to_string(),
            "their published files have 1.0 MB: about 1.8 MB to send, coded 4/6, assuming that bundles take 124 % of .nar.xz files or 30 % of NARs, as was measured for one version of many packages; rebuilds of the same packages take far less"
        );
    }

    #[test]
    fn files_that_are_not_compressed_are_estimated_by_their_nars() {
        let bare = PublishSummary { content: ByteCount(1_000_000), ..summary() };
        let estimate = UploadEstimate::new(&bare, &empty(Scheme::new(4, 6).ok()), Packing::Zstd).unwrap();
        assert_eq!(estimate.upload().0, 450_000);
    }

    #[test]
    fn without_a_node_the_scheme_is_assumed_too() {
        let estimate = UploadEstimate::new(&summary(), &empty(None), Packing::Lzma).unwrap();
        assert_eq!(estimate.upload().0, 2_550_000);
        let said = estimate.to_string();
        assert!(said.contains("coded 16/40") && said.ends_with("that of a large fleet)"), "{said}");
    }

    #[test]
    fn nothing_to_send_is_no_estimate() {
        assert_eq!(UploadEstimate::new(&PublishSummary::default(), &empty(None), Packing::Zstd), None);
    }
}
