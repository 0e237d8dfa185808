//! The accepting half of an endpoint: handshakes of newcomers, a bounded number at a time.
//!
//! Always holds: a newcomer costs at most one handshake slot for at most five seconds; under load it must
//! first show that it owns its address; beyond the bounds it is turned away without any cryptography.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Incoming, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt};
use ring::hkdf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::tls::{TlsParty, peer_key};
use crate::{Connection, EndpointOptions, Environment};

/// The code of an orderly close.
pub(crate) const CLOSED: VarInt = VarInt::from_u32(0);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

// A handshake's packets from the newcomer come to about 2 KiB; the rest waits for its own retransmission.
const INCOMING_BYTES_MAX: u64 = 16 << 10;

pub(crate) struct Listener {
    pub(crate) quic: quinn::Endpoint,
    pub(crate) near: Arc<ServerConfig>,
    pub(crate) far: Arc<ServerConfig>,
    pub(crate) options: EndpointOptions,
    pub(crate) sender: mpsc::Sender<Connection>,
}

pub(crate) fn server_config(
    environment: &Environment,
    tls: &TlsParty,
    transport: &Arc<TransportConfig>,
    options: &EndpointOptions,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    // Retry tokens are good for 15 seconds: their key need not outlive the program.
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&environment.seed());
    let mut config = ServerConfig::new(Arc::new(tls.server()?), Arc::new(token_key));
    config.transport_config(transport.clone());
    config.time_source(tls.time_source());
    config.max_incoming(options.handshakes_max);
    config.incoming_buffer_size(INCOMING_BYTES_MAX);
    config.incoming_buffer_size_total(
        INCOMING_BYTES_MAX.saturating_mul(u64::try_from(options.handshakes_max).unwrap_or(u64::MAX)),
    );
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config.validation_token_config(tokens);
    Ok(Arc::new(config))
}

impl Listener {
    pub(crate) async fn run(self) {
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                incoming = self.quic.accept() => match incoming {
                    Some(incoming) => self.admit(incoming, &mut handshakes),
                    None => return,
                },
                Some(_) = handshakes.join_next() => {}
            }
        }
    }

    fn admit(&self, incoming: Incoming, handshakes: &mut JoinSet<()>) {
        if self.quic.open_connections() >= self.options.connections_max {
            incoming.refuse();
        } else if handshakes.len() >= self.options.handshakes_max {
            incoming.ignore();
        } else if handshakes.len() >= self.options.handshakes_max / 4 && incoming.may_retry() {
            // It fails only for those that showed a token already, and `may_retry` is about these.
            let _ = incoming.retry();
        } else {
            let near = incoming.remote_address().ip().to_canonical().is_loopback();
            let config = if near { self.near.clone() } else { self.far.clone() };
            let (sender, streams_max) = (self.sender.clone(), self.options.bidi_streams_max);
            handshakes.spawn(async move {
                let from = incoming.remote_address();
                match shake_hands(incoming, config, streams_max).await {
                    Ok(connection) => {
                        let _ = sender.send(connection).await;
                    }
                    Err(reason) => tracing::debug!(%from, reason, "a handshake failed"),
                }
            });
        }
    }
}

async fn shake_hands(
    incoming: Incoming,
    config: Arc<ServerConfig>,
    streams_max: u32,
) -> Result<Connection, String> {
    let connecting = incoming.accept_with(config).map_err(|error| error.to_string())?;
    let handshake =
        timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| "it took too long".to_owned())?;
    let connection = handshake.map_err(|error| error.to_string())?;
    match peer_key(&connection) {
        Some(peer) => Ok(Connection::new(connection, peer, streams_max)),
        None => {
            connection.close(CLOSED, b"no key was shown");
            Err("no key was shown".into())
        }
    }
}
