//! UDP ports for roles that keep theirs for good.
//!
//! Always holds: they lie below the range from which the kernel gives ports to programs that ask for any, so
//! that no client has the port of a stopped role when it is started again.

use std::net::{Ipv4Addr, UdpSocket};

use firn_transport::Environment;

use crate::failure::{Failure, failure};

// Linux gives out 32768 and up; below 20000 many programs have ports of their own.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// `count` ports of 127.0.0.1 that nobody has now, from a random place on, in order.
pub(crate) fn free(count: usize) -> Result<Vec<u16>, Failure> {
    let start = Environment::real().random_u64() % u64::from(LAST - FIRST);
    let start = FIRST + u16::try_from(start).expect("it is less than the range");
    // Held until all are found: else one could be found twice.
    let mut sockets = Vec::new();
    for port in (start..LAST).chain(FIRST..start) {
        if sockets.len() == count {
            break;
        }
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            sockets.push((port, socket));
        }
    }
    if sockets.len() < count {
        return Err(failure(format!("there are no {count} free UDP ports between {FIRST} and {LAST}")));
    }
    Ok(sockets.into_iter().map(|(port, _)| port).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let ports = free(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        assert!(ports.iter().all(|port| (FIRST..LAST).contains(port)));
        assert!(free(usize::from(LAST)).is_err());
    }
}
