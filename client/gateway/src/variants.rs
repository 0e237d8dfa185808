//! Several records of one key made into what is served.
//!
//! Always holds: signatures are merged only where everything that is signed agrees; of different contents the
//! one is served whose publisher the archive ranks first, and where no rank decides the first one stays
//! (invariant 13). Leaves to others: reading records, the ledger.

use std::sync::Arc;

use firn_base::BundleId;
use firn_bundle::Record;
use firn_nix_format::{PathInfo, PublisherKey, Sha256};

/// One record of an object, and the bundle that holds it.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    pub(crate) bundle: BundleId,
    pub(crate) record: Arc<Record>,
}

impl Variant {
    pub(crate) fn nar_hash(&self) -> Option<Sha256> {
        self.record.path_info().map(|info| info.nar_hash)
    }
}

/// The path info to serve: that of the preferred records, with the signatures of all that agree with it.
/// None if no record carries a path info.
pub(crate) fn preferred(variants: &[Variant], publishers: &[PublisherKey]) -> Option<PathInfo> {
    let mut groups: Vec<(String, PathInfo)> = Vec::new();
    for info in variants.iter().filter_map(|variant| variant.record.path_info()) {
        let fingerprint = info.fingerprint();
        match groups.iter_mut().find(|(known, _)| *known == fingerprint) {
            None => groups.push((fingerprint, info.clone())),
            Some((_, merged)) => {
                let fresh = info.signatures.iter().filter(|one| !merged.signatures.contains(one));
                let fresh: Vec<_> = fresh.cloned().collect();
                merged.signatures.extend(fresh);
            }
        }
    }
    if groups.len() > 1 {
        // A stable sort: without a rank the order of the index decides.
        groups.sort_by_cached_key(|(fingerprint, info)| rank(fingerprint, info, publishers));
    }
    groups.into_iter().next().map(|(_, info)| info)
}

/// Whether path infos differ in what is signed, so that ranks decide.
pub(crate) fn are_contested(variants: &[Variant]) -> bool {
    let mut fingerprints =
        variants.iter().filter_map(|one| one.record.path_info()).map(PathInfo::fingerprint);
    let first = fingerprints.next();
    fingerprints.any(|one| Some(one) != first)
}

fn rank(fingerprint: &str, info: &PathInfo, publishers: &[PublisherKey]) -> usize {
    let signed_by = |key: &PublisherKey| key.has_signed(fingerprint, &info.signatures);
    publishers.iter().position(signed_by).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;
    use firn_bundle::{Encoding, RecipeNumber, RecordBody};
    use firn_nix_format::{Compression, PublisherSecretKey, StorePath};

    use super::*;

    fn key(number: u8) -> PublisherSecretKey {
        PublisherSecretKey::from_seed(&format!("key-{number}"), &[number; 32]).unwrap()
    }

    fn variant(contents: &[u8], signers: &[u8]) -> Variant {
        let mut info = PathInfo {
            store_path: StorePath::from_parts([7; 20], "hello").unwrap(),
            url: "nar/hello.nar".to_owned(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::of(contents),
            nar_size: contents.len() as u64,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        info.signatures = signers.iter().map(|number| key(*number).sign(&info)).collect();
        let record = Record {
            key: ObjectKey::store_path([7; 20]),
            encoding: Encoding::Chunked,
            recipe: RecipeNumber::NONE,
            content_bytes: contents.len() as u64,
            chunk_list: 0..0,
            body: RecordBody::StorePath(Box::new(info)),
        };
        Variant { bundle: BundleId::from_bytes([1; 32]), record: Arc::new(record) }
    }

    fn names(info: &PathInfo) -> Vec<&str> {
        info.signatures.iter().map(|signature| signature.key_name.as_str()).collect()
    }

    #[test]
    fn signatures_of_equal_contents_are_merged_once_each() {
        let variants = [variant(b"one", &[1, 2]), variant(b"one", &[2, 3])];
        let info = preferred(&variants, &[]).unwrap();
        assert_eq!(names(&info), ["key-1", "key-2", "key-3"]);
    }

    #[test]
    fn of_different_contents_the_publisher_of_the_first_rank_is_served() {
        let variants = [variant(b"one", &[1]), variant(b"two", &[2]), variant(b"two", &[3])];
        let serve = |ranks: &[u8]| {
            let publishers: Vec<_> = ranks.iter().map(|number| key(*number).public_key()).collect();
            preferred(&variants, &publishers).unwrap()
        };
        assert_eq!(serve(&[1, 2, 3]).nar_hash, Sha256::of(b"one"));
        assert_eq!(serve(&[3, 1, 2]).nar_hash, Sha256::of(b"two"));
        assert_eq!(names(&serve(&[2, 1])), ["key-2", "key-3"]);
        assert_eq!(serve(&[]).nar_hash, Sha256::of(b"one"), "without ranks the first stays");
    }

    #[test]
    fn a_false_signature_of_a_preferred_publisher_wins_nothing() {
        let mut forged = (*variant(b"two", &[]).record).clone();
        if let RecordBody::StorePath(info) = &mut forged.body {
            info.signatures = variant(b"one", &[2]).record.path_info().unwrap().signatures.clone();
        }
        let forged = Variant { record: Arc::new(forged), ..variant(b"two", &[]) };
        let publishers = [key(2).public_key(), key(1).public_key()];
        let info = preferred(&[forged, variant(b"one", &[1])], &publishers).unwrap();
        assert_eq!(info.nar_hash, Sha256::of(b"one"));
    }
}
