//! The gateway: an archive served as an ordinary Nix binary cache over HTTP.
//!
//! Owns: the exact key set and following the feed, choosing among records of several publishers, routes,
//! headers and status codes, caches in memory. Always holds: absence is decided from local data and says as of
//! which feed position; what is archived but unreadable is never passed off as absent without saying so; a body
//! whose contents turn out wrong is cut before its clean end; memory is bounded whatever is asked. Leaves to
//! others: reading and checking contents (`firn-retrieval`), the network (`firn-transport`), flags (`firn`).
//!
//! [`Gateway::start`] serves; [`Gateway::open`] gives the same core without a port. [`Router`] answers requests
//! from any [`GatewayCore`], over whatever connection.

mod body;
mod bounded_cache;
mod coordinators;
mod feed_follower;
mod gateway;
mod gateway_core;
mod key_file;
mod key_set;
mod metrics;
mod narinfo;
mod open_object;
mod options;
mod range_header;
mod routes;
mod serve_error;
mod server;
mod shared_keys;
mod stall_guard;
mod variants;

pub use body::{BrokenOff, GatewayBody};
pub use coordinators::{
    CoordinatorsAway, FeedSource, KeyLocator, NetworkCoordinators, PublisherSource, RecordPlace,
};
pub use gateway::{ArchiveParts, Gateway, OpenGateway, RunningGateway, StartError};
pub use gateway_core::{CoreParts, GatewayCore};
pub use key_file::{KeyFile, KeyFileError};
pub use key_set::{FeedGap, KeyBytes, KeySet};
pub use narinfo::{RenderedNarInfo, nar_url};
pub use open_object::OpenObject;
pub use options::{GatewayOptions, ServerLimits, WhenUnreadable};
pub use routes::Router;
pub use serve_error::ServeError;
pub use server::{BoundPort, ListenError, RunningServer};
