//! The table that says which network announces an address, and in which country.
//!
//! Owns: reading it, looking up. Always holds: ranges are of one family, in order and apart from each other, or the
//! table is refused with the line that is not; its memory is bounded by [`TABLE_BYTES_MAX`].
//! Leaves to others: the file (the shell); whether a network or country that it does not say counts (`caps`).
//!
//! The format is that of iptoasn.com: one range per line, tab-separated first address, last address, AS number, country,
//! a name that is not kept. Made from the routing tables of the Internet, free of any right, renewed every hour; a
//! text that an operator can read, cut and write by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use firn_base::{AddressPrefix, AsNumber, Country, Origin};
use firn_wire::NodePlace;

/// A table may be so long: today's, of both families, has 30 MB.
pub const TABLE_BYTES_MAX: u64 = 256 << 20;

/// Which network and country addresses are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressTable {
    v4: Vec<Range<u32>>,
    v6: Vec<Range<u128>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range<A> {
    first: A,
    last: A,
    origin: Origin,
}

/// Why a text is no table of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressTableError {
    /// It has no range at all.
    #[error("the table has no address range")]
    Empty,
    /// It is too long.
    #[error("the table has more than {} MiB", TABLE_BYTES_MAX >> 20)]
    TooLong,
    /// A line is not a range.
    #[error(
        "line {line} is not `first address, last address, AS number, country, name`, separated by tabs: {what}"
    )]
    Line {
        /// Which, counted from one.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A range begins before the one before it has ended.
    #[error("line {line}: the range begins before the one in the line before has ended")]
    Overlap {
        /// Which, counted from one.
        line: usize,
    },
}

impl AddressTable {
    /// Reads a table. Lines that are empty or begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, AddressTableError> {
        if text.len() as u64 > TABLE_BYTES_MAX {
            return Err(AddressTableError::TooLong);
        }
        let mut table = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |what| AddressTableError::Line { line, what };
            let mut fields = text.split('\t');
            let mut field =
                || fields.next().map(str::trim).ok_or_else(|| wrong("it has fewer than 4 fields"));
            let (first, last, asn, country) = (field()?, field()?, field()?, field()?);
            let address = |text: &str| text.parse::<IpAddr>().map_err(|_| wrong("an address cannot be read"));
            let asn = asn.strip_prefix("AS").unwrap_or(asn).parse::<u32>();
            let asn = asn.map_err(|_| wrong("the AS number cannot be read"))?;
            let letters = <[u8; 2]>::try_from(country.as_bytes()).ok();
            let origin = Origin {
                // 0 stands for what nobody announces.
                asn: (asn != 0).then_some(AsNumber(asn)),
                country: letters.and_then(|letters| Country::try_from(letters).ok()),
            };
            let is_in_order = match (address(first)?, address(last)?) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    push(&mut table.v4, first.to_bits(), last.to_bits(), origin)
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    push(&mut table.v6, first.to_bits(), last.to_bits(), origin)
                }
                _ => return Err(wrong("one address is IPv4, the other IPv6")),
            };
            match is_in_order {
                Some(true) => {}
                Some(false) => return Err(AddressTableError::Overlap { line }),
                None => return Err(wrong("the last address is before the first")),
            }
        }
        if table.is_empty() {
            return Err(AddressTableError::Empty);
        }
        table.v4.shrink_to_fit();
        table.v6.shrink_to_fit();
        Ok(table)
    }

    /// How many ranges it has.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it says of a prefix; where only a part of it is announced, that part's.
    pub fn origin(&self, prefix: AddressPrefix) -> Origin {
        match (prefix.first(), prefix.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                find(&self.v4, Ipv4Addr::to_bits(first), Ipv4Addr::to_bits(last))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                find(&self.v6, Ipv6Addr::to_bits(first), Ipv6Addr::to_bits(last))
            }
            _ => Origin::default(),
        }
    }
}

/// Where a node is that was seen at a prefix, as far as a table is there to say it.
pub fn place_of(prefix: AddressPrefix, table: Option<&AddressTable>) -> NodePlace {
    NodePlace { prefix, origin: table.map(|table| table.origin(prefix)) }
}

/// Appends a range; says whether it lies behind those before, none if it is not a range.
fn push<A: Copy + Ord>(ranges: &mut Vec<Range<A>>, first: A, last: A, origin: Origin) -> Option<bool> {
    if last < first {
        return None;
    }
    if ranges.last().is_some_and(|before| before.last >= first) {
        return Some(false);
    }
    ranges.push(Range { first, last, origin });
    Some(true)
}

/// The origin of the first announced range that has an address from `first` to `last`.
fn find<A: Copy + Ord>(ranges: &[Range<A>], first: A, last: A) -> Origin {
    let from = ranges.partition_point(|range| range.last < first);
    let within = ranges[from..].iter().take_while(|range| range.first <= last);
    let mut origins = within.map(|range| range.origin);
    origins.find(|origin| *origin != Origin::default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "# made by hand\n\
        1.0.0.0\t1.0.0.255\t13335\tUS\tCLOUDFLARENET\n\
        1.0.1.0\t1.0.3.255\t0\tNone\tNot routed\n\
        1.0.4.0\t1.0.7.255\t38803\tAU\tGTELECOM\n\
        2001:200::\t2001:200:8ff:ffff:ffff:ffff:ffff:ffff\t2500\tJP\tWIDE-BB\n";

    fn origin(table: &AddressTable, address: &str) -> (Option<u32>, Option<String>) {
        let origin = table.origin(AddressPrefix::of(address.parse().unwrap()));
        (origin.asn.map(|asn| asn.0), origin.country.map(|country| country.to_string()))
    }

    #[test]
    fn an_address_is_of_the_network_and_country_of_its_range() {
        let table = AddressTable::parse(TABLE).unwrap();
        assert_eq!(table.len(), 4);
        assert_eq!(origin(&table, "1.0.0.7"), (Some(13335), Some("US".into())));
        assert_eq!(origin(&table, "1.0.7.255"), (Some(38803), Some("AU".into())));
        assert_eq!(origin(&table, "2001:200:1::1"), (Some(2500), Some("JP".into())));
    }

    #[test]
    fn what_nobody_announces_and_what_is_in_no_range_is_unknown() {
        let table = AddressTable::parse(TABLE).unwrap();
        for address in ["1.0.2.1", "1.0.8.0", "0.0.0.0", "255.255.255.255", "::1", "2001:201::"] {
            assert_eq!(origin(&table, address), (None, None), "{address}");
        }
    }

    #[test]
    fn a_prefix_of_which_only_a_part_is_announced_is_where_that_is() {
        let table = AddressTable::parse("10.0.0.128\t10.0.0.255\t7\tFR\tx\n").unwrap();
        assert_eq!(origin(&table, "10.0.0.1"), (Some(7), Some("FR".into())));
    }

    #[test]
    fn a_text_that_is_no_table_is_refused_with_its_line() {
        let error = |text: &str| AddressTable::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "the table has no address range");
        assert_eq!(error("# nothing\n\n"), "the table has no address range");
        for (text, what) in [
            ("1.0.0.0 1.0.0.255 1 US x", "fewer than 4 fields"),
            ("1.0.0.0\t1.0.0.255\tUS\tx", "the AS number cannot be read"),
            ("1.0.0.0\t1.0.0.256\t1\tUS\tx", "an address cannot be read"),
            ("1.0.0.9\t1.0.0.8\t1\tUS\tx", "the last address is before the first"),
            ("1.0.0.0\t::1\t1\tUS\tx", "one address is IPv4, the other IPv6"),
        ] {
            let error = error(&format!("{TABLE}{text}\n"));
            assert!(error.starts_with("line 6 ") && error.contains(what), "{error}");
        }
        let overlap = "1.0.0.0\t1.0.0.255\t1\tUS\tx\n1.0.0.255\t1.0.1.0\t1\tUS\tx\n";
        assert_eq!(AddressTable::parse(overlap), Err(AddressTableError::Overlap { line: 2 }));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f.:\\tA-Z \\n]{0,200}") {
            let _ = AddressTable::parse(&text);
        }

        #[test]
        fn looking_up_agrees_with_looking_at_every_range(
            cuts in prop::collection::btree_set(0_u32..70_000, 2..20),
            asked in 0_u32..280,
        ) {
            let cuts: Vec<_> = cuts.into_iter().collect();
            let ranges: Vec<_> = cuts.windows(2).step_by(2).map(|cut| (cut[0], cut[1] - 1)).collect();
            let text: String = (1..)
                .zip(&ranges)
                .map(|(asn, (first, last))| {
                    format!("{}\t{}\t{asn}\tCH\tx\n", Ipv4Addr::from(*first), Ipv4Addr::from(*last))
                })
                .collect();
            let table = AddressTable::parse(&text).unwrap();
            let (low, high) = (asked << 8, (asked << 8) | 0xff);
            let naive = ranges.iter().position(|(first, last)| *first <= high && *last >= low);
            let prefix = AddressPrefix::of(Ipv4Addr::from(low).into());
            let found = table.origin(prefix).asn.map(|asn| asn.0 as usize - 1);
            prop_assert_eq!(found, naive);
        }
    }
}
