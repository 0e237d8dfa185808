//! Publishing as a whole, from real caches in directories into an archive of this process.
//!
//! The archive here keeps shards in files, signs like real coordinators and nodes, checks what they check, and
//! can be told to misbehave. The same over the network is tested with the whole programs.

mod archive;
mod bad_input;
pub(crate) mod cache;
mod compact;
mod earlier;
mod faults;
mod large;
mod patches;
mod pipeline;
mod recipes;
mod repack;
mod servers;
mod small_bundles;
mod transfer;
mod windows;
