//! The tables of the stores.

/// Which of a coordinator's stores: log and state are apart so that the log's syncs do not wait for the state's
/// compactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreKind {
    /// The log of the consensus and the vote.
    Log,
    /// The archive's state.
    State,
    /// What nodes show while an archive is rebuilt; begun anew each time.
    Evidence,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident = $number:literal in $kind:ident as $name:literal;)*) => {
        /// A named, ordered table. Its number is part of snapshots; neither it nor the name ever changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Table {
            $($(#[$doc])* $table = $number,)*
        }

        const ALL: &[(Table, StoreKind, &str)] = &[$((Table::$table, StoreKind::$kind, $name),)*];

        impl Table {
            /// Its name on disk.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$table => $name,)*
                }
            }
        }
    };
}

tables! {
    /// Index → entry of the log.
    Log = 1 in Log as "log";
    /// Name → vote, commit position, purge position; roster in force, what others signed of the ledger.
    LogMeta = 2 in Log as "log-meta";
    /// Name → format, log position, membership, counters, policy.
    Meta = 16 in State as "meta";
    /// Node number → record.
    Nodes = 17 in State as "nodes";
    /// Node id → number.
    NodeNames = 18 in State as "node-names";
    /// Bundle number → record.
    Bundles = 19 in State as "bundles";
    /// Bundle id → number.
    BundleNames = 20 in State as "bundle-names";
    /// Coding id → bundle number.
    CodingNames = 21 in State as "coding-names";
    /// Reservation id → record.
    Reservations = 22 in State as "reservations";
    /// Coding id, reservation id → nothing.
    ReservationsOf = 23 in State as "reservations-of";
    /// Node number, coding id, shard index → record.
    Surplus = 24 in State as "surplus";
    /// Key → first location: the one large table, 29 bytes an entry.
    Index = 25 in State as "index";
    /// Key, location → nothing: further places of a key.
    Variants = 26 in State as "variants";
    /// Key, location → what it waits for.
    Held = 27 in State as "held";
    /// Awaited key, key, location → nothing.
    Waiters = 28 in State as "waiters";
    /// Key → nothing.
    Externals = 29 in State as "externals";
    /// Key → record.
    Withdrawn = 30 in State as "withdrawn";
    /// Token → nothing.
    UsedTokens = 31 in State as "used-tokens";
    /// Position → entry of the ledger.
    Ledger = 32 in State as "ledger";
    /// Position → event of the feed.
    Feed = 33 in State as "feed";
    /// Key → what is to be purged of it.
    Purges = 34 in State as "purges";
    /// Bundle number → what took its place, and who has erased it.
    Erasures = 35 in State as "erasures";
    /// Operator's key → name and role.
    Operators = 36 in State as "operators";
    /// Feature → places of the records that had it last.
    Features = 37 in State as "features";
    /// Bundle id, coding id → headers.
    EvidenceHeaders = 48 in Evidence as "evidence-headers";
    /// Bundle id, coding id → what is known of the coding.
    EvidenceCodings = 49 in Evidence as "evidence-codings";
    /// Bundle id, coding id, node id → indexes that it shows.
    EvidenceHolders = 50 in Evidence as "evidence-holders";
    /// Time and number of a commit, bundle id → nothing.
    EvidenceHistory = 51 in Evidence as "evidence-history";
}

impl StoreKind {
    /// The tables of the store, in order of their numbers.
    pub fn tables(self) -> impl Iterator<Item = Table> {
        ALL.iter().filter(move |(_, kind, _)| *kind == self).map(|(table, _, _)| *table)
    }

    /// Its name in directories and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
            Self::Evidence => "evidence",
        }
    }
}

impl Table {
    /// Its number in snapshots.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The table of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        ALL.iter().map(|(table, _, _)| *table).find(|table| table.number() == number)
    }

    /// The store it belongs to.
    pub fn kind(self) -> StoreKind {
        match self {
            Self::Log | Self::LogMeta => StoreKind::Log,
            Self::EvidenceHeaders | Self::EvidenceCodings | Self::EvidenceHolders | Self::EvidenceHistory => {
                StoreKind::Evidence
            }
            _ => StoreKind::State,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_number_and_a_name_of_its_own() {
        for (table, kind, name) in ALL {
            assert_eq!(Table::from_number(table.number()), Some(*table));
            assert_eq!((table.kind(), table.name()), (*kind, *name));
            assert_eq!(ALL.iter().filter(|(_, _, other)| other == name).count(), 1);
        }
        assert_eq!(Table::from_number(0), None);
    }
}
