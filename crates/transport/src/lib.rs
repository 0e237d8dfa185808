//! Machines of an archive talking to each other: QUIC with proved identities, framed streams, bounds.
//!
//! Owns: the environment of every shell (clock, sockets, entropy, blocking work), endpoints, connections and
//! streams, connection pools, asking an archive's coordinators, data directories and key files. Always holds:
//! a peer is the key that it proved; every length that a stranger names is bounded before anything is
//! allocated; every wait ends. Leaves to others: what the messages mean and who may send them.

mod ask;
mod connection;
mod coordinator_client;
mod coordinator_requests;
mod data_dir;
mod endpoint;
mod environment;
mod error;
mod identity_file;
mod kept_ledger;
mod ledger;
mod line;
mod listener;
mod options;
mod pace;
mod paced_socket;
mod pool;
mod reply_check;
mod serve;
mod stream;
mod system;
mod tls;

pub use ask::AskError;
pub use connection::Connection;
pub use coordinator_client::CoordinatorClient;
pub use coordinator_requests::{Committed, FeedNews};
pub use data_dir::{DataDir, DataDirError, write_synced};
pub use endpoint::{CONNECT_TIMEOUT, Endpoint};
pub use environment::{Blocking, BoxFuture, Clock, DiskPace, Entropy, Environment, Sockets};
pub use error::{BindError, ConnectError, StreamError};
pub use identity_file::{
    IDENTITY_FILE, IdentityFileError, load_identity, load_or_create_identity, write_identity,
};
pub use ledger::{LedgerError, VerifiedLedger};
pub use line::{Line, LineRates};
pub use options::EndpointOptions;
pub use pace::Pace;
pub use pool::{CONNECTIONS_MAX, ConnectionPool};
/// For implementations of [`Sockets`].
pub use quinn;
pub use serve::{Handler, serve, serve_connection};
pub use stream::Stream;
