//! The paths of a source that has more of them than a plan holds: what decides when each is published, on disk.
//!
//! Owns: a line of each path in three sorted files. Always holds: memory is bounded however many paths there are; the
//! order is class by class, and by name within a class, so that versions of a package come near each other. A plan of
//! all of them would put large closures first besides; here the plan of each window does, of what is in it.
//! Leaves to others: reading narinfos, and what a path needs (`plan`).

use firn_base::{ByteCount, ObjectKey};
use firn_client_logic::{NewestRelease, OrderFacts, PublishOrder, WindowRoom, package_and_version};
use firn_nix_format::{PathInfo, nixbase32};

use crate::blob_file::BlobFile;
use crate::sorted_lines::{LineReader, LineSorter, SortedLines};
use crate::spool::{SpoolDir, SpoolError};

/// A path that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenPath {
    pub(crate) hash_part: String,
    /// Bytes of its narinfo.
    pub(crate) text_bytes: u64,
}

/// Takes paths in any order. Its methods block.
#[derive(Debug)]
pub(crate) struct SurveyWriter {
    spool: SpoolDir,
    facts: LineSorter,
    hashes: LineSorter,
    logs: LineSorter,
    sums: Sums,
}

/// Sums over the paths of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    /// Paths that the archive lacks.
    pub(crate) new: u64,
    /// Paths that it has.
    pub(crate) archived: u64,
    /// Bytes of the NARs of new paths.
    pub(crate) nar_bytes: ByteCount,
    /// Bytes of their published files.
    pub(crate) file_bytes: ByteCount,
}

impl Sums {
    /// Adds a path that the archive lacks.
    pub(crate) fn add_new(&mut self, info: &PathInfo) {
        let file_bytes = info.file_size.unwrap_or(info.nar_size);
        self.new += 1;
        self.nar_bytes = ByteCount(self.nar_bytes.0.saturating_add(info.nar_size));
        self.file_bytes = ByteCount(self.file_bytes.0.saturating_add(file_bytes));
    }
}

/// The paths of a source.
#[derive(Debug)]
pub(crate) struct Survey {
    spool: SpoolDir,
    ordered: SortedLines,
    hashes: SortedLines,
    logs: SortedLines,
    pub(crate) sums: Sums,
}

/// Gives paths of a survey, a window at a time.
#[derive(Debug)]
pub(crate) struct SurveyReader {
    spool: SpoolDir,
    lines: LineReader,
    /// The first one of the next window, with its rank, if that counts.
    ahead: Option<(String, SeenPath)>,
}

/// What is kept of a path until its rank is known.
struct Fact<'a> {
    package: &'a str,
    name: &'a str,
    hash_part: &'a str,
    has_references: bool,
    is_fixed: bool,
    is_archived: bool,
    text_bytes: &'a str,
}

// Behind all classes.
const RANK_ARCHIVED: u32 = u32::MAX;

impl SurveyWriter {
    pub(crate) fn new(spool: &SpoolDir) -> Self {
        let sorter = || LineSorter::new(spool.clone());
        Self {
            spool: spool.clone(),
            facts: sorter(),
            hashes: sorter(),
            logs: sorter(),
            sums: Sums::default(),
        }
    }

    /// Takes a path. One that is archived has its turn only if its build log `may_be_new`.
    pub(crate) fn push(
        &mut self,
        info: &PathInfo,
        text_bytes: u64,
        is_archived: bool,
        may_be_new: bool,
    ) -> Result<(), SpoolError> {
        let hash_part = info.store_path.hash_part();
        self.hashes.push(format!("{hash_part}\t{text_bytes}"))?;
        if is_archived {
            self.sums.archived += 1;
        } else {
            self.sums.add_new(info);
        }
        if is_archived && !may_be_new {
            return Ok(());
        }
        if let Some(deriver) = &info.deriver {
            self.logs.push(BlobFile::Log(deriver.clone()).name())?;
        }
        let name = info.store_path.name();
        let fact = Fact {
            package: package_and_version(name).0,
            name,
            hash_part,
            has_references: info.references.iter().any(|reference| *reference != info.store_path),
            is_fixed: info.ca.as_deref().is_some_and(|address| address.starts_with("fixed:")),
            is_archived,
            text_bytes: &text_bytes.to_string(),
        };
        self.facts.push(fact.line())
    }

    /// Lines that lie in memory now.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.facts.held() + self.hashes.held() + self.logs.held()
    }

    /// All paths, in this order.
    pub(crate) fn finish(self, order: &PublishOrder) -> Result<Survey, SpoolError> {
        let facts = self.facts.finish()?;
        let mut ordered = LineSorter::new(self.spool.clone());
        let (mut lines, mut ahead) = (facts.reader(), facts.reader());
        let mut next = ahead.line()?;
        let mut package: Option<String> = None;
        let mut newest = NewestRelease::default();
        while let Some(line) = lines.line()? {
            let fact = Fact::parse(&line).ok_or_else(|| damaged(&self.spool))?;
            if package.as_deref() != Some(fact.package) {
                newest = NewestRelease::default();
                while let Some(one) = next.as_deref().and_then(Fact::parse) {
                    if one.package != fact.package {
                        break;
                    }
                    newest.see(package_and_version(one.name).1);
                    next = ahead.line()?;
                }
                package = Some(fact.package.to_owned());
            }
            let rank = fact.rank(order, &newest).ok_or_else(|| damaged(&self.spool))?;
            let Fact { package, name, hash_part, text_bytes, .. } = fact;
            ordered.push(format!("{rank:010}\t{package}\t{name}\t{hash_part}\t{text_bytes}"))?;
        }
        Ok(Survey {
            ordered: ordered.finish()?,
            hashes: self.hashes.finish()?,
            logs: self.logs.finish()?,
            sums: self.sums,
            spool: self.spool,
        })
    }
}

impl Survey {
    /// The paths that have a turn, in their order; no window has paths of two classes.
    pub(crate) fn turns(&self) -> SurveyReader {
        SurveyReader { spool: self.spool.clone(), lines: self.ordered.reader(), ahead: None }
    }

    /// All paths, in no order that means anything.
    pub(crate) fn all(&self) -> SurveyReader {
        SurveyReader { spool: self.spool.clone(), lines: self.hashes.reader(), ahead: None }
    }

    /// All paths, for [`Self::find`].
    pub(crate) const fn hashes(&self) -> &SortedLines {
        &self.hashes
    }

    /// Build logs of the paths that have a turn, for [`BlobFile::named`]; that they are there is not said.
    pub(crate) const fn logs(&self) -> &SortedLines {
        &self.logs
    }

    /// The path of this hash among `hashes`. Blocks.
    pub(crate) fn find(hashes: &SortedLines, hash_part: &str) -> Result<Option<SeenPath>, SpoolError> {
        let line = hashes.find(&format!("{hash_part}\t"))?;
        Ok(line
            .as_deref()
            .and_then(|line| line.split_once('\t'))
            .and_then(|(hash_part, text_bytes)| SeenPath::parse(hash_part, text_bytes)))
    }
}

impl SurveyReader {
    /// The next paths for which there is room; none at the end. Blocks.
    pub(crate) fn window(&mut self, mut room: WindowRoom) -> Result<Vec<SeenPath>, SpoolError> {
        let (mut paths, mut rank) = (Vec::new(), None::<String>);
        loop {
            let Some((next_rank, path)) = self.path()? else { return Ok(paths) };
            let is_of_rank = rank.as_ref().is_none_or(|rank| *rank == next_rank);
            if !is_of_rank || !room.take(path.text_bytes) {
                self.ahead = Some((next_rank, path));
                return Ok(paths);
            }
            paths.push(path);
            rank = Some(next_rank);
        }
    }

    fn path(&mut self) -> Result<Option<(String, SeenPath)>, SpoolError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        let Some(line) = self.lines.line()? else { return Ok(None) };
        let parts: Vec<&str> = line.split('\t').collect();
        let parsed = match parts[..] {
            [hash_part, text_bytes] => {
                SeenPath::parse(hash_part, text_bytes).map(|path| (String::new(), path))
            }
            [rank, _, _, hash_part, text_bytes] => {
                SeenPath::parse(hash_part, text_bytes).map(|path| (rank.to_owned(), path))
            }
            _ => None,
        };
        parsed.map(Some).ok_or_else(|| damaged(&self.spool))
    }
}

impl SeenPath {
    fn parse(hash_part: &str, text_bytes: &str) -> Option<Self> {
        Some(Self { hash_part: hash_part.to_owned(), text_bytes: text_bytes.parse().ok()? })
    }

    /// Its key; none if it is no hash part.
    pub(crate) fn key(&self) -> Option<ObjectKey> {
        nixbase32::decode::<20>(&self.hash_part).ok().map(ObjectKey::store_path)
    }
}

impl<'a> Fact<'a> {
    // Names and hashes hold no tabulators: names of store paths have an alphabet.
    fn line(&self) -> String {
        let flag = |is, letter| if is { letter } else { '-' };
        let flags = [flag(self.has_references, 'r'), flag(self.is_fixed, 'f'), flag(self.is_archived, 'a')];
        let flags: String = flags.into_iter().collect();
        let Self { package, name, hash_part, text_bytes, .. } = self;
        format!("{package}\t{name}\t{hash_part}\t{flags}\t{text_bytes}")
    }

    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.split('\t');
        let (package, name, hash_part) = (parts.next()?, parts.next()?, parts.next()?);
        let flags = parts.next()?;
        Some(Self {
            package,
            name,
            hash_part,
            has_references: flags.contains('r'),
            is_fixed: flags.contains('f'),
            is_archived: flags.contains('a'),
            text_bytes: parts.next()?,
        })
    }

    fn rank(&self, order: &PublishOrder, newest: &NewestRelease) -> Option<u32> {
        if self.is_archived {
            return Some(RANK_ARCHIVED);
        }
        let facts = OrderFacts {
            key: ObjectKey::store_path(nixbase32::decode::<20>(self.hash_part).ok()?),
            name: self.name,
            has_references: self.has_references,
            content_address: self.is_fixed.then_some("fixed:"),
        };
        Some(order.rank(&facts, newest))
    }
}

/// What was written is not what is read.
fn damaged(spool: &SpoolDir) -> SpoolError {
    spool.failed(std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use firn_client_logic::{OrderClass, PlanWindow};
    use firn_nix_format::{Sha256, StorePath};

    use super::*;

    fn writer() -> SurveyWriter {
        SurveyWriter::new(&SpoolDir::open(None).unwrap())
    }

    fn info(number: u32, name: &str) -> PathInfo {
        let mut hash = [0; 20];
        // Spread, as hashes are.
        hash[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
        let path = StorePath::from_parts(hash, name).unwrap();
        PathInfo::of_nar(path, "nar/1.nar".to_owned(), Sha256::from_bytes([0; 32]), 10)
    }

    /// All windows, by the names of their paths, of which no two are alike.
    fn windows(survey: &Survey, infos: &[PathInfo], window: PlanWindow) -> Vec<Vec<String>> {
        let name = |path: &SeenPath| {
            let info = infos.iter().find(|info| info.store_path.hash_part() == path.hash_part).unwrap();
            info.store_path.name().to_owned()
        };
        let mut reader = survey.turns();
        let next = || Some(reader.window(window.half()).unwrap()).filter(|paths| !paths.is_empty());
        std::iter::from_fn(next).map(|paths| paths.iter().map(name).collect()).collect()
    }

    #[test]
    fn windows_are_class_by_class_and_by_name_within_each() {
        let names = ["b-1.0", "a-1.9", "a-1.10", "c-1.tar.gz", "a-1.10-man", "b-2.0", "d"];
        let infos: Vec<PathInfo> = (0..).zip(names).map(|(number, name)| info(number, name)).collect();
        let mut writer = writer();
        for (place, info) in infos.iter().enumerate() {
            let mut info = info.clone();
            if info.store_path.name() != "c-1.tar.gz" {
                info.references.push(infos[(place + 1) % infos.len()].store_path.clone());
            }
            writer.push(&info, 100, false, false).unwrap();
        }
        let classes = "sources,recent,rest".split(',').map(|class| class.parse().unwrap()).collect();
        let survey = writer.finish(&PublishOrder { classes, ..PublishOrder::default() }).unwrap();
        let window = PlanWindow { paths: 4, text_bytes: 1_000 };
        assert_eq!(
            windows(&survey, &infos, window),
            [
                vec!["c-1.tar.gz"],
                vec!["a-1.10", "a-1.10-man"],
                vec!["b-2.0"],
                vec!["a-1.9", "b-1.0"],
                vec!["d"]
            ]
        );
        let narrow = PlanWindow { paths: 100, text_bytes: 200 };
        assert!(windows(&survey, &infos, narrow).iter().all(|paths| paths.len() == 1));
    }

    #[test]
    fn archived_paths_come_last_and_only_where_their_logs_may_be_new() {
        let infos = [info(1, "a"), info(2, "b"), info(3, "c")];
        let mut writer = writer();
        writer.push(&infos[0], 100, true, true).unwrap();
        writer.push(&infos[1], 100, true, false).unwrap();
        writer.push(&infos[2], 100, false, false).unwrap();
        let survey = writer.finish(&PublishOrder::default()).unwrap();
        assert_eq!(windows(&survey, &infos, PlanWindow::default()), [["c"], ["a"]]);
        assert_eq!((survey.sums.new, survey.sums.archived, survey.sums.nar_bytes.0), (1, 2, 10));
        for info in &infos {
            let found = Survey::find(survey.hashes(), info.store_path.hash_part()).unwrap();
            assert_eq!(found.unwrap().key(), Some(ObjectKey::store_path(*info.store_path.hash())));
        }
        let unknown = info(4, "d");
        assert_eq!(Survey::find(survey.hashes(), unknown.store_path.hash_part()).unwrap(), None);
    }

    #[test]
    fn a_million_paths_are_planned_with_a_constant_number_of_entries_held() {
        const PATHS: u32 = 1_000_000;
        // A sorter holds 8 MiB, of at least 40 bytes for each line; there are three.
        const HELD_MAX: usize = 3 * (8 << 20) / 40;
        let mut writer = writer();
        let mut held_most = 0;
        for number in 0..PATHS {
            let mut info = info(number, &format!("package{}-1.{}", number % 50_000, number / 50_000));
            info.deriver = Some(info.store_path.clone());
            writer.push(&info, 800, false, false).unwrap();
            held_most = held_most.max(writer.held());
        }
        assert!(held_most <= HELD_MAX, "{held_most} lines held while looking");
        let classes = vec![OrderClass::Recent];
        let survey = writer.finish(&PublishOrder { classes, ..PublishOrder::default() }).unwrap();
        assert_eq!(survey.sums.new, u64::from(PATHS));
        let window = PlanWindow::default();
        let (mut reader, mut sizes) = (survey.turns(), Vec::new());
        loop {
            let paths = reader.window(window.half()).unwrap();
            if paths.is_empty() {
                break;
            }
            let text: u64 = paths.iter().map(|path| path.text_bytes).sum();
            assert!(paths.len() as u64 <= window.paths / 2 && text <= window.text_bytes / 2);
            sizes.push(paths.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), PATHS as usize);
        // The newest version of each package comes first, in two windows; the rest follows in full ones.
        assert_eq!((sizes[0], sizes[0] + sizes[1], sizes.len()), (32_768, 50_000, 31));
    }
}
