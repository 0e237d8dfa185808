//! NARs, the archives in which Nix ships store paths: inspecting, listing and making them.
//!
//! Always holds: an accepted NAR is the one canonical form of its tree, so encoding the tree again gives the
//! same bytes; inspecting takes memory for names only, never for contents, and does not recurse.

mod encode;
mod error;
mod inspector;
mod listing;

pub use encode::{EncodeNarError, NarNode, encode, encode_file};
pub use error::NarError;
pub use inspector::{
    DEPTH_MAX, ENTRIES_MAX, NAME_BYTES_MAX, NarInspector, TARGET_BYTES_MAX, TEXT_BYTES_MAX, inspect,
};
pub use listing::{Listing, ListingNode, ListingNotText};
