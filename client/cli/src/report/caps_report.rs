//! The domain caps, and how they are kept, for people.

use std::fmt;

use firn_base::Timestamp;
use firn_wire::{CapCount, CapsStatus};

use super::counted;

/// [`CapsStatus`] as lines of the archive's status, each behind a line break; none where there is nothing to say.
pub(crate) struct CapsLines<'a> {
    pub(crate) caps: &'a CapsStatus,
    /// Bundles at risk.
    pub(crate) at_risk: u64,
    /// The archive's time.
    pub(crate) now: Timestamp,
}

impl fmt::Display for CapsLines<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.caps.public {
            write!(formatter, "\ncaps         {}", in_force(self.caps))?;
        }
        let breaches = &self.caps.breaches;
        if breaches.bundles > 0 {
            let verb = if breaches.bundles == 1 { "has" } else { "have" };
            let bundles = counted(breaches.bundles, "bundle");
            write!(formatter, "\ntogether     {bundles} {verb} more shards together than caps allow")?;
            if breaches.due > 0 {
                write!(formatter, "; {} for so long that shards move apart", breaches.due)?;
            }
            if let Some(next) = breaches.next_due {
                let hours = next.since(self.now).as_secs().div_ceil(3600);
                write!(
                    formatter,
                    "; shards move apart if that lasts, the first in {}",
                    counted(hours, "hour")
                )?;
            }
        }
        if self.at_risk > 0 && !self.caps.at_risk_by.is_empty() {
            let why = |count: &CapCount| format!("{} ({})", count.cap, counted(count.bundles, "bundle"));
            let why: Vec<_> = self.caps.at_risk_by.iter().map(why).collect();
            write!(
                formatter,
                "\nat risk      what is missing has no home, for other nodes share with holders their {}: add nodes \
                 elsewhere",
                why.join(", ")
            )?;
        }
        Ok(())
    }
}

fn in_force(caps: &CapsStatus) -> String {
    let width = format!("{} of a bundle have homes", counted(caps.width, "shard"));
    let Some(per_network) = caps.per_network else {
        return format!(
            "{width}: 1 an operator, address prefix and failure domain; networks (AS) and countries are not looked at, \
             for no leader has an --address-table"
        );
    };
    let unknown = match caps.unknown {
        0 => String::new(),
        1 => "; 1 node is of unknown network or country, which is one more".to_owned(),
        many => format!("; {many} nodes are of unknown network or country, which count as one"),
    };
    format!(
        "{width}: 1 an operator, address prefix and failure domain, {per_network} a network ({} known), 20 % a country \
         ({} known){unknown}",
        caps.networks, caps.countries
    )
}

#[cfg(test)]
mod tests {
    use firn_wire::{BreachCount, Cap};

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn caps() -> CapsStatus {
        CapsStatus {
            public: true,
            per_network: Some(2),
            networks: 9,
            countries: 6,
            unknown: 0,
            width: 24,
            breaches: BreachCount::default(),
            at_risk_by: Vec::new(),
        }
    }

    fn lines(caps: &CapsStatus, at_risk: u64) -> String {
        CapsLines { caps, at_risk, now: Timestamp::from_millis(HOUR) }.to_string()
    }

    #[test]
    fn the_caps_in_force_are_a_line_of_a_public_archive() {
        let expected = "\ncaps         24 shards of a bundle have homes: 1 an operator, address prefix and failure domain, \
                        2 a network (9 known), 20 % a country (6 known)";
        assert_eq!(lines(&caps(), 0), expected);
        assert_eq!(lines(&CapsStatus { public: false, per_network: None, ..caps() }, 0), "");
        let unseen = lines(&CapsStatus { per_network: None, ..caps() }, 0);
        assert!(unseen.ends_with("are not looked at, for no leader has an --address-table"), "{unseen}");
        let unknown = lines(&CapsStatus { unknown: 3, ..caps() }, 0);
        assert!(unknown.ends_with("; 3 nodes are of unknown network or country, which count as one"));
    }

    #[test]
    fn what_lies_together_is_told_with_the_time_until_it_is_mended() {
        let breaches = BreachCount { bundles: 5, due: 2, next_due: Some(Timestamp::from_millis(72 * HOUR)) };
        let text = lines(&CapsStatus { public: false, breaches, ..caps() }, 0);
        assert_eq!(
            text,
            "\ntogether     5 bundles have more shards together than caps allow; 2 for so long that shards move apart; \
             shards move apart if that lasts, the first in 71 hours"
        );
    }

    #[test]
    fn why_bundles_are_at_risk_is_told() {
        let at_risk_by = vec![CapCount { cap: Cap::Country, bundles: 7 }];
        let text = lines(&CapsStatus { public: false, at_risk_by, ..caps() }, 7);
        assert!(text.contains("share with holders their country (7 bundles): add nodes elsewhere"), "{text}");
    }
}
