//! What a role holds of the machine: a lock, a port, databases.
//!
//! Always holds: looking changes nothing; a role may be started again once all of it is free.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use firn_coordinator::storage::KeyValue;

use crate::failure::{Failure, failure};

/// What a role holds of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holdings {
    /// The lock file of its data directory.
    pub(crate) lock: Option<PathBuf>,
    /// Its UDP port.
    pub(crate) udp: Option<SocketAddr>,
    /// Its TCP port.
    pub(crate) tcp: Option<SocketAddr>,
    /// Its databases, whose files are locked while one is open.
    pub(crate) stores: Vec<Weak<dyn KeyValue>>,
}

const LOOK_EVERY: Duration = Duration::from_millis(5);

// Work that was under way on a disk is finished; nothing of it takes as long.
const FREE_WITHIN: Duration = Duration::from_secs(20);

impl Holdings {
    /// Waits until all of it is free. Blocks.
    pub(crate) fn wait_free(&self) -> Result<(), Failure> {
        let began = std::time::Instant::now();
        while let Some(held) = self.held() {
            if began.elapsed() > FREE_WITHIN {
                return Err(failure(format!("the role has ended, but {held} is still not free")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// One thing that is still held.
    fn held(&self) -> Option<String> {
        if self.stores.iter().any(|store| store.strong_count() > 0) {
            return Some("its database".to_owned());
        }
        if let Some(path) = &self.lock
            && let Ok(file) = std::fs::File::open(path)
            && file.try_lock().is_err()
        {
            return Some(format!("the lock {}", path.display()));
        }
        if let Some(address) = self.udp
            && UdpSocket::bind(address).is_err()
        {
            return Some(format!("UDP port {}", address.port()));
        }
        if let Some(address) = self.tcp
            && address.port() != 0
            && TcpListener::bind(address).is_err()
        {
            return Some(format!("TCP port {}", address.port()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_named_until_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = std::fs::File::create(&path).unwrap();
        file.lock().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holdings = Holdings {
            lock: Some(path),
            udp: socket.local_addr().ok(),
            tcp: listener.local_addr().ok(),
            stores: Vec::new(),
        };
        assert!(holdings.held().unwrap().starts_with("the lock "));
        drop(file);
        assert!(holdings.held().unwrap().starts_with("UDP port "));
        drop(socket);
        assert!(holdings.held().unwrap().starts_with("TCP port "));
        drop(listener);
        assert_eq!(holdings.held(), None);
        holdings.wait_free().unwrap();
    }
}
