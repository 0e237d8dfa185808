//! A fleet that grows: empty nodes join until a larger k fits, and every bundle is coded anew for it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Instant;

use firn_base::ByteCount;

use crate::snapshot::{Copy, Snapshot};
use crate::{Bench, Failure, LOOKS_IN_A_ROW, ratio, row, seconds};

/// For which k the grown fleet is wide enough.
const K: u64 = 16;
const N: u64 = 40;

impl Bench<'_> {
    /// Nodes join; bundles are coded anew while they are read.
    pub(crate) fn grow(&mut self) -> Result<(), Failure> {
        let before = Snapshot::take(&self.archive)?;
        let (bundles, payload) = (before.bundles.len(), before.payload());
        let old = before.bundles.first().map(|bundle| (bundle.scheme.k, bundle.scheme.n));
        let (k, n) = old.ok_or("nothing was published")?;
        row("bundles, payload", &format!("{bundles}, {}", ByteCount(payload)));
        row(&format!("stored per byte of payload at {k}/{n}"), &ratio(before.stored(), payload));
        let worked = self.archive.build_bytes(&[])?;
        let since = Instant::now();
        for _ in 0..self.options.join() {
            self.archive.control("add", "storage-node")?;
        }
        row("empty nodes added, within s", &format!("{}, {}", self.options.join(), seconds(since)));
        // Old shards that were moved to the new nodes before their bundle was coded anew.
        let moved: RefCell<BTreeSet<Copy>> = RefCell::default();
        let (known, codings): (BTreeSet<Copy>, BTreeSet<&str>) =
            (before.placements(), before.bundles.iter().map(|bundle| bundle.coding.as_str()).collect());
        let grown = self.wait("every bundle is coded anew", LOOKS_IN_A_ROW, |snapshot| {
            let old = snapshot.placements().into_iter().filter(|copy| codings.contains(copy.0.as_str()));
            moved.borrow_mut().extend(old.filter(|copy| !known.contains(copy)));
            snapshot.is_coded_for(K)
        })?;
        row(&format!("until all are coded {K}/{N}, s"), &seconds(since));
        let worked = self.archive.build_bytes(&[])?.saturating_sub(worked);
        let shard_bytes = |coding: &str| {
            let bundle = before.bundles.iter().find(|bundle| bundle.coding == coding);
            bundle.map_or(0, |bundle| bundle.shard_bytes)
        };
        let moves: u64 = moved.borrow().iter().map(|copy| shard_bytes(&copy.0)).sum();
        // Two workers, the maker and the decoder read the payload; the maker keeps one of the shards.
        let bound = 4 * payload + payload * (N - 1) / K;
        row("read and sent meanwhile", &ByteCount(worked).to_string());
        row("… of it moves of old shards, as far as they were seen", &ByteCount(moves).to_string());
        row("… the rest per byte of payload", &ratio(worked.saturating_sub(moves), payload));
        row("least by the rule, per byte of payload", &ratio(bound, payload));
        row(&format!("stored per byte of payload at {K}/{N}"), &ratio(grown.stored(), payload));
        self.check(grown.bundles.len() == bundles, "no bundle is lost");
        self.check(
            worked.saturating_sub(moves) * 10 <= bound * 11,
            "re-coding costs at most 1.1 times the least",
        );
        self.read("while bundles were coded anew");
        self.settle("every bundle has all its shards, and nothing is left to move", |_| true)?;
        row("until nothing was left to move, s", &seconds(since));
        Ok(())
    }
}
