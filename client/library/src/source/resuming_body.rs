//! A body that goes on where its connection broke.
//!
//! Always holds: what is read is one version of the file from its first byte to its last. The rest of a body is taken only
//! under the ETag and length of its beginning; else the file is fetched anew, and given out only behind bytes that equal
//! those given out before. A file that breaks again and again without getting on is given up.
//! Leaves to others: whether the version is the right one (FileHash and NarHash, `verify`).

use std::io::{self, Read};
use std::sync::Arc;

use firn_client_logic::{BodyPart, BodyVersion};

use super::http::{HttpSource, Wanted, header};
use crate::http_client::open;

// Whoever sends as much between two failures gets on.
const PROGRESS_BYTES: u64 = 1 << 20;

const BUFFER_BYTES: usize = 64 << 10;

pub(super) struct ResumingBody {
    source: Arc<HttpSource>,
    name: String,
    version: BodyVersion,
    reader: Box<dyn Read + Send>,
    /// Bytes that were given out, and their hash.
    given: u64,
    hasher: blake3::Hasher,
    failures: u32,
    // What had been given out when it failed last.
    failed_at: u64,
    // It gave a part that was not asked for.
    no_ranges: bool,
}

impl ResumingBody {
    pub(super) fn new(
        source: Arc<HttpSource>,
        name: &str,
        version: BodyVersion,
        reader: Box<dyn Read + Send>,
    ) -> Self {
        Self {
            source,
            name: name.to_owned(),
            version,
            reader,
            given: 0,
            hasher: blake3::Hasher::new(),
            failures: 0,
            failed_at: 0,
            no_ranges: false,
        }
    }

    /// Waits and opens the body anew, until it stands where it broke.
    fn go_on(&mut self, mut cause: io::Error) -> io::Result<()> {
        if self.given - self.failed_at >= PROGRESS_BYTES {
            self.failures = 0;
        }
        self.failed_at = self.given;
        loop {
            self.failures += 1;
            if !self.source.wait(&self.name, self.failures, None, &cause) {
                return Err(cause);
            }
            match self.reopen() {
                Ok(()) => return Ok(()),
                Err(Reopening::Ended(error)) => return Err(error),
                Err(Reopening::Broken(error)) => cause = error,
            }
        }
    }

    fn reopen(&mut self) -> Result<(), Reopening> {
        let ended = |error: &dyn std::fmt::Display| Reopening::Ended(io::Error::other(error.to_string()));
        let etag = self.version.etag.as_deref().filter(|_| !self.no_ranges && self.given > 0);
        let wanted = etag.map_or(Wanted::Whole, |etag| Wanted::Rest(self.given, etag));
        let answer = self.source.ask(&self.name, wanted).map_err(|error| ended(&error))?;
        let answer = answer.ok_or_else(|| ended(&"the file vanished while it was read"))?;
        let etag = header(&answer, "etag").map(str::to_owned);
        let part = header(&answer, "content-range").and_then(BodyPart::parse);
        if answer.status() != 200 {
            if answer.status() == 206 && self.version.continues(self.given, part, etag.as_deref()) {
                let rest = self.version.bytes.map_or(0, |bytes| bytes.saturating_sub(self.given));
                self.reader = Box::new(open(answer).map_err(|error| ended(&error))?.reader.take(rest));
                return Ok(());
            }
            self.no_ranges = true;
            return Err(Reopening::Broken(io::Error::other(
                "the server gave another part than was asked for",
            )));
        }
        let fetched = open(answer).map_err(|error| ended(&error))?;
        let mut reader = fetched.reader;
        let again = hash_of(&mut reader, self.given).map_err(Reopening::Broken)?;
        if again != self.hasher.finalize() {
            return Err(ended(&"the file changed while it was read"));
        }
        self.version = BodyVersion::new(etag.as_deref(), fetched.bytes);
        self.reader = reader;
        Ok(())
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

/// The hash of the first `bytes` bytes.
fn hash_of(reader: &mut dyn Read, bytes: u64) -> io::Result<blake3::Hash> {
    let (mut hasher, mut left) = (blake3::Hasher::new(), reader.take(bytes));
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match left.read(&mut buffer) {
            Ok(0) if left.limit() > 0 => return Err(cut_short()),
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => drop(hasher.update(&buffer[..count])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended too early")
}
