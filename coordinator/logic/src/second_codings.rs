//! Second codings, as the catalogue holds them beside the counted ones.
//!
//! Owns: which bundles have one, and where its shards lie. Always holds: as many as bundle records have; few, for only
//! so many are made at a time. Leaves to others: what is done about them (`recode`).

use std::collections::BTreeMap;

use firn_base::{BundleNumber, CodingId, Timestamp};

use crate::catalogue::{BundleView, role_of};
use crate::state::{BundleRecord, RecodingRecord};

/// A second coding of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondView {
    /// The bundle with the placements of this coding.
    pub view: BundleView,
    /// How it came about.
    pub recoding: RecodingRecord,
}

/// All second codings, by bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SecondCodings {
    seconds: BTreeMap<BundleNumber, SecondView>,
}

impl SecondCodings {
    /// Takes over what a bundle's record says.
    pub(crate) fn put(&mut self, record: &BundleRecord, changed: Timestamp) {
        match (record.recoding, record.codings.get(1)) {
            (Some(recoding), Some(coding)) => {
                let view = BundleView::of(record, coding, changed, role_of(record));
                self.seconds.insert(record.number, SecondView { view, recoding });
            }
            _ => drop(self.seconds.remove(&record.number)),
        }
    }

    /// Those that are not as they were `before` count as changed at `now`.
    pub(crate) fn compare(&mut self, before: Option<&Self>, now: Timestamp) {
        for (number, second) in &mut self.seconds {
            let known = before.and_then(|before| before.seconds.get(number)).map(|known| &known.view);
            second.view.changed = match known {
                Some(known)
                    if known.coding == second.view.coding && known.placements == second.view.placements =>
                {
                    known.changed
                }
                _ => now,
            };
        }
    }

    /// That of a bundle.
    pub(crate) fn of_bundle(&self, bundle: BundleNumber) -> Option<&SecondView> {
        self.seconds.get(&bundle)
    }

    /// The bundle that a coding is the second one of.
    pub(crate) fn of_coding(&self, coding: CodingId) -> Option<&BundleView> {
        self.seconds.values().map(|second| &second.view).find(|view| view.coding == coding)
    }

    /// All of them, in order of their bundles' numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SecondView> {
        self.seconds.values()
    }
}
