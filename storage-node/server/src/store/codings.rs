//! Which codings have shards here.

use std::collections::BTreeSet;
use std::ops::Bound;

use firn_base::{BundleId, CodingId, ShardIndex};

use super::name::ShardName;
use super::shard_store::{ShardStore, Shelf};

impl Shelf {
    /// Whether a shard of `coding` is here.
    pub(super) fn holds_any(&self, coding: CodingId) -> bool {
        let from = ShardName::new(coding, ShardIndex(0));
        self.shards.range(from..).next().is_some_and(|(name, _)| name.coding == coding)
    }

    /// Whether a file in the place of a shard of `coding` is not listed.
    pub(super) fn is_any_unlisted(&self, coding: CodingId) -> bool {
        let from = ShardName::new(coding, ShardIndex(0));
        self.unlisted.range(from..).next().is_some_and(|(name, _)| name.coding == coding)
    }

    /// A header says of which bundle a coding is: so are all its shards. Says whether another one was known of any of them.
    pub(super) fn learn_bundle(&mut self, coding: CodingId, bundle: BundleId) -> bool {
        let name = |index| ShardName::new(coding, ShardIndex(index));
        let mut is_new = false;
        for held in self.shards.range_mut(name(0)..=name(u8::MAX)).map(|(_, held)| held) {
            is_new |= held.bundle != bundle;
            held.bundle = bundle;
        }
        is_new
    }
}

impl ShardStore {
    /// Codings of which at least one shard is here.
    pub(crate) fn codings(&self) -> BTreeSet<CodingId> {
        self.shelf().shards.keys().map(|name| name.coding).collect()
    }

    /// Whether a shard of `coding` is here.
    pub(crate) fn holds_any(&self, coding: CodingId) -> bool {
        self.shelf().holds_any(coding)
    }

    /// The shards of `coding` that are here.
    pub(crate) fn indexes_of(&self, coding: CodingId) -> Vec<ShardIndex> {
        let name = |index| ShardName::new(coding, ShardIndex(index));
        self.shelf().shards.range(name(0)..=name(u8::MAX)).map(|(name, _)| name.index).collect()
    }

    /// Up to `count` codings behind `after`, in order, each with its shards here.
    pub(crate) fn codings_behind(
        &self,
        after: Option<CodingId>,
        count: usize,
    ) -> Vec<(CodingId, Vec<ShardIndex>)> {
        let from = after
            .map_or(Bound::Unbounded, |coding| Bound::Excluded(ShardName::new(coding, ShardIndex(u8::MAX))));
        let shelf = self.shelf();
        let mut codings: Vec<(CodingId, Vec<ShardIndex>)> = Vec::new();
        for name in shelf.shards.range((from, Bound::Unbounded)).map(|(name, _)| name) {
            let is_full = codings.len() == count;
            match codings.last_mut() {
                Some((coding, indexes)) if *coding == name.coding => indexes.push(name.index),
                _ if is_full => break,
                _ => codings.push((name.coding, vec![name.index])),
            }
        }
        codings
    }
}
