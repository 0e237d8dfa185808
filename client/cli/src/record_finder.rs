//! From a key to what is archived under it.
//!
//! Owns: which of several records of a path is the one to take. Always holds: of different contents the one is
//! taken whose publisher stands first; signatures are merged only where everything that is signed agrees.
//! Leaves to others: where things lie (coordinators), reading them (`firn-retrieval`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleId, Location, ObjectKey};
use firn_bundle::Record;
use firn_gateway::{KeyLookup, LocateError, Located};
use firn_nix_format::{PathInfo, PublisherKey, accepted_by};
use firn_retrieval::{Directory, ObjectReader, ReadError};
use firn_transport::{AskError, CoordinatorClient};
use futures::future::try_join_all;
use tokio::time::sleep;

/// A record and the bundle that holds it.
#[derive(Debug, Clone)]
pub(crate) struct FoundRecord {
    /// The bundle.
    pub(crate) bundle: BundleId,
    /// The record.
    pub(crate) record: Arc<Record>,
}

/// A store path as it would be served.
#[derive(Debug, Clone)]
pub(crate) struct FoundPath {
    /// Its path info, with the signatures of all records that agree.
    pub(crate) info: PathInfo,
    /// The record to read.
    pub(crate) found: FoundRecord,
    /// The publisher whose signature holds, if one of those asked for.
    pub(crate) publisher: Option<PublisherKey>,
}

/// Finds records. Clones share caches.
#[derive(Debug, Clone)]
pub(crate) struct RecordFinder {
    coordinators: CoordinatorClient,
    directory: Arc<dyn Directory>,
    named: KeyLookup,
    objects: ObjectReader,
}

// A replica may lag behind the one that told of the key.
const LOOKUP_TRIES: u32 = 4;
const LOOKUP_PAUSE: Duration = Duration::from_millis(250);

impl RecordFinder {
    /// Asks `coordinators` and `directory`, reads through `objects`.
    pub(crate) fn new(
        coordinators: CoordinatorClient,
        directory: Arc<dyn Directory>,
        objects: ObjectReader,
    ) -> Self {
        let named = KeyLookup::new(coordinators.clone(), Arc::clone(&directory));
        Self { coordinators, directory, named, objects }
    }

    /// Reads objects.
    pub(crate) const fn objects(&self) -> &ObjectReader {
        &self.objects
    }

    /// Where each key lies that something archived names, as one replica has it; nowhere for one that is not visible to it.
    pub(crate) async fn locate_once(&self, keys: &[ObjectKey]) -> Result<Vec<Vec<Location>>, AskError> {
        self.coordinators.lookup(keys).await
    }

    /// Where each key lies that somebody names; nowhere for one that is not visible, of which nobody learns.
    pub(crate) async fn locate(&self, keys: &[ObjectKey]) -> Result<Located, LocateError> {
        self.named.locate(keys).await
    }

    /// Where each key lies that the feed told of; nowhere for one that is not visible any more.
    pub(crate) async fn locate_visible(&self, keys: &[ObjectKey]) -> Result<Vec<Vec<Location>>, AskError> {
        let mut places = self.coordinators.lookup(keys).await?;
        for _ in 1..LOOKUP_TRIES {
            let missing: Vec<usize> = (0..keys.len()).filter(|own| places[*own].is_empty()).collect();
            if missing.is_empty() {
                break;
            }
            sleep(LOOKUP_PAUSE).await;
            let again: Vec<ObjectKey> = missing.iter().map(|own| keys[*own]).collect();
            for (own, found) in missing.into_iter().zip(self.coordinators.lookup(&again).await?) {
                places[own] = found;
            }
        }
        Ok(places)
    }

    /// The record of `key` at a place of the index.
    pub(crate) async fn record(&self, key: &ObjectKey, place: Location) -> Result<FoundRecord, ReadError> {
        let facts = self.directory.numbered(place.bundle).await;
        let facts = facts.map_err(|error| ReadError::NoDirectory { cause: error.to_string() })?;
        let record = self.objects.manifests().record(facts.id, place.block, place.entry, key).await?;
        Ok(FoundRecord { bundle: facts.id, record })
    }

    /// The store path at these places of the index, as `publishers`, the most preferred first, signed it. None
    /// if there is none.
    pub(crate) async fn path(
        &self,
        key: &ObjectKey,
        places: &[Location],
        publishers: &[PublisherKey],
    ) -> Result<Option<FoundPath>, ReadError> {
        let records = try_join_all(places.iter().map(|place| self.record(key, *place))).await?;
        Ok(preferred(records, publishers))
    }
}

/// The records that agree with the most preferred one, made into one.
fn preferred(records: Vec<FoundRecord>, publishers: &[PublisherKey]) -> Option<FoundPath> {
    let mut groups: Vec<(String, FoundPath)> = Vec::new();
    for found in records {
        let Some(info) = found.record.path_info().cloned() else { continue };
        let fingerprint = info.fingerprint();
        match groups.iter_mut().find(|(known, _)| *known == fingerprint) {
            None => groups.push((fingerprint, FoundPath { info, found, publisher: None })),
            Some((_, merged)) => {
                let fresh = info.signatures.iter().filter(|one| !merged.info.signatures.contains(one));
                let fresh: Vec<_> = fresh.cloned().collect();
                merged.info.signatures.extend(fresh);
            }
        }
    }
    let mut paths: Vec<FoundPath> = groups.into_iter().map(|(_, path)| path).collect();
    for path in &mut paths {
        path.publisher = accepted_by(&path.info, publishers).cloned();
    }
    // A stable sort: without a rank the order of the index decides.
    let rank = |path: &FoundPath| {
        let own = path.publisher.as_ref().map(PublisherKey::name);
        own.map_or(usize::MAX, |own| {
            publishers.iter().position(|key| key.name() == own).unwrap_or(usize::MAX)
        })
    };
    paths.sort_by_key(rank);
    paths.into_iter().next()
}

#[cfg(test)]
mod tests {
    use firn_bundle::{Encoding, RecipeNumber, RecordBody};
    use firn_nix_format::{Compression, PublisherSecretKey, Recipe, Sha256, StorePath};

    use super::*;

    fn found(bundle: u8, nar: &[u8], signers: &[&PublisherSecretKey]) -> FoundRecord {
        let mut info = PathInfo::of_nar(
            StorePath::from_parts([1; 20], "x").unwrap(),
            "nar/x.nar".to_owned(),
            Sha256::of(nar),
            nar.len() as u64,
        );
        info.compression = Compression::Xz;
        info.signatures = signers.iter().map(|key| key.sign(&info)).collect();
        let record = Record {
            key: ObjectKey::store_path([1; 20]),
            encoding: Encoding::Chunked,
            recipe: RecipeNumber::NONE,
            content_bytes: info.nar_size,
            chunk_list: 0..0,
            body: RecordBody::StorePath(Box::new(info)),
        };
        FoundRecord { bundle: BundleId::from_bytes([bundle; 32]), record: Arc::new(record) }
    }

    #[test]
    fn the_first_publishers_content_is_taken_and_equal_contents_are_merged() {
        let secret = |name, seed: u8| PublisherSecretKey::from_seed(name, &[seed; 32]).unwrap();
        let (one, two, stranger) = (secret("one", 1), secret("two", 2), secret("three", 3));
        let keys = [one.public_key(), two.public_key()];
        // What a record says of its file nobody has signed: it puts it before no other.
        let mut last = found(4, b"a", &[&two]);
        Arc::make_mut(&mut last.record).recipe = RecipeNumber::from(Recipe::Xz6);
        let records =
            vec![found(1, b"s", &[&stranger]), found(2, b"b", &[&two]), found(3, b"a", &[&one]), last];
        let path = preferred(records.clone(), &keys).unwrap();
        assert_eq!(path.info.nar_hash, Sha256::of(b"a"));
        assert_eq!(path.found.bundle, BundleId::from_bytes([3; 32]), "the first of equal ones");
        assert_eq!(path.info.signatures.len(), 2);
        assert_eq!(path.publisher, Some(one.public_key()));
        assert_eq!(preferred(records[..1].to_vec(), &keys).unwrap().publisher, None);
        assert!(preferred(Vec::new(), &keys).is_none());
    }
}
