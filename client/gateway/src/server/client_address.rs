//! Who asks: a client's address, also behind a proxy that is believed.
//!
//! Always holds: nobody but a proxy that was named can say that a request is somebody else's. Leaves to others: what follows
//! from it (`clients`).

use std::net::IpAddr;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

/// A text names no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is an IP address, or one with the bits that count behind a slash: 192.0.2.1 or 2001:db8::/32")]
pub struct ParseAddressRangeError;

impl AddressRange {
    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (here, bits) = number(self.first);
        let (there, other) = number(address.to_canonical());
        let ignored = bits - u32::from(self.bits);
        bits == other && here.checked_shr(ignored) == there.checked_shr(ignored)
    }
}

/// The address as a number, and how many bits it has.
fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), u32::BITS),
        IpAddr::V6(address) => (address.into(), u128::BITS),
    }
}

impl FromStr for AddressRange {
    type Err = ParseAddressRangeError;

    fn from_str(text: &str) -> Result<Self, ParseAddressRangeError> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first = address.parse::<IpAddr>().map_err(|_| ParseAddressRangeError)?.to_canonical();
        let (_, all) = number(first);
        let bits = match bits {
            None => all,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= all).ok_or(ParseAddressRangeError)?,
        };
        Ok(Self { first, bits: u8::try_from(bits).map_err(|_| ParseAddressRangeError)? })
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Address(IpAddr),
    /// Somebody behind this proxy.
    Unclear(IpAddr),
}

impl Asking {
    /// The address that is known.
    pub(super) const fn address(self) -> IpAddr {
        match self {
            Self::Address(address) | Self::Unclear(address) => address,
        }
    }
}

/// Who asks, if the request came from `peer` with `headers`: the last in the row that no believed proxy stands for.
///
/// Where both headers tell of the row and disagree, one of them is the client's invention: then it is unclear, as it is
/// where they name nobody. A proxy that sends neither speaks for itself.
pub(super) fn asking(proxies: &[AddressRange], peer: IpAddr, headers: &HeaderMap) -> Asking {
    let peer = peer.to_canonical();
    let is_proxy = |address: IpAddr| proxies.iter().any(|range| range.contains(address));
    if !is_proxy(peer) {
        return Asking::Address(peer);
    }
    let follow = |name: HeaderName, read: fn(&str) -> Option<IpAddr>| {
        let mut asks = None;
        // The last is what the proxy before us wrote.
        let rows = headers.get_all(name);
        let rows: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(row.as_bytes())).collect();
        for element in rows.iter().rev().flat_map(|row| row.rsplit(',')) {
            let Some(address) = read(element.trim()) else { break };
            asks = Some(address);
            if !is_proxy(address) {
                break;
            }
        }
        asks
    };
    match (follow(X_FORWARDED_FOR, address), follow(FORWARDED, forwarded_for)) {
        (Some(one), Some(other)) if one != other => Asking::Unclear(peer),
        (Some(one), _) | (None, Some(one)) => Asking::Address(one),
        (None, None) if [X_FORWARDED_FOR, FORWARDED].iter().any(|name| headers.contains_key(name)) => {
            Asking::Unclear(peer)
        }
        (None, None) => Asking::Address(peer),
    }
}

/// The `for` of an element of the header `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// An address, with a port or without; an IPv6 address may stand in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let parsed = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside.parse(),
        None => text.parse().or_else(|error| match text.split_once(':') {
            Some((address, _)) => address.parse(),
            None => Err(error),
        }),
    };
    parsed.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn asks(peer: &str, headers: &[(&'static str, &str)]) -> String {
        match asking_of(peer, headers) {
            Asking::Address(address) => address.to_string(),
            Asking::Unclear(proxy) => format!("behind {proxy}"),
        }
    }

    fn asking_of(peer: &str, headers: &[(&'static str, &str)]) -> Asking {
        let proxies = ["10.0.0.0/8".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        asking(&proxies, ip(peer), &map)
    }

    #[test]
    fn a_range_holds_the_addresses_that_begin_alike() {
        let holds = |range: &str, address: &str| range.parse::<AddressRange>().unwrap().contains(ip(address));
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("192.0.2.0/24", "192.0.2.200") && !holds("192.0.2.0/24", "192.0.3.0"));
        assert!(holds("192.0.2.0/24", "::ffff:192.0.2.200"), "as a socket of both families shows it");
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1") && !holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "::1") && holds("::/0", "::1"));
        for wrong in ["", "localhost", "192.0.2.0/33", "::/129", "192.0.2.1/", "192.0.2.1:80", "1.2.3.4/-1"] {
            assert_eq!(wrong.parse::<AddressRange>(), Err(ParseAddressRangeError), "{wrong}");
        }
    }

    #[test]
    fn only_a_believed_proxy_speaks_for_others() {
        assert_eq!(asks("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]), "192.0.2.1");
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", "198.51.100.1")]), "198.51.100.1");
        assert_eq!(asks("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_a_client_invents_stands_before_what_the_proxies_wrote() {
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, 198.51.100.1")]), "198.51.100.1");
        let two = "203.0.113.9, 198.51.100.1, 10.0.0.2";
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", two)]), "198.51.100.1", "through two proxies");
        let lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(asks("10.0.0.1", &lines), "198.51.100.1");
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", "198.51.100.1, nonsense")]), "behind 10.0.0.1");
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", "n\u{f6}nsense, 198.51.100.1")]), "198.51.100.1");
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", "nonsense, 10.0.0.2")]), "10.0.0.2");
        let both = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=203.0.113.9")];
        assert_eq!(asks("10.0.0.1", &both), "behind 10.0.0.1", "one of the two is an invention");
        let both = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")];
        assert_eq!(asks("10.0.0.1", &both), "198.51.100.1");
    }

    #[test]
    fn every_way_of_writing_an_address_is_read() {
        for (header, asking) in [
            ("for=198.51.100.1;proto=https;by=203.0.113.43", "198.51.100.1"),
            ("For=\"198.51.100.1:4711\"", "198.51.100.1"),
            ("proto=http; for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"[2001:db8:cafe::17]\", for=10.0.0.7", "2001:db8:cafe::17"),
            ("for=unknown", "behind 10.0.0.1"),
            ("for=_hidden, for=10.0.0.7", "10.0.0.7"),
            ("proto=https", "behind 10.0.0.1"),
        ] {
            assert_eq!(asks("10.0.0.1", &[("forwarded", header)]), asking, "{header}");
        }
        assert_eq!(asks("2001:db8::1", &[("x-forwarded-for", "2001:db8:2::7")]), "2001:db8:2::7");
        assert_eq!(asks("10.0.0.1", &[("x-forwarded-for", "198.51.100.1:80")]), "198.51.100.1");
    }
}
