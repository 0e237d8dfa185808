//! What clients of an archive share: opening it, and publishing a binary cache into it.
//!
//! Owns: [`Archive`], sources, the pipeline of [`publish()`]: read, check, pack, code, restore, send, and [`repack()`].
//! Always holds: nothing is believed that a source says before it was checked; nothing is sent before it was restored;
//! memory is bounded whatever the size of a NAR; every wait ends.
//! Leaves to others: decisions (`firn-client-logic`), formats (`firn-bundle`, `firn-nix-format`), connections
//! (`firn-transport`), reading (`firn-retrieval`), printing (`firn-cli`).

mod archive;
mod archive_destination;
mod archived_objects;
mod background;
mod blob_file;
mod code;
mod compact;
mod content;
mod descriptor_source;
mod destination;
mod earlier;
mod events;
pub mod http_client;
mod nar_writer;
mod narinfo_reading;
mod pack;
mod paper_archive;
mod path_names;
mod pieces;
mod plan;
mod publish;
mod publish_options;
mod recipe_trial;
mod repack;
mod replacement;
mod restore;
mod ship;
mod sorted_lines;
mod source;
mod spool;
mod spooled_bundle;
mod survey;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;
mod windowed_publish;

pub use archive::{Archive, ArchiveOptions, OpenArchiveError, publisher_keys};
pub use archived_objects::KeepError;
pub use code::CodeError;
pub use compact::{CompactError, CompactOptions, Compacted, compact};
pub use events::{PublishEvent, PublishEvents};
pub use firn_bundle::FrameCompression;
pub use firn_client_logic::{
    Accounts, BundleFacts, CompactionRounds, Following, Grouping, NotedFile, ObjectFacts, OrderClass,
    PlanWindow, PublishOrder, PublishSummary, RefusedPath, RepackWork, RoundOutcome, Selection, Share,
    Takings, UploadError, UploadPolicy, WaitingPath,
};
pub use pack::PackError;
pub use paper_archive::{PaperArchive, PaperBundle, PaperRequests};
pub use path_names::{NameLines, PathNames};
pub use plan::PlanError;
pub use publish::publish;
pub use publish_options::{PublishError, PublishOptions, PublishStop, PublishStopped, publisher_endpoint};
pub use repack::{RepackError, RepackOptions, Repacked, repack};
pub use replacement::ReplaceError;
pub use restore::RestoreCheckError;
pub use ship::ShipError;
pub use source::{
    AwsCredentialsError, AwsEnvironment, S3Options, S3SourceError, SOURCE_CONNECTIONS_MAX, Source,
    SourceError, SourceFile, SourceOptions,
};
pub use spool::SpoolError;
pub use verify::VerifyError;
