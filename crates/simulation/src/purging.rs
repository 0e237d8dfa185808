//! What an operator does to withdraw paths and to have one gone from every disk.
//!
//! Owns: asking until it is done, whoever leads; packing anew what waits for it. Always holds: whether an act was done whose
//! answer was lost, the archive itself tells. Leaves to others: when (`disaster`).

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use firn_base::{ObjectKey, Timestamp};
use firn_client::{Archive, PublishEvents, RepackOptions, RepackWork, repack};
use firn_transport::AskError;
use firn_wire::{AdminReply, AdminRequest, LedgerAct, PurgeProgress, RefusalKind};
use tokio::time::{Instant, sleep};

use crate::reading::Reader;
use crate::stage::Stage;

const LOOK_AGAIN: Duration = Duration::from_millis(500);
const WITHIN: Duration = Duration::from_secs(900);

/// Whoever purges.
pub(crate) struct Purger {
    archive: Archive,
    stage: Rc<Stage>,
}

impl Purger {
    pub(crate) const fn new(archive: Archive, stage: Rc<Stage>) -> Self {
        Self { archive, stage }
    }

    /// Has `key` withdrawn, or served again.
    pub(crate) async fn set_withdrawn(&self, key: ObjectKey, is_withdrawn: bool) -> Result<(), String> {
        let reason = "a court said so".to_owned();
        self.govern(match is_withdrawn {
            true => LedgerAct::Withdraw { key, reason },
            false => LedgerAct::Reinstate { key, reason },
        })
        .await
    }

    /// Whether lookups find `key`; none if nobody answers.
    pub(crate) async fn is_visible(&self, key: ObjectKey) -> Option<bool> {
        self.archive.coordinators().lookup(&[key]).await.ok().map(|places| !places.iter().all(Vec::is_empty))
    }

    /// Asks for the purge of `key`, which is withdrawn.
    pub(crate) async fn begin(&self, key: ObjectKey) -> Result<(), String> {
        self.govern(LedgerAct::Purge { key, reason: "a court said so".to_owned() }).await
    }

    /// Asks until a leader has done it, or says that there is nothing to do any more: it was done, and the answer lost.
    async fn govern(&self, act: LedgerAct) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let asked = self.archive.coordinators().administer(AdminRequest::Govern(act.clone())).await;
            let last = match asked {
                Ok(_) => return Ok(()),
                Err(AskError::Refused(refused))
                    if !matches!(refused.kind, RefusalKind::Unavailable | RefusalKind::Uncertain) =>
                {
                    return Ok(());
                }
                Err(error) => error,
            };
            if begun.elapsed() > WITHIN {
                return Err(format!("within {WITHIN:?} this is not done: {act:?}: {last}"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Packs anew what waits for it.
    pub(crate) async fn carry_out(&self) -> Result<(), String> {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            if let Some(purges) = self.progress().await {
                let mut work = RepackWork::default();
                work.add(&purges, &BTreeSet::new());
                if work.bundles().is_empty() {
                    return Ok(());
                }
                for (bundle, left_out) in work.bundles() {
                    let options = RepackOptions::new(bundle, left_out, work.going().clone());
                    let reader = Reader::new(&self.archive);
                    match repack(&self.archive, reader.objects(), &options, PublishEvents::none()).await {
                        Ok(_) => self.stage.purged.set(self.stage.purged.get() + 1),
                        Err(error) => last = error.to_string(),
                    }
                }
            }
            if begun.elapsed() > WITHIN {
                return Err(format!("within {WITHIN:?} not everything is packed anew: {last}"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until all nodes say that they hold nothing of it any more.
    pub(crate) async fn until_done(&self) -> Result<(), String> {
        let begun = Instant::now();
        let mut last = None;
        loop {
            if let Some(purges) = self.progress().await {
                if purges.iter().all(PurgeProgress::is_done) {
                    return Ok(());
                }
                last = Some(purges);
            }
            if begun.elapsed() > WITHIN {
                return Err(format!("within {WITHIN:?} the purge does not end: {last:?}"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn progress(&self) -> Option<Vec<PurgeProgress>> {
        // There is one, so one page has it.
        let request = AdminRequest::Purges { since: Timestamp::default(), after: None };
        match self.archive.coordinators().administer(request).await {
            Ok(AdminReply::Purges(purges)) => Some(purges),
            _ => None,
        }
    }
}
