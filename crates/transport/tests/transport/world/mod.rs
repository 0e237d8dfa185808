//! Endpoints on loopback for the tests.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_base::NodeId;
use firn_transport::{Connection, Endpoint, EndpointOptions, Environment, Handler, Stream, serve};
use firn_wire::Identity;
use tokio::net::UdpSocket;

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

/// A way on which the connections are counted that are begun there.
pub(crate) struct CountedWay {
    /// Where it begins.
    pub(crate) address: String,
    /// What dialling ends call themselves.
    dials: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl CountedWay {
    /// A way to `server`, for one peer at a time.
    pub(crate) async fn to(server: &Endpoint) -> Self {
        Self::begin(Some(server.local_address())).await
    }

    /// A way that leads nowhere.
    pub(crate) async fn nowhere() -> Self {
        Self::begin(None).await
    }

    async fn begin(server: Option<SocketAddr>) -> Self {
        let (front, back) =
            (UdpSocket::bind(LOOPBACK).await.unwrap(), UdpSocket::bind(LOOPBACK).await.unwrap());
        let address = front.local_addr().unwrap().to_string();
        let dials = Arc::<Mutex<BTreeSet<Vec<u8>>>>::default();
        let seen = Arc::clone(&dials);
        tokio::spawn(async move {
            let (mut there, mut here, mut client) = ([0; 2048], [0; 2048], None);
            loop {
                tokio::select! {
                    Ok((bytes, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        let packet = &there[..bytes];
                        seen.lock().unwrap().extend(dialling_end(packet).map(<[u8]>::to_vec));
                        if let Some(server) = server {
                            back.send_to(packet, server).await.unwrap();
                        }
                    }
                    Ok((bytes, _)) = back.recv_from(&mut here), if client.is_some() => {
                        front.send_to(&here[..bytes], client.unwrap()).await.unwrap();
                    }
                }
            }
        });
        Self { address, dials }
    }

    /// Connections that were begun, whatever came of them.
    pub(crate) fn dials(&self) -> usize {
        self.dials.lock().unwrap().len()
    }
}

/// What the end that sent this packet calls itself, if it is a first packet (RFC 9000, 17.2.2).
fn dialling_end(packet: &[u8]) -> Option<&[u8]> {
    let is_first = packet.first()? & 0b1011_0000 == 0b1000_0000;
    let (length, rest) = packet.get(5..)?.split_first()?;
    let (length, rest) = rest.get(usize::from(*length)..)?.split_first()?;
    rest.get(..usize::from(*length)).filter(|_| is_first)
}
