//! More lines than fit in memory, sorted, each of them once.
//!
//! Owns: runs of lines in a spool file and how they are merged. Always holds: memory is bounded however many lines there
//! are; few lines never touch the disk; files have no name. Leaves to others: what the lines say.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::spool::{SpoolDir, SpoolError};

/// Bounds of a sorter.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Bytes of lines in memory, with what keeps them.
    held_bytes: usize,
    /// Runs that are merged at once; each is read through a buffer.
    runs: usize,
}

// A publish has five sorters at the most.
const BOUNDS: Bounds = Bounds { held_bytes: 8 << 20, runs: 256 };

const BUFFER_BYTES: usize = 32 << 10;

// A string, and what the allocator takes for it.
const LINE_OVERHEAD_BYTES: usize = 40;

/// Takes lines in any order. Its methods block.
#[derive(Debug)]
pub(crate) struct LineSorter {
    spool: SpoolDir,
    bounds: Bounds,
    held: Vec<String>,
    held_bytes: usize,
    runs: Option<Runs>,
}

/// Sorted runs in one file.
#[derive(Debug)]
struct Runs {
    file: Arc<File>,
    extents: Vec<Range<u64>>,
}

/// Sorted lines, each of them once. Clones are the same lines.
#[derive(Debug, Clone)]
pub(crate) struct SortedLines {
    spool: SpoolDir,
    place: Place,
    count: u64,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<Vec<String>>),
    Disk(Arc<File>, u64),
}

/// Reads sorted lines from the first to the last. Blocks.
#[derive(Debug)]
pub(crate) struct LineReader {
    spool: SpoolDir,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    Memory(Arc<Vec<String>>, usize),
    Disk(BufReader<Section>),
}

/// A part of a file, whose place nobody else moves.
#[derive(Debug)]
struct Section {
    file: Arc<File>,
    rest: Range<u64>,
}

impl LineSorter {
    pub(crate) const fn new(spool: SpoolDir) -> Self {
        Self { spool, bounds: BOUNDS, held: Vec::new(), held_bytes: 0, runs: None }
    }

    /// Takes a line, which holds no line break.
    pub(crate) fn push(&mut self, line: String) -> Result<(), SpoolError> {
        debug_assert!(!line.contains('\n'), "one line");
        self.held_bytes += line.len() + LINE_OVERHEAD_BYTES;
        self.held.push(line);
        if self.held_bytes < self.bounds.held_bytes {
            return Ok(());
        }
        self.write_run().map_err(|error| self.spool.failed(error))
    }

    /// Lines that lie in memory now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// All lines.
    pub(crate) fn finish(mut self) -> Result<SortedLines, SpoolError> {
        let spool = self.spool.clone();
        let (place, count) = self.sort_all().map_err(|error| spool.failed(error))?;
        Ok(SortedLines { spool, place, count })
    }

    fn sort_all(&mut self) -> io::Result<(Place, u64)> {
        if self.runs.is_none() {
            let mut lines = std::mem::take(&mut self.held);
            lines.sort_unstable();
            lines.dedup();
            let count = lines.len() as u64;
            return Ok((Place::Memory(Arc::new(lines)), count));
        }
        self.write_run()?;
        let runs = self.runs.take().map_or_else(Vec::new, Runs::readers);
        let file = self.nameless()?;
        let (bytes, count) = merge(runs, &file)?;
        Ok((Place::Disk(Arc::new(file), bytes), count))
    }

    fn write_run(&mut self) -> io::Result<()> {
        let mut lines = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        lines.sort_unstable();
        lines.dedup();
        if self.runs.as_ref().is_some_and(|runs| runs.extents.len() >= self.bounds.runs) {
            let runs = self.runs.take().map_or_else(Vec::new, Runs::readers);
            let file = self.nameless()?;
            let (bytes, _) = merge(runs, &file)?;
            self.runs = Some(Runs { file: Arc::new(file), extents: std::iter::once(0..bytes).collect() });
        }
        let mut runs = match self.runs.take() {
            Some(runs) => runs,
            None => Runs { file: Arc::new(self.nameless()?), extents: Vec::new() },
        };
        let begins = runs.extents.last().map_or(0, |last| last.end);
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, &*runs.file);
        let mut ends = begins;
        for line in &lines {
            writeln!(writer, "{line}")?;
            ends += line.len() as u64 + 1;
        }
        writer.flush()?;
        drop(writer);
        runs.extents.push(begins..ends);
        self.runs = Some(runs);
        Ok(())
    }

    fn nameless(&self) -> io::Result<File> {
        self.spool.file().map_err(io::Error::other)
    }
}

impl Runs {
    fn readers(self) -> Vec<BufReader<Section>> {
        let file = &self.file;
        let sections = self.extents.into_iter().map(|rest| Section { file: Arc::clone(file), rest });
        sections.map(|section| BufReader::with_capacity(BUFFER_BYTES, section)).collect()
    }
}

/// Writes the lines of all runs, sorted; gives their bytes and their number.
fn merge(mut runs: Vec<BufReader<Section>>, file: &File) -> io::Result<(u64, u64)> {
    let mut heads = BinaryHeap::new();
    for (run, reader) in runs.iter_mut().enumerate() {
        heads.extend(next_line(reader)?.map(|line| Reverse((line, run))));
    }
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let (mut last, mut bytes, mut count) = (None, 0, 0);
    while let Some(mut head) = heads.peek_mut() {
        let run = head.0.1;
        let line = match next_line(&mut runs[run])? {
            Some(next) => std::mem::replace(&mut head.0.0, next),
            None => PeekMut::pop(head).0.0,
        };
        if last.as_ref() != Some(&line) {
            writeln!(writer, "{line}")?;
            bytes += line.len() as u64 + 1;
            count += 1;
        }
        last = Some(line);
    }
    writer.flush()?;
    Ok((bytes, count))
}

fn next_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(line))
}

impl SortedLines {
    /// How many there are.
    pub(crate) const fn len(&self) -> u64 {
        self.count
    }

    /// All of them in turn.
    pub(crate) fn reader(&self) -> LineReader {
        let rest = match &self.place {
            Place::Memory(lines) => Rest::Memory(Arc::clone(lines), 0),
            Place::Disk(file, bytes) => Rest::Disk(BufReader::with_capacity(
                BUFFER_BYTES,
                Section { file: Arc::clone(file), rest: 0..*bytes },
            )),
        };
        LineReader { spool: self.spool.clone(), rest }
    }

    /// The first line that begins so. Blocks.
    pub(crate) fn find(&self, begins: &str) -> Result<Option<String>, SpoolError> {
        let found = match &self.place {
            Place::Memory(lines) => {
                let place = lines.partition_point(|line| line.as_str() < begins);
                lines.get(place).cloned()
            }
            Place::Disk(file, bytes) => {
                first_from(file, *bytes, begins).map_err(|error| self.spool.failed(error))?
            }
        };
        Ok(found.filter(|line| line.starts_with(begins)))
    }
}

/// The first line that is not smaller.
fn first_from(file: &Arc<File>, bytes: u64, least: &str) -> io::Result<Option<String>> {
    // Small: a line is read in each step.
    let reader = |at| BufReader::with_capacity(256, Section { file: Arc::clone(file), rest: at..bytes });
    // What begins before `low` is smaller; what begins behind `high`, or there, is not.
    let (mut low, mut high) = (0, bytes);
    while low < high {
        let middle = low + (high - low) / 2;
        let mut lines = reader(middle);
        // The line that begins at `middle` or behind it.
        let mut begins = middle;
        if middle > low {
            let mut skipped = Vec::new();
            // From the byte before, so that a line which begins right here is not skipped.
            lines = reader(middle - 1);
            begins = middle - 1 + lines.read_until(b'\n', &mut skipped)? as u64;
        }
        if begins >= high {
            high = middle;
            continue;
        }
        match next_line(&mut lines)? {
            Some(line) if line.as_str() < least => low = begins + line.len() as u64 + 1,
            _ => high = middle,
        }
    }
    next_line(&mut reader(low))
}

impl LineReader {
    /// The next line.
    pub(crate) fn line(&mut self) -> Result<Option<String>, SpoolError> {
        match &mut self.rest {
            Rest::Memory(lines, place) => {
                let line = lines.get(*place).cloned();
                *place += 1;
                Ok(line)
            }
            Rest::Disk(reader) => next_line(reader).map_err(|error| self.spool.failed(error)),
        }
    }

    /// The next lines, at most so many; none at the end.
    pub(crate) fn lines(&mut self, count_max: usize) -> Result<Vec<String>, SpoolError> {
        let mut lines = Vec::new();
        while lines.len() < count_max {
            let Some(line) = self.line()? else { break };
            lines.push(line);
        }
        Ok(lines)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..length], self.rest.start)?;
        // Else a file that lost its end would pass for a list that has fewer lines.
        if count == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.rest.start += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sorter(bounds: Bounds) -> LineSorter {
        LineSorter { bounds, ..LineSorter::new(SpoolDir::open(None).unwrap()) }
    }

    fn all(lines: &SortedLines) -> Vec<String> {
        lines.reader().lines(usize::MAX).unwrap()
    }

    const SMALL: Bounds = Bounds { held_bytes: 200, runs: 3 };

    #[test]
    fn few_lines_stay_in_memory() {
        let mut few = sorter(BOUNDS);
        for line in ["b", "a", "b"] {
            few.push(line.to_owned()).unwrap();
        }
        let lines = few.finish().unwrap();
        assert!(matches!(lines.place, Place::Memory(_)));
        assert_eq!((all(&lines), lines.len()), (vec!["a".to_owned(), "b".to_owned()], 2));
    }

    #[test]
    fn no_lines_are_no_lines() {
        let none = sorter(SMALL).finish().unwrap();
        assert_eq!((none.len(), none.reader().line().unwrap(), none.find("").unwrap()), (0, None, None));
    }

    #[test]
    fn many_lines_are_merged_from_the_disk_and_few_are_held() {
        let mut many = sorter(SMALL);
        for number in 0..1_000 {
            many.push(format!("{:03}", (number * 7) % 1_000)).unwrap();
            assert!(many.held() <= SMALL.held_bytes / LINE_OVERHEAD_BYTES);
            let runs = many.runs.as_ref().map_or(0, |runs| runs.extents.len());
            assert!(runs <= SMALL.runs, "{runs} runs are merged at once");
        }
        let lines = many.finish().unwrap();
        assert!(matches!(lines.place, Place::Disk(..)));
        assert_eq!(all(&lines), (0..1_000).map(|number| format!("{number:03}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_lost_lines_is_taken_for_no_shorter_list() {
        let mut many = sorter(SMALL);
        for number in 0..1_000 {
            many.push(format!("{number:03}")).unwrap();
        }
        let lines = many.finish().unwrap();
        let Place::Disk(file, bytes) = &lines.place else { panic!("they lie on disk") };
        assert_eq!(*bytes, 4_000);
        // At the end of a line.
        file.set_len(400).unwrap();
        assert!(lines.reader().lines(usize::MAX).is_err());
    }

    #[test]
    fn lines_come_sorted_once_and_are_found_wherever_they_lie() {
        for seed in 0..200_u32 {
            let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
            let mut letters = |most: u8| {
                let mut drawn = [0; 8];
                noise.fill(&mut drawn);
                let count = usize::from(drawn[0] % (most + 1));
                drawn[1..]
                    .iter()
                    .take(count)
                    .map(|byte| ['a', 'b', '\u{e9}'][usize::from(byte % 3)])
                    .collect()
            };
            let lines: Vec<String> = (0..seed % 80).map(|_| letters(6)).collect();
            let mut sorter = sorter(Bounds { held_bytes: 50 + 20 * (seed as usize % 50), runs: 3 });
            for line in &lines {
                sorter.push(line.clone()).unwrap();
            }
            let sorted = sorter.finish().unwrap();
            let expected: BTreeSet<String> = lines.into_iter().collect();
            assert_eq!(sorted.len(), expected.len() as u64);
            for _ in 0..20 {
                let wanted: String = letters(3);
                let found = expected.iter().find(|line| line.starts_with(&wanted)).cloned();
                assert_eq!(sorted.find(&wanted).unwrap(), found, "{wanted} in {expected:?}");
            }
            assert_eq!(all(&sorted), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
