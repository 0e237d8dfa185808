//! Where on the Internet a machine is: the prefix of its address, the network (AS) that announces it, its country.
//!
//! Owns: how they are cut from an address, print and travel. Always holds: an IPv4 address counts as such also where
//! a socket shows it inside IPv6; a country is two capital letters. Leaves to others: looking up AS and country.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What one subscriber or one rack is usually given: the first 24 bits of an IPv4 address, 48 of an IPv6 address. No
/// longer prefixes are announced between networks, so that all addresses of one are of one network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum AddressPrefix {
    /// A /24.
    V4([u8; 3]),
    /// A /48.
    V6([u8; 6]),
}

impl AddressPrefix {
    /// The prefix of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }

    /// Its first address.
    pub fn first(self) -> IpAddr {
        self.filled(0)
    }

    /// Its last address.
    pub fn last(self) -> IpAddr {
        self.filled(0xff)
    }

    fn filled(self, byte: u8) -> IpAddr {
        match self {
            Self::V4([a, b, c]) => Ipv4Addr::new(a, b, c, byte).into(),
            Self::V6(head) => {
                let mut octets = [byte; 16];
                octets[..6].copy_from_slice(&head);
                Ipv6Addr::from(octets).into()
            }
        }
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if matches!(self, Self::V4(_)) { 24 } else { 48 };
        write!(formatter, "{}/{bits}", self.first())
    }
}

/// The number of an autonomous system: a network that announces its addresses by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AsNumber(pub u32);

impl fmt::Display for AsNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AS{}", self.0)
    }
}

/// A country by its two letters of ISO 3166.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "[u8; 2]", into = "[u8; 2]")]
pub struct Country([u8; 2]);

/// Two bytes are no country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a country is two capital letters")]
pub struct CountryError;

impl Country {
    /// The two letters.
    pub const fn letters(self) -> [u8; 2] {
        self.0
    }
}

impl TryFrom<[u8; 2]> for Country {
    type Error = CountryError;

    fn try_from(letters: [u8; 2]) -> Result<Self, CountryError> {
        if letters.iter().all(u8::is_ascii_uppercase) { Ok(Self(letters)) } else { Err(CountryError) }
    }
}

impl From<Country> for [u8; 2] {
    fn from(country: Country) -> Self {
        country.0
    }
}

impl fmt::Display for Country {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(formatter, "{}", char::from(*letter)))
    }
}

/// What a table says of a prefix. What it does not say is unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The network that announces it.
    pub asn: Option<AsNumber>,
    /// Where that is registered.
    pub country: Option<Country>,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.asn {
            Some(asn) => write!(formatter, "{asn} ")?,
            None => formatter.write_str("AS? ")?,
        }
        match self.country {
            Some(country) => country.fmt(formatter),
            None => formatter.write_str("??"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str) -> AddressPrefix {
        AddressPrefix::of(address.parse().unwrap())
    }

    #[test]
    fn a_prefix_is_what_one_subscriber_is_given() {
        assert_eq!(prefix("192.0.2.7").to_string(), "192.0.2.0/24");
        assert_eq!(prefix("2001:db8:7:ffff::1").to_string(), "2001:db8:7::/48");
        assert_eq!(prefix("2001:db8:7:ffff::1").last().to_string(), "2001:db8:7:ffff:ffff:ffff:ffff:ffff");
        assert_ne!(prefix("192.0.2.7"), prefix("192.0.3.7"));
    }

    #[test]
    fn an_ipv4_address_inside_ipv6_is_the_same_place() {
        assert_eq!(prefix("::ffff:192.0.2.9"), prefix("192.0.2.7"));
    }

    #[test]
    fn a_country_is_two_capital_letters() {
        assert_eq!(Country::try_from(*b"CH").unwrap().to_string(), "CH");
        for wrong in [*b"ch", *b"C1", *b"\0\0"] {
            assert_eq!(Country::try_from(wrong), Err(CountryError));
        }
    }
}
