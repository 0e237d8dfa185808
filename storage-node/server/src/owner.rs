//! What the owner of the node is told unasked: by a command of theirs, about what concerns them.
//!
//! Always holds: a notice is written down as told before it is told, so that none comes twice, also after kill -9, unless the
//! disk takes nothing; one command runs at a time; one that fails is said in the log and nothing else.
//! Leaves to others: what concerns an owner and what was told (`storage-node/logic`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use firn_base::Timestamp;
use firn_storage_node_logic::{Concern, Notice, NoticeBook, OwnerFacts, Silence, concerns};
use firn_transport::Environment;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::node::NodeHandle;
use crate::notify_command::run_notify_command;
use crate::shared::Shared;
use crate::store::{read_small, replace_small};

const NOTICES_FILE: &str = "notices";
const NOTICES_BYTES_MAX: u64 = 1 << 14;

// A disk that hangs keeps nobody from being told.
const WRITE_MOST: Duration = Duration::from_secs(10);
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(60);

// A look costs nothing but some locks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Since when the coordinators have not answered a node that runs, be it a moment, and what follows.
pub(crate) fn silence_of(shared: &Shared) -> Silence {
    silence_since(shared, shared.heard())
}

/// A silence since then, if anybody has answered in this run.
fn silence_since(shared: &Shared, answered: Option<Timestamp>) -> Silence {
    let started_millis = u64::try_from(shared.elapsed().as_millis()).unwrap_or(u64::MAX);
    let started = Timestamp::from_millis(shared.local_time().as_millis().saturating_sub(started_millis));
    // A clock that was ahead says of no answer that it is to come.
    let heard_before = shared.week.heard().filter(|heard| *heard <= started);
    let standing = *shared.standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Silence {
        since: answered.or(heard_before).unwrap_or(started),
        absent_until: standing.and_then(|standing| standing.absent_until),
        count_lost_after: shared.ledger.patience(),
    }
}

/// What concerns the owner of a node that runs.
pub(crate) fn concerns_of(shared: &Shared) -> Vec<Concern> {
    let now = shared.local_time();
    let running_for = shared.elapsed();
    let is_outdated = {
        let links = shared.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        links.values().any(|link| link.speaks_another_version) && !links.values().any(|link| link.connected)
    };
    let announced = shared.announced.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    // An old word, of a coordinator that does not lead or from before the leader was out of reach, is of nothing to come.
    let archive_now = shared.authority.now();
    let suspension = announced.flatten().filter(|notice| notice.at > archive_now);
    let (state, unknown_since) = {
        let membership = shared.membership();
        (membership.state(), membership.unknown_since())
    };
    let facts = OwnerFacts {
        state,
        suspension,
        unknown_for: unknown_since.map(|since| running_for.saturating_sub(since)),
        leaving: shared.leaving.load(std::sync::atomic::Ordering::Acquire),
        heard_ago: shared.heard_ago(),
        silence: silence_of(shared),
        led_ago: shared.led_ago(),
        leader_silence: silence_since(shared, shared.led()),
        running_for,
        is_outdated,
        shards: shared.store.shards(),
        unread_shards: shared.scrub.unread_shards(|name| shared.store.holds(name)),
        disk_filled: shared.disk_filled(),
        refused_deletions: shared.refusals().current(now),
    };
    concerns(&facts)
}

/// Tells the owner of a node what concerns them.
#[derive(Debug)]
pub struct OwnerNotifier {
    environment: Environment,
    command: String,
    // Of the node that ran last; none before one has.
    known: Option<Known>,
    book: NoticeBook,
    // Whether the book says what the disk does.
    is_written: bool,
    write_not_before: Instant,
    looked_at: Instant,
}

#[derive(Debug)]
struct Known {
    node: String,
    archive: String,
    // As it was at the last look.
    silence: Silence,
}

impl OwnerNotifier {
    /// Tells by `command`, which the shell runs.
    pub fn new(environment: Environment, command: String) -> Self {
        let (book, now) = (NoticeBook::default(), Instant::now());
        Self {
            environment,
            command,
            known: None,
            book,
            is_written: true,
            write_not_before: now,
            looked_at: now,
        }
    }

    /// Tells that the node has left.
    pub async fn tell_drained(&mut self, node: &NodeHandle) {
        self.get_to_know(node).await;
        let Some(notice) = self.book.take_drained() else { return };
        self.keep_book(node).await;
        self.tell(&notice).await;
    }

    /// Tells that the node ends because another process is heard as it.
    pub async fn tell_copied(&mut self, node: &NodeHandle) {
        self.get_to_know(node).await;
        let mut concerns = node.concerns();
        concerns.push(Concern::Copied);
        self.tell_new(&concerns, Some(node)).await;
    }

    /// Tells what is new of what concerns the owner: `node` is the running one, none while its disk is gone.
    pub async fn look(&mut self, node: Option<&NodeHandle>) {
        if let Some(node) = node {
            self.get_to_know(node).await;
        }
        // Before the first node runs nothing is gone.
        let Some(known) = &mut self.known else { return };
        let concerns = match node {
            Some(node) => {
                known.silence = node.silence();
                node.concerns()
            }
            None => vec![Concern::DiskGone(known.silence)],
        };
        self.tell_new(&concerns, node).await;
    }

    /// Tells what of `concerns` was not told.
    async fn tell_new(&mut self, concerns: &[Concern], node: Option<&NodeHandle>) {
        let passed = self.looked_at.elapsed();
        self.looked_at = Instant::now();
        let (notices, is_due) = self.book.take(concerns, passed);
        self.is_written &= !is_due;
        // While the disk is gone the book is in memory alone.
        let is_time = is_due || Instant::now() >= self.write_not_before;
        if let Some(node) = node.filter(|_| !self.is_written && is_time) {
            self.keep_book(node).await;
        }
        for notice in notices {
            self.tell(&notice).await;
        }
    }

    /// Reads what was told, when a node runs for the first time.
    async fn get_to_know(&mut self, node: &NodeHandle) {
        if self.known.is_some() {
            return;
        }
        let report = node.report();
        // It is not kept: whoever has it keeps others out of the data directory, also out of one that is mounted again.
        let disk = Arc::clone(node.disk());
        let read =
            self.environment.blocking(move || read_small(disk.as_ref(), NOTICES_FILE, NOTICES_BYTES_MAX));
        let kept = match read.await {
            Ok(kept) => kept.and_then(|bytes| String::from_utf8(bytes).ok()),
            Err(error) => {
                tracing::warn!(%error, "what the owner was told cannot be read: it may be told again");
                None
            }
        };
        self.book = kept.and_then(|text| text.parse().ok()).unwrap_or_default();
        self.known = Some(Known { node: report.node, archive: report.archive, silence: node.silence() });
    }

    /// Writes the book down. A disk that does not take it is tried again later: an owner whose disk fails has to hear of it all
    /// the same.
    async fn keep_book(&mut self, node: &NodeHandle) {
        let (disk, text) = (Arc::clone(node.disk()), self.book.to_text());
        let written = self.environment.blocking(move || -> io::Result<()> {
            disk.check_presence()?;
            replace_small(disk.as_ref(), "", NOTICES_FILE, text.as_bytes())
        });
        let written =
            timeout(WRITE_MOST, written).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.is_written = written.is_ok();
        if let Err(error) = written {
            self.write_not_before = Instant::now() + WRITE_AGAIN_AFTER;
            tracing::warn!(%error, "what the owner was told cannot be written down");
        }
    }

    async fn tell(&self, notice: &Notice) {
        let Some(known) = &self.known else { return };
        let text = notice_text(known, notice, self.environment.now());
        let command = self.command.clone();
        let ran = self.environment.blocking(move || run_notify_command(&command, text.as_bytes())).await;
        match ran {
            Ok(()) => tracing::info!(event = %notice.event, cause = notice.cause, "the owner was told"),
            Err(error) => {
                tracing::warn!(event = %notice.event, cause = notice.cause, %error, "the owner was not told");
            }
        }
    }
}

/// Looks after a node until its sender is gone: `node` is the running one, none while its disk is gone.
pub async fn keep_notifying(
    notifier: Arc<Mutex<OwnerNotifier>>,
    mut node: watch::Receiver<Option<NodeHandle>>,
) {
    loop {
        {
            let running = node.borrow_and_update().clone();
            notifier.lock().await.look(running.as_ref()).await;
        }
        // Whichever comes first.
        if let Ok(Err(_)) = timeout(LOOK_EVERY, node.changed()).await {
            return;
        }
    }
}

/// A notice as the command gets it: one line.
fn notice_text(known: &Known, notice: &Notice, now: Timestamp) -> String {
    let event = json!({
        "version": 1,
        "event": notice.event.to_string(),
        "cause": notice.cause,
        "sentence": notice.sentence,
        "consequence_at": notice.consequence_at.map(|at| at.to_string()),
        "node": known.node,
        "archive": known.archive,
        "at": now.to_string(),
    });
    format!("{event}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_a_line_of_json_with_all_that_a_person_needs() {
        let since = Timestamp::from_millis(1_795_383_909_000);
        let silence = Silence { since, absent_until: None, count_lost_after: None };
        let known = Known { node: "n".into(), archive: "a".into(), silence };
        let notice = Notice::from(&Concern::OutOfTouch(silence));
        let text = notice_text(&known, &notice, since.after(Duration::from_secs(3600)));
        assert!(text.ends_with("}\n") && text.lines().count() == 1);
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["version"], 1);
        assert_eq!(event["event"], "needs-attention");
        assert_eq!(event["cause"], "out-of-touch");
        assert_eq!(event["at"], "2026-11-22T22:45:09Z");
        assert_eq!(event["consequence_at"], "2026-11-25T21:45:09Z");
        assert_eq!((&event["node"], &event["archive"]), (&json!("n"), &json!("a")));
        let drained = NoticeBook::default().take_drained().unwrap();
        let drained: serde_json::Value = serde_json::from_str(&notice_text(&known, &drained, since)).unwrap();
        assert_eq!((&drained["event"], &drained["consequence_at"]), (&json!("drained"), &json!(null)));
    }
}
