//! What a service manager gives a program that serves, and wants to hear of it.
//!
//! Always holds: without a service manager nothing is done. Leaves to others: serving.

use std::net::TcpListener;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::command_error::CommandError;

/// The TCP port that the service manager holds for us, if it does (`LISTEN_FDS`).
///
/// # Errors
///
/// What it holds is not one TCP port.
pub(crate) fn handed_over_port() -> Result<Option<TcpListener>, CommandError> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() > 1 {
        let sentence = format!("{} sockets were handed over: a gateway serves one", sockets.len());
        return Err(CommandError::Usage(sentence));
    }
    sockets
        .take_tcp_listener(0)
        .map_err(|error| CommandError::Usage(format!("what was handed over is no TCP port: {error}")))
}

/// Clients are served from now on.
pub(crate) fn tell_ready() {
    tell(NotifyState::Ready);
}

/// No more clients are taken.
pub(crate) fn tell_stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("the service manager was not told how the gateway fares: {error}");
    }
}
