//! A gateway beside its clients whose archive is far away: whatever coordinators and nodes send arrives later.
//!
//! Always holds: datagrams keep their order, and each comes a round trip after it was sent, as if both ways took half of
//! it; what is on its way is bounded by far more than any line here carries in that time.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use firn_benches::process::Failure;
use firn_client::Archive;
use firn_gateway::{ArchiveParts, Gateway, GatewayOptions};
use firn_transport::quinn::udp::{RecvMeta, Transmit};
use firn_transport::quinn::{AsyncUdpSocket, UdpPoller};
use firn_transport::{Blocking, BoxFuture, EndpointOptions, Entropy, Environment, Sockets};
use firn_wire::{Descriptor, Identity};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// A gateway in this program, until it is dropped.
pub(crate) struct FarArchive {
    /// Where it serves.
    pub(crate) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

const DATAGRAM_BYTES_MAX: usize = 64 << 10;
const BYTES_ON_THE_WAY: usize = 64 << 20;

impl FarArchive {
    /// A gateway with an empty cache of the archive that this file describes, which is a round trip away.
    pub(crate) fn serve(descriptor: &Path, round_trip: Duration) -> Result<Self, Failure> {
        let descriptor: Descriptor = fs::read_to_string(descriptor)?.parse()?;
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let failed = run(&descriptor, round_trip, &tell, ended).err();
            drop(tell.send(Err(failed.unwrap_or_else(|| "the gateway ended".into()))));
        });
        Ok(Self { address: told.recv()??, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for FarArchive {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn run(
    descriptor: &Descriptor,
    round_trip: Duration,
    tell: &std::sync::mpsc::Sender<Result<SocketAddr, Failure>>,
    ended: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let real = Environment::real();
    let sockets = FarSockets { inner: Arc::clone(real.sockets()), round_trip };
    let environment = Environment::new(
        Arc::clone(real.clock()),
        Arc::new(sockets),
        Arc::new(SameEntropy(real.clone())),
        Blocking::Threads,
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let identity = Identity::from_seed(&environment.seed());
        let archive =
            Archive::with_descriptor(descriptor, identity, EndpointOptions::default(), &environment).await?;
        let parts = ArchiveParts { environment, coordinators: archive.coordinators().clone() };
        let options = GatewayOptions { listen: "127.0.0.1:0".parse()?, ..GatewayOptions::default() };
        let gateway = Gateway::start(parts, options).await?;
        tell.send(Ok(gateway.local_address()))?;
        drop(ended.await);
        gateway.shutdown().await;
        Ok(())
    })
}

#[derive(Debug)]
struct SameEntropy(Environment);

impl Entropy for SameEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

#[derive(Debug)]
struct FarSockets {
    inner: Arc<dyn Sockets>,
    round_trip: Duration,
}

impl Sockets for FarSockets {
    fn bind(
        &self,
        address: SocketAddr,
        queue_bytes: Option<usize>,
    ) -> BoxFuture<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        Box::pin(async move {
            let inner = self.inner.bind(address, queue_bytes).await?;
            let socket = FarSocket { inner, round_trip: self.round_trip, line: Mutex::default() };
            Ok(Arc::new(socket) as Arc<dyn AsyncUdpSocket>)
        })
    }

    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        self.inner.resolve(address)
    }

    fn any_address(&self) -> SocketAddr {
        self.inner.any_address()
    }
}

#[derive(Debug)]
struct FarSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    round_trip: Duration,
    line: Mutex<Line>,
}

/// What was sent and has not arrived.
#[derive(Debug, Default)]
struct Line {
    datagrams: VecDeque<(Instant, RecvMeta, Vec<u8>)>,
    bytes: usize,
    next: Option<Pin<Box<Sleep>>>,
}

impl AsyncUdpSocket for FarSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let line = &mut *self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        while line.bytes < BYTES_ON_THE_WAY {
            let mut about = [RecvMeta::default()];
            let Poll::Ready(count) =
                self.inner.poll_recv(context, &mut [IoSliceMut::new(&mut datagram)], &mut about)
            else {
                break;
            };
            if count? == 1 {
                line.bytes += about[0].len;
                let arrives = Instant::now() + self.round_trip;
                line.datagrams.push_back((arrives, about[0], datagram[..about[0].len].to_vec()));
            }
        }
        loop {
            let now = Instant::now();
            let mut count = 0;
            while count < buffers.len().min(meta.len())
                && line.datagrams.front().is_some_and(|(arrives, ..)| *arrives <= now)
                && let Some((_, about, bytes)) = line.datagrams.pop_front()
            {
                line.bytes -= bytes.len();
                buffers[count][..bytes.len()].copy_from_slice(&bytes);
                meta[count] = about;
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let Some((arrives, ..)) = line.datagrams.front() else { return Poll::Pending };
            let mut next = Box::pin(sleep_until(*arrives));
            let is_due = next.as_mut().poll(context).is_ready();
            line.next = Some(next);
            if !is_due {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
