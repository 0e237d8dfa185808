//! A role on a thread and a runtime of its own.
//!
//! Always holds: a role that is killed ends without its own shutdown code: its runtime stops between two steps of
//! its tasks and is dropped with all of them, so that nothing more is written or sent; the thread is over only
//! when what the role held is free. Leaves to others: what the roles do.

use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::failure::{Failure, failure};
use crate::holdings::Holdings;
use crate::role::Role;

/// A role that runs. Dropping it ends the role, or the runtime it lives in, as a power cut would.
pub(crate) trait Running: Send + 'static {
    /// Waits until it has ended by itself, and says why.
    fn ended(&mut self) -> impl Future<Output = String> + Send;

    /// Ends it in order.
    fn shutdown(self) -> impl Future<Output = ()> + Send;

    /// What it holds of the machine.
    fn holdings(&self) -> Holdings;
}

/// A role's thread.
#[derive(Debug)]
pub(crate) struct RoleThread {
    end: Option<oneshot::Sender<Ending>>,
    over: oneshot::Receiver<Result<(), Failure>>,
    thread: JoinHandle<()>,
}

/// How a role ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Without its shutdown code.
    Kill,
    /// In order.
    Shutdown,
}

/// Threads of a role's runtime. One costs least; a gateway that serves many downloads wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    Several,
}

// Longer than any role takes to say goodbye to peers that answer.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(8);

// Blocking work that was under way, as the write of a batch.
const BLOCKING_WITHIN: Duration = Duration::from_secs(10);

impl RoleThread {
    /// Starts a role, and waits until it runs.
    pub(crate) async fn start<R: Running>(
        role: Role,
        threads: Threads,
        start: impl Future<Output = Result<R, Failure>> + Send + 'static,
    ) -> Result<Self, Failure> {
        let (end, ending) = oneshot::channel();
        let (say_started, started) = oneshot::channel();
        let (say_over, over) = oneshot::channel();
        let work = move || {
            let runtime = match runtime(role, threads) {
                Ok(runtime) => runtime,
                Err(error) => return drop(say_started.send(Err(error))),
            };
            let _span = span(role).entered();
            let result = live(role, runtime, start, ending, say_started);
            // Whoever started the role may have given up waiting.
            drop(say_over.send(result));
        };
        let thread = std::thread::Builder::new().name(role.to_string()).spawn(work)?;
        match started.await {
            Ok(Ok(())) => Ok(Self { end: Some(end), over, thread }),
            Ok(Err(error)) => Err(failure(format!("{role}: {error}"))),
            Err(_) => Err(failure(format!("{role} broke while it was started"))),
        }
    }

    /// Ends the role, and waits until what it held is free.
    pub(crate) async fn end(mut self, ending: Ending) -> Result<(), Failure> {
        if let Some(end) = self.end.take() {
            // A role that has ended by itself does not listen.
            let _ = end.send(ending);
        }
        self.over.await.unwrap_or_else(|_| Err(failure("the role broke down")))
    }

    /// Whether the role still runs.
    pub(crate) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// The whole life of a role on its thread.
fn live<R: Running>(
    role: Role,
    runtime: Runtime,
    start: impl Future<Output = Result<R, Failure>>,
    mut ending: oneshot::Receiver<Ending>,
    say_started: oneshot::Sender<Result<(), Failure>>,
) -> Result<(), Failure> {
    let left = runtime.block_on(async {
        let started = tokio::select! {
            started = start => started,
            // Given up before it ran.
            _ = &mut ending => Err(failure("stopped while it was started")),
        };
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                drop(say_started.send(Err(error)));
                return None;
            }
        };
        let holdings = running.holdings();
        drop(say_started.send(Ok(())));
        let ending = tokio::select! {
            ending = ending => ending.unwrap_or(Ending::Kill),
            why = running.ended() => {
                tracing::error!("{role} has ended: {why}");
                Ending::Shutdown
            }
        };
        match ending {
            Ending::Kill => Some((Some(running), holdings)),
            Ending::Shutdown => {
                if timeout(SHUTDOWN_WITHIN, running.shutdown()).await.is_err() {
                    tracing::warn!("{role} did not end in time and is killed");
                }
                Some((None, holdings))
            }
        }
    });
    // All tasks are dropped here, unfinished.
    runtime.shutdown_timeout(BLOCKING_WITHIN);
    match left {
        None => Ok(()),
        Some((running, holdings)) => {
            drop(running);
            holdings.wait_free()
        }
    }
}

fn runtime(role: Role, threads: Threads) -> Result<Runtime, Failure> {
    let mut builder = match threads {
        Threads::One => Builder::new_current_thread(),
        Threads::Several => Builder::new_multi_thread(),
    };
    builder.enable_all().thread_name(role.to_string());
    builder.on_thread_start(move || {
        // For as long as the thread lives: every line it logs is of this role.
        std::mem::forget(span(role).entered());
    });
    Ok(builder.build()?)
}

fn span(role: Role) -> tracing::Span {
    tracing::error_span!("role", %role)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};

    use tokio::net::UdpSocket;
    use tokio::sync::watch;

    use super::*;

    struct Small {
        lock: std::fs::File,
        place: PathBuf,
        address: SocketAddr,
        broken: watch::Receiver<bool>,
        // Held by its task.
        _socket: std::sync::Arc<UdpSocket>,
    }

    impl Running for Small {
        async fn ended(&mut self) -> String {
            drop(self.broken.wait_for(|broken| *broken).await);
            "it was broken".to_owned()
        }

        async fn shutdown(self) {
            std::fs::write(self.place.join("goodbye"), "").unwrap();
            drop(self.lock);
        }

        fn holdings(&self) -> Holdings {
            Holdings { lock: Some(self.place.join("lock")), udp: Some(self.address), ..Holdings::default() }
        }
    }

    async fn small(place: PathBuf, broken: watch::Receiver<bool>) -> Result<Small, Failure> {
        let lock = std::fs::File::create(place.join("lock"))?;
        lock.try_lock().map_err(|_| failure("locked"))?;
        let socket = std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let (address, held) = (socket.local_addr()?, socket.clone());
        tokio::spawn(async move { held.readable().await });
        // Blocking work that is under way when the role is killed.
        let slow = place.clone();
        tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(200));
            std::fs::write(slow.join("written"), "").unwrap();
        });
        Ok(Small { lock, place, address, broken, _socket: socket })
    }

    async fn start(place: &Path) -> (RoleThread, watch::Sender<bool>) {
        let (breaker, broken) = watch::channel(false);
        let starting = small(place.to_owned(), broken);
        let thread = RoleThread::start(Role::StorageNode(1), Threads::One, starting).await.unwrap();
        (thread, breaker)
    }

    #[tokio::test]
    async fn a_killed_role_says_no_goodbye_and_leaves_nothing_held() {
        let place = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            let (thread, _breaker) = start(place.path()).await;
            assert!(thread.is_running());
            thread.end(Ending::Kill).await.unwrap();
            assert!(place.path().join("written").exists());
            assert!(!place.path().join("goodbye").exists());
        }
    }

    #[tokio::test]
    async fn a_role_that_is_shut_down_says_goodbye() {
        let place = tempfile::tempdir().unwrap();
        let (thread, _breaker) = start(place.path()).await;
        thread.end(Ending::Shutdown).await.unwrap();
        assert!(place.path().join("goodbye").exists());
    }

    #[tokio::test]
    async fn a_role_that_ends_by_itself_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let (thread, breaker) = start(place.path()).await;
        breaker.send(true).unwrap();
        while thread.is_running() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        thread.end(Ending::Kill).await.unwrap();
        let failed = RoleThread::start(Role::Gateway, Threads::Several, async {
            Err::<Small, _>(failure("the port is in use"))
        });
        assert_eq!(failed.await.unwrap_err().to_string(), "gateway: the port is in use");
    }
}
