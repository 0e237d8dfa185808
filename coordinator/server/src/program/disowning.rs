//! `publisher remove --since`: what only the removed key vouches for is withdrawn.
//!
//! Owns: reading the path infos of what was archived since, and judging them. Always holds: a path stays if any record of
//! it bears a valid signature of a publisher that is still accepted; withdrawals are committed a bounded number at a time,
//! and running again goes on where it broke off.
//! Leaves to others: which bundles those are (the leader), reading (`firn-retrieval`).

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_base::{BundleNumber, Location, ObjectKey, Timestamp};
use firn_nix_format::{PathInfo, PublisherKey, accepted_by};
use firn_retrieval::{
    CachedDirectory, CoordinatorSource, Directory, DirectoryOptions, ManifestOptions, ManifestReader,
    NodeSource, SwarmOptions, SwarmReader,
};
use firn_transport::{CoordinatorClient, Environment};
use firn_wire::{ACTS_PER_REQUEST_MAX, AdminReply, AdminRequest, LedgerAct, LedgerState, PublisherEntry};

use super::Failure;
use super::administration::govern;
use super::desk::{Desk, misfit};
use super::since::Since;

/// Removes a publisher, and withdraws what nobody else vouches for of what was archived since.
pub(super) async fn remove(desk: &Desk, name: &str, since: Since, dry_run: bool) -> Result<(), Failure> {
    let entries = desk.ledger().await?;
    let since = since.time(&entries).ok_or("the ledger has no entry of this position")?;
    let ledger = LedgerState::read(&entries);
    // Removed before, and broken off: it goes on.
    let former = || ledger.former_publishers.iter().rev().find(|entry| entry.name == name);
    let removed = ledger.publishers.get(name).or_else(former);
    let removed = key_of(removed.ok_or_else(|| format!("no publisher is or was called {name}"))?)?;
    let accepted = ledger.publishers_by_rank().into_iter().filter(|entry| entry.name != name);
    let accepted = accepted.map(key_of).collect::<Result<Vec<_>, _>>()?;
    if ledger.publishers.contains_key(name) && !dry_run {
        // First of all, so that nothing more comes of it.
        govern(desk, LedgerAct::RemovePublisher { name: name.to_owned() }).await?;
    }
    let disowning = Disowning {
        desk,
        archive: ArchiveReader::open(desk.coordinators().await?),
        judge: Judge { removed, accepted },
        withdrawn: ledger.withdrawn.into_keys().collect(),
        reason: format!("signed by {name} alone, which is accepted no more"),
        dry_run,
    };
    disowning.run(since).await
}

fn key_of(entry: &PublisherEntry) -> Result<PublisherKey, Failure> {
    Ok(PublisherKey::from_parts(&entry.name, entry.key.as_bytes())?)
}

/// Who vouches for what.
struct Judge {
    removed: PublisherKey,
    accepted: Vec<PublisherKey>,
}

impl Judge {
    /// Whether the removed key signed it and nobody who is accepted did.
    fn is_disowned(&self, info: &PathInfo) -> bool {
        self.removed.verify(info) && accepted_by(info, &self.accepted).is_none()
    }
}

struct Disowning<'a> {
    desk: &'a Desk,
    archive: ArchiveReader,
    judge: Judge,
    withdrawn: BTreeSet<ObjectKey>,
    reason: String,
    dry_run: bool,
}

impl Disowning<'_> {
    async fn run(mut self, since: Timestamp) -> Result<(), Failure> {
        let (mut from, mut found, mut failures) = (Some(BundleNumber(0)), 0_u64, 0_u64);
        while let Some(first) = from {
            let request = AdminRequest::BundlesSince { since, from: first };
            let AdminReply::Bundles { bundles, next } = self.desk.ask(request).await? else {
                return Err(misfit());
            };
            for number in bundles {
                match self.disown(number).await {
                    Ok(0) => {}
                    Ok(keys) => {
                        found += keys;
                        eprintln!("bundle {}: {keys} paths, {found} so far", number.0);
                    }
                    Err(error) => {
                        failures += 1;
                        eprintln!("bundle {} cannot be looked at: {error}", number.0);
                    }
                }
            }
            from = next;
        }
        let verb = if self.dry_run { "would withdraw" } else { "withdrew" };
        println!("{verb} {found} paths that nobody else vouches for");
        if failures > 0 {
            return Err(format!("{failures} bundles could not be looked at: run it again").into());
        }
        Ok(())
    }

    /// Withdraws what nobody vouches for any more in one bundle. Gives how much that is.
    async fn disown(&mut self, number: BundleNumber) -> Result<u64, Failure> {
        let infos = self.archive.path_infos(number).await?;
        let doubtful = infos.iter().filter(|(_, info)| self.judge.is_disowned(info)).map(|(key, _)| *key);
        let doubtful: BTreeSet<ObjectKey> = doubtful.filter(|key| !self.withdrawn.contains(key)).collect();
        let doubtful: Vec<ObjectKey> = doubtful.into_iter().collect();
        let mut disowned = Vec::new();
        let places = self.archive.coordinators.lookup(&doubtful).await?;
        for (key, places) in doubtful.into_iter().zip(places) {
            if !self.is_vouched_for(key, &places).await? {
                disowned.push(key);
            }
        }
        for keys in disowned.chunks(ACTS_PER_REQUEST_MAX).filter(|_| !self.dry_run) {
            let act = |key: &ObjectKey| LedgerAct::Withdraw { key: *key, reason: self.reason.clone() };
            let request = AdminRequest::GovernAll(keys.iter().map(act).collect());
            self.desk.ask(request).await?;
        }
        self.withdrawn.extend(&disowned);
        Ok(disowned.len() as u64)
    }

    /// Whether a record of the path, in whatever bundle, is signed by somebody who is accepted.
    async fn is_vouched_for(&self, key: ObjectKey, places: &[Location]) -> Result<bool, Failure> {
        for place in places {
            let info = self.archive.path_info(key, *place).await?;
            if info.is_some_and(|info| accepted_by(&info, &self.judge.accepted).is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads manifests as any reader does.
struct ArchiveReader {
    coordinators: CoordinatorClient,
    directory: Arc<dyn Directory>,
    manifests: ManifestReader,
}

impl ArchiveReader {
    fn open(coordinators: CoordinatorClient) -> Self {
        let pool = coordinators.pool().clone();
        let source = Arc::new(CoordinatorSource::new(coordinators.clone()));
        let directory: Arc<dyn Directory> =
            Arc::new(CachedDirectory::new(source, Environment::real(), DirectoryOptions::default()));
        let nodes = Arc::new(NodeSource::new(pool));
        let swarm = SwarmReader::new(Arc::clone(&directory), nodes, SwarmOptions::default());
        let manifests = ManifestReader::new(Arc::new(swarm), ManifestOptions::default());
        Self { coordinators, directory, manifests }
    }

    /// The path infos of a bundle with their keys.
    async fn path_infos(&self, number: BundleNumber) -> Result<Vec<(ObjectKey, PathInfo)>, Failure> {
        let bundle = self.directory.numbered(number).await?.id;
        let blocks = self.manifests.head(bundle).await?.directory.entries().len();
        let mut infos = Vec::new();
        for block in (0..=u16::MAX).take(blocks) {
            let records = self.manifests.block(bundle, block).await?;
            let own = records.iter().filter_map(|record| Some((record.key, record.path_info()?.clone())));
            infos.extend(own);
        }
        Ok(infos)
    }

    async fn path_info(&self, key: ObjectKey, place: Location) -> Result<Option<PathInfo>, Failure> {
        let bundle = self.directory.numbered(place.bundle).await?.id;
        let record = self.manifests.record(bundle, place.block, place.entry, &key).await?;
        Ok(record.path_info().cloned())
    }
}

#[cfg(test)]
mod tests {
    use firn_nix_format::{Compression, PublisherSecretKey, Sha256, StorePath};

    use super::*;

    #[test]
    fn a_path_is_disowned_if_the_removed_key_signed_it_and_nobody_else_who_counts() {
        let secret = |name, seed: u8| PublisherSecretKey::from_seed(name, &[seed; 32]).unwrap();
        let (removed, accepted, stranger) = (secret("one", 1), secret("two", 2), secret("three", 3));
        let judge = Judge { removed: removed.public_key(), accepted: vec![accepted.public_key()] };
        let info = |signers: &[&PublisherSecretKey]| {
            let mut info = PathInfo {
                store_path: StorePath::from_parts([1; 20], "x").unwrap(),
                url: "nar/x.nar".to_owned(),
                compression: Compression::None,
                file_hash: None,
                file_size: None,
                nar_hash: Sha256::of(b"x"),
                nar_size: 1,
                references: Vec::new(),
                deriver: None,
                signatures: Vec::new(),
                ca: None,
                extra: Vec::new(),
            };
            info.signatures = signers.iter().map(|key| key.sign(&info)).collect();
            info
        };
        assert!(judge.is_disowned(&info(&[&removed])));
        assert!(judge.is_disowned(&info(&[&stranger, &removed])));
        assert!(!judge.is_disowned(&info(&[&removed, &accepted])));
        assert!(!judge.is_disowned(&info(&[&stranger])));
    }
}
