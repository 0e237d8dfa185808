//! A feed that is made up while it is read, and its filters.
//!
//! Always holds: a position has one event, in every run. One event in a hundred takes a key back, as hardly any archive
//! does. Leaves to others: which filters there are and how they are made (`firn_coordinator_logic`).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use firn_base::{ArchiveId, FilterId, ObjectKey};
use firn_benches::process::Failure;
use firn_coordinator_logic::{
    BuildStep, FILTER_UNIT_EVENTS, FilterBuild, FilterPlan, HeldFilter, plan_filters,
};
use firn_wire::FeedEvent;

const WITHDRAWN_EVERY: u64 = 100;

/// Makes the filters of a feed of `events` events in `directory`, as a coordinator would.
pub(crate) fn make_all(directory: &Path, archive: ArchiveId, events: u64) -> Result<FilterPlan, Failure> {
    let mut held = Vec::new();
    loop {
        let plan = plan_filters(events, FILTER_UNIT_EVENTS, &held);
        let Some(order) = plan.build else { return Ok(plan) };
        let mut build = FilterBuild::new(archive, order);
        let mut file = File::create(directory.join("making"))?;
        let entry = loop {
            match build.step()? {
                BuildStep::Read(range) => {
                    build.take(&(range.first..range.end).map(event).collect::<Vec<_>>())?;
                }
                BuildStep::Write(bytes) => file.write_all(&bytes)?,
                BuildStep::Finished(entry) => break entry,
            }
        };
        file.sync_all()?;
        fs::rename(directory.join("making"), path(directory, entry.id))?;
        held.push(HeldFilter { entry, digest_before: order.digest_before });
    }
}

/// The file of a filter.
pub(crate) fn path(directory: &Path, filter: FilterId) -> PathBuf {
    directory.join(format!("{filter}.filter"))
}

/// A mixer of 64 bits.
pub(crate) const fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn named(series: u64, number: u64) -> ObjectKey {
    let mut name = [0; 20];
    name[..8].copy_from_slice(&spread(number ^ series).to_le_bytes());
    name[8..16].copy_from_slice(&spread(number.wrapping_add(series) << 1).to_le_bytes());
    ObjectKey::store_path(name)
}

/// What the event at this position is about, if it shows a key.
pub(crate) fn key(position: u64) -> ObjectKey {
    named(1 << 60, position)
}

/// A key that no event is about.
pub(crate) fn stranger(number: u64) -> ObjectKey {
    named(1 << 61, number)
}

/// The event at this position.
pub(crate) fn event(position: u64) -> FeedEvent {
    match position % WITHDRAWN_EVERY == WITHDRAWN_EVERY - 1 {
        true => FeedEvent::Withdrawn(key(position - 1)),
        false => FeedEvent::Visible(key(position)),
    }
}
