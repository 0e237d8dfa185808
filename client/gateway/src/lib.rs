//! The gateway: an archive served as an ordinary Nix binary cache over HTTP.
//!
//! Owns: keeping the archive's filters and following the end of its feed, choosing among records of several publishers,
//! routes, headers and status codes, caches in memory and on disk. Always holds: absence is decided from local data, or
//! from a range of the index that names no key, and says as of which feed position; what is archived but unreadable is
//! never passed off as absent without saying so; a body whose contents turn out wrong is cut before its clean end;
//! memory is bounded whatever is asked. Leaves to others: reading and checking contents (`firn-retrieval`), the network
//! (`firn-transport`), flags (`firn`).
//!
//! [`Gateway::start`] serves; [`Gateway::open`] gives the same core without a port. [`Router`] answers requests
//! from any [`GatewayCore`], over whatever connection.

// What integration tests read an archive in memory through is of use to tests in here, too.
#[cfg(test)]
extern crate self as firn_gateway;

mod body;
mod bounded_cache;
mod cached_payloads;
mod closure_walk;
mod compressed_nar;
mod coordinators;
mod disk_cache;
mod download_places;
mod explanation;
mod feed_follower;
mod feed_tail;
mod filter_agreement;
mod filter_chain;
mod filter_files;
mod filter_keeper;
mod filter_mirror;
mod frame_book;
mod frame_lengths;
mod gateway;
mod gateway_core;
mod governance_file;
mod key_lookup;
mod key_ranges;
mod key_view;
mod metrics;
mod narinfo;
mod open_object;
mod options;
mod place_book;
mod range_header;
mod reach;
mod remembering_source;
mod routes;
mod serve_error;
mod server;
mod shared_keys;
mod standings;
#[cfg(test)]
mod test_archive;
mod variants;
mod view_file;

pub use body::{BrokenOff, GatewayBody};
pub use coordinators::{
    BundleStanding, CoordinatorsAway, FeedError, FeedSource, FilterSource, Governance, GovernanceSource,
    KeyIndex, NetworkCoordinators, RecordPlace,
};
pub use feed_tail::{FeedGap, FeedTail};
pub use gateway::{ArchiveParts, Gateway, OpenGateway, RunningGateway, StartError};
pub use gateway_core::{CoreParts, GatewayCore};
pub use key_lookup::{KeyLookup, LocateError, Located};
pub use key_view::KeyView;
pub use narinfo::{RenderedNarInfo, nar_url};
pub use open_object::OpenObject;
pub use options::{FilterChoice, GatewayOptions, NarCompression, ParseFilterChoiceError, WhenUnreadable};
pub use routes::Router;
pub use serve_error::ServeError;
pub use server::{
    AddressRange, BoundPort, Certificate, CertificateError, CertificateFiles, ListenError, LogDestination,
    LogDetail, ParseAddressRangeError, RequestLog, RunningServer, ServerLimits, ServerOptions,
};
pub use view_file::ViewFileError;
