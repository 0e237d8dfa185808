//! What a storage node decides: whether to take, serve or delete a shard, and what to say to whom when.
//!
//! Owns: the quota, what is left of a disk that others fill, what is lent of a line and when, whose reads come first, the order of orders, the checks of passes, tickets and orders, archive time, the trash
//! rules and their allowances, when shards are read again, what concerns the owner and is told, and the conversation
//! with each coordinator.
//! Always holds: no IO, no clock, no randomness; the same calls give the same answers.
//! Leaves to others: disks, sockets and keys (`storage-node/server`).

mod admission;
mod archive_time;
mod concern;
mod contact;
mod copies;
mod disk_room;
mod erasure;
mod fair_turns;
mod index_care;
mod known_readers;
mod leaving;
mod line_terms;
mod local_time;
mod notice;
mod orders;
mod patience;
mod quota;
mod refusals;
mod rest;
mod scrub;
mod session;
mod strangers;
#[cfg(test)]
mod test_ledger;
mod traffic_book;
mod trash;
mod week;

pub use admission::{AdmissionError, Grounds, ReadRight};
pub use archive_time::ArchiveTime;
pub use concern::{COUNT_LOST_AFTER, Concern, OwnerFacts, Silence, concerns};
pub use contact::{OUT_OF_TOUCH_AFTER, out_of_touch};
pub use copies::Copies;
pub use disk_room::{DiskFilled, DiskRoom};
pub use erasure::erased_bundles;
pub use fair_turns::{AskedTurn, FairTurns, Place, TurnBounds};
pub use index_care::{IndexCare, IndexCounts};
pub use known_readers::{KnownReaders, ReaderClass};
pub use leaving::{LeaveProgress, LeaveWatch};
pub use line_terms::LineTerms;
pub use local_time::{ActiveHours, Date, LocalTime, ParseDateError, ParseHoursError};
pub use notice::{Notice, NoticeBook, NoticeEvent, ParseNoticesError};
pub use orders::{OrderGate, OrderRefused};
pub use patience::patience;
pub use quota::{Account, Admitted, INDEX_RECORD_BYTES, QuotaExceeded};
pub use refusals::DeletionRefusals;
pub use rest::{
    PAUSE_MOST, Pains, REST_UPLOAD, Work, admit_work, pause_until, rest, rest_until, upload_rate,
};
pub use scrub::{ScrubGoal, ScrubPlan};
pub use session::{HEARTBEAT_INTERVAL, JOIN_RETRY, Known, Membership, Session, Step, reconnect_delay};
pub use strangers::{
    STRANGERS_PER_CENT, on_the_line, part_of_rate, stranger_turn_most, strangers_month, strangers_rate,
};
pub use traffic_book::{KeptTraffic, ParseTrafficError, TrafficBook};
pub use trash::{
    DeletionLimits, TRASH_KEPT, TRASH_KEPT_LEAST, TooManyDeletes, TrashEntry, YoungTrash, expired_trash,
    trash_for_room,
};
pub use week::{HourCounts, ParseWeekError, WeekBook};
