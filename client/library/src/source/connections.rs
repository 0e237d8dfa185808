//! How many connections a source may take at once.
//!
//! Always holds: never more requests and open bodies together than permits; whoever waits holds none.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The permits of one source.
pub(super) struct Connections {
    free: Mutex<usize>,
    freed: Condvar,
}

/// The right to one connection, until it is dropped.
pub(super) struct Permit(Arc<Connections>);

impl Connections {
    pub(super) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(permits), freed: Condvar::new() })
    }

    /// Waits until a connection may be had. Each wait for a server ends, so this one does.
    pub(super) fn take(self: &Arc<Self>) -> Permit {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(Arc::clone(self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Permit")
    }
}
