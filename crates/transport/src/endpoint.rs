//! One UDP socket with one identity, for dialling and for being dialled.
//!
//! Always holds: every connection handed out has a proved peer; a connection dialled is with the peer asked
//! for; whatever else arrives on the port is dropped. Everything random comes from the environment; the key
//! of stateless resets comes from the identity, so that peers of a program that was killed and started again
//! learn it at their next packet. Leaves to others: what peers may do, and when to dial again (`pool`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use firn_base::{BitRate, NodeId, PublicKey};
use firn_wire::Identity;
use quinn::{ClientConfig, ConnectionId, EndpointConfig, NoneTokenStore};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::listener::{self, Listener};
use crate::paced_socket::PacedSocket;
use crate::tls::{SERVER_NAME, TlsParty};
use crate::{BindError, BoxFuture, ConnectError, Connection, EndpointOptions, Environment};

/// How long a dialled peer has to finish the handshake. Two lost first packets are made up for in it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

// Peers hear of a close at once where the line is good; one round trip to the far side of the world is 0.4 s.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

// The kernel counts a datagram as twice its size or more, and they come a dozen at a time.
const QUEUE_BYTES_LEAST: usize = 64 << 10;

// Finished handshakes that wait for `accept`. More newcomers wait in their handshake, within its bound.
const ACCEPTED_MAX: usize = 64;

/// One UDP socket with one identity. Clones are the same endpoint; the socket closes with the last of them
/// and the last of its connections.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    environment: Environment,
    quic: quinn::Endpoint,
    local_address: SocketAddr,
    public: PublicKey,
    tls: TlsParty,
    near: Arc<quinn::TransportConfig>,
    far: Arc<quinn::TransportConfig>,
    options: EndpointOptions,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    listener: Option<AbortHandle>,
}

impl Endpoint {
    /// Opens `listen` for dialling and being dialled. Runs in the caller's tokio runtime.
    pub async fn bind(
        environment: &Environment,
        identity: &Identity,
        listen: SocketAddr,
        options: EndpointOptions,
    ) -> Result<Self, BindError> {
        Self::open(environment, identity, listen, options, true).await
    }

    /// Opens any free port for dialling only: nobody can connect to it.
    pub async fn bind_client(
        environment: &Environment,
        identity: &Identity,
        options: EndpointOptions,
    ) -> Result<Self, BindError> {
        let any = environment.sockets().any_address();
        match Self::open(environment, identity, any, options.clone(), false).await {
            // A machine without IPv6.
            Err(_) if any.is_ipv6() => {
                let any = (Ipv4Addr::UNSPECIFIED, 0).into();
                Self::open(environment, identity, any, options, false).await
            }
            result => result,
        }
    }

    fn open<'a>(
        environment: &'a Environment,
        identity: &'a Identity,
        listen: SocketAddr,
        options: EndpointOptions,
        accepts: bool,
    ) -> BoxFuture<'a, Result<Self, BindError>> {
        Box::pin(Self::opened(environment, identity, listen, options, accepts))
    }

    async fn opened(
        environment: &Environment,
        identity: &Identity,
        listen: SocketAddr,
        options: EndpointOptions,
        accepts: bool,
    ) -> Result<Self, BindError> {
        let refuse = |error: std::io::Error| BindError::from_io(listen, error);
        let refuse_tls = |error: rustls::Error| BindError::Tls(error.to_string());
        let tls = TlsParty::new(environment, identity).map_err(refuse_tls)?;
        let (near, far) = (options.transport(true), options.transport(false));
        let received = options.line.as_ref().and_then(|line| line.rates().download).map(queue_bytes);
        let mut socket = environment.sockets().bind(listen, received).await.map_err(refuse)?;
        if let Some(line) = &options.line {
            socket = Arc::new(PacedSocket::new(socket, Arc::clone(line)));
        }
        let config = endpoint_config(environment, identity, &options);
        let runtime = Arc::new(quinn::TokioRuntime);
        let quic =
            quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime).map_err(refuse)?;
        let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
        let listener = if accepts {
            let near = listener::server_config(environment, &tls, &near, &options).map_err(refuse_tls)?;
            let far = listener::server_config(environment, &tls, &far, &options).map_err(refuse_tls)?;
            quic.set_server_config(Some((*far).clone()));
            let listener = Listener { quic: quic.clone(), near, far, options: options.clone(), sender };
            Some(tokio::spawn(listener.run()).abort_handle())
        } else {
            None
        };
        let local_address = quic.local_addr().map_err(refuse)?;
        let (environment, public) = (environment.clone(), identity.public());
        let accepted = Mutex::new(receiver);
        let inner =
            Inner { environment, quic, local_address, public, tls, near, far, options, accepted, listener };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The address it was bound to, with the port that was chosen.
    pub fn local_address(&self) -> SocketAddr {
        self.inner.local_address
    }

    /// The key it shows to peers.
    pub fn public(&self) -> PublicKey {
        self.inner.public
    }

    /// The world it lives in.
    pub fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// Dials `peer` at `address` (`host:port`). Whoever else answers there is an error that names both.
    pub async fn connect(&self, peer: NodeId, address: &str) -> Result<Connection, ConnectError> {
        let remote = self.resolve(peer, address).await?;
        let found = Arc::new(OnceLock::new());
        let failed = |reason: String| ConnectError::Failed { peer, address: address.to_owned(), reason };
        let config =
            self.client_config(peer, remote, found.clone()).map_err(|error| failed(error.to_string()))?;
        let connecting = match self.inner.quic.connect_with(config, remote, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(quinn::ConnectError::EndpointStopping) => return Err(ConnectError::Closing),
            Err(error) => return Err(failed(error.to_string())),
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => {
                Ok(Connection::new(connection, PublicKey::from(peer), self.inner.options.bidi_streams_max))
            }
            Ok(Err(error)) => {
                Err(ConnectError::from_quinn(peer, address, found.get().copied(), CONNECT_TIMEOUT, &error))
            }
            Err(_) => {
                Err(ConnectError::NoAnswer { peer, address: address.to_owned(), after: CONNECT_TIMEOUT })
            }
        }
    }

    /// The next peer that has dialled and finished its handshake; none once the endpoint is closed.
    pub async fn accept(&self) -> Option<Connection> {
        self.inner.accepted.lock().await.recv().await
    }

    /// Closes every connection, telling the peers, and accepts none from now on. The port is free once the
    /// last clone and connection are dropped.
    pub async fn close(&self) {
        if let Some(listener) = &self.inner.listener {
            listener.abort();
        }
        self.inner.quic.close(listener::CLOSED, b"shutting down");
        // Peers that hear nothing find out by their idle timeout.
        let _ = timeout(CLOSE_TIMEOUT, self.inner.quic.wait_idle()).await;
    }

    async fn resolve(&self, peer: NodeId, address: &str) -> Result<SocketAddr, ConnectError> {
        if let Ok(address) = address.parse() {
            return Ok(address);
        }
        let (sockets, name) = (self.inner.environment.sockets().clone(), address.to_owned());
        let resolved = self.inner.environment.blocking(move || sockets.resolve(&name)).await;
        resolved.map_err(|error| ConnectError::Address {
            peer,
            address: address.to_owned(),
            reason: error.to_string(),
        })
    }

    fn client_config(
        &self,
        peer: NodeId,
        remote: SocketAddr,
        found: Arc<OnceLock<PublicKey>>,
    ) -> Result<ClientConfig, rustls::Error> {
        let tls = self.inner.tls.client(PublicKey::from(peer), found)?;
        let near = remote.ip().to_canonical().is_loopback();
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(if near { self.inner.near.clone() } else { self.inner.far.clone() });
        config.token_store(Arc::new(NoneTokenStore));
        let environment = self.inner.environment.clone();
        config.initial_dst_cid_provider(Arc::new(move || {
            let mut id = [0; 16];
            environment.fill(&mut id);
            ConnectionId::new(&id)
        }));
        Ok(config)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

/// How much may wait for a line that goes at `rate`: a tenth of a second, so that signs of life come in time.
fn queue_bytes(rate: BitRate) -> usize {
    usize::try_from(rate.bytes_per_second / 10).unwrap_or(usize::MAX).max(QUEUE_BYTES_LEAST)
}

fn endpoint_config(
    environment: &Environment,
    identity: &Identity,
    options: &EndpointOptions,
) -> EndpointConfig {
    let secret = identity.seed();
    let reset_key = blake3::derive_key("firn-transport 2026 stateless reset", &secret);
    let id_key = blake3::derive_key("firn-transport 2026 connection ids", &secret);
    let id_key = u64::from_le_bytes(*id_key.first_chunk().expect("32 bytes begin with 8"));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset_key)));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config.rng_seed(Some(environment.seed()));
    config
        .max_udp_payload_size(options.datagram_bytes_max())
        .expect("the options allow between 1,472 and 65,527 bytes");
    config
}
