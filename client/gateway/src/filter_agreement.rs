//! Which filters are believed: those that two coordinators list.
//!
//! A filter is made of the feed alone, so that equal ranges of equal feeds have equal filters. One coordinator that lies
//! could hide paths behind a filter that lacks them; two that list the same one would have to lie together.
//! Always holds: what is agreed on goes on from the beginning of the feed. Leaves to others: signatures.

use std::collections::BTreeMap;

use firn_base::PublicKey;
use firn_wire::{FilterEntry, FilterList};

/// What coordinators agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AgreedFilters {
    /// The filters, in order of the feed.
    pub(crate) filters: Vec<FilterEntry>,
    /// A position up to which the feed goes, by as many coordinators as had to agree, or by all that answered.
    pub(crate) head: u64,
}

/// How many of an archive's coordinators have to list a filter: two, or the only one that there is.
pub(crate) fn witnesses_needed(coordinators: usize) -> usize {
    coordinators.clamp(1, 2)
}

/// The filters that `needed` of `lists` have in common.
pub(crate) fn agreed_filters(lists: &BTreeMap<PublicKey, FilterList>, needed: usize) -> AgreedFilters {
    let mut witnesses: BTreeMap<(u64, u64, [u8; 32]), (FilterEntry, usize)> = BTreeMap::new();
    for list in lists.values() {
        for entry in &list.filters {
            let name = (entry.range.first, entry.range.end, *entry.id.as_bytes());
            let known = witnesses.entry(name).or_insert((*entry, 0));
            // Who says something else of the same bytes is no witness of them.
            known.1 += usize::from(known.0 == *entry);
        }
    }
    let mut filters: Vec<FilterEntry> = Vec::new();
    // Replicas are at different stages of joining the same ranges: the longest that goes on is the latest stage.
    loop {
        let end = filters.last().map_or(0, |last| last.range.end);
        let next = witnesses
            .range((end, 0, [0; 32])..=(end, u64::MAX, [u8::MAX; 32]))
            .filter(|(_, (entry, count))| *count >= needed && entry.range.end > end)
            .max_by_key(|((_, end, _), _)| *end);
        match next {
            Some((_, (entry, _))) => filters.push(*entry),
            None => break,
        }
    }
    let mut heads: Vec<u64> = lists.values().map(|list| list.head).collect();
    heads.sort_unstable_by(|one, other| other.cmp(one));
    let head = heads.get(needed.saturating_sub(1)).or(heads.last()).copied().unwrap_or(0);
    AgreedFilters { filters, head }
}

#[cfg(test)]
mod tests {
    use firn_base::{Digest, FeedRange, FilterId};

    use super::*;

    fn entry(first: u64, end: u64, id: u8) -> FilterEntry {
        FilterEntry {
            range: FeedRange { first, end },
            id: FilterId::from_bytes([id; 32]),
            bytes: 100,
            keys: 1,
            feed_digest: Digest::from_bytes([id; 32]),
        }
    }

    fn agreed(lists: &[(&[FilterEntry], u64)], needed: usize) -> (Vec<FilterEntry>, u64) {
        let lists = (1..).zip(lists).map(|(number, (filters, head))| {
            (PublicKey::from_bytes([number; 32]), FilterList { filters: filters.to_vec(), head: *head })
        });
        let agreed = agreed_filters(&lists.collect(), needed);
        (agreed.filters, agreed.head)
    }

    #[test]
    fn what_one_coordinator_alone_lists_is_not_believed() {
        let (honest, forged) = ([entry(0, 8, 1), entry(8, 12, 2)], [entry(0, 8, 1), entry(8, 12, 9)]);
        assert_eq!(agreed(&[(&honest, 13), (&forged, 12)], 2), (vec![honest[0]], 12));
        assert_eq!(agreed(&[(&forged, 12), (&honest, 13), (&honest, 14)], 2), (honest.to_vec(), 13));
        assert_eq!(agreed(&[(&honest, 13)], 2), (Vec::new(), 13));
        assert_eq!(agreed(&[(&honest, 13)], 1), (honest.to_vec(), 13));
    }

    #[test]
    fn one_coordinator_cannot_say_how_long_the_feed_is() {
        assert_eq!(agreed(&[(&[], u64::MAX), (&[], 40), (&[], 41)], 2).1, 41);
        assert_eq!(agreed(&[], 2), (Vec::new(), 0));
    }

    #[test]
    fn replicas_at_different_stages_agree_on_the_latest_that_two_have() {
        let early: &[_] = &[entry(0, 8, 1), entry(8, 12, 2), entry(12, 14, 3)];
        let late: &[_] = &[entry(0, 16, 5)];
        assert_eq!(agreed(&[(early, 16), (early, 16), (late, 16)], 2).0, early);
        assert_eq!(agreed(&[(early, 16), (late, 16), (late, 16)], 2).0, late);
        assert_eq!(agreed(&[(early, 16), (late, 16)], 2).0, []);
    }

    #[test]
    fn who_says_something_else_of_a_filter_is_no_witness_of_it() {
        let (one, other) = (entry(0, 8, 1), FilterEntry { keys: 2, ..entry(0, 8, 1) });
        assert_eq!(agreed(&[(&[one], 8), (&[other], 8)], 2).0, []);
    }
}
