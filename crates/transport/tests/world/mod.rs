//! Endpoints on loopback for the tests.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use firn_base::NodeId;
use firn_transport::{Connection, Endpoint, EndpointOptions, Environment, Handler, Stream, serve};
use firn_wire::Identity;

pub(crate) const SOON: Duration = Duration::from_secs(5);
pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(crate) fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

pub(crate) async fn endpoint(number: u8) -> Endpoint {
    endpoint_at(number, LOOPBACK, EndpointOptions::default()).await
}

pub(crate) async fn endpoint_at(number: u8, listen: SocketAddr, options: EndpointOptions) -> Endpoint {
    Endpoint::bind(&Environment::real(), &identity(number), listen, options).await.unwrap()
}

pub(crate) fn address(endpoint: &Endpoint) -> String {
    endpoint.local_address().to_string()
}

pub(crate) fn node(number: u8) -> NodeId {
    identity(number).node_id()
}

/// Answers every number with its double.
pub(crate) struct Doubler;

impl Handler for Doubler {
    async fn handle(&self, _connection: &Connection, mut stream: Stream) {
        if let Ok(number) = stream.receive::<u64>(100).await {
            stream.send(&(number * 2)).await.unwrap();
            stream.finish();
        }
    }
}

/// Serves in the background until the endpoint is closed.
pub(crate) fn spawn_doubler(endpoint: &Endpoint) -> tokio::task::JoinHandle<()> {
    let endpoint = endpoint.clone();
    tokio::spawn(async move { serve(&endpoint, Arc::new(Doubler)).await })
}
