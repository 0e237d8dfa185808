//! The publishers' ranks and the reasons of withdrawals, on disk: so that a gateway that is started again chooses as before.
//!
//! Owns: the file `gateway.ranks` in a cache directory. Always holds: one that is damaged, of another archive or of another
//! version is not used; a crash leaves the old file or the new one. Leaves to others: hearing the ledger (`gateway`).
//!
//! Layout: the BLAKE3 of what follows in hex, a line feed, and JSON.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use firn_base::{ArchiveId, KEY_BYTES, ObjectKey};
use serde_json::{Value, json};

use crate::coordinators::Governance;

const VERSION: u64 = 1;

// A ledger is smaller.
const BYTES_MAX: u64 = 256 << 20;

/// The file of one archive.
#[derive(Debug, Clone)]
pub(crate) struct GovernanceFile {
    path: PathBuf,
    archive: ArchiveId,
}

impl GovernanceFile {
    /// The file of `archive` in `directory`.
    pub(crate) fn in_directory(directory: &Path, archive: ArchiveId) -> Self {
        Self { path: directory.join("gateway.ranks"), archive }
    }

    /// What was saved; none if nothing was, or nothing that can be used.
    pub(crate) fn load(&self) -> Option<Governance> {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => tracing::warn!("{} is not used: {error}", self.path.display()),
            Ok(_) => {
                let governance = self.parse(&text);
                if governance.is_some() {
                    return governance;
                }
                tracing::warn!("{} is not used: it is damaged, or of another archive", self.path.display());
            }
        }
        None
    }

    fn parse(&self, text: &str) -> Option<Governance> {
        let (hash, json) = text.split_once('\n')?;
        let json = (blake3::hash(json.as_bytes()).to_hex().as_str() == hash).then_some(json)?;
        let saved: Value = serde_json::from_str(json).ok()?;
        if saved["version"] != VERSION || saved["archive"] != self.archive_text() {
            return None;
        }
        let publishers = saved["publishers"].as_array()?.iter().map(|key| key.as_str()?.parse().ok());
        let withdrawn = saved["withdrawn"].as_object()?.iter().map(|(key, reason)| {
            let key = HEXLOWER.decode(key.as_bytes()).ok()?;
            let key = ObjectKey::from_bytes(&<[u8; KEY_BYTES]>::try_from(key).ok()?).ok()?;
            Some((key, reason.as_str()?.to_owned()))
        });
        let withdrawn: Option<BTreeMap<_, _>> = withdrawn.collect();
        Some(Governance { publishers: publishers.collect::<Option<_>>()?, withdrawn: withdrawn? })
    }

    fn archive_text(&self) -> String {
        HEXLOWER.encode(self.archive.as_bytes())
    }

    /// Replaces what was saved.
    pub(crate) fn save(&self, governance: &Governance) -> io::Result<()> {
        let publishers: Vec<_> = governance.publishers.iter().map(ToString::to_string).collect();
        let withdrawn = governance.withdrawn.iter();
        let withdrawn: BTreeMap<_, _> =
            withdrawn.map(|(key, reason)| (HEXLOWER.encode(&key.to_bytes()), reason)).collect();
        let saved = json!({
            "version": VERSION,
            "archive": self.archive_text(),
            "publishers": publishers,
            "withdrawn": withdrawn,
        });
        let json = saved.to_string();
        let new = self.path.with_extension("ranks.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{}", blake3::hash(json.as_bytes()).to_hex())?;
        file.write_all(json.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use firn_nix_format::PublisherSecretKey;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_nothing_that_is_damaged_or_of_another_archive() {
        let place = tempfile::tempdir().unwrap();
        let file = GovernanceFile::in_directory(place.path(), ArchiveId::from_bytes([1; 32]));
        assert_eq!(file.load(), None);
        let keys = [2, 1, 3].map(|number| {
            PublisherSecretKey::from_seed(&format!("cache-{number}"), &[number; 32]).unwrap().public_key()
        });
        let reason = "asked by its \"author\"\n".to_owned();
        let withdrawn = BTreeMap::from([(ObjectKey::store_path([8; 20]), reason)]);
        let governance = Governance { publishers: keys.to_vec(), withdrawn };
        file.save(&Governance::default()).unwrap();
        file.save(&governance).unwrap();
        assert_eq!(file.load(), Some(governance));
        let other = GovernanceFile { archive: ArchiveId::from_bytes([2; 32]), ..file.clone() };
        assert_eq!(other.load(), None);
        let text = fs::read_to_string(&file.path).unwrap();
        fs::write(&file.path, text.replace("author", "auth0r")).unwrap();
        assert_eq!(file.load(), None);
    }
}
