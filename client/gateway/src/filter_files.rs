//! Filters on the gateway's disk, or in its memory alone.
//!
//! Always holds: what is named as a filter was written aside, synced and renamed once its hash was right; what was fetched
//! of one goes on where it stopped. Every call may block on a disk. Leaves to others: what the bytes are (`filter_chain`).
//!
//! | name | what |
//! |---|---|
//! | `ID.filter` | a filter |
//! | `ID.part` | the beginning of one that is being fetched |

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use firn_base::FilterId;
use firn_wire::FilterEntry;

const WHOLE: &str = "filter";
const PART: &str = "part";

/// Where filters lie; nowhere, if they are to be in memory alone.
#[derive(Debug, Clone)]
pub(crate) struct FilterFiles {
    directory: Option<PathBuf>,
}

/// A filter that is being fetched.
#[derive(Debug)]
pub(crate) struct PartialFilter {
    bytes: Vec<u8>,
    file: Option<(File, PathBuf)>,
}

impl FilterFiles {
    /// Filters in `directory`, which is made when there is something to write.
    pub(crate) const fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    fn file(directory: &Path, id: FilterId, suffix: &str) -> PathBuf {
        directory.join(format!("{id}.{suffix}"))
    }

    /// The filter's bytes, if there is such a file of that length.
    pub(crate) fn read(&self, entry: &FilterEntry) -> io::Result<Option<Bytes>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let file = match File::open(Self::file(directory, entry.id, WHOLE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if file.metadata()?.len() != entry.bytes {
            return Ok(None);
        }
        let mut bytes = room(entry.bytes)?;
        file.take(entry.bytes).read_to_end(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    /// What was fetched of a filter before.
    pub(crate) fn resume(&self, entry: &FilterEntry) -> io::Result<PartialFilter> {
        let mut bytes = room(entry.bytes)?;
        let Some(directory) = &self.directory else { return Ok(PartialFilter { bytes, file: None }) };
        fs::create_dir_all(directory)?;
        let path = Self::file(directory, entry.id, PART);
        let mut file = File::options().read(true).append(true).create(true).open(&path)?;
        (&mut file).take(entry.bytes).read_to_end(&mut bytes)?;
        if file.metadata()?.len() > entry.bytes {
            file.set_len(entry.bytes)?;
        }
        Ok(PartialFilter { bytes, file: Some((file, path)) })
    }

    /// Removes all but these, also what was fetched of others.
    pub(crate) fn retain(&self, keep: &BTreeSet<FilterId>) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let ours = path.extension().is_some_and(|suffix| suffix == WHOLE || suffix == PART);
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if ours && id.is_some_and(|id| !keep.contains(&id)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Room for so many bytes; an error where there is none.
fn room(bytes: u64) -> io::Result<Vec<u8>> {
    let mut room = Vec::new();
    let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
    room.try_reserve_exact(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    Ok(room)
}

impl PartialFilter {
    /// How many bytes are here.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Goes on by `piece`.
    pub(crate) fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Some((file, _)) = &mut self.file {
            file.write_all(piece)?;
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Makes it durably the filter of `id`, if that is its hash; otherwise nothing of it is kept.
    pub(crate) fn finish(self, id: FilterId) -> io::Result<Option<Bytes>> {
        let right = *blake3::hash(&self.bytes).as_bytes() == *id.as_bytes();
        if let Some((file, path)) = self.file {
            if right {
                file.sync_all()?;
                fs::rename(&path, path.with_extension(WHOLE))?;
                File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(right.then(|| self.bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_chain::tests::filter_of;

    fn names(directory: &Path) -> Vec<String> {
        let names =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn what_was_fetched_goes_on_where_it_stopped() {
        let place = tempfile::tempdir().unwrap();
        let files = FilterFiles::new(Some(place.path().join("filters")));
        let (entry, bytes) = filter_of((0, 8), &[]);
        let mut part = files.resume(&entry).unwrap();
        part.push(&bytes[..50]).unwrap();
        drop(part);
        assert_eq!(files.read(&entry).unwrap(), None, "a part is no filter");
        let mut part = files.resume(&entry).unwrap();
        assert_eq!(part.len(), 50);
        part.push(&bytes[50..]).unwrap();
        assert_eq!(part.finish(entry.id).unwrap(), Some(bytes.clone()));
        assert_eq!(files.read(&entry).unwrap(), Some(bytes));
        assert_eq!(names(&place.path().join("filters")), [format!("{}.filter", entry.id)]);
        files.retain(&BTreeSet::from([entry.id])).unwrap();
        assert!(files.read(&entry).unwrap().is_some());
        files.retain(&BTreeSet::new()).unwrap();
        assert!(files.read(&entry).unwrap().is_none());
    }

    #[test]
    fn bytes_that_are_not_the_filter_are_not_kept() {
        for directory in [None, Some(tempfile::tempdir().unwrap())] {
            let files = FilterFiles::new(directory.as_ref().map(|directory| directory.path().to_owned()));
            let (entry, bytes) = filter_of((0, 8), &[]);
            let mut part = files.resume(&entry).unwrap();
            part.push(&bytes[1..]).unwrap();
            assert_eq!(part.finish(entry.id).unwrap(), None);
            assert_eq!(files.resume(&entry).unwrap().len(), 0);
        }
    }
}
