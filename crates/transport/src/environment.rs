//! Every outside influence of a program: wall clock, sockets, entropy, and where blocking work runs.
//!
//! Always holds: a shell draws the time of day, randomness and sockets from its [`Environment`] and nowhere
//! else, so that a simulation can hand it others. Timers are tokio's, which a simulation replaces by itself.
//! Leaves to others: the simulated implementations, and randomness that TLS draws inside ring.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use firn_base::Timestamp;

use crate::system::{OsEntropy, SystemClock, UdpSockets};

/// A future that may be kept in a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The time of day.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;

    /// How many seconds the clocks on the walls are ahead of UTC at `at`.
    fn utc_offset_seconds(&self, at: Timestamp) -> i32 {
        let _ = at;
        0
    }
}

/// Where UDP sockets and addresses come from.
pub trait Sockets: Send + Sync + fmt::Debug {
    /// Binds a UDP socket. At most about `queue_bytes` of what was received wait in it; none: as many as it likes.
    fn bind(
        &self,
        address: SocketAddr,
        queue_bytes: Option<usize>,
    ) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>>;

    /// Finds the address of `host:port`. May block.
    fn resolve(&self, address: &str) -> io::Result<SocketAddr>;

    /// Where a program listens that only dials.
    fn any_address(&self) -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    }
}

/// Where randomness comes from.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `bytes` with what nobody can predict.
    fn fill(&self, bytes: &mut [u8]);
}

/// Where work runs that would hold up other tasks: disk, hashing, coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// On threads of their own.
    Threads,
    /// At once, in the calling task: a simulation has one thread.
    Inline,
}

/// Every outside influence of a program. Clones share the same world.
#[derive(Debug, Clone)]
pub struct Environment {
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    clock: Arc<dyn Clock>,
    sockets: Arc<dyn Sockets>,
    entropy: Arc<dyn Entropy>,
    blocking: Blocking,
}

impl Environment {
    /// The machine this runs on.
    pub fn real() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(UdpSockets), Arc::new(OsEntropy), Blocking::Threads)
    }

    /// A world of the caller's making.
    pub fn new(
        clock: Arc<dyn Clock>,
        sockets: Arc<dyn Sockets>,
        entropy: Arc<dyn Entropy>,
        blocking: Blocking,
    ) -> Self {
        Self { world: Arc::new(World { clock, sockets, entropy, blocking }) }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    /// Fills `bytes` with randomness.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.world.entropy.fill(bytes);
    }

    /// 32 random bytes: a secret, an id or the seed of a generator.
    pub fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        seed
    }

    /// A random number.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The sockets.
    pub fn sockets(&self) -> &Arc<dyn Sockets> {
        &self.world.sockets
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.world.clock
    }

    /// Runs `work` where it holds up nobody. A panic in it goes on in the caller; work that was begun is
    /// finished even if the caller stops waiting.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.world.blocking {
            Blocking::Inline => work(),
            Blocking::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(value) => value,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is being shut down and drops this task next.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}
