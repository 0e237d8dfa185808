//! What keeps draining nodes from being empty.

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// Shards that draining nodes still hold, and those of them that cannot leave.
///
/// As text it says what to do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainBacklog {
    /// Shards still to be moved, those on their way included.
    pub to_move: u64,
    /// Those of them for which domain caps leave no other node, whatever its room and whether it is online: they
    /// stay until there is another failure domain.
    pub without_home: u64,
    /// Those of them that have another legal home, but only on nodes that are offline or full now.
    pub home_unavailable: u64,
}

impl<'a> Sum<&'a Self> for DrainBacklog {
    fn sum<I: Iterator<Item = &'a Self>>(backlogs: I) -> Self {
        backlogs.fold(Self::default(), |sum, one| Self {
            to_move: sum.to_move.saturating_add(one.to_move),
            without_home: sum.without_home.saturating_add(one.without_home),
            home_unavailable: sum.home_unavailable.saturating_add(one.home_unavailable),
        })
    }
}

impl fmt::Display for DrainBacklog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_move {
            0 => return formatter.write_str("no shard left to move"),
            1 => formatter.write_str("1 shard to move")?,
            shards => write!(formatter, "{shards} shards to move")?,
        }
        if self.without_home > 0 {
            let (part, their) = self.part(self.without_home);
            write!(
                formatter,
                "; {part} no other home, because every failure domain with an active node holds a shard of {their} \
                 bundle already: add a node in another failure domain"
            )?;
        }
        if self.home_unavailable > 0 {
            let (part, _) = self.part(self.home_unavailable);
            write!(
                formatter,
                "; {part} no other home now, because the nodes that could be it are offline or full: start them, or \
                 add a node in another failure domain"
            )?;
        }
        Ok(())
    }
}

impl DrainBacklog {
    const fn part(&self, shards: u64) -> (Part, &'static str) {
        let part = Part { shards, of: self.to_move };
        (part, if shards == 1 { "its" } else { "their" })
    }
}

/// So many of all, as the beginning of a sentence.
struct Part {
    shards: u64,
    of: u64,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.shards, self.of) {
            (1, 1) => formatter.write_str("it has"),
            (1, _) => formatter.write_str("1 of them has"),
            (shards, _) => write!(formatter, "{shards} of them have"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(to_move: u64, without_home: u64, home_unavailable: u64) -> String {
        DrainBacklog { to_move, without_home, home_unavailable }.to_string()
    }

    #[test]
    fn people_read_what_is_left_and_what_to_do_about_it() {
        assert_eq!(says(0, 0, 0), "no shard left to move");
        assert_eq!(says(1, 0, 0), "1 shard to move");
        assert_eq!(
            says(13, 13, 0),
            "13 shards to move; 13 of them have no other home, because every failure domain with an active node \
             holds a shard of their bundle already: add a node in another failure domain"
        );
        assert_eq!(
            says(1, 1, 0),
            "1 shard to move; it has no other home, because every failure domain with an active node holds a shard \
             of its bundle already: add a node in another failure domain"
        );
        assert_eq!(
            says(5, 0, 1),
            "5 shards to move; 1 of them has no other home now, because the nodes that could be it are offline or \
             full: start them, or add a node in another failure domain"
        );
        assert!(says(5, 2, 3).contains("; 2 of them have no other home, because"));
        assert!(says(5, 2, 3).contains("; 3 of them have no other home now, because"));
    }

    #[test]
    fn backlogs_of_several_nodes_add_up() {
        let one = DrainBacklog { to_move: 3, without_home: 1, home_unavailable: 2 };
        let sum: DrainBacklog = [one, DrainBacklog { to_move: 4, ..one }].iter().sum();
        assert_eq!(sum, DrainBacklog { to_move: 7, without_home: 2, home_unavailable: 4 });
    }
}
