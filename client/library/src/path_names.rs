//! What a publish looks at: what the user names, or everything that a source can list.
//!
//! Owns: how lines of a list are read. Always holds: names are taken one after another and lie sorted in the spool directory
//! where they are many; what is none is named with the reason; what others take is left out.
//! Leaves to others: where lists come from (`firn-cli`), and what there is under a name (`plan`).

use std::fmt;
use std::io;
use std::sync::Arc;

use firn_client_logic::Selection;
use firn_nix_format::{StorePath, nixbase32};

use crate::blob_file::BlobFile;
use crate::plan::PlanError;
use crate::sorted_lines::{LineSorter, SortedLines};
use crate::source::Source;
use crate::spool::{SpoolDir, SpoolError};

/// Names, one after another.
pub type NameLines = Box<dyn Iterator<Item = io::Result<String>> + Send>;

/// Names of what to publish: store paths, base names or hash parts, realisations, debuginfo links. They need not fit in
/// memory. Clones are the same names.
#[derive(Clone)]
pub struct PathNames(Arc<dyn Fn() -> io::Result<NameLines> + Send + Sync>);

/// What a publish looks at.
#[derive(Debug)]
pub(crate) struct Names {
    /// Names of narinfos.
    pub(crate) narinfos: SortedLines,
    /// Files that are no NARs, besides build logs, which narinfos lead to: what [`BlobFile::named`] reads.
    pub(crate) blobs: SortedLines,
    /// Whether debuginfo links are among them.
    pub(crate) has_links: bool,
    /// What is no name of anything, and why.
    pub(crate) refused: Vec<(String, String)>,
}

impl PathNames {
    /// The names that `open` gives. It is called once in a publish, where it may block.
    pub fn new(open: impl Fn() -> io::Result<NameLines> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }
}

impl From<Vec<String>> for PathNames {
    fn from(names: Vec<String>) -> Self {
        let names: Arc<[String]> = names.into();
        Self::new(move || {
            let names = Arc::clone(&names);
            let lines = (0..names.len()).map(move |place| Ok(names[place].clone()));
            Ok(Box::new(lines))
        })
    }
}

impl fmt::Debug for PathNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PathNames")
    }
}

impl Names {
    /// What `names` mean. Paths whose names say that others take them are left out. Blocks.
    pub(crate) fn named(
        names: &PathNames,
        selection: &Selection,
        spool: &SpoolDir,
    ) -> Result<Self, PlanError> {
        let mut sorter = NameSorter::new(selection, spool);
        for line in (names.0)().map_err(PlanError::Names)? {
            let line = line.map_err(PlanError::Names)?;
            let name = line.trim();
            if !name.is_empty() {
                sorter.take(name)?;
            }
        }
        Ok(sorter.finish()?)
    }

    /// Everything that a source can list. Blocks.
    pub(crate) fn listed(
        source: &Source,
        selection: &Selection,
        spool: &SpoolDir,
    ) -> Result<Self, PlanError> {
        let mut sorter = NameSorter::new(selection, spool);
        for name in source.narinfos()? {
            sorter.narinfo(name?)?;
        }
        for url in source.blobs() {
            if let Some(blob) = BlobFile::named(&url?) {
                sorter.blob(&blob)?;
            }
        }
        Ok(sorter.finish()?)
    }
}

struct NameSorter<'a> {
    selection: &'a Selection,
    narinfos: LineSorter,
    blobs: LineSorter,
    has_links: bool,
    refused: Vec<(String, String)>,
}

impl<'a> NameSorter<'a> {
    fn new(selection: &'a Selection, spool: &SpoolDir) -> Self {
        let sorter = || LineSorter::new(spool.clone());
        Self { selection, narinfos: sorter(), blobs: sorter(), has_links: false, refused: Vec::new() }
    }

    fn take(&mut self, name: &str) -> Result<(), SpoolError> {
        let parsed = StorePath::parse(name).or_else(|_| StorePath::from_base_name(name));
        match (parsed, BlobFile::named(name)) {
            (Ok(path), _) if !self.selection.takes_path(path.base_name()) => Ok(()),
            (Ok(path), _) => self.narinfo(path.hash_part().to_owned()),
            (Err(_), _) if nixbase32::decode::<20>(name).is_ok() => self.narinfo(name.to_owned()),
            (Err(_), Some(blob)) => self.blob(&blob),
            (Err(error), None) => {
                self.refused.push((name.to_owned(), error.to_string()));
                Ok(())
            }
        }
    }

    fn narinfo(&mut self, name: String) -> Result<(), SpoolError> {
        // As directories may have it; no narinfo describes a path of that name.
        if name.contains('\n') {
            let reason = "a line break is in no name of a narinfo".to_owned();
            self.refused.push((format!("{}.narinfo", name.escape_debug()), reason));
            return Ok(());
        }
        self.narinfos.push(name)
    }

    fn blob(&mut self, blob: &BlobFile) -> Result<(), SpoolError> {
        let name = blob.name();
        // Logs are whose their paths are.
        let is_ours = matches!(blob, BlobFile::Log(_)) || self.selection.takes_file(&name);
        if !is_ours || name.contains('\n') {
            return Ok(());
        }
        self.has_links |= matches!(blob, BlobFile::DebugInfo(_));
        self.blobs.push(name)
    }

    fn finish(self) -> Result<Names, SpoolError> {
        Ok(Names {
            narinfos: self.narinfos.finish()?,
            blobs: self.blobs.finish()?,
            has_links: self.has_links,
            refused: self.refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> (Vec<String>, Vec<String>, Vec<(String, String)>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let spool = SpoolDir::open(None).unwrap();
        let names = Names::named(&names.into(), &Selection::default(), &spool).unwrap();
        let all = |lines: &SortedLines| lines.reader().lines(usize::MAX).unwrap();
        (all(&names.narinfos), all(&names.blobs), names.refused)
    }

    #[test]
    fn paths_may_be_written_in_three_ways() {
        let hash = "4d20g8srpvv02vkiwrmz28g62m15n56b";
        let (full, base) = (format!("/nix/store/{hash}-tree"), format!("{hash}-tree"));
        let (narinfos, blobs, refused) = named(&[&full, &base, hash, " "]);
        assert_eq!((narinfos, blobs, refused), (vec![hash.to_owned()], Vec::new(), Vec::new()));
        let (narinfos, _, refused) = named(&["../../etc/passwd"]);
        assert!(narinfos.is_empty());
        assert!(refused[0].1.contains("../../etc/passwd"), "{}", refused[0].1);
    }

    #[test]
    fn realisations_and_debuginfo_links_may_be_named() {
        let id = format!("sha256:{}!out", "0a".repeat(32));
        let trace = "build-trace-v2/4d20g8srpvv02vkiwrmz28g62m15n56b-tree.drv/out.doi";
        let link = format!("debuginfo/{}.debug", "ab".repeat(20));
        let (narinfos, blobs, refused) = named(&[&id, trace, &link]);
        assert_eq!(blobs, [trace.to_owned(), link, format!("realisations/{id}.doi")]);
        assert!(refused.is_empty() && narinfos.is_empty());
    }

    #[test]
    fn a_list_that_breaks_off_is_no_list() {
        let broken = || -> io::Result<NameLines> {
            let lines =
                [Ok("4d20g8srpvv02vkiwrmz28g62m15n56b".to_owned()), Err(io::Error::other("the disk"))];
            Ok(Box::new(lines.into_iter()))
        };
        let spool = SpoolDir::open(None).unwrap();
        let error = Names::named(&PathNames::new(broken), &Selection::default(), &spool).unwrap_err();
        assert!(error.to_string().contains("the disk"), "{error}");
    }

    #[test]
    fn a_line_break_makes_one_name_not_two() {
        let selection = Selection::default();
        let mut sorter = NameSorter::new(&selection, &SpoolDir::open(None).unwrap());
        sorter.narinfo("a\nb".to_owned()).unwrap();
        let names = sorter.finish().unwrap();
        assert_eq!(names.narinfos.len(), 0);
        assert_eq!(names.refused[0].0, "a\\nb.narinfo");
    }
}
