//! UDP in the simulated world, as quinn wants it.
//!
//! Always holds: every datagram goes into the trace when it is sent and when it arrives; a send never fails, what
//! a partition or the seed takes is lost silently, as on a real network.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use firn_transport::quinn::udp::{RecvMeta, Transmit};
use firn_transport::quinn::{AsyncUdpSocket, UdpPoller};
use firn_transport::{BoxFuture, Sockets};
use turmoil::net::UdpSocket;

use crate::chance::Chance;
use crate::trace;

/// Sockets of one run of one program.
#[derive(Debug)]
pub(crate) struct SimulatedSockets {
    chance: Chance,
    loss_per_mille: u64,
}

impl SimulatedSockets {
    /// Sockets that lose so many of a thousand datagrams.
    pub(crate) const fn new(chance: Chance, loss_per_mille: u64) -> Self {
        Self { chance, loss_per_mille }
    }
}

impl Sockets for SimulatedSockets {
    fn bind(
        &self,
        address: SocketAddr,
        _queue_bytes: Option<usize>,
    ) -> BoxFuture<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        let (chance, loss_per_mille) = (self.chance.clone(), self.loss_per_mille);
        Box::pin(async move {
            let socket = Arc::new(UdpSocket::bind(address).await?);
            let local = socket.local_addr()?;
            let state = Mutex::new(State { chance, readable: None });
            Ok(Arc::new(SimulatedUdp { socket, local, loss_per_mille, state }) as Arc<dyn AsyncUdpSocket>)
        })
    }

    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        Ok((turmoil::lookup(host), port).into())
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct SimulatedUdp {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    loss_per_mille: u64,
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    readable: Option<Readable>,
}

impl SimulatedUdp {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimulatedUdp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimulatedUdp({})", self.local)
    }
}

impl AsyncUdpSocket for SimulatedUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        trace::count_sent(transmit.contents.len());
        trace::note(&format!("sent to {}", transmit.destination), transmit.contents);
        if !self.state().chance.per_mille(self.loss_per_mille) {
            let _ = self.socket.try_send_to(transmit.contents, transmit.destination);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let mut state = self.state();
        loop {
            if let Some(readable) = state.readable.as_mut() {
                match readable.as_mut().poll(context) {
                    Poll::Ready(result) => {
                        state.readable = None;
                        result?;
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.socket.try_recv_from(buffer) {
                Ok((length, addr)) => {
                    *meta = RecvMeta { addr, len: length, stride: length, ecn: None, dst_ip: None };
                    trace::note(&format!("came from {addr}"), &buffer[..length]);
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let socket = Arc::clone(&self.socket);
                    state.readable = Some(Box::pin(async move { socket.readable().await }));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
