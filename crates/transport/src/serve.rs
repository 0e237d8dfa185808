//! Answering the streams of connections, whoever dialled.
//!
//! Always holds: at most [`crate::EndpointOptions::bidi_streams_max`] handlers work for one connection, even
//! for a peer that breaks its streams off; a handler that panics ends its own stream only. Handlers that are at
//! work when the connection is lost go on to their end; when the serving future is dropped, they are too.

use std::future::Future;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::{Connection, Endpoint, Stream};

/// Answers streams.
pub trait Handler: Send + Sync + 'static {
    /// Answers one stream: reads the request, sends the reply, finishes.
    fn handle(&self, connection: &Connection, stream: Stream) -> impl Future<Output = ()> + Send;
}

/// Answers every stream that the peer opens, until the connection is over.
pub async fn serve_connection<H: Handler>(connection: Connection, handler: Arc<H>) {
    let mut handlers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept(), if handlers.len() < connection.streams_max() => {
                let Ok(stream) = stream else { break };
                let (connection, handler) = (connection.clone(), handler.clone());
                handlers.spawn(async move { handler.handle(&connection, stream).await });
            }
            Some(ended) = handlers.join_next() => log_panic(ended),
        }
    }
    while let Some(ended) = handlers.join_next().await {
        log_panic(ended);
    }
}

/// Answers every stream of every peer that dials, until the endpoint is closed. Whoever wants to keep the
/// connections (to open streams on them) runs its own loop of [`Endpoint::accept`] and [`serve_connection`].
pub async fn serve<H: Handler>(endpoint: &Endpoint, handler: Arc<H>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = endpoint.accept() => {
                let Some(connection) = connection else { return };
                connections.spawn(serve_connection(connection, handler.clone()));
            }
            Some(ended) = connections.join_next() => log_panic(ended),
        }
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a handler panicked: this is a bug of Firn, please report it");
    }
}
