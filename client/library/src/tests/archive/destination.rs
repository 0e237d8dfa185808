//! What the archive of this process answers to whoever publishes into it: as coordinators and nodes do, with its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use firn_base::{
    ArchiveId, BundleId, BundleNumber, Feature, NodeId, ObjectKey, ReservationId, Scheme, ShardIndex,
    Timestamp,
};
use firn_bundle::{CodingHeader, ContentHeader, Manifest};
use firn_client_logic::{SendFailure, ShardSend};
use firn_transport::{BoxFuture, Committed};
use firn_wire::{
    CommitRequest, CompactRequest, GatheredPlace, HeldPath, Identity, NodeAddress, OrderRank, Receipt,
    RecordPlace, RefusalKind, RefusedRequest, ReservationGrant, ReserveRequest, Signed, SimilarRecord,
    Ticket,
};

use super::{CommittedBundle, TestArchive};
use crate::code::CodedBundle;
use crate::destination::Destination;

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);
const PIECE_BYTES: u64 = 100_000;
const RANK: OrderRank = OrderRank { generation: 1, epoch: 1 };

fn coordinator() -> Identity {
    Identity::from_seed(&[200; 32])
}

fn node(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

impl TestArchive {
    fn check_silence(&self) -> Result<(), RefusedRequest> {
        match self.state().faults.commits_until_silence {
            Some(0) => Err(RefusedRequest::new(RefusalKind::Unavailable, "nobody answers")),
            _ => Ok(()),
        }
    }

    fn reserve_now(&self, request: &ReserveRequest) -> Result<ReservationGrant, RefusedRequest> {
        self.check_silence()?;
        let mut state = self.state();
        let content = ContentHeader::parse(&request.content_header).unwrap();
        let coding = CodingHeader::parse(&request.coding_header).unwrap();
        coding.check_belongs_to(&content).unwrap();
        if let Some(kind) = state.faults.refuse_reservations {
            return Err(RefusedRequest::new(kind, "the archive says no"));
        }
        if let Some(scheme) = state.faults.change_scheme.take() {
            state.scheme = scheme;
        }
        if let Some(scheme) = state.faults.grow_to.take() {
            state.scheme = scheme;
        } else if coding.k() != state.scheme.k() {
            return Err(RefusedRequest::new(RefusalKind::SchemeChanged, "the scheme changed"));
        }
        if state.bundles.contains_key(&content.bundle_id()) {
            return Err(RefusedRequest::new(RefusalKind::AlreadyDone, "the bundle is committed"));
        }
        if state.faults.reservations_until_full.is_some_and(|granted| state.counter >= granted) {
            return Err(RefusedRequest::new(RefusalKind::Full, "the archive is full"));
        }
        state.counter += 1;
        let reservation = ReservationId::from_bytes([state.counter; 32]);
        let scheme = state.scheme;
        let targets = (0..scheme.n()).map(|index| {
            let id = node(index).node_id();
            let ticket = Ticket {
                node: id,
                bearer: coordinator().public(),
                reservation,
                coding: coding.coding_id(),
                index: ShardIndex(index),
                shard_bytes: coding.shard_bytes(),
                root: coding.root(ShardIndex(index)).unwrap(),
                expires: Timestamp::from_millis(u64::MAX),
                rank: RANK,
            };
            let address = NodeAddress { node: id, address: index.to_string(), online: true };
            (address, Signed::seal(&coordinator(), ARCHIVE, &ticket))
        });
        let expires = Timestamp::from_millis(u64::MAX);
        let grant = ReservationGrant { reservation, scheme, expires, targets: targets.collect() };
        state.reservations.insert(reservation, (content, coding, scheme));
        Ok(grant)
    }

    fn store_now(&self, send: &ShardSend, bundle: &CodedBundle) -> Result<Signed<Receipt>, SendFailure> {
        let number: u8 = send.target.address.parse().unwrap();
        if self.state().faults.broken_nodes.contains(&usize::from(number)) {
            return Err(SendFailure { retry: false, sentence: "the disk is full".into() });
        }
        let ticket = send.ticket.peek().unwrap();
        let mut file = fs::File::create(self.shard_file(ticket.coding, ticket.index)).unwrap();
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        while offset < ticket.shard_bytes {
            let length = (ticket.shard_bytes - offset).min(PIECE_BYTES);
            let mut piece = vec![0; usize::try_from(length).unwrap()];
            bundle.read_shard(ticket.index, offset, &mut piece).unwrap();
            hasher.update(&piece);
            file.write_all(&piece).unwrap();
            offset += length;
        }
        assert_eq!(hasher.finalize().as_bytes(), ticket.root.as_bytes(), "shard {}", ticket.index);
        Ok(Signed::seal(&node(number), ARCHIVE, &ticket.receipt()))
    }

    /// Takes bundles that hold all records of others, once each, and forgets the others.
    fn compact_now(&self, request: CompactRequest) -> Result<Committed, RefusedRequest> {
        let CompactRequest { bundles, gathered } = request;
        let mut left: BTreeMap<GatheredPlace, ObjectKey> = BTreeMap::new();
        for (bundle, id) in (0..).zip(&gathered.bundles) {
            let state = self.state();
            for located in state.bundles[id].manifest.records() {
                let located = located.unwrap();
                let place = RecordPlace { block: located.block, entry: located.entry };
                left.insert(GatheredPlace { bundle, place }, located.record.key);
            }
        }
        for (uploaded, from) in bundles.iter().zip(&gathered.from) {
            let content = self.state().reservations[&uploaded.reservation].0.clone();
            let manifest = Manifest::parse_whole(&content, uploaded.manifest.clone()).unwrap();
            let keys: Vec<ObjectKey> =
                manifest.records().map(|located| located.unwrap().record.key).collect();
            assert_eq!(keys.len(), from.len());
            for (key, from) in keys.iter().zip(from) {
                assert_eq!(left.remove(from), Some(*key), "it comes from where it is said to");
            }
            assert!(content.dependencies().iter().all(|named| !gathered.bundles.contains(named)));
        }
        assert!(left.is_empty(), "{left:?} are left behind");
        let committed = self.commit_now(CommitRequest { bundles, externals: Vec::new(), replaces: None })?;
        self.state().bundles.retain(|id, _| !gathered.bundles.contains(id));
        Ok(committed)
    }

    fn commit_now(&self, request: CommitRequest) -> Result<Committed, RefusedRequest> {
        self.check_silence()?;
        let mut state = self.state();
        if state.faults.expired_commits > 0 {
            state.faults.expired_commits -= 1;
            state.reservations.clear();
        }
        let replaced = std::mem::take(&mut state.faults.replace_at_commit);
        state.faults.replaced.extend(replaced);
        if state.faults.refused_commits > 0 {
            state.faults.refused_commits -= 1;
            return Err(RefusedRequest::new(RefusalKind::Malformed, "not today: publish them again"));
        }
        let expired = || RefusedRequest::new(RefusalKind::Expired, "the reservation has ended");
        let mut ids = Vec::new();
        let mut keys = Vec::new();
        for bundle in request.bundles {
            let (content, coding, scheme) =
                state.reservations.get(&bundle.reservation).cloned().ok_or_else(expired)?;
            if state.bundles.contains_key(&content.bundle_id()) {
                return Err(RefusedRequest::new(RefusalKind::AlreadyDone, "the bundle is committed"));
            }
            let indexes: BTreeSet<ShardIndex> = bundle
                .receipts
                .iter()
                .map(|receipt| {
                    let opened = receipt.open(ARCHIVE).unwrap();
                    assert_eq!(opened.reservation, bundle.reservation);
                    assert_eq!(NodeId::from(opened.signer()), opened.node);
                    opened.index
                })
                .collect();
            assert!(indexes.len() >= usize::from(scheme.commit_threshold()), "{} receipts", indexes.len());
            let manifest = Manifest::parse_whole(&content, bundle.manifest).unwrap();
            for dependency in content.dependencies() {
                if state.faults.replaced.contains(dependency) {
                    return Err(RefusedRequest::new(RefusalKind::Malformed, "a dependency was replaced"));
                }
                assert!(state.bundles.contains_key(dependency), "parts come before their head");
            }
            for located in manifest.records() {
                let record = located.unwrap().record;
                keys.push(record.key);
                state.entries.insert(record.key, (content.bundle_id(), record));
            }
            ids.push(content.bundle_id());
            state.bundles.insert(content.bundle_id(), CommittedBundle { content, coding, manifest });
        }
        state.externals.extend(request.externals);
        let held: Vec<HeldPath> = keys
            .iter()
            .filter(|key| !state.is_visible(key))
            .map(|key| HeldPath { key: *key, waiting_for: state.lacking(key) })
            .collect();
        let bundles = ids.iter().map(|_| BundleNumber(0)).collect();
        state.commits.push(ids);
        if let Some(left) = &mut state.faults.commits_until_silence {
            *left -= 1;
        }
        if state.faults.lost_answers > 0 {
            state.faults.lost_answers -= 1;
            return Err(RefusedRequest::new(RefusalKind::Unavailable, "the answer was lost"));
        }
        Ok(Committed { bundles, visible: (keys.len() - held.len()) as u64, held })
    }
}

impl Destination for TestArchive {
    fn presence(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            self.check_silence()?;
            let state = self.state();
            Ok(keys.iter().map(|key| state.entries.contains_key(key)).collect())
        })
    }

    fn visible(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            let state = self.state();
            Ok(keys.iter().map(|key| state.entries.contains_key(key) && state.is_visible(key)).collect())
        })
    }

    fn similar(
        &self,
        features: Vec<Feature>,
    ) -> BoxFuture<'_, Result<Vec<Vec<SimilarRecord>>, RefusedRequest>> {
        Box::pin(async move {
            self.check_silence()?;
            let state = self.state();
            Ok(features.iter().map(|feature| state.similar(*feature)).collect())
        })
    }

    fn scheme(&self) -> BoxFuture<'_, Result<Scheme, RefusedRequest>> {
        Box::pin(async move { self.check_silence().map(|()| self.state().scheme) })
    }

    fn reserve(&self, request: ReserveRequest) -> BoxFuture<'_, Result<ReservationGrant, RefusedRequest>> {
        Box::pin(async move { self.reserve_now(&request) })
    }

    fn store<'a>(
        &'a self,
        send: &'a ShardSend,
        bundle: Arc<CodedBundle>,
    ) -> BoxFuture<'a, Result<Signed<Receipt>, SendFailure>> {
        Box::pin(async move {
            let wanted = self.stores_wait_for.load(Ordering::SeqCst);
            // The sender is here, so it ends.
            let _ = self.packed.subscribe().wait_for(|packed| *packed >= wanted).await;
            tokio::task::yield_now().await;
            self.store_now(send, &bundle)
        })
    }

    fn commit(&self, request: CommitRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.commit_now(request) })
    }

    fn compact(&self, request: CompactRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.compact_now(request) })
    }

    fn replaced(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<BundleId>, RefusedRequest>> {
        Box::pin(async move {
            let state = self.state();
            Ok(bundles.into_iter().filter(|bundle| state.faults.replaced.contains(bundle)).collect())
        })
    }

    fn archived(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            self.check_silence()?;
            let state = self.state();
            let there = |bundle| state.bundles.contains_key(bundle) || state.faults.replaced.contains(bundle);
            Ok(bundles.iter().map(there).collect())
        })
    }

    fn late_receipts(&self, receipts: Vec<Signed<Receipt>>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async move {
            self.state().late += receipts.len();
            Ok(())
        })
    }

    fn release(&self, _: Vec<ReservationId>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async { Ok(()) })
    }
}
