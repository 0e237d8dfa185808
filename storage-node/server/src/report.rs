//! What the node says of itself to its owner.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_base::Timestamp;
use firn_storage_node_logic::{LeaveProgress, out_of_touch};
use firn_wire::DrainBacklog;
use serde::{Deserialize, Serialize};

use crate::owner;
use crate::shared::Shared;

/// The node at a glance; `firn-storage-node status --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node's id.
    pub node: String,
    /// The archive's id.
    pub archive: String,
    /// Where readers are told to reach it.
    pub address: String,
    /// Its failure domain.
    pub failure_domain: String,
    /// Where it is in its life, as a coordinator last said; none if it is not admitted.
    pub state: Option<String>,
    /// Whether its owner wants it to leave.
    pub leaving: bool,
    /// How far it has come with leaving; none if it does not, and before the coordinators have measured it.
    pub leave: Option<LeaveReport>,
    /// Milliseconds since 1970 until which it may be away, as its owner has declared; none if he has not.
    pub absent_until_millis: Option<u64>,
    /// For how many milliseconds he may declare that beyond it; none before a coordinator has said it.
    pub absence_left_millis: Option<u64>,
    /// Shards that it holds.
    pub shards: u64,
    /// Bytes of its quota in use: shards, files being written and trash.
    pub used_bytes: u64,
    /// Of these, trash.
    pub trash_bytes: u64,
    /// Bytes of the quota that the node's own files and directories take, the copy of the ledger among them.
    #[serde(default)]
    pub beside_bytes: u64,
    /// Bytes deleted by order within a day.
    pub deleted_bytes: u64,
    /// Bytes that it would still delete today.
    pub deletion_room_bytes: u64,
    /// Of these, bytes that may be the last of something, as those of abandoned uploads.
    pub deletion_room_unique_bytes: u64,
    /// Delete orders that it refused because they went beyond that; 0 once a day has passed without.
    pub refused_deletions: u64,
    /// Its quota.
    pub quota_bytes: u64,
    /// What the disk has free, as it said last.
    #[serde(default)]
    pub disk_free_bytes: u64,
    /// Whether the disk is so full that shards are refused for which the quota has room.
    #[serde(default)]
    pub is_disk_filled: bool,
    /// How many bytes it uploads in a second at most; none without a bound.
    pub max_upload_bytes_per_second: Option<u64>,
    /// The same at this moment: outside its hours it is less.
    pub max_upload_now_bytes_per_second: Option<u64>,
    /// How many bytes it downloads in a second at most; none without a bound.
    pub max_download_bytes_per_second: Option<u64>,
    /// How many bytes may go over its line in a month; none without a limit.
    pub monthly_traffic_bytes: Option<u64>,
    /// Bytes that went over its line today, both ways, everything counted.
    pub traffic_today_bytes: u64,
    /// Bytes that did so this month. After a kill it is up to what went before it too much, and never too little.
    pub traffic_month_bytes: u64,
    /// Of these, bytes that went to readers whom the archive does not know; a tenth of a limited month at most.
    pub traffic_month_strangers_bytes: u64,
    /// The hours of a day in which it works; none if it always does.
    pub active_hours: Option<String>,
    /// Why it does nothing now but stay in touch; none if it works.
    pub rest: Option<String>,
    /// Milliseconds since 1970 when that ends by itself; none if it works.
    pub rest_until_millis: Option<u64>,
    /// Milliseconds since 1970 when its pause ends; none if it is not paused.
    pub paused_until_millis: Option<u64>,
    /// Bytes sent since it was started, everything counted.
    pub uploaded_bytes: u64,
    /// Bytes received since it was started, everything counted.
    pub downloaded_bytes: u64,
    /// Shards found damaged since it was started.
    pub damaged: u64,
    /// Shards that it has read again since it was started and that were whole.
    pub scrubbed: u64,
    /// Shards that the disk did not give when they were to be read again.
    pub scrub_unread: u64,
    /// Milliseconds since 1970 when every shard had been read again for the last time; none before the first time.
    pub scrub_ended_millis: Option<u64>,
    /// Generation of the roster in force.
    pub generation: u64,
    /// Entries of its copy of the ledger.
    pub ledger_entries: u64,
    /// By how much the archive's clock is ahead of the machine's.
    pub clock_offset_millis: i64,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// What its owner has to see to, the gravest first.
    pub attention: Vec<AttentionReport>,
    /// Seconds since somebody who had dialled it last asked it something: a reader, an uploader or another node. None since
    /// it was started: nobody knows then whether it can be reached.
    pub dialled_seconds_ago: Option<u64>,
    /// Ranges served to readers in the last week.
    pub reads_helped_in_week: u64,
    /// Seconds since a coordinator last answered, also one that is none any more; none if none has since it was started.
    pub heard_seconds_ago: Option<u64>,
    /// Its links to the coordinators.
    pub coordinators: Vec<LinkReport>,
    /// What it has done since it was started.
    pub done: WorkReport,
}

/// How far a node has come with leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveReport {
    /// Shards that have another home since it was started.
    pub moved: u64,
    /// Shards still to be moved.
    pub to_move: u64,
    /// Those of them for which there is no other home at all.
    pub without_home: u64,
    /// Those of them for which there is none now.
    pub home_unavailable: u64,
    /// Seconds that it takes at the pace of the last hour; none while nothing moves, and where nothing can.
    pub seconds_left: Option<u64>,
}

impl LeaveReport {
    /// The same in words.
    pub fn sentence(&self) -> String {
        let Self { moved, to_move, without_home, home_unavailable, seconds_left } = *self;
        let backlog = DrainBacklog { to_move, without_home, home_unavailable };
        let time = match seconds_left {
            _ if to_move <= without_home => String::new(),
            None => "; how long that takes is not known yet".to_owned(),
            Some(seconds) if seconds >= 7200 => format!("; about {} h more at this pace", seconds / 3600),
            Some(seconds) => format!("; about {} min more at this pace", seconds.div_ceil(60)),
        };
        format!("{moved} shards moved, {backlog}{time}")
    }
}

impl From<LeaveProgress> for LeaveReport {
    fn from(progress: LeaveProgress) -> Self {
        let DrainBacklog { to_move, without_home, home_unavailable } = progress.backlog;
        let seconds_left = progress.time_left.map(|time| time.as_secs());
        Self { moved: progress.moved, to_move, without_home, home_unavailable, seconds_left }
    }
}

/// Something that the owner has to see to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionReport {
    /// The name of the cause, which stays.
    pub cause: String,
    /// What is the matter and what to do.
    pub sentence: String,
    /// Milliseconds since 1970 when the archive does something about it; none if nothing follows at a known time.
    pub consequence_millis: Option<u64>,
}

/// The link to one coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkReport {
    /// The coordinator.
    pub id: String,
    /// Where it is dialled.
    pub address: String,
    /// Whether there is a connection.
    pub connected: bool,
    /// Seconds since it last answered a heartbeat; none if it never did.
    pub heard_seconds_ago: Option<u64>,
    /// Why there is no connection.
    pub trouble: Option<String>,
}

/// What a node has done since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkReport {
    /// Ranges served to readers, auditors and workers of builds.
    pub ranges_served: u64,
    /// Of these, ranges to readers.
    pub reads_helped: u64,
    /// Bytes of these to readers, proofs included.
    pub bytes_served: u64,
    /// Of these, bytes to readers whom the archive does not know.
    pub stranger_bytes_served: u64,
    /// Bytes of these to workers of builds, proofs included.
    pub build_bytes_served: u64,
    /// Shards taken.
    pub shards_stored: u64,
    /// Bytes of these.
    pub bytes_stored: u64,
    /// Shards moved to trash by order.
    pub shards_trashed: u64,
    /// Build orders carried out.
    pub builds: u64,
    /// Bytes read from other nodes for them.
    pub build_bytes_read: u64,
    /// Bytes sent to other nodes for them.
    pub build_bytes_sent: u64,
    /// Bytes that went out for builds, served to their workers or sent to their targets, as they went.
    pub build_bytes_uploaded: u64,
    /// Requests refused.
    pub refusals: u64,
    /// Of these, delete orders that went beyond what it deletes within a day.
    pub deletions_refused: u64,
}

impl NodeReport {
    pub(crate) fn of(shared: &Shared) -> Self {
        let links = shared.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let coordinators = links
            .into_iter()
            .map(|(id, link)| LinkReport {
                id: id.to_string(),
                address: link.address,
                connected: link.connected,
                heard_seconds_ago: link.heard.map(|at| at.elapsed().as_secs()),
                trouble: link.trouble,
            })
            .collect();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        let now = shared.local_time();
        let figures = shared.store.figures(now);
        let scrub = shared.scrub.counts();
        let lent = &shared.lent;
        let traffic = lent.figures(&shared.environment);
        let standing = *shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let archive_now = shared.authority.now();
        let absent_until =
            standing.and_then(|standing| standing.absent_until).filter(|until| *until > archive_now);
        let leave = {
            let is_draining = shared.membership().is_draining();
            let watch = shared.leave_watch.lock().unwrap_or_else(PoisonError::into_inner);
            watch.progress().filter(|_| is_draining)
        };
        let attention = owner::concerns_of(shared).into_iter().map(|concern| AttentionReport {
            cause: concern.cause().to_owned(),
            sentence: concern.sentence(),
            consequence_millis: concern.consequence_at().map(Timestamp::as_millis),
        });
        Self {
            node: shared.id().to_string(),
            archive: shared.archive.to_string(),
            address: shared.address.clone(),
            failure_domain: shared.failure_domain.clone(),
            state: shared.membership().state().map(|state| state.to_string()),
            leaving: shared.leaving.load(Ordering::Acquire),
            leave: leave.map(LeaveReport::from),
            absent_until_millis: absent_until.map(Timestamp::as_millis),
            absence_left_millis: standing.map(|standing| standing.absence_left_millis),
            shards: figures.shards,
            used_bytes: figures.used.0,
            trash_bytes: figures.trash.0,
            beside_bytes: figures.beside.0,
            deleted_bytes: figures.young.deleted_bytes,
            deletion_room_bytes: figures.deletion_room.all.0,
            deletion_room_unique_bytes: figures.deletion_room.unique.0,
            refused_deletions: shared.refusals().current(now),
            quota_bytes: figures.quota.0,
            disk_free_bytes: shared.disk_room().free().0,
            is_disk_filled: shared.disk_filled().is_some(),
            max_upload_bytes_per_second: lent.terms.max_upload.map(|rate| rate.bytes_per_second),
            max_upload_now_bytes_per_second: lent.line.rates().upload.map(|rate| rate.bytes_per_second),
            max_download_bytes_per_second: lent.terms.max_download.map(|rate| rate.bytes_per_second),
            monthly_traffic_bytes: lent.terms.monthly_traffic.map(|bytes| bytes.0),
            traffic_today_bytes: traffic.today.0,
            traffic_month_bytes: traffic.this_month.0,
            traffic_month_strangers_bytes: traffic.strangers_this_month.0,
            active_hours: lent.terms.active_hours.map(|hours| hours.to_string()),
            rest: traffic.rest.map(|rest| rest.to_string()),
            rest_until_millis: traffic.rest_until.map(Timestamp::as_millis),
            paused_until_millis: traffic.paused_until.map(Timestamp::as_millis),
            uploaded_bytes: lent.line.sent_bytes(),
            downloaded_bytes: lent.line.received_bytes(),
            damaged: shared.store.losses(),
            scrubbed: scrub.whole,
            scrub_unread: scrub.unread,
            scrub_ended_millis: shared.scrub.ended().map(Timestamp::as_millis),
            generation: shared.client.roster().roster().generation,
            ledger_entries: shared.ledger.entries(),
            clock_offset_millis: shared.authority.clock_offset_millis(),
            uptime_seconds: shared.elapsed().as_secs(),
            attention: attention.collect(),
            dialled_seconds_ago: shared.dialled_ago().map(|ago| ago.as_secs()),
            reads_helped_in_week: shared.week.reads_helped(now),
            heard_seconds_ago: shared.heard_ago().map(|ago| ago.as_secs()),
            coordinators,
            done: WorkReport {
                ranges_served: read(&counters.ranges_served),
                reads_helped: read(&counters.reads_helped),
                bytes_served: read(&counters.bytes_served),
                stranger_bytes_served: read(&counters.stranger_bytes_served),
                build_bytes_served: read(&counters.build_bytes_served),
                shards_stored: read(&counters.shards_stored),
                bytes_stored: read(&counters.bytes_stored),
                shards_trashed: read(&counters.shards_trashed),
                builds: read(&counters.builds),
                build_bytes_read: read(&counters.build_bytes_read),
                build_bytes_sent: read(&counters.build_bytes_sent),
                build_bytes_uploaded: shared.build_line.sent_bytes(),
                refusals: read(&counters.refusals),
                deletions_refused: read(&counters.deletions_refused),
            },
        }
    }

    /// For how long no coordinator has answered, if that is worth a word.
    pub fn out_of_touch(&self) -> Option<Duration> {
        let heard_ago = self.heard_seconds_ago.map(Duration::from_secs);
        out_of_touch(heard_ago, Duration::from_secs(self.uptime_seconds))
    }

    /// Whether the node takes part: admitted, and in touch with a coordinator.
    pub fn is_ready(&self) -> bool {
        self.state.is_some() && self.coordinators.iter().any(|link| link.connected)
    }

    /// The report in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let connected = self.coordinators.iter().filter(|link| link.connected).count() as u64;
        let done = &self.done;
        let gauges = [
            ("shards", "Shards held", self.shards),
            ("used_bytes", "Bytes of the quota in use", self.used_bytes),
            ("trash_bytes", "Bytes of trash", self.trash_bytes),
            ("beside_bytes", "Bytes of the node's own files and directories", self.beside_bytes),
            ("deleted_day_bytes", "Bytes deleted by order within a day", self.deleted_bytes),
            ("deletion_room_bytes", "Bytes that would still be deleted today", self.deletion_room_bytes),
            (
                "deletion_room_unique_bytes",
                "Bytes that would still be deleted today though nothing else may hold them",
                self.deletion_room_unique_bytes,
            ),
            (
                "deletions_refused_day",
                "Delete orders refused for going too far, until a day has passed without",
                self.refused_deletions,
            ),
            ("quota_bytes", "The quota", self.quota_bytes),
            ("disk_free_bytes", "Bytes that the disk has free", self.disk_free_bytes),
            (
                "max_upload_bytes_per_second",
                "The upload rate, 0 without a bound",
                self.max_upload_bytes_per_second.unwrap_or_default(),
            ),
            (
                "max_download_bytes_per_second",
                "The download rate, 0 without a bound",
                self.max_download_bytes_per_second.unwrap_or_default(),
            ),
            (
                "monthly_traffic_bytes",
                "Bytes that may go over the line in a month, 0 without a limit",
                self.monthly_traffic_bytes.unwrap_or_default(),
            ),
            ("traffic_day_bytes", "Bytes that went over the line today", self.traffic_today_bytes),
            ("traffic_month_bytes", "Bytes that went over the line this month", self.traffic_month_bytes),
            (
                "traffic_month_strangers_bytes",
                "Of these, bytes to readers whom the archive does not know",
                self.traffic_month_strangers_bytes,
            ),
            (
                "out_of_touch_seconds",
                "For how long no coordinator has answered, 0 while one does",
                self.out_of_touch().unwrap_or_default().as_secs(),
            ),
            (
                "leave_to_move_shards",
                "Shards that a leaving node still has to move, 0 in others",
                self.leave.map_or(0, |leave| leave.to_move),
            ),
            ("resting", "1 while the node does nothing but stay in touch", u64::from(self.rest.is_some())),
            ("coordinators_connected", "Coordinators with a connection", connected),
            ("needs_attention", "What the owner has to see to, 0 if nothing", self.attention.len() as u64),
            ("admitted", "1 if the archive knows this node", u64::from(self.state.is_some())),
            ("ledger_entries", "Entries of the copy of the ledger", self.ledger_entries),
            ("uptime_seconds", "Seconds since the start", self.uptime_seconds),
            (
                "scrub_ended_timestamp_seconds",
                "When every shard had been read again for the last time, 0 before the first time",
                self.scrub_ended_millis.unwrap_or_default() / 1000,
            ),
        ];
        let counters = [
            ("uploaded_bytes_total", "Bytes sent in all", self.uploaded_bytes),
            ("downloaded_bytes_total", "Bytes received in all", self.downloaded_bytes),
            ("damaged_shards_total", "Shards found damaged", self.damaged),
            ("scrubbed_shards_total", "Shards read again that were whole", self.scrubbed),
            ("scrub_unread_shards_total", "Shards that the disk did not give for it", self.scrub_unread),
            ("ranges_served_total", "Ranges served", done.ranges_served),
            ("reads_helped_total", "Ranges served to readers", done.reads_helped),
            ("served_bytes_total", "Bytes served to readers, proofs included", done.bytes_served),
            (
                "stranger_served_bytes_total",
                "Of these, bytes to readers whom the archive does not know",
                done.stranger_bytes_served,
            ),
            ("build_served_bytes_total", "Bytes served to workers of builds", done.build_bytes_served),
            ("shards_stored_total", "Shards taken", done.shards_stored),
            ("stored_bytes_total", "Bytes of shards taken", done.bytes_stored),
            ("shards_trashed_total", "Shards moved to trash by order", done.shards_trashed),
            ("builds_total", "Build orders carried out", done.builds),
            ("build_read_bytes_total", "Bytes read for build orders", done.build_bytes_read),
            ("build_sent_bytes_total", "Bytes sent for build orders", done.build_bytes_sent),
            ("build_uploaded_bytes_total", "Bytes that went out for builds", done.build_bytes_uploaded),
            ("refusals_total", "Requests refused", done.refusals),
            ("deletions_refused_total", "Delete orders refused for going too far", done.deletions_refused),
        ];
        let mut text = String::new();
        for (kind, list) in [("gauge", &gauges[..]), ("counter", &counters[..])] {
            for (name, help, value) in list {
                text.push_str(&format!(
                    "# HELP firn_node_{name} {help}.\n# TYPE firn_node_{name} {kind}\nfirn_node_{name} {value}\n"
                ));
            }
        }
        text
    }
}
