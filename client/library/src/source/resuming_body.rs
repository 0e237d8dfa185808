//! A body that goes on where its connection broke.
//!
//! Always holds: what is read is one version of the file from its first byte to its last. The rest of a body is taken only
//! under the ETag and length of its beginning; else the file is fetched anew, and given out only behind bytes that equal
//! those given out before. A file that breaks again and again without getting on is given up, and so is one that would be
//! fetched anew too often.
//! Leaves to others: whether the version is the right one (FileHash and NarHash, `verify`).

use std::io::{self, Read};
use std::sync::Arc;

use firn_client_logic::{BodyPart, BodyVersion};

use super::http::{Answer, Expected, HttpSource, Wanted, header};
use super::patience::Tries;
use crate::http_client::{FetchError, open};

// Whoever sends as much between two failures, and goes on behind it, gets on.
const PROGRESS_BYTES: u64 = 1 << 20;

// What is read again of small files is no burden.
const AGAIN_BYTES_MIN: u64 = 1 << 20;

const BUFFER_BYTES: usize = 64 << 10;

pub(super) struct ResumingBody {
    source: Arc<HttpSource>,
    name: String,
    expected: Expected,
    version: BodyVersion,
    reader: Box<dyn Read + Send>,
    /// Bytes that were given out, and their hash.
    given: u64,
    hasher: blake3::Hasher,
    tries: Tries,
    // What had been given out when it failed last.
    failed_at: u64,
    // Bytes that were read to compare them.
    again: u64,
    // It gave a part that was not asked for, or none.
    no_ranges: bool,
}

impl ResumingBody {
    pub(super) fn new(
        source: Arc<HttpSource>,
        name: &str,
        expected: Expected,
        version: BodyVersion,
        reader: impl Read + Send + 'static,
        tries: Tries,
    ) -> Self {
        Self {
            source,
            name: name.to_owned(),
            expected,
            version,
            reader: Box::new(reader),
            given: 0,
            hasher: blake3::Hasher::new(),
            tries,
            failed_at: 0,
            again: 0,
            no_ranges: false,
        }
    }

    /// The tag under which the rest can be asked for.
    fn resumable(&self) -> Option<&str> {
        self.version.etag.as_deref().filter(|_| !self.no_ranges && self.given > 0)
    }

    /// Waits and opens the body anew, until it stands where it broke.
    fn go_on(&mut self, mut cause: io::Error) -> io::Result<()> {
        // Its connection is to be free before another one is taken.
        self.reader = Box::new(io::empty());
        if self.given - self.failed_at >= PROGRESS_BYTES && self.resumable().is_some() {
            self.tries = Tries::default();
        }
        self.failed_at = self.given;
        loop {
            let error = FetchError::Body(cause.to_string());
            self.source.failure(&self.name, &mut self.tries, None, error).map_err(io::Error::other)?;
            match self.reopen() {
                Ok(()) => return Ok(()),
                Err(Reopening::Ended(error)) => return Err(error),
                Err(Reopening::Broken(error)) => cause = error,
            }
        }
    }

    fn reopen(&mut self) -> Result<(), Reopening> {
        let etag = self.resumable().map(str::to_owned);
        let wanted = etag.as_deref().map_or(Wanted::Whole, |etag| Wanted::Rest(self.given, etag));
        let answer = self.source.ask(&self.name, wanted, &mut self.tries).map_err(ended)?;
        let Answer { response, permit } =
            answer.ok_or_else(|| ended("the file vanished while it was read"))?;
        let (status, etag) = (response.status(), header(&response, "etag").map(str::to_owned));
        let part = header(&response, "content-range").and_then(BodyPart::parse);
        let fetched = open(response).map_err(ended)?;
        let mut reader = self.source.paced(fetched.reader, self.expected, permit);
        if status != 200 {
            let rest = self.version.bytes.map_or(0, |bytes| bytes.saturating_sub(self.given));
            let continues = self.version.continues(self.given, part, etag.as_deref());
            if status == 206 && continues && fetched.bytes.is_none_or(|bytes| bytes == rest) {
                // What says its own length ends by itself, and then its connection can be used again.
                self.reader =
                    if fetched.bytes.is_some() { Box::new(reader) } else { Box::new(reader.take(rest)) };
                return Ok(());
            }
            self.no_ranges = true;
            return Err(Reopening::Broken(io::Error::other(
                "the server gave another part than was asked for",
            )));
        }
        let version = BodyVersion::new(etag.as_deref(), fetched.bytes.or(self.expected.bytes));
        // The version that was asked for and not the part.
        self.no_ranges |= self.resumable().is_some() && version.etag == self.version.etag;
        if !fetched.ends && !self.expected.hashed {
            return Err(ended(FetchError::Endless));
        }
        if self.compare(&mut reader)? != self.hasher.finalize() {
            return Err(ended("the file changed while it was read"));
        }
        self.version = version;
        self.reader = Box::new(reader);
        Ok(())
    }

    /// The hash of as many bytes as were given out.
    fn compare(&mut self, reader: &mut dyn Read) -> Result<blake3::Hash, Reopening> {
        let file = self.version.bytes.unwrap_or(0).max(self.given);
        let again_max = file.saturating_mul(2).max(AGAIN_BYTES_MIN);
        let (mut hasher, mut left) = (blake3::Hasher::new(), reader.take(self.given));
        let mut buffer = vec![0; BUFFER_BYTES];
        while left.limit() > 0 {
            let count = match left.read(&mut buffer) {
                Ok(0) => return Err(Reopening::Broken(cut_short())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Reopening::Broken(error)),
            };
            self.again = self.again.saturating_add(count as u64);
            if self.again > again_max {
                return Err(ended("it broke too often for a server that begins anew each time"));
            }
            hasher.update(&buffer[..count]);
        }
        Ok(hasher.finalize())
    }
}

impl Read for ResumingBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let missing = self.version.bytes.map_or(0, |bytes| bytes.saturating_sub(self.given));
            let cause = match self.reader.read(buffer) {
                Ok(0) if missing > 0 => cut_short(),
                Ok(0) => {
                    // Its connection is of use to others while this one is held.
                    self.reader = Box::new(io::empty());
                    return Ok(0);
                }
                Ok(count) => {
                    self.given += count as u64;
                    self.hasher.update(&buffer[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.go_on(cause)?;
        }
    }
}

/// Why a body did not go on.
enum Reopening {
    /// Once more may help.
    Broken(io::Error),
    /// Nothing helps.
    Ended(io::Error),
}

fn ended(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Reopening {
    Reopening::Ended(io::Error::other(reason))
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended too early")
}
