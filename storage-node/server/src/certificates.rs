//! The certificates of the bundles whose shards lie here: what lost coordinators are rebuilt from, with the shards.
//!
//! Owns: fetching them from coordinators, and keeping them. Always holds: a certificate is kept once a majority of the
//! roster in force has signed the same words, and is never replaced; it lies beside the shards, in one of 256 files by
//! the first byte of the coding, replaced as a whole.
//! Leaves to others: what they say (`wire`), what is believed (the coordinators that rebuild).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{CodingId, ShardIndex};
use firn_bundle::ShardFileHeader;
use firn_wire::{
    CERTIFICATES_PER_REQUEST_MAX, Certificate, CoordinatorReply, CoordinatorRequest, KEPT_NAMES_PER_PAGE_MAX,
    KEPT_PAGE_BYTES, KeptBundle, KeptName, NodeReply, Signed, decode, encode,
};
use tokio::time::{Instant, sleep};

use crate::shared::Shared;
use crate::store::{CERTIFICATES, Disk, ShardName, read_small, replace_small};

// A node of a million shards has 4,000 codings in each file, at half a kilobyte.
const FILE_BYTES_MAX: u64 = 256 << 20;

// What is committed is certified before long: of what was committed last the nodes know nothing if all coordinators
// vanish meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
// An upload is committed within moments or abandoned; shards of abandoned ones may lie here for long.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(600);

type Kept = BTreeMap<CodingId, Vec<Signed<Certificate>>>;

/// What is kept.
#[derive(Debug)]
pub(crate) struct Certificates {
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeSet<CodingId>>,
}

/// When a coding without certificate is asked for again.
#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Instant,
    next: Duration,
}

impl Certificates {
    /// Reads which there are. A damaged file is said and fetched anew.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> io::Result<Self> {
        disk.make_directory(CERTIFICATES)?;
        disk.sync_directory("")?;
        let own = Self { disk, known: Mutex::default() };
        for fan in 0..=u8::MAX {
            let kept = own.read(fan)?;
            own.known().extend(kept.into_keys());
        }
        Ok(own)
    }

    /// Adds certificates; those of codings that `holds` does not know go.
    fn keep(&self, fresh: Kept, holds: impl Fn(CodingId) -> bool) -> io::Result<()> {
        let mut by_file: BTreeMap<u8, Kept> = BTreeMap::new();
        for (coding, certificate) in fresh {
            by_file.entry(coding.as_bytes()[0]).or_default().insert(coding, certificate);
        }
        for (fan, fresh) in by_file {
            let mut kept = self.read(fan)?;
            let before: Vec<CodingId> = kept.keys().copied().collect();
            kept.retain(|coding, _| holds(*coding));
            kept.extend(fresh);
            let bytes = encode(&kept.values().collect::<Vec<_>>());
            replace_small(self.disk.as_ref(), CERTIFICATES, &file_name(fan), &bytes)?;
            let mut known = self.known();
            for coding in &before {
                known.remove(coding);
            }
            known.extend(kept.into_keys());
        }
        Ok(())
    }

    fn read(&self, fan: u8) -> io::Result<Kept> {
        let path = format!("{CERTIFICATES}/{}", file_name(fan));
        let Some(bytes) = read_small(self.disk.as_ref(), &path, FILE_BYTES_MAX)? else {
            return Ok(Kept::new());
        };
        let Ok(all) = decode::<Vec<Vec<Signed<Certificate>>>>(&bytes) else {
            tracing::error!(path, "certificates are damaged: they are fetched anew");
            return Ok(Kept::new());
        };
        let named = all.into_iter().filter_map(|certificate| {
            let coding = certificate.first()?.peek().ok()?.coding;
            Some((coding, certificate))
        });
        Ok(named.collect())
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<CodingId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_name(fan: u8) -> String {
    format!("{fan:02x}")
}

/// Fetches what is missing, for as long as the node runs.
pub(crate) async fn keep_certificates(shared: Arc<Shared>) {
    let mut waits: BTreeMap<CodingId, Wait> = BTreeMap::new();
    loop {
        sleep(LOOK_EVERY).await;
        let now = Instant::now();
        let wanted = wanted(&shared, &mut waits, now);
        if wanted.is_empty() {
            continue;
        }
        let fresh = fetch(&shared, &wanted).await;
        for coding in wanted.iter().filter(|coding| !fresh.contains_key(coding)) {
            let next = waits.get(coding).map_or(AGAIN_FIRST, |wait| (wait.next * 2).min(AGAIN_MOST));
            waits.insert(*coding, Wait { until: now + next, next });
        }
        if fresh.is_empty() {
            continue;
        }
        let keeping = Arc::clone(&shared);
        let kept = shared
            .environment
            .blocking(move || keeping.certificates.keep(fresh, |coding| keeping.store.holds_any(coding)));
        if let Err(error) = kept.await {
            tracing::error!(%error, "certificates cannot be kept");
        }
        // They come after their shards and take room of the quota: counted while the disk is in use for them. Some may be there also
        // where others could not be kept.
        if let Err(error) = shared.with_store(|store| store.measure_beside()).await {
            tracing::warn!(%error, "the data directory cannot be measured");
        }
    }
}

/// Codings without a certificate whose turn it is.
fn wanted(shared: &Shared, waits: &mut BTreeMap<CodingId, Wait>, now: Instant) -> Vec<CodingId> {
    let codings = shared.store.codings();
    let known = shared.certificates.known();
    waits.retain(|coding, _| codings.contains(coding) && !known.contains(coding));
    let is_due = |coding: &CodingId| waits.get(coding).is_none_or(|wait| wait.until <= now);
    let wanted = codings.iter().filter(|coding| !known.contains(coding) && is_due(coding));
    wanted.copied().take(CERTIFICATES_PER_REQUEST_MAX).collect()
}

/// Asks every coordinator, and gives those certificates that a majority signed.
async fn fetch(shared: &Shared, wanted: &[CodingId]) -> Kept {
    let roster = shared.client.roster();
    let mut found: BTreeMap<Certificate, Vec<Signed<Certificate>>> = BTreeMap::new();
    for entry in &roster.roster().coordinators {
        let request = CoordinatorRequest::GetCertificates(wanted.to_vec());
        let reply = shared.client.ask_coordinator(entry.id, &request, ASK_TIMEOUT).await;
        let Ok(CoordinatorReply::Certificates(certificates)) = reply else { continue };
        for (coding, signed) in wanted.iter().zip(certificates) {
            let Some(signed) = signed.filter(|signed| signed.signer() == entry.id.into()) else { continue };
            // Signatures were checked with the reply.
            let Ok(statement) = signed.peek() else { continue };
            if statement.coding == *coding {
                found.entry(statement).or_default().push(signed);
            }
        }
    }
    let believed = found.into_iter().filter(|(_, signed)| signed.len() >= roster.majority());
    believed.map(|(certificate, signed)| (certificate.coding, signed)).collect()
}

/// A page of names of what is here, for a coordinator that rebuilds the archive. Blocks on the disk.
pub(crate) fn name_bundles(shared: &Shared, after: Option<CodingId>) -> io::Result<NodeReply> {
    let mut page = Page::new(shared);
    let mut codings = shared.store.codings_behind(after, KEPT_NAMES_PER_PAGE_MAX + 1);
    let is_cut = codings.len() > KEPT_NAMES_PER_PAGE_MAX;
    codings.truncate(KEPT_NAMES_PER_PAGE_MAX);
    let (mut names, mut last) = (Vec::with_capacity(codings.len()), None);
    for (coding, indexes) in codings {
        last = Some(coding);
        // All signatures are of one statement.
        let statement = page.certificate(coding)?.first().and_then(|signed| signed.peek().ok());
        let bundle = match &statement {
            Some(statement) => Some(statement.bundle),
            None => page.header(coding, &indexes).map(|header| header.content().bundle_id()),
        };
        let certificate = statement.map(|statement| statement.digest());
        names.extend(bundle.map(|bundle| KeptName { bundle, coding, certificate, indexes }));
    }
    Ok(NodeReply::BundleNames { names, more_after: last.filter(|_| is_cut) })
}

/// Those of `codings` that are here, as many as a page holds. Blocks on the disk.
pub(crate) fn show_bundles(shared: &Shared, codings: &[CodingId]) -> io::Result<NodeReply> {
    let mut page = Page::new(shared);
    let (mut bundles, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
    for coding in codings {
        looked_at += 1;
        let indexes = shared.store.indexes_of(*coding);
        if let Some(header) = page.header(*coding, &indexes) {
            let kept = KeptBundle {
                content_header: header.content().to_bytes(),
                coding_header: header.coding().to_bytes(),
                certificate: page.certificate(*coding)?,
                indexes,
            };
            bytes += encode(&kept).len();
            bundles.push(kept);
        }
        if bytes >= KEPT_PAGE_BYTES {
            break;
        }
    }
    Ok(NodeReply::Bundles { bundles, looked_at })
}

/// What is looked up for one page: codings of one file follow each other.
struct Page<'a> {
    shared: &'a Shared,
    file: Option<(u8, Kept)>,
}

impl<'a> Page<'a> {
    const fn new(shared: &'a Shared) -> Self {
        Self { shared, file: None }
    }

    /// The certificate of a coding; empty if there is none.
    fn certificate(&mut self, coding: CodingId) -> io::Result<Vec<Signed<Certificate>>> {
        let fan = coding.as_bytes()[0];
        let (_, kept) = match self.file.take() {
            Some(known) if known.0 == fan => self.file.insert(known),
            _ => self.file.insert((fan, self.shared.certificates.read(fan)?)),
        };
        Ok(kept.get(&coding).cloned().unwrap_or_default())
    }

    /// The headers of a coding of which `indexes` are here. One that cannot be read now is set aside by whoever reads it next.
    fn header(&self, coding: CodingId, indexes: &[ShardIndex]) -> Option<ShardFileHeader> {
        let name = ShardName::new(coding, *indexes.first()?);
        self.shared.store.header(name, self.shared.local_time()).ok()
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{ArchiveId, BundleId, BundleNumber, PublicKey, Timestamp};
    use firn_wire::Identity;

    use super::*;
    use crate::store::MemoryDisk;

    fn of(kept: &Certificates, coding: CodingId) -> Vec<Signed<Certificate>> {
        let found = kept.read(coding.as_bytes()[0]).unwrap().remove(&coding).unwrap_or_default();
        assert_eq!(found.is_empty(), !kept.known().contains(&coding));
        found
    }

    fn certificate(byte: u8) -> (CodingId, Vec<Signed<Certificate>>) {
        let coding = CodingId::from_bytes([byte; 32]);
        let statement = Certificate {
            bundle: BundleId::from_bytes([byte; 32]),
            coding,
            n: 6,
            number: BundleNumber(byte.into()),
            uploader: PublicKey::from_bytes([1; 32]),
            committed_at: Timestamp::from_millis(2),
            ledger_entries: 3,
            externals: Vec::new(),
        };
        let archive = ArchiveId::from_bytes([4; 32]);
        (coding, vec![Signed::seal(&Identity::from_seed(&[5; 32]), archive, &statement)])
    }

    #[test]
    fn certificates_survive_a_loss_of_power_and_go_with_their_shards() {
        let disk = MemoryDisk::new();
        let open = || Certificates::open(Arc::new(disk.clone())).unwrap();
        let (one, other) = (certificate(1), certificate(2));
        let kept = open();
        kept.keep(Kept::from([one.clone(), other.clone()]), |_| true).unwrap();
        disk.crash(7);
        assert_eq!(of(&open(), one.0), one.1);
        assert_eq!(of(&open(), other.0), other.1);
        assert!(of(&open(), certificate(3).0).is_empty());
        // Of one file: what lies here no more goes when something else comes.
        let mut beside = [1; 32];
        beside[31] = 9;
        let beside = (CodingId::from_bytes(beside), certificate(1).1);
        kept.keep(Kept::from([beside]), |coding| coding != one.0).unwrap();
        assert!(!kept.known().contains(&one.0));
    }

    #[test]
    fn damaged_certificates_are_none() {
        let disk = MemoryDisk::new();
        let kept = Certificates::open(Arc::new(disk.clone())).unwrap();
        kept.keep(Kept::from([certificate(1)]), |_| true).unwrap();
        replace_small(&disk, CERTIFICATES, "01", b"nonsense").unwrap();
        let kept = Certificates::open(Arc::new(disk)).unwrap();
        assert!(of(&kept, certificate(1).0).is_empty());
    }
}
