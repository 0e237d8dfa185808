//! Which keys were withdrawn, as the ledgers say that nodes keep beside their shards.
//!
//! Always holds: a ledger is believed as far as a majority of the coordinators signed it, whose roster the archive's
//! key signed; files are bounded before they are read. Leaves to others: leaving paths out (`recovery`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use firn_base::{ArchiveId, ObjectKey};
use firn_transport::VerifiedLedger;
use firn_wire::{Descriptor, VerifiedRoster};

// As a storage node keeps them in its data directory.
const LEDGER_FILE: &str = "ledger";
const DESCRIPTOR_FILE: &str = "archive";

const LEDGER_BYTES_MAX: u64 = 256 << 20;
const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;

// A data directory, its `shards`, or a directory of data directories: below lie only shard files.
const DEPTH: usize = 2;

/// What was withdrawn, by the newest ledger that was found.
#[derive(Debug, Default)]
pub(crate) struct Withdrawals {
    keys: BTreeMap<ObjectKey, String>,
    /// Things worth knowing: where the ledger lies, and those that are not believed.
    pub(crate) notes: Vec<String>,
}

impl Withdrawals {
    /// Looks for ledgers in `places`, beside them and a little below. Of what was withdrawn only that counts which was
    /// purged, too, if `only_purged`.
    pub(crate) fn find(places: &[PathBuf], only_purged: bool) -> Self {
        let mut directories = Vec::new();
        for place in places {
            directories.extend(place.parent().map(Path::to_owned));
            descend(place, DEPTH, &mut directories);
        }
        directories.sort();
        directories.dedup();
        let mut found = Self::default();
        let mut newest: BTreeMap<ArchiveId, (VerifiedLedger, PathBuf)> = BTreeMap::new();
        for path in
            directories.iter().map(|directory| directory.join(LEDGER_FILE)).filter(|path| path.is_file())
        {
            match read_ledger(&path) {
                Ok((archive, ledger)) => {
                    let is_longer =
                        |(known, _): &(VerifiedLedger, PathBuf)| ledger.entries.len() > known.entries.len();
                    if newest.get(&archive).is_none_or(is_longer) {
                        newest.insert(archive, (ledger, path));
                    }
                }
                Err(reason) => found.notes.push(format!("{} is not looked at: {reason}", path.display())),
            }
        }
        // Shards do not say of which archive they are: what any of them has withdrawn is left out.
        for (ledger, path) in newest.into_values() {
            let (keys, what) = match only_purged {
                true => (ledger.state.purged, "purged"),
                false => (ledger.state.withdrawn, "withdrawn"),
            };
            if !keys.is_empty() {
                found.notes.push(format!(
                    "{} paths were {what} from the archive, says {}",
                    keys.len(),
                    path.display()
                ));
            }
            found.keys.extend(keys);
        }
        found
    }

    /// Why a key was withdrawn; none if it was not.
    pub(crate) fn reason(&self, key: ObjectKey) -> Option<&str> {
        self.keys.get(&key).map(String::as_str)
    }
}

fn descend(directory: &Path, depth: usize, all: &mut Vec<PathBuf>) {
    all.push(directory.to_owned());
    // What cannot be read holds no ledger for us; shard files in it are missed loudly elsewhere.
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|_| depth > 0) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), depth - 1, all);
        }
    }
}

fn read_ledger(path: &Path) -> Result<(ArchiveId, VerifiedLedger), String> {
    let descriptor = read_bounded(&path.with_file_name(DESCRIPTOR_FILE), DESCRIPTOR_BYTES_MAX)
        .map_err(|error| format!("the file `{DESCRIPTOR_FILE}` beside it cannot be read: {error}"))?;
    let descriptor: Descriptor = String::from_utf8_lossy(&descriptor)
        .parse()
        .map_err(|error| format!("the file `{DESCRIPTOR_FILE}` beside it is damaged: {error}"))?;
    let roster: VerifiedRoster = descriptor
        .verify()
        .map_err(|error| format!("the file `{DESCRIPTOR_FILE}` beside it is damaged: {error}"))?;
    let bytes = read_bounded(path, LEDGER_BYTES_MAX).map_err(|error| error.to_string())?;
    let ledger = VerifiedLedger::from_bytes(&bytes, &roster)
        .ok_or("it is damaged, or no majority of the coordinators signed it")?;
    Ok((descriptor.archive, ledger))
}

fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > bytes_max) {
        return Err(std::io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}
