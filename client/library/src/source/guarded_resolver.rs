//! Names of a source's host, resolved under a rule.
//!
//! Always holds: each connection goes to an address that was judged right before it, so that a name that resolves to
//! something else at the next look leads nowhere. A proxy that the user's environment names is reached as it is; whom it
//! asks is its own affair.
//! Leaves to others: the rule (`firn-client-logic`).

use std::io;
use std::net::{IpAddr, UdpSocket};

use firn_client_logic::AddressRule;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Resolves as the system does, and leaves out what the rule forbids.
#[derive(Debug)]
pub(super) struct GuardedResolver<R = DefaultResolver> {
    rule: AddressRule,
    inner: R,
}

/// Why there is no address to connect to. It comes as the inner error of an `io::Error`.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAddress {
    /// The system knows none.
    #[error("no address is known for {host}: {cause}")]
    Unknown {
        /// The name.
        host: String,
        /// What the system said.
        cause: String,
    },
    /// The rule permits none.
    #[error(
        "{host} lies at {address}, which is no public address, or one of this machine: if that is right, say so with \
         --private-source"
    )]
    Forbidden {
        /// The name.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
}

impl NoAddress {
    /// What is behind an error of the agent.
    pub(super) fn in_error(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl GuardedResolver {
    pub(super) fn new(rule: AddressRule) -> Self {
        Self { rule, inner: DefaultResolver::default() }
    }
}

impl<R: Resolver> Resolver for GuardedResolver<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = || uri.host().unwrap_or_default().to_owned();
        let unknown = |cause: String| {
            Error::Io(io::Error::new(io::ErrorKind::NotFound, NoAddress::Unknown { host: host(), cause }))
        };
        let found = match self.inner.resolve(uri, config, timeout) {
            Ok(found) => found,
            Err(Error::Io(error)) => return Err(unknown(error.to_string())),
            Err(error @ Error::HostNotFound) => return Err(unknown(error.to_string())),
            Err(error) => return Err(error),
        };
        let is_proxy = config.proxy().is_some_and(|proxy| proxy.uri().authority() == uri.authority());
        if is_proxy {
            return Ok(found);
        }
        let mut permitted = self.empty();
        for address in found.iter().filter(|address| self.rule.permits(address.ip(), is_own)) {
            permitted.push(*address);
        }
        if let (true, Some(first)) = (permitted.is_empty(), found.iter().next()) {
            let forbidden = NoAddress::Forbidden { host: host(), address: first.ip() };
            return Err(Error::Io(io::Error::new(io::ErrorKind::PermissionDenied, forbidden)));
        }
        Ok(permitted)
    }
}

/// Whether an address is one of this machine: sockets can be bound to no others, unless the kernel was told to permit it.
/// That shows in an address of the documentation, which nobody has; then nothing is known.
fn is_own(address: IpAddr) -> bool {
    let nobodys = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
    UdpSocket::bind((address, 0)).is_ok() && UdpSocket::bind((nobodys, 0)).is_err()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives one answer after the other.
    #[derive(Debug)]
    struct Rebinding(Vec<Vec<SocketAddr>>, AtomicUsize);

    impl Resolver for Rebinding {
        fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            let mut found = self.empty();
            self.0[self.1.fetch_add(1, Ordering::Relaxed)].iter().for_each(|address| found.push(*address));
            Ok(found)
        }
    }

    fn resolver(answers: &[&[&str]]) -> GuardedResolver<Rebinding> {
        let parse = |addresses: &&[&str]| addresses.iter().map(|text| text.parse().unwrap()).collect();
        let inner = Rebinding(answers.iter().map(parse).collect(), AtomicUsize::new(0));
        GuardedResolver { rule: AddressRule::Public, inner }
    }

    fn resolve(resolver: &impl Resolver, config: &Config, uri: &str) -> Result<Vec<String>, Error> {
        let found = resolver.resolve(&uri.parse().unwrap(), config, NextTimeout::default())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_name_that_leads_elsewhere_at_the_next_look_leads_nowhere() {
        let resolver = resolver(&[&["1.1.1.1:443"], &["169.254.169.254:443", "[::1]:443"]]);
        let config = Config::default();
        let again = || resolve(&resolver, &config, "https://cache.example.org/x");
        assert_eq!(again().unwrap(), ["1.1.1.1:443"]);
        let error = again().unwrap_err().to_string();
        assert!(error.contains("169.254.169.254") && error.contains("--private-source"), "{error}");
    }

    #[test]
    fn addresses_of_this_machine_are_known_and_others_are_not() {
        // Where sockets may be bound to any address nothing is known.
        let is_known = UdpSocket::bind(("192.0.2.1", 0)).is_err();
        assert_eq!(is_own("127.0.0.1".parse().unwrap()), is_known);
        assert!(!is_own("1.1.1.1".parse().unwrap()));
    }

    #[test]
    fn of_several_addresses_the_public_ones_are_used() {
        let resolver = resolver(&[&["10.0.0.1:80", "1.1.1.1:80"]]);
        let found = resolve(&resolver, &Config::default(), "http://cache.example.org/").unwrap();
        assert_eq!(found, ["1.1.1.1:80"]);
    }

    #[test]
    fn the_users_own_proxy_may_lie_anywhere_and_nothing_else_beside_it() {
        let proxy = ureq::Proxy::new("http://10.0.0.1:3128").unwrap();
        let config = ureq::Agent::config_builder().proxy(Some(proxy)).build();
        let resolver = resolver(&[&["10.0.0.1:3128"], &["10.0.0.1:80"]]);
        assert_eq!(resolve(&resolver, &config, "http://10.0.0.1:3128").unwrap(), ["10.0.0.1:3128"]);
        assert!(resolve(&resolver, &config, "http://10.0.0.1/").is_err());
    }
}
