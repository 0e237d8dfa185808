//! Connections to named peers, each dialled once and used by all.
//!
//! Always holds: at most one dial to a peer that was not forgotten is under way, and it goes on when its
//! callers give up; after a failed dial the same address is left alone for a while (0.1 s, doubling to 2 s) and
//! callers get the last error at once; at most [`CONNECTIONS_MAX`] peers are kept, the longest unused are let go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_base::NodeId;
use tokio::sync::{Mutex as DialMutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{ConnectError, Connection, Endpoint};

/// Peers that a pool keeps connections to. Each costs a sign of life every three seconds.
pub const CONNECTIONS_MAX: usize = 1024;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);

// A node that comes back is found again within this, and heartbeats are as far apart.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Connections to named peers. Clones share them.
#[derive(Debug, Clone)]
pub struct ConnectionPool {
    endpoint: Endpoint,
    peers: Arc<Mutex<Peers>>,
}

#[derive(Debug, Default)]
struct Peers {
    known: BTreeMap<NodeId, Peer>,
    // Counts uses; a peer's last one says how long it was not used.
    uses: u64,
}

#[derive(Debug)]
struct Peer {
    link: Arc<DialMutex<Link>>,
    connection: Option<Connection>,
    last_use: u64,
}

/// What is known of the way to a peer. Locked while it is dialled.
#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    failed: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    address: String,
    error: ConnectError,
    pause: Duration,
    until: Instant,
}

impl ConnectionPool {
    /// An empty pool that dials from `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, peers: Arc::default() }
    }

    /// The endpoint it dials from.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A living connection to `peer`: the one there is, or a new one to `address`.
    pub async fn get(&self, peer: NodeId, address: &str) -> Result<Connection, ConnectError> {
        let link = {
            let mut peers = self.lock();
            let known = peers.touch(peer);
            if let Some(connection) = &known.connection
                && !connection.is_closed()
            {
                return Ok(connection.clone());
            }
            known.link.clone()
        };
        let mut link = link.lock_owned().await;
        if let Some(connection) = link.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        link.connection = None;
        if let Some(failure) = &link.failed
            && failure.address == address
            && Instant::now() < failure.until
        {
            return Err(failure.error.clone());
        }
        self.dial(peer, address, link).await.unwrap_or(Err(ConnectError::Closing))
    }

    /// Dials in a task of its own: a caller that gives up early must not make the next one start from nothing.
    fn dial(
        &self,
        peer: NodeId,
        address: &str,
        mut link: OwnedMutexGuard<Link>,
    ) -> JoinHandle<Result<Connection, ConnectError>> {
        let (pool, address) = (self.clone(), address.to_owned());
        tokio::spawn(async move {
            let result = pool.endpoint.connect(peer, &address).await;
            match &result {
                Ok(connection) => {
                    link.failed = None;
                    link.connection = Some(connection.clone());
                    if let Some(known) = pool.lock().known.get_mut(&peer) {
                        known.connection = Some(connection.clone());
                    }
                }
                Err(error) => {
                    let pause = match &link.failed {
                        Some(failure) if failure.address == address => (failure.pause * 2).min(BACKOFF_MAX),
                        _ => BACKOFF_FIRST,
                    };
                    let until = Instant::now() + pause;
                    link.failed = Some(Failure { address, error: error.clone(), pause, until });
                }
            }
            result
        })
    }

    /// The connection to `peer` if there is a living one.
    pub fn existing(&self, peer: NodeId) -> Option<Connection> {
        let peers = self.lock();
        let connection = peers.known.get(&peer)?.connection.as_ref()?;
        (!connection.is_closed()).then(|| connection.clone())
    }

    /// Lets go of what is known of `peer`: the next [`Self::get`] dials. Whoever uses the connection keeps it.
    pub fn forget(&self, peer: NodeId) {
        self.lock().known.remove(&peer);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    fn touch(&mut self, peer: NodeId) -> &mut Peer {
        if !self.known.contains_key(&peer) && self.known.len() >= CONNECTIONS_MAX {
            let longest_unused = self.known.iter().min_by_key(|(_, known)| known.last_use);
            if let Some(longest_unused) = longest_unused.map(|(peer, _)| *peer) {
                self.known.remove(&longest_unused);
            }
        }
        self.uses = self.uses.wrapping_add(1);
        let known = self.known.entry(peer).or_insert_with(|| Peer {
            link: Arc::default(),
            connection: None,
            last_use: 0,
        });
        known.last_use = self.uses;
        known
    }
}
