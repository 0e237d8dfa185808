//! A binary cache in a directory.
//!
//! Always holds: a file is opened only if it lies below the directory once all symlinks are followed, and only
//! if it is a regular one (a pipe would never end, a device might).

use std::fs::{self, File};
use std::io;
use std::iter;
use std::path::{Path, PathBuf};

use super::{SourceError, SourceFile};

const SUFFIX: &str = ".narinfo";

/// URLs of files, one after another.
type Urls = Box<dyn Iterator<Item = Result<String, SourceError>>>;

#[derive(Debug)]
pub(super) struct DirectorySource {
    // As the user named it.
    path: PathBuf,
    // With symlinks followed.
    root: PathBuf,
}

impl DirectorySource {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let refuse = |source| SourceError::NoDirectory { path: path.to_owned(), source };
        let root = fs::canonicalize(path).map_err(refuse)?;
        fs::read_dir(&root).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), root })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names before `.narinfo` of all narinfos, as the directory has them.
    pub(super) fn narinfos(&self) -> Result<impl Iterator<Item = Result<String, SourceError>>, SourceError> {
        let refuse = |source| SourceError::NoDirectory { path: self.path.clone(), source };
        let entries = fs::read_dir(&self.root).map_err(refuse)?;
        Ok(entries.filter_map(move |entry| {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) => return Some(Err(refuse(error))),
            };
            // A name that is no text is no narinfo's.
            name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).map(|stem| Ok(stem.to_owned()))
        }))
    }

    pub(super) fn list(&self) -> Result<Vec<String>, SourceError> {
        let mut names = self.narinfos()?.collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        Ok(names)
    }

    /// The files in `folder`, and in folders right below it, as URLs; none where there is no such folder.
    pub(super) fn below(
        &self,
        folder: &'static str,
    ) -> Result<impl Iterator<Item = Result<String, SourceError>>, SourceError> {
        let in_folder = move |name: Result<String, SourceError>| -> Urls {
            let below = match name {
                Ok(name) => format!("{folder}/{name}"),
                Err(error) => return Box::new(iter::once(Err(error))),
            };
            if !fs::symlink_metadata(self.root.join(&below)).is_ok_and(|entry| entry.is_dir()) {
                return Box::new(iter::once(Ok(below)));
            }
            match self.names_in(&below) {
                Ok(names) => Box::new(names.map(move |name| Ok(format!("{below}/{}", name?)))),
                Err(error) => Box::new(iter::once(Err(error))),
            }
        };
        Ok(self.names_in(folder)?.flat_map(in_folder))
    }

    fn names_in(
        &self,
        folder: &str,
    ) -> Result<impl Iterator<Item = Result<String, SourceError>> + use<>, SourceError> {
        let name = folder.to_owned();
        let failed = move |source| SourceError::Read { name: name.clone(), source };
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => Some(entries),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                None
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(entries.into_iter().flatten().filter_map(move |entry| match entry {
            // A name that is no text is none that Nix gives.
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(failed(error))),
        }))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.root.join(name)).is_ok()
    }

    pub(super) fn open_file(&self, url: &str) -> Result<Option<SourceFile>, SourceError> {
        let failed = |source| SourceError::Read { name: url.to_owned(), source };
        let path = match fs::canonicalize(self.root.join(url)) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !path.starts_with(&self.root) {
            return Err(SourceError::SymlinkLeavesCache(url.to_owned()));
        }
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(SourceError::NotAFile(url.to_owned()));
        }
        let file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Some(SourceFile { reader: Box::new(file), bytes: Some(bytes) }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::Source;

    fn directory() -> (tempfile::TempDir, Source) {
        let place = tempfile::tempdir().unwrap();
        let cache = place.path().join("cache");
        std::fs::create_dir_all(cache.join("nar")).unwrap();
        std::fs::write(place.path().join("secret"), "secret").unwrap();
        std::fs::write(cache.join("b.narinfo"), "B").unwrap();
        std::fs::write(cache.join("a.narinfo"), "A").unwrap();
        std::fs::write(cache.join("nar/x.nar"), "NAR").unwrap();
        let source = Source::open(&format!("file://{}", cache.display())).unwrap();
        (place, source)
    }

    #[test]
    fn narinfos_are_listed_and_read() {
        let (_place, source) = directory();
        assert_eq!(source.list().unwrap(), ["a", "b"]);
        assert_eq!(source.narinfo("a").unwrap().as_deref(), Some(b"A".as_slice()));
        assert_eq!(source.narinfo("c").unwrap(), None);
        assert!(source.has_narinfo("b").unwrap() && !source.has_narinfo("c").unwrap());
        assert_eq!(source.open_file("nar/x.nar").unwrap().unwrap().bytes, Some(3));
    }

    #[test]
    fn neither_dots_nor_symlinks_lead_out_of_the_directory() {
        let (place, source) = directory();
        let cache = place.path().join("cache");
        symlink("../secret", cache.join("out.nar")).unwrap();
        symlink("nar/x.nar", cache.join("in.nar")).unwrap();
        assert!(source.open_file("../secret").unwrap_err().to_string().contains("leads out of the cache"));
        assert!(source.open_file("out.nar").unwrap_err().to_string().contains("symlink"));
        assert!(source.open_file("in.nar").unwrap().is_some());
        assert!(source.open_file("nar").unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    fn realisations_traces_and_links_are_listed_and_nothing_else() {
        let (place, source) = directory();
        assert!(source.list_blobs().unwrap().is_empty());
        let cache = place.path().join("cache");
        let drv = "build-trace-v2/4d20g8srpvv02vkiwrmz28g62m15n56b-tree.drv";
        let realisation = format!("realisations/sha256:{}!out.doi", "0a".repeat(32));
        let link = format!("debuginfo/{}.debug", "ab".repeat(20));
        std::fs::create_dir_all(cache.join(drv).join("deeper/out.doi")).unwrap();
        for url in [&format!("{drv}/out.doi"), &realisation, &link, "debuginfo/README", "realisations/x.doi"]
        {
            let file = cache.join(url);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        assert_eq!(source.list_blobs().unwrap(), [format!("{drv}/out.doi"), link, realisation]);
    }

    #[test]
    fn a_narinfo_larger_than_any_real_one_is_refused() {
        let (place, source) = directory();
        std::fs::write(place.path().join("cache/big.narinfo"), vec![b'x'; (1 << 20) + 1]).unwrap();
        assert!(source.narinfo("big").unwrap_err().to_string().contains("larger than 1 MiB"));
    }
}
