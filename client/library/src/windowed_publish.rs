//! Publishing what is more than one plan holds: the paths of a survey a window at a time, then what belongs to no path.
//!
//! Always holds: each window is committed before the next is planned, which so finds in the archive what it needs of
//! it; which paths wait is asked when all are done, because a later window may have freed them; numbers are those of
//! all of it, told before the first window.
//! Leaves to others: everything within a window (`publish`), what comes when (`survey`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::ObjectKey;

use crate::blob_file::NarOwners;
use crate::path_names::Names;
use crate::plan::{Plan, PlanError, Planner};
use crate::publish::Publish;
use crate::publish_options::PublishError;
use crate::survey::Survey;

impl Publish<'_> {
    /// Publishes the paths of `survey` and the blobs of `names`.
    pub(crate) async fn publish_in_windows(
        &self,
        planner: &Planner<'_>,
        survey: &Survey,
        names: &Names,
        owners: &Arc<NarOwners>,
    ) -> Result<(), PublishError> {
        let blobs = planner.count_blobs(survey, names.blobs.reader()).await?;
        // What is known once it is stopped are no sums.
        if planner.stop.is_asked() {
            return Ok(());
        }
        self.tell_sums(survey.sums, |kind| blobs.get(&kind).copied().unwrap_or(0));
        let (mut turns, mut failed) = (survey.turns(), BTreeSet::new());
        while !planner.stop.is_asked() {
            let room = planner.window.half();
            let own = move || turns.window(room).map(|own| (own, turns));
            let (own, rest) = self.environment.blocking(own).await.map_err(PlanError::from)?;
            turns = rest;
            if own.is_empty() {
                break;
            }
            let own = planner.still_new(own).await?;
            if own.is_empty() {
                continue;
            }
            let (paths, refused) = planner.with_needs(survey, own, &failed).await?;
            for (name, reason) in refused {
                self.refuse(name, reason);
            }
            // Then these are not all, and nothing of them would be begun.
            if planner.stop.is_asked() {
                break;
            }
            let plan = planner.plan(paths, Vec::new(), Arc::clone(owners), Some(survey)).await?;
            self.publish_window(planner, &plan).await?;
            self.note_failed(planner, &plan, &mut failed).await?;
        }
        if self.options.dry_run {
            return Ok(());
        }
        let mut lines = names.blobs.reader();
        let count_max = usize::try_from(planner.window.paths).unwrap_or(usize::MAX).max(1);
        while !planner.stop.is_asked() {
            let (blobs, rest) = self.blobs(lines, count_max).await?;
            lines = rest;
            if blobs.is_empty() {
                break;
            }
            let plan = planner.plan(BTreeMap::new(), blobs, Arc::clone(owners), Some(survey)).await?;
            self.publish_window(planner, &plan).await?;
        }
        let mut all = survey.all();
        while !planner.stop.is_asked() {
            let room = planner.window.whole();
            let paths = move || all.window(room).map(|paths| (paths, all));
            let (paths, rest) = self.environment.blocking(paths).await.map_err(PlanError::from)?;
            all = rest;
            if paths.is_empty() {
                break;
            }
            let (mut plan, refused) = planner.waiting(survey, paths).await?;
            // Else it would pass for one that can be read, and nobody would look at it again.
            for (name, reason) in refused {
                self.refuse(name, reason);
            }
            let held = std::mem::take(&mut plan.held);
            self.list_waiting(&plan, held).await?;
        }
        Ok(())
    }

    /// Publishes a part of what there is. What is held back by then is told when all parts are done, or if this is the
    /// last one.
    async fn publish_window(&self, planner: &Planner<'_>, plan: &Plan) -> Result<(), PublishError> {
        if self.options.dry_run {
            self.note_externals(plan);
            return Ok(());
        }
        let (away, held) = self.carry_out(plan, planner.spool).await?;
        let Some(error) = away else { return Ok(()) };
        self.list_waiting(plan, held).await?;
        Err(error.into())
    }

    /// Notes which paths of a window that was published are not archived: whatever needs one of them would else try it
    /// once more. What failed before its turn and is archived now was not refused.
    async fn note_failed(
        &self,
        planner: &Planner<'_>,
        plan: &Plan,
        failed: &mut BTreeSet<ObjectKey>,
    ) -> Result<(), PublishError> {
        if self.options.dry_run {
            return Ok(());
        }
        let keys: Vec<ObjectKey> = plan.paths.keys().copied().collect();
        let archived = planner.archived(&keys).await.map_err(PlanError::from)?;
        failed.extend(keys);
        failed.retain(|key| !archived.contains(key));
        let paths = archived.iter().filter_map(|key| plan.paths.get(key));
        let hash_parts: BTreeSet<&str> = paths.map(|info| info.store_path.hash_part()).collect();
        self.note(|summary| summary.take_back(&hash_parts));
        Ok(())
    }
}
