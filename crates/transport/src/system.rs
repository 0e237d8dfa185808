//! The machine's own clock, sockets and entropy.
//!
//! Always holds: sockets ask for buffers of 4 MiB, but for those whose queue is to be short; names resolve to IPv4 first.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Once};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{Offset, TimeZone};
use firn_base::Timestamp;
use quinn::Runtime;
use rustix::net::sockopt;

use crate::{BoxFuture, Clock, Entropy, Sockets};

// With the kernel's default of 208 KiB a bulk transfer on loopback lost 7,000 to 11,000 datagrams a run.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The system's time of day.
#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn utc_offset_seconds(&self, at: Timestamp) -> i32 {
        let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        let local = chrono::Local.timestamp_millis_opt(millis).earliest();
        local.map_or(0, |local| local.offset().fix().local_minus_utc())
    }
}

/// The kernel's randomness.
#[derive(Debug)]
pub(crate) struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel gives randomness to every process");
    }
}

/// The kernel's UDP sockets.
#[derive(Debug)]
pub(crate) struct UdpSockets;

impl Sockets for UdpSockets {
    fn bind(
        &self,
        address: SocketAddr,
        queue_bytes: Option<usize>,
    ) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(address)?;
            enlarge_buffers(&socket);
            if let Some(bytes) = queue_bytes.filter(|bytes| *bytes < SOCKET_BUFFER_BYTES) {
                sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
            }
            quinn::TokioRuntime.wrap_udp_socket(socket)
        })
    }

    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        // A dual-stack socket reaches both, one bound to an IPv4 address reaches IPv4 only.
        found
            .iter()
            .find(|one| one.is_ipv4())
            .or(found.first())
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    }

    fn any_address(&self) -> SocketAddr {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    }
}

fn enlarge_buffers(socket: &UdpSocket) {
    static TOLD: Once = Once::new();
    #[cfg(target_os = "linux")]
    {
        // Only root may go beyond the system's maximum; without the right the lines below do what they can.
        let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_BYTES);
    }
    if sockopt::socket_recv_buffer_size(socket).is_ok_and(|bytes| bytes < SOCKET_BUFFER_BYTES) {
        let _ = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES);
    }
    let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES);
    let received = sockopt::socket_recv_buffer_size(socket).unwrap_or_default();
    if received < SOCKET_BUFFER_BYTES {
        TOLD.call_once(|| {
            tracing::info!(
                bytes = received,
                "the kernel limits UDP receive buffers: for full speed set net.core.rmem_max and \
                 net.core.wmem_max to {SOCKET_BUFFER_BYTES}"
            );
        });
    }
}
