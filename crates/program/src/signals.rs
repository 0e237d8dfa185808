//! What ends a program: SIGTERM from a service manager, SIGINT from a terminal. What has it read files again: SIGHUP.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ends when the process is asked to stop.
pub async fn stop_signal() {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    tokio::select! {
        () = received(&mut terminate) => {}
        () = received(&mut interrupt) => {}
    }
}

/// What somebody wants of a program that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceSignal {
    /// Read what was given as a file again.
    Reload,
    /// End.
    Stop,
}

/// Listens for signals from when it is made: SIGHUP no longer ends the process then.
#[derive(Debug)]
pub struct ServiceSignals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Default for ServiceSignals {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceSignals {
    /// Begins to listen. Needs a tokio runtime with IO.
    pub fn new() -> Self {
        Self {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
            hang_up: listen(SignalKind::hangup()),
        }
    }

    /// The next signal.
    pub async fn next(&mut self) -> ServiceSignal {
        tokio::select! {
            () = received(&mut self.terminate) => ServiceSignal::Stop,
            () = received(&mut self.interrupt) => ServiceSignal::Stop,
            () = received(&mut self.hang_up) => ServiceSignal::Reload,
        }
    }

    /// Ends when the process is asked to stop; whatever else comes is for later, when all is read anyway.
    pub async fn stop(&mut self) {
        tokio::select! {
            () = received(&mut self.terminate) => {}
            () = received(&mut self.interrupt) => {}
        }
    }
}

/// Nothing where no handler can be had: the signal ends the process by itself then.
fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind).ok()
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    pending().await
}
