//! Holds the log back while a state is installed.
//!
//! The library installs a state beside its other work, and meanwhile purges the log up to it and appends what follows.
//! A process that was killed in between would have a log that begins behind its state, and could never start again. So
//! the log is not purged, and thus not written at all, before the state is in its place.

use std::sync::Arc;

use tokio::sync::watch;

use crate::storage::StorageError;

/// The gate. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct InstallGate {
    state: Arc<watch::Sender<Installing>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Installing {
    Nothing,
    UnderWay,
    Failed(StorageError),
}

impl Default for InstallGate {
    fn default() -> Self {
        Self { state: Arc::new(watch::channel(Installing::Nothing).0) }
    }
}

impl InstallGate {
    /// A state is handed to the library.
    pub(super) fn begin(&self) {
        self.state.send_replace(Installing::UnderWay);
    }

    /// The library is done with it: it was installed before, or is not needed.
    pub(super) fn end(&self) {
        self.state.send_if_modified(|state| {
            let ends = *state == Installing::UnderWay;
            if ends {
                *state = Installing::Nothing;
            }
            ends
        });
    }

    /// The state is in its place, or could not be put there.
    pub(super) fn installed(&self, result: &Result<(), StorageError>) {
        self.state.send_replace(match result {
            Ok(()) => Installing::Nothing,
            Err(error) => Installing::Failed(error.clone()),
        });
    }

    /// Waits until no state is being installed.
    pub(super) async fn wait(&self) -> Result<(), StorageError> {
        let mut state = self.state.subscribe();
        // The sender lives as long as this does.
        match state.wait_for(|state| *state != Installing::UnderWay).await.as_deref() {
            Ok(Installing::Failed(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_log_waits_for_a_state_and_fails_with_it() {
        let gate = InstallGate::default();
        gate.wait().await.unwrap();
        gate.begin();
        assert!(gate.wait().now_or_never().is_none());
        gate.installed(&Ok(()));
        gate.wait().await.unwrap();
        // Not needed by the library.
        gate.begin();
        gate.end();
        gate.wait().await.unwrap();
        gate.begin();
        gate.installed(&Err(StorageError::Full("it".into())));
        gate.end();
        assert_eq!(gate.wait().await, Err(StorageError::Full("it".into())));
    }
}
