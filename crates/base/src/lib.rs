//! The words every other crate of Firn speaks: identifiers, indexes, counts, times and schemes.
//!
//! Owns: the newtypes of the glossary and how they print and parse, and small rules by which more than one program decides.
//! Always holds: no IO, no clock, no randomness; every identifier prints as lower-case hex.
//! Leaves to others: what identifiers are digests of (`bundle`), who signs what (`wire`).

mod address;
mod address_history;
mod availability;
mod disk_windows;
mod feature;
mod feed_range;
mod identifier;
mod joint_dependencies;
mod key_prefix;
mod object_key;
mod quantity;
mod scheme;
mod timestamp;

pub use address::{AddressPrefix, AsNumber, Country, CountryError, Origin};
pub use address_history::{AddressHistory, AddressHistoryError};
pub use availability::Availability;
pub use disk_windows::{DiskWindows, ParseDiskWindowsError};
pub use feature::{FEATURE_BYTES, Feature};
pub use feed_range::FeedRange;
pub use identifier::{
    ArchiveId, BundleId, BundleNumber, CodingId, Digest, FilterId, ManifestRoot, NodeId,
    ParseIdentifierError, PayloadRoot, PublicKey, ReservationId, ShardRoot, TokenId,
};
pub use joint_dependencies::JointDependencies;
pub use key_prefix::{KeyPrefix, KeyPrefixError};
pub use object_key::{KEY_BYTES, KeyKind, Location, ObjectKey, ParseKeyError};
pub use quantity::{BitRate, ByteCount, ParseQuantityError, parse_duration};
pub use scheme::{SHARD_BYTES_MIN, Scheme, SchemeError, ShardIndex, shard_bytes};
pub use timestamp::Timestamp;
