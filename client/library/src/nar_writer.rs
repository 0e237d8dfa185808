//! Keeping a NAR: its structure is checked while its hash parts are replaced and its bytes are cut.
//!
//! Always holds: equal trees with equal names give equal chunks, whatever hashes are in them; a file of
//! [`BORDERED_FILE_BYTES_MIN`] begins a chunk (unless hardly anything lies before it), so that the same file within
//! another NAR has the same chunks but for its last one.
//! Leaves to others: the NAR's hash (`verify`), where its bytes come from.

use firn_bundle::BORDERED_FILE_BYTES_MIN;
use firn_nix_format::{NarInspector, PathInfo};

use crate::content::{Content, ContentWriter};
use crate::spool::{SpoolDir, SpoolError};
use crate::verify::VerifyError;

/// Takes the bytes of a NAR.
#[derive(Debug)]
pub(crate) struct NarWriter {
    inspector: NarInspector,
    content: ContentWriter,
}

impl NarWriter {
    /// For the NAR of `info`.
    pub(crate) fn new(spool: &SpoolDir, info: &PathInfo) -> Result<Self, SpoolError> {
        Ok(Self {
            inspector: NarInspector::new(info.nar_size),
            content: ContentWriter::patched(spool, info)?,
        })
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), VerifyError> {
        while let Some(before) = self.inspector.push_to_file(bytes, BORDERED_FILE_BYTES_MIN)? {
            let (first, rest) = bytes.split_at(before);
            self.content.push(first)?;
            self.content.border();
            bytes = rest;
        }
        Ok(self.content.push(bytes)?)
    }

    /// Refuses a NAR that ended too early.
    pub(crate) fn finish(self) -> Result<Content, VerifyError> {
        self.inspector.finish()?;
        Ok(self.content.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use firn_bundle::{BEFORE_BORDER_BYTES_MIN, hash_parts};
    use firn_nix_format::nar::{NarNode, encode, inspect};
    use firn_nix_format::{ListingNode, StorePath};

    use super::*;
    use crate::tests::cache::info_of;

    fn noise(bytes: usize, seed: u8) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        noise
    }

    fn info(nar: &[u8]) -> PathInfo {
        info_of(StorePath::from_parts([1; 20], "own").unwrap(), nar)
    }

    /// Where chunks of a NAR begin, and how many patches it has.
    fn written(nar: &[u8], piece: usize) -> (BTreeSet<u64>, usize) {
        let spool = SpoolDir::open(None).unwrap();
        let mut writer = NarWriter::new(&spool, &info(nar)).unwrap();
        for part in nar.chunks(piece) {
            writer.push(part).unwrap();
        }
        let mut content = writer.finish().unwrap();
        let patches = content.take_patches().len();
        let mut reader = content.into_reader(&spool).unwrap();
        let (mut begins, mut offset) = (BTreeSet::new(), 0);
        while let Some(chunk) = reader.next_chunk().unwrap() {
            begins.insert(offset);
            offset += chunk.len() as u64;
        }
        assert_eq!(offset, nar.len() as u64);
        (begins, patches)
    }

    #[test]
    fn a_chunk_begins_where_a_file_begins_and_only_small_files_share_one() {
        let own = hash_parts(&info(b"")).remove(0).to_vec();
        let large = usize::try_from(BORDERED_FILE_BYTES_MIN).unwrap();
        let with_hash = |bytes, seed| [noise(bytes, seed), own.clone()].concat();
        // The first border leaves too little before it. A hash part at the end of a file is what a finder holds back
        // longest.
        let files = [
            noise(large, 1),
            with_hash(large, 2),
            noise(large - 1, 3),
            with_hash(500, 4),
            with_hash(300_000, 5),
            noise(large, 6),
        ];
        let file = |contents: &Vec<u8>| NarNode::Regular { contents: contents.clone(), executable: false };
        let named = (b'a'..).map(|letter| vec![letter]).zip(files.iter().map(file));
        let nar = encode(&NarNode::Directory(named.collect())).unwrap();
        let ListingNode::Directory { entries } = inspect(&nar).unwrap().root else { panic!("no directory") };
        let offset = |number: usize| match &entries[number].1 {
            ListingNode::Regular { nar_offset, .. } => *nar_offset,
            other => panic!("{other:?}"),
        };
        assert!(offset(0) < BEFORE_BORDER_BYTES_MIN as u64);
        let (begins, patches) = written(&nar, usize::MAX);
        assert_eq!(patches, 3);
        let at_file: Vec<bool> = (0..6).map(|number| begins.contains(&offset(number))).collect();
        assert_eq!(at_file, [false, true, false, false, true, true]);
        for piece in [1, 31, 4096, 100_000] {
            assert_eq!(written(&nar, piece), (begins.clone(), patches), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_nar_is_refused() {
        let spool = SpoolDir::open(None).unwrap();
        let mut writer = NarWriter::new(&spool, &info(&[0; 100])).unwrap();
        assert!(matches!(writer.push(&[0; 100]), Err(VerifyError::Nar(_))));
        let short = NarWriter::new(&spool, &info(&[0; 100])).unwrap();
        assert!(matches!(short.finish(), Err(VerifyError::Nar(_))));
    }
}
