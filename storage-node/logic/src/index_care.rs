//! When the index of shards is mended.
//!
//! Always holds: an index is written anew before it is much longer than what it is of, and whenever something in it is
//! wrong; one that is right and complete is left alone, so that a disk may sleep. Leaves to others: reading and writing it.

/// What is known of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexCounts {
    /// Records in it, of whatever kind.
    pub records: u64,
    /// Something in it is wrong: a record that does not hold, or one that the shard files contradict.
    pub is_wrong: bool,
    /// Codings of which a shard is here and no record there.
    pub missing: u64,
    /// Codings of which a shard is here.
    pub codings: u64,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexCare {
    /// Nothing.
    Nothing,
    /// What is missing goes behind its end.
    Append,
    /// All of it is written anew.
    Rewrite,
}

// Records of shards that went: 320 kB, below which writing anew is not worth it.
const GONE_MOST: u64 = 4096;

impl IndexCounts {
    /// What is to be done.
    pub const fn care(self) -> IndexCare {
        let most = self.codings.saturating_mul(2).saturating_add(GONE_MOST);
        if self.is_wrong || self.records > most {
            IndexCare::Rewrite
        } else if self.missing > 0 {
            IndexCare::Append
        } else {
            IndexCare::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_written_anew_when_it_is_wrong_or_mostly_of_what_is_gone() {
        let whole = IndexCounts { records: 10_000, is_wrong: false, missing: 0, codings: 10_000 };
        assert_eq!(whole.care(), IndexCare::Nothing);
        assert_eq!(IndexCounts { missing: 1, ..whole }.care(), IndexCare::Append);
        assert_eq!(IndexCounts { is_wrong: true, ..whole }.care(), IndexCare::Rewrite);
        let with_records = |records| IndexCounts { records, ..whole }.care();
        assert_eq!((with_records(24_096), with_records(24_097)), (IndexCare::Nothing, IndexCare::Rewrite));
        assert_eq!(IndexCounts::default().care(), IndexCare::Nothing);
    }
}
