//! What Nix writes and signs: store paths, path infos, signatures, compression, NARs, realisations, debuginfo links.
//!
//! Owns: reading and writing these formats, in bounded memory, from bytes that strangers made.
//! Always holds: no file, no network, no clock; what was signed is kept as it was published, references in
//! their order included; every length is checked before anything is allocated for it.
//! Leaves to others: where bytes come from, which publishers are accepted, what is archived.
//!
//! NARs are encoded by the crate `nix-archive`. Two things are read here rather than by a crate, and compared
//! with the crates `nix-narinfo` and `nix-archive` in the tests: narinfos, because the published order of
//! references must survive, and NARs, because a publisher pushes each decompressed byte once and cannot hand
//! the stream over to a reader that pulls.

mod cache_url;
mod compression;
mod debug_info;
mod decoder;
pub mod nar;
pub mod nixbase32;
mod parse_path_info;
mod path_info;
mod publisher_key;
mod realisation;
mod recipe;
mod reproduction;
mod sha256;
mod signature;
mod store_path;
mod verifying_reader;

pub use cache_url::{CACHE_URL_BYTES_MAX, CacheUrlError, check_cache_url};
pub use compression::{Compression, UnknownCompression};
pub use debug_info::{
    BuildId, DEBUG_INFO_BYTES_MAX, DebugInfoLink, ParseDebugInfoLinkError, ParseDebugInfoUrlError,
};
pub use decoder::{XZ_MEMORY_BYTES_MAX, ZSTD_WINDOW_LOG_MAX, decoder};
pub use nar::{EncodeNarError, Listing, ListingNode, ListingNotText, NarError, NarInspector, NarNode};
pub use nixbase32::ParseNixBase32Error;
pub use parse_path_info::{PATH_INFO_BYTES_MAX, ParsePathInfoError};
pub use path_info::PathInfo;
pub use publisher_key::{ParsePublisherKeyError, PublisherKey, PublisherSecretKey, accepted_by};
pub use realisation::{ParseRealisationUrlError, REALISATION_BYTES_MAX, RealisationError, RealisationUrl};
pub use recipe::{Recipe, RecipeEncoder};
pub use reproduction::{PublishedBytes, Reproduction};
pub use sha256::{ParseSha256Error, Sha256};
pub use signature::{NamedSignature, ParseSignatureError};
pub use store_path::{ParseStorePathError, STORE_DIR, STORE_PATH_NAME_BYTES_MAX, StorePath};
pub use verifying_reader::{NarMismatch, VerifyingReader};

/// The first 80 characters of a foreign text, with control characters escaped: fit for an error sentence.
fn preview(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
