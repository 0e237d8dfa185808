//! Where in the ledger a time is.

use firn_base::Timestamp;

use crate::facts::Scan;

/// The first position whose entry was made at `since` or later; the ledger's length if there is none. Times in a ledger
/// never go back, so this is a search by halves: some twenty reads for a million entries.
pub fn ledger_position<S: Scan>(state: &S, since: Timestamp) -> Result<u64, S::Error> {
    let (mut low, mut high) = (0, state.counters()?.ledger.entries);
    while low < high {
        let middle = low + (high - low) / 2;
        let is_before = state.ledger_from(middle, 1)?.first().is_some_and(|entry| entry.at < since);
        if is_before {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
