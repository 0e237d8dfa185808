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
///
/// What begins a whole actor, and what is asked all over, gives one as well: the body of an `async fn` is compiled anew in each
/// crate that awaits it, with all that it awaits and spawns, and behind this it is compiled once, where it is written.
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
#[derive(Debug, Clone)]
pub enum Blocking {
    /// On threads of their own.
    Threads,
    /// At once, in the calling task: a simulation has one thread.
    Inline,
    /// As `Inline`, unless a disk keeps work waiting: then in a task of its own, once the disk lets it.
    Paced(Arc<dyn DiskPace>),
}

/// A disk that may be slow, or stand still.
pub trait DiskPace: Send + Sync + fmt::Debug {
    /// What work that begins now waits for; none where it does not.
    fn wait(&self) -> Option<BoxFuture<'static, ()>>;
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
        let task = match &self.world.blocking {
            Blocking::Inline => return work(),
            Blocking::Threads => tokio::task::spawn_blocking(work),
            Blocking::Paced(disk) => match disk.wait() {
                None => return work(),
                Some(wait) => tokio::spawn(async move {
                    wait.await;
                    work()
                }),
            },
        };
        match task.await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is being shut down and drops this task next.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const WAIT: Duration = Duration::from_secs(9);

    /// It keeps work waiting where it is told to.
    #[derive(Debug, Default)]
    struct Slow(AtomicBool);

    impl DiskPace for Slow {
        fn wait(&self) -> Option<BoxFuture<'static, ()>> {
            let is_slow = self.0.load(Ordering::Relaxed);
            is_slow.then(|| Box::pin(sleep(WAIT)) as BoxFuture<'static, ()>)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_on_a_disk_that_stands_still_is_done_once_it_goes_on_whoever_waits() {
        let (disk, done) = (Arc::new(Slow::default()), Arc::new(AtomicBool::new(false)));
        let (real, pace) = (Environment::real(), Arc::clone(&disk) as Arc<dyn DiskPace>);
        let sockets = Arc::clone(real.sockets());
        let environment =
            Environment::new(Arc::clone(real.clock()), sockets, Arc::new(OsEntropy), Blocking::Paced(pace));
        let begun = Instant::now();
        assert_eq!((environment.blocking(|| 7).await, begun.elapsed()), (7, Duration::ZERO));
        disk.0.store(true, Ordering::Relaxed);
        assert_eq!((environment.blocking(|| 8).await, begun.elapsed()), (8, WAIT));
        let told = Arc::clone(&done);
        let work = environment.blocking(move || told.store(true, Ordering::Relaxed));
        timeout(WAIT / 3, work).await.expect_err("it stands still");
        assert!(!done.load(Ordering::Relaxed));
        sleep(WAIT).await;
        assert!(done.load(Ordering::Relaxed));
    }
}
