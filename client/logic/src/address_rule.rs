//! Which addresses a publish may connect to on behalf of a source.
//!
//! Owns: what counts as a public address, and what a source's host may lead to. Always holds: a host that was given by a
//! name leads to public addresses only, however its name resolves and whoever redirects there, unless the user said that
//! the source is private; a host that was given by an address leads to that address only.
//! Leaves to others: resolving and connecting (the client library).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the host of a source may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRule {
    /// Public addresses.
    Public,
    /// This address.
    Only(IpAddr),
    /// This machine.
    Loopback,
    /// Anything: the user said so.
    Any,
}

impl AddressRule {
    /// The rule for `host` as a URL has it (IPv6 addresses in brackets). `private`: the user says that it may lie anywhere.
    pub fn for_host(host: &str, private: bool) -> Self {
        if private {
            return Self::Any;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Self::Only(address.to_canonical());
        }
        // RFC 6761 reserves the name and everything below it.
        let name = bare.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") { Self::Loopback } else { Self::Public }
    }

    /// Whether `address` may be connected to. `is_own`: whether an address is one of this machine.
    pub fn permits(&self, address: IpAddr, is_own: impl FnOnce(IpAddr) -> bool) -> bool {
        let address = address.to_canonical();
        match self {
            // What listens on this machine may be behind a firewall for all others.
            Self::Public => is_public(address) && !is_own(address),
            Self::Only(only) => address == *only,
            Self::Loopback => address.is_loopback(),
            Self::Any => true,
        }
    }
}

/// Whether the internet may lead to `address`, by IANA's registries of special-purpose addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    // Every virtual machine of a large provider reaches that provider's own services there, secrets among them.
    if address == Ipv4Addr::new(168, 63, 129, 16) {
        return false;
    }
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        // This network, private ones, loopback, link-local, shared by carriers.
        (0 | 10 | 127, ..) | (169, 254, _) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => true,
        // Protocol assignments, documentation, the former 6to4 relays, benchmarks.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 51, 100) | (203, 0, 113) | (198, 18..=19, _) => true,
        // Multicast, reserved, broadcast.
        (224..=255, ..) => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // A translator takes these to the IPv4 address in them.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments (Teredo among them) and documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Nothing else was ever handed out as global unicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> bool {
        AddressRule::Public.permits(text.parse().unwrap(), |_| false)
    }

    #[test]
    fn public_addresses_are_told_from_all_others() {
        for address in
            ["1.1.1.1", "100.63.255.255", "172.32.0.1", "192.0.1.1", "2a04:4e42::1", "64:ff9b::101:101"]
        {
            assert!(public(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_is_judged_as_what_it_is() {
        for address in ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::1"] {
            assert!(!public(address), "{address}");
        }
        assert!(public("::ffff:1.1.1.1") && public("2002:101:101::1"));
    }

    #[test]
    fn a_public_address_of_this_machine_is_not_where_a_name_may_lead() {
        let permits = |own| AddressRule::Public.permits("1.1.1.1".parse().unwrap(), |_| own);
        assert!(permits(false) && !permits(true));
    }

    #[test]
    fn a_host_that_is_an_address_leads_there_and_nowhere_else() {
        let rule = AddressRule::for_host("[::ffff:127.0.0.1]", false);
        let permits = |text: &str| rule.permits(text.parse().unwrap(), |_| true);
        assert!(permits("127.0.0.1"));
        assert!(!permits("127.0.0.2") && !permits("1.1.1.1"));
        assert_eq!(AddressRule::for_host("10.0.0.1", false), AddressRule::Only("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_name_leads_to_public_addresses_unless_the_user_says_otherwise() {
        assert_eq!(AddressRule::for_host("cache.example.org", false), AddressRule::Public);
        // Resolvers take this for 127.0.0.1; it is no address to us, so what it resolves to is judged.
        assert_eq!(AddressRule::for_host("2130706433", false), AddressRule::Public);
        assert_eq!(AddressRule::for_host("cache.example.org", true), AddressRule::Any);
        assert_eq!(AddressRule::for_host("LocalHost.", false), AddressRule::Loopback);
        assert!(!AddressRule::Loopback.permits("10.0.0.1".parse().unwrap(), |_| false));
        assert_eq!(AddressRule::for_host("localhost.example.org", false), AddressRule::Public);
    }
}
