//! What a publisher decides: what a source may lead to, which paths are its own, in which order paths are packed, how an
//! upload goes on, what a publish came to; which bundles are packed anew for purges.
//!
//! Owns: the rules of HTTP sources, the selection of paths and their order, which earlier bundles are used, the upload as a
//! state machine, the summary and its exit code.
//! Always holds: no IO, no clock, no chance; time and events come in as arguments, and equal arguments give equal decisions.
//! Leaves to others: reading sources, checking, coding and sending (the client library).

mod accounting;
mod address_rule;
mod body_version;
mod compaction_rounds;
mod dependency_choice;
mod fetch_failure;
mod following;
mod order_by_use;
mod package_name;
mod packing;
mod parted_group;
mod plan_window;
mod publish_order;
mod rate_floor;
mod repack_work;
mod replacement_attempts;
mod retry_schedule;
mod s3_address;
mod s3_refusal;
mod selection;
mod server_state;
mod shard_progress;
mod summary;
mod upload;
mod upload_policy;
mod upload_step;

pub use accounting::{Accounts, BundleFacts, Grouping, OTHER_OBJECTS, ObjectFacts, Takings};
pub use address_rule::AddressRule;
pub use body_version::{BodyPart, BodyVersion};
pub use compaction_rounds::CompactionRounds;
pub use dependency_choice::{DEPENDENCIES_MAX, DependencyChoice, DependencyPlan, QUARTER_BYTES};
pub use fetch_failure::{FetchFailure, FetchVerdict};
pub use following::{Following, RoundOutcome};
pub use order_by_use::{UsedBytes, order_by_use};
pub use package_name::package_and_version;
pub use packing::{PackingPath, packing_order};
pub use parted_group::{GroupMember, parted};
pub use plan_window::{PlanWindow, WindowRoom};
pub use publish_order::{NewestRelease, OrderClass, OrderFacts, ParseOrderClassError, PublishOrder};
pub use rate_floor::RateFloor;
pub use repack_work::RepackWork;
pub use replacement_attempts::{MARK_BYTES, ReplacementAttempts};
pub use retry_schedule::RetrySchedule;
pub use s3_address::{S3Address, S3AddressError, S3Style};
pub use s3_refusal::{S3Asked, S3Refusal};
pub use selection::{ParseShareError, Selection, Share};
pub use server_state::ServerState;
pub use shard_progress::SendFailure;
pub use summary::{NotedFile, PublishSummary, RefusedPath, WaitingPath};
pub use upload::Upload;
pub use upload_policy::UploadPolicy;
pub use upload_step::{ShardSend, UploadError, UploadOutcome, UploadStep, UploadedPart};
