//! Reading a NAR while checking it against the NarSize and NarHash that were signed.
//!
//! Always holds: not one byte beyond NarSize is handed out, and the clean end of the stream is reported only
//! after length and hash were found right. What was read before that is unverified.

use std::io::{self, Read};

use sha2::Digest;

use crate::Sha256;

/// A NAR that differs from what its path info says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NarMismatch {
    /// More bytes come than NarSize says.
    #[error("the NAR is longer than its NarSize of {nar_size} bytes")]
    TooLong {
        /// Bytes by the path info.
        nar_size: u64,
    },
    /// The NAR ends before NarSize.
    #[error("the NAR ends after {read} of the {nar_size} bytes of its NarSize")]
    TooShort {
        /// Bytes that came.
        read: u64,
        /// Bytes by the path info.
        nar_size: u64,
    },
    /// The length is right and the contents are others.
    #[error("the NAR has the hash {actual} and not its NarHash {expected}")]
    WrongHash {
        /// The path info's NarHash.
        expected: Sha256,
        /// The hash of what came.
        actual: Sha256,
    },
    /// The reader was given up before its end.
    #[error("the NAR was not read to its end: {read} of {nar_size} bytes")]
    NotReadToEnd {
        /// Bytes read so far.
        read: u64,
        /// Bytes by the path info.
        nar_size: u64,
    },
}

impl NarMismatch {
    /// The mismatch inside an error that [`VerifyingReader::read`] gave, if it is one: the NAR's fault and
    /// not that of the source below it.
    pub fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// A reader that hands on a NAR and hashes it, and that ends in an error unless NarSize and NarHash are right.
pub struct VerifyingReader<R> {
    inner: R,
    hasher: sha2::Sha256,
    nar_hash: Sha256,
    nar_size: u64,
    read: u64,
    /// The outcome, once the end was reached.
    verdict: Option<Result<(), NarMismatch>>,
}

impl<R> std::fmt::Debug for VerifyingReader<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VerifyingReader")
            .field("nar_hash", &self.nar_hash)
            .field("nar_size", &self.nar_size)
            .field("read", &self.read)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl<R: Read> VerifyingReader<R> {
    /// Reads from `inner` what should be the NAR of that hash and size.
    pub fn new(inner: R, nar_hash: Sha256, nar_size: u64) -> Self {
        Self { inner, hasher: sha2::Sha256::default(), nar_hash, nar_size, read: 0, verdict: None }
    }

    /// Bytes handed out so far.
    pub const fn bytes_read(&self) -> u64 {
        self.read
    }

    /// The outcome: right only if `read` has reported the end, returning 0.
    pub fn finish(self) -> Result<(), NarMismatch> {
        let unread = NarMismatch::NotReadToEnd { read: self.read, nar_size: self.nar_size };
        self.verdict.unwrap_or(Err(unread))
    }

    /// What to say at the end of the source.
    fn judge(&mut self) -> Result<(), NarMismatch> {
        if self.read < self.nar_size {
            return Err(NarMismatch::TooShort { read: self.read, nar_size: self.nar_size });
        }
        let actual = Sha256::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        if actual == self.nar_hash {
            Ok(())
        } else {
            Err(NarMismatch::WrongHash { expected: self.nar_hash, actual })
        }
    }

    fn conclude(&mut self, verdict: Result<(), NarMismatch>) -> io::Result<usize> {
        self.verdict = Some(verdict);
        verdict.map(|()| 0).map_err(|mismatch| io::Error::new(io::ErrorKind::InvalidData, mismatch))
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(verdict) = self.verdict {
            return self.conclude(verdict);
        }
        let left = self.nar_size - self.read;
        if left == 0 {
            let verdict = match self.inner.read(&mut [0])? {
                0 => self.judge(),
                _ => Err(NarMismatch::TooLong { nar_size: self.nar_size }),
            };
            return self.conclude(verdict);
        }
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match self.inner.read(&mut buffer[..room])? {
            0 => {
                let verdict = self.judge();
                self.conclude(verdict)
            }
            count => {
                self.hasher.update(&buffer[..count]);
                self.read += count as u64;
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENTS: &[u8] = b"thirteen byte";

    fn read(
        contents: &[u8],
        nar_hash: Sha256,
        nar_size: u64,
    ) -> (io::Result<Vec<u8>>, Result<(), NarMismatch>) {
        let mut reader = VerifyingReader::new(contents, nar_hash, nar_size);
        let mut read = Vec::new();
        let outcome = reader.read_to_end(&mut read);
        (outcome.map(|_| read), reader.finish())
    }

    #[test]
    fn a_right_nar_is_read_whole() {
        let (read, verdict) = read(CONTENTS, Sha256::of(CONTENTS), 13);
        assert_eq!(read.unwrap(), CONTENTS);
        assert_eq!(verdict, Ok(()));
    }

    #[test]
    fn a_nar_that_is_too_long_stops_at_its_nar_size() {
        let mut reader = VerifyingReader::new(io::repeat(0), Sha256::of(b""), 1234);
        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).unwrap_err();
        assert_eq!(error.to_string(), "the NAR is longer than its NarSize of 1234 bytes");
        assert_eq!(NarMismatch::in_error(&error), Some(NarMismatch::TooLong { nar_size: 1234 }));
        assert_eq!((read.len(), reader.bytes_read()), (1234, 1234));
        assert!(reader.read(&mut [0]).is_err(), "the error stays");
        assert_eq!(reader.finish(), Err(NarMismatch::TooLong { nar_size: 1234 }));
    }

    #[test]
    fn a_nar_that_ends_early_is_an_error() {
        let (read, verdict) = read(CONTENTS, Sha256::of(CONTENTS), 14);
        let sentence = "the NAR ends after 13 of the 14 bytes of its NarSize";
        assert_eq!(read.unwrap_err().to_string(), sentence);
        assert_eq!(verdict, Err(NarMismatch::TooShort { read: 13, nar_size: 14 }));
    }

    #[test]
    fn a_nar_of_another_hash_is_an_error() {
        let (expected, actual) = (Sha256::of(b"other"), Sha256::of(CONTENTS));
        let (read, verdict) = read(CONTENTS, expected, 13);
        assert!(read.unwrap_err().to_string().contains("and not its NarHash"));
        assert_eq!(verdict, Err(NarMismatch::WrongHash { expected, actual }));
    }

    #[test]
    fn a_reader_given_up_early_has_verified_nothing() {
        let mut reader = VerifyingReader::new(CONTENTS, Sha256::of(CONTENTS), 13);
        reader.read_exact(&mut [0; 13]).unwrap();
        let unread = NarMismatch::NotReadToEnd { read: 13, nar_size: 13 };
        assert_eq!(reader.finish(), Err(unread), "the end itself was not seen");
    }
}
