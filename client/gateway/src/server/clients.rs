//! What each client takes of the server: its connections, its requests, and its downloads.
//!
//! Owns: who counts as one client. Always holds: the table is bounded, and a client with open connections does not fall out
//! of it; clients of this machine are not limited, others behind a proxy on it are. Leaves to others: which address asks
//! (`client_address`), refusing.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::request_budget::{RequestBudget, RequestRate};
use crate::download_places::ClientPlaces;

/// All clients of late.
#[derive(Debug)]
pub(super) struct Clients {
    rate: Option<RequestRate>,
    connections_max: usize,
    began: Instant,
    table: Mutex<LruCache<ClientKey, Arc<Client>>>,
}

/// Whom limits count as one. Whoever has one address of IPv6 has 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ClientKey {
    V4(u32),
    V6Network(u64),
    /// All of whom a proxy at this address does not say clearly who they are.
    Behind(IpAddr),
}

#[derive(Debug, Default)]
pub(super) struct Client {
    connections: AtomicUsize,
    requests: RequestBudget,
    places: ClientPlaces,
}

impl Client {
    /// The places of downloads over all its connections.
    pub(super) const fn places(&self) -> &ClientPlaces {
        &self.places
    }
}

/// A client's connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ClientConnection(Arc<Client>);

/// The client has as many connections as one may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyConnections;

// Some 15 MB. Clients beyond come and go, the ones longest unheard of first, and begin anew.
const CLIENTS_MAX: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("it is not zero");

impl Clients {
    /// `rate` requests a second for each client, or as many as it likes; `connections_max` connections at once.
    pub(super) fn new(rate: Option<NonZeroU32>, connections_max: usize) -> Self {
        Self {
            rate: rate.map(RequestRate::new),
            connections_max,
            began: Instant::now(),
            table: Mutex::new(LruCache::new(CLIENTS_MAX)),
        }
    }

    /// The client at `address`; none if it is not limited.
    pub(super) fn find(&self, address: IpAddr) -> Option<Arc<Client>> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        let key = match address {
            IpAddr::V4(address) => ClientKey::V4(address.into()),
            IpAddr::V6(address) => {
                let [network, _] = halves(address.into());
                ClientKey::V6Network(network)
            }
        };
        Some(self.entry(key))
    }

    /// Who asks through `proxy`, if that is not clear: all of them together are one client. They are not of this
    /// machine, even where the proxy is.
    pub(super) fn behind(&self, proxy: IpAddr) -> Arc<Client> {
        self.entry(ClientKey::Behind(proxy.to_canonical()))
    }

    fn entry(&self, key: ClientKey) -> Arc<Client> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = table.get(&key) {
            return Arc::clone(client);
        }
        // Connections are far fewer than the table has places; if they are not, somebody is forgotten all the same.
        if table.len() == table.cap().get() {
            for _ in 0..table.len() {
                let Some((key, oldest)) = table.pop_lru() else { break };
                if oldest.connections.load(Ordering::Relaxed) == 0 {
                    break;
                }
                table.put(key, oldest);
            }
        }
        let client = Arc::<Client>::default();
        table.put(key, Arc::clone(&client));
        client
    }

    /// One more connection of `client`.
    pub(super) fn connect(&self, client: Arc<Client>) -> Result<ClientConnection, TooManyConnections> {
        let connection = ClientConnection(client);
        // Counted first: two that come at once do not both see the last place.
        if connection.0.connections.fetch_add(1, Ordering::Relaxed) < self.connections_max {
            Ok(connection)
        } else {
            Err(TooManyConnections)
        }
    }

    /// One more request of `client`.
    ///
    /// # Errors
    ///
    /// It has made too many: after the time given it may make one.
    pub(super) fn request(&self, client: &Client) -> Result<(), Duration> {
        self.rate.map_or(Ok(()), |rate| client.requests.take(self.began.elapsed(), rate))
    }
}

impl ClientConnection {
    pub(super) fn client(&self) -> &Client {
        &self.0
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The first and the last 64 bits.
fn halves(number: u128) -> [u64; 2] {
    let [first, last] = [number >> 64, number & u128::from(u64::MAX)];
    [first, last].map(|half| u64::try_from(half).expect("it has 64 bits"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn clients(rate: u32, connections: usize) -> Clients {
        Clients::new(NonZeroU32::new(rate), connections)
    }

    fn find(clients: &Clients, address: &str) -> Arc<Client> {
        clients.find(address.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        let clients = clients(1, 1);
        let same = |one, other| Arc::ptr_eq(&find(&clients, one), &find(&clients, other));
        assert!(same("192.0.2.1", "192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3") && !same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(
            ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
                .iter()
                .all(|local| clients.find(local.parse().unwrap()).is_none())
        );
    }

    #[test]
    fn a_connection_counts_until_it_is_dropped() {
        let clients = clients(1, 2);
        let connect = || clients.connect(find(&clients, "192.0.2.1"));
        let (first, _second) = (connect().unwrap(), connect().unwrap());
        assert_eq!(connect().err(), Some(TooManyConnections));
        assert_eq!(connect().err(), Some(TooManyConnections), "whoever is refused takes no place");
        drop(first);
        assert!(connect().is_ok());
        assert!(clients.connect(find(&clients, "192.0.2.2")).is_ok(), "another client has places of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted_over_all_connections_of_a_client() {
        let clients = clients(1, 10);
        let request = |address| clients.request(&find(&clients, address));
        assert!((0..60).all(|_| request("192.0.2.1").is_ok()));
        assert_eq!(request("192.0.2.1"), Err(Duration::from_secs(1)));
        assert_eq!(request("192.0.2.2"), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(request("192.0.2.1"), Ok(()));
        assert!(
            (0..10_000).all(|_| super::tests::clients(0, 1).request(&find(&clients, "192.0.2.1")).is_ok())
        );
    }

    #[test]
    fn a_full_table_forgets_who_has_been_away_longest_and_nobody_who_is_here() {
        let clients = clients(1, 1);
        let here = clients.connect(find(&clients, "192.0.2.1")).unwrap();
        let gone = find(&clients, "192.0.2.2");
        for number in 0..=u32::try_from(CLIENTS_MAX.get()).unwrap() {
            clients.find(Ipv4Addr::from(0x0A00_0000 + number).into());
            let network = Ipv6Addr::from(u128::from(number) << 64 | 1 << 125);
            clients.find(network.into());
        }
        assert_eq!(clients.table.lock().unwrap().len(), CLIENTS_MAX.get());
        assert!(std::ptr::eq(here.client(), Arc::as_ptr(&find(&clients, "192.0.2.1"))));
        assert!(!Arc::ptr_eq(&gone, &find(&clients, "192.0.2.2")));
    }
}
