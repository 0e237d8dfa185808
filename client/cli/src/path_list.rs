//! Lists of store paths: in files, on standard input or behind URLs, compressed or not.
//!
//! Always holds: compression is told by the first bytes, not by a name; what is unpacked is bounded.
//! Leaves to others: what the lines mean.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use firn_base::ByteCount;
use firn_client::{Source, SourceOptions};
use firn_nix_format::{Compression, decoder};

use crate::command_error::CommandError;
use crate::store_path_argument::StorePathArgument;

/// 350 million store paths: more than the public cache has. Whoever reads a list so keeps it on disk.
const LIST_BYTES_MAX: u64 = 32 << 30;

/// Eleven million store paths, where a list is kept in memory.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

// As many store paths as fit: shorter lines would take more memory than text.
const MEMORY_LINES_MAX: usize = 11_000_000;

// A realisation's name is the longest there is.
const LINE_BYTES_MAX: u64 = 4096;

const BUFFER_BYTES: usize = 64 << 10;

/// Lines of a list that hold something, one after another.
pub(crate) struct ListLines {
    text: io::Take<BufReader<Box<dyn Read + Send>>>,
    line: Vec<u8>,
    bytes_max: u64,
}

/// The lines of `list`; `-` is standard input, http(s)://… is fetched. Blocks, and so does reading them.
pub(crate) fn open_lines(list: &Path, options: &SourceOptions) -> Result<ListLines, CommandError> {
    open(list, options, LIST_BYTES_MAX)
}

/// All lines of `list`, in memory. Blocks.
pub(crate) fn read_lines(list: &Path, options: &SourceOptions) -> Result<Vec<String>, CommandError> {
    let failed = |source| CommandError::file("read", list, source);
    collect(open(list, options, MEMORY_BYTES_MAX)?, MEMORY_LINES_MAX).map_err(failed)
}

fn open(list: &Path, options: &SourceOptions, bytes_max: u64) -> Result<ListLines, CommandError> {
    let failed = |source| CommandError::file("read", list, source);
    let reader: Box<dyn Read + Send> = match list.to_str() {
        Some("-") => Box::new(io::stdin()),
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => fetch(url, options)?,
        _ => Box::new(std::fs::File::open(list).map_err(failed)?),
    };
    ListLines::new(reader, bytes_max).map_err(failed)
}

fn collect(lines: ListLines, lines_max: usize) -> io::Result<Vec<String>> {
    let mut all = Vec::new();
    for line in lines {
        if all.len() >= lines_max {
            return Err(io::Error::other(format!("the list has more than {lines_max} lines: divide it")));
        }
        all.push(line?);
    }
    Ok(all)
}

/// The store paths that `list` names, one to a line. Blocks.
pub(crate) fn read_paths(
    list: &Path,
    options: &SourceOptions,
) -> Result<Vec<StorePathArgument>, CommandError> {
    let parse = |line: String| {
        line.parse().map_err(|error| CommandError::Usage(format!("{}: `{line}`: {error}", list.display())))
    };
    read_lines(list, options)?.into_iter().map(parse).collect()
}

fn fetch(url: &str, options: &SourceOptions) -> Result<Box<dyn Read + Send>, CommandError> {
    let failed = |error: firn_client::SourceError| CommandError::Failed(error.to_string());
    let missing = || CommandError::Failed(format!("there is no list at {url}"));
    let (folder, name) = url.rsplit_once('/').ok_or_else(missing)?;
    let source = Source::open_with(folder, options).map_err(failed)?;
    let file = source.open_file(name).map_err(failed)?.ok_or_else(missing)?;
    Ok(file.reader)
}

impl ListLines {
    fn new(mut reader: Box<dyn Read + Send>, bytes_max: u64) -> io::Result<Self> {
        let mut first = Vec::new();
        reader.by_ref().take(6).read_to_end(&mut first)?;
        let compression = match &first[..] {
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            _ => Compression::None,
        };
        let whole = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(first).chain(reader));
        let plain: Box<dyn Read + Send> = decoder(compression, whole)?;
        let text = BufReader::with_capacity(BUFFER_BYTES, plain).take(bytes_max + 1);
        Ok(Self { text, line: Vec::new(), bytes_max })
    }

    /// The next line, also if it is empty; none at the end.
    fn line(&mut self) -> io::Result<Option<&str>> {
        self.line.clear();
        let count = self.text.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut self.line)?;
        if count as u64 > LINE_BYTES_MAX {
            return Err(io::Error::other("a line has more than 4,096 bytes: is it a list of store paths?"));
        }
        if self.text.limit() == 0 {
            let most = ByteCount(self.bytes_max);
            return Err(io::Error::other(format!("the list has more than {most} of text: divide it")));
        }
        let Ok(words) = std::str::from_utf8(&self.line) else {
            return Err(io::Error::other("it is no text: lists may be plain, xz, zstd or bzip2"));
        };
        Ok((count > 0).then_some(words.trim()))
    }
}

impl Iterator for ListLines {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.line() {
                Ok(None) => return None,
                Ok(Some("")) => {}
                Ok(Some(words)) => return Some(Ok(words.to_owned())),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn options() -> SourceOptions {
        SourceOptions::default()
    }

    fn lines_of(
        bytes: impl Read + Send + 'static,
        bytes_max: u64,
        lines_max: usize,
    ) -> io::Result<Vec<String>> {
        collect(ListLines::new(Box::new(bytes), bytes_max)?, lines_max)
    }

    #[test]
    fn paths_are_the_lines_that_hold_something() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("paths");
        std::fs::write(&file, "/nix/store/a\n\n  /nix/store/b \r\n/nix/store/c").unwrap();
        let lines = read_lines(&file, &options()).unwrap();
        assert_eq!(lines, ["/nix/store/a", "/nix/store/b", "/nix/store/c"]);
        let missing = read_lines(&place.path().join("none"), &options()).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read "), "{missing}");
    }

    #[test]
    fn compressed_lists_are_read_whatever_they_are_called() {
        let text = b"/nix/store/a\n/nix/store/b\n";
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(text).unwrap();
        for bytes in [text.to_vec(), xz.finish().unwrap(), zstd::encode_all(&text[..], 1).unwrap()] {
            assert_eq!(
                lines_of(io::Cursor::new(bytes), 100, MEMORY_LINES_MAX).unwrap(),
                ["/nix/store/a", "/nix/store/b"]
            );
        }
        assert_eq!(lines_of(&b""[..], 100, MEMORY_LINES_MAX).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_list_is_refused_before_it_takes_memory() {
        let sentence = |bytes: &[u8]| {
            lines_of(io::Cursor::new(bytes.to_vec()), u64::MAX - 1, MEMORY_LINES_MAX).unwrap_err().to_string()
        };
        assert!(sentence(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).contains("no text"), "gzip");
        // A bomb of one line.
        let zeros = zstd::encode_all(&vec![b'x'; 10_000_000][..], 1).unwrap();
        assert!(sentence(&zeros).contains("a line has more"));
        let mut cut = zstd::encode_all(&vec![b'\n'; 1_000_000][..], 1).unwrap();
        cut.truncate(cut.len() / 2);
        assert!(
            lines_of(io::Cursor::new(cut), LIST_BYTES_MAX, MEMORY_LINES_MAX).is_err(),
            "half a list is no list"
        );
    }

    #[test]
    fn a_list_that_never_ends_is_given_up() {
        let endless = io::repeat(b'\n');
        assert!(lines_of(endless, 10_000, MEMORY_LINES_MAX).unwrap_err().to_string().contains("divide it"));
    }

    #[test]
    fn lines_are_counted_however_short_they_are() {
        let text = b"a\n\nb\nc\n";
        assert_eq!(lines_of(&text[..], 100, 3).unwrap().len(), 3);
        assert!(lines_of(&text[..], 100, 2).unwrap_err().to_string().contains("more than 2 lines"));
    }

    #[test]
    fn a_line_that_is_no_store_path_is_wrong_usage() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("paths");
        std::fs::write(&file, "4d20g8srpvv02vkiwrmz28g62m15n56b\n").unwrap();
        assert_eq!(read_paths(&file, &options()).unwrap().len(), 1);
        std::fs::write(&file, "4d20g8srpvv02vkiwrmz28g62m15n56b\nhello\n").unwrap();
        let wrong = read_paths(&file, &options()).unwrap_err();
        assert!(matches!(&wrong, CommandError::Usage(text) if text.contains("`hello`")), "{wrong}");
    }
}
