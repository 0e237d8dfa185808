//! The archive's ledger, believed as far as a majority of the coordinators vouches for it.
//!
//! Always holds: entries are numbered from zero and chained by digest; each entry of a [`VerifiedLedger`] was vouched
//! for by more than half of the roster's coordinators, each by a signed head whose chain contains it; a ledger that was
//! verified once is never shortened. Where fewer answer, one of them may show what a majority signed before: nobody can
//! add to that or change it, but whoever shows it can leave out what came since, so it is asked for by its own name.

use std::time::Duration;

use firn_base::{Digest, NodeId};
use firn_wire::{
    CoordinatorEntry, CoordinatorReply, CoordinatorRequest, LedgerEntry, LedgerHead, LedgerPage, LedgerState,
    Signed, believed_entries,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{sleep, timeout};

use crate::{AskError, CoordinatorClient};

// A ledger grows by acts of governance and joining nodes; a million is a hundred a day for 27 years.
const LEDGER_ENTRIES_MAX: usize = 1_000_000;

const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(30);

// Once a majority has answered, the others get so long to make the vouched part longer.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// The ledger as far as a majority vouches for it.
#[derive(Debug, Clone)]
pub struct VerifiedLedger {
    /// Its entries, from the first.
    pub entries: Vec<LedgerEntry>,
    /// What they come to.
    pub state: LedgerState,
    /// The signed heads of those who vouch for them; a head may reach beyond the entries.
    pub heads: Vec<Signed<LedgerHead>>,
}

/// Why there is no ledger to believe.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Too few coordinators gave a sound ledger.
    #[error("{found} coordinators vouch for the ledger, {needed} are needed: {}", failures.join("; "))]
    TooFew {
        /// Coordinators that gave one.
        found: usize,
        /// A majority.
        needed: usize,
        /// One sentence for each that did not.
        failures: Vec<String>,
    },
    /// The majority's ledger is not the one that was verified before.
    #[error(
        "the coordinators show another ledger than before: do not trust this archive until its operators explain entry {position}"
    )]
    Rewritten {
        /// The first entry that differs.
        position: u64,
    },
}

/// What one coordinator showed: a whole chain with its signature.
#[derive(Debug)]
struct Testimony {
    entries: Vec<LedgerEntry>,
    digests: Vec<Digest>,
    signed_head: Signed<LedgerHead>,
}

impl CoordinatorClient {
    /// Fetches the ledger from the coordinators and verifies it.
    pub async fn ledger(&self) -> Result<VerifiedLedger, AskError> {
        self.fetch_ledger(&[]).await
    }

    /// Fetches what was added to `known`. Never gives less than that.
    pub async fn refresh_ledger(&self, known: &VerifiedLedger) -> Result<VerifiedLedger, AskError> {
        let ledger = self.fetch_ledger(&known.entries).await?;
        let differs = known.entries.iter().zip(&ledger.entries).position(|(old, new)| old != new);
        match differs {
            Some(position) => {
                Err(LedgerError::Rewritten { position: u64::try_from(position).unwrap_or(u64::MAX) }.into())
            }
            None if ledger.entries.len() < known.entries.len() => Ok(known.clone()),
            None => Ok(ledger),
        }
    }

    async fn fetch_ledger(&self, known: &[LedgerEntry]) -> Result<VerifiedLedger, AskError> {
        let coordinators = self.roster().roster().coordinators.clone();
        let needed = coordinators.len() / 2 + 1;
        let mut fetches: FuturesUnordered<_> = coordinators
            .iter()
            .map(|entry| async move {
                let fetched = timeout(COORDINATOR_TIMEOUT, self.testimony(entry, known)).await;
                fetched.unwrap_or_else(|_| Err(format!("{} is too slow", entry.id.short())))
            })
            .collect();
        let (mut testimonies, mut failures) = (Vec::new(), Vec::new());
        loop {
            let enough = testimonies.len() >= needed;
            tokio::select! {
                biased;
                fetched = fetches.next() => match fetched {
                    Some(Ok(testimony)) => testimonies.push(testimony),
                    Some(Err(failure)) => failures.push(failure),
                    None => break,
                },
                () = sleep(REST_TIMEOUT), if enough => break,
            }
        }
        if testimonies.len() < needed {
            return Err(LedgerError::TooFew { found: testimonies.len(), needed, failures }.into());
        }
        Ok(vouched(&testimonies, needed))
    }

    /// The ledger as the first coordinator that answers so shows that a majority signed it: for whoever knows none, where
    /// [`Self::ledger`] finds too few of them. Its latest entries may be missing. None if nobody can show one.
    pub async fn ledger_signed_before(&self) -> Option<VerifiedLedger> {
        let coordinators = self.roster().roster().coordinators.clone();
        let shown = coordinators.iter().map(|entry| timeout(COORDINATOR_TIMEOUT, self.shown_by(entry)));
        let mut shown: FuturesUnordered<_> = shown.collect();
        while let Some(ledger) = shown.next().await {
            if let Ok(Some(ledger)) = ledger {
                return Some(ledger);
            }
        }
        None
    }

    /// As much of the ledger of one coordinator as it shows that a majority signed.
    async fn shown_by(&self, coordinator: &CoordinatorEntry) -> Option<VerifiedLedger> {
        let Testimony { mut entries, .. } = self.testimony(coordinator, &[]).await.ok()?;
        // One of a version before this question has nothing to show.
        let request = CoordinatorRequest::GetLedgerHeads;
        let shown = self.ask_coordinator(coordinator.id, &request, PAGE_TIMEOUT).await;
        let CoordinatorReply::LedgerHeads(heads) = shown.ok()? else { return None };
        let (length, heads) = believed_entries(&entries, &heads, &self.roster())?;
        entries.truncate(length);
        Some(VerifiedLedger { state: LedgerState::read(&entries), entries, heads })
    }

    async fn testimony(&self, entry: &CoordinatorEntry, known: &[LedgerEntry]) -> Result<Testimony, String> {
        let (added, signed_head) = self.fetch_entries(entry, known.len()).await?;
        match Testimony::check(known, added, signed_head, self) {
            // It is a different chain from the first entry on, or one that must be seen whole to tell.
            Err(_) if !known.is_empty() => {
                let (entries, signed_head) = self.fetch_entries(entry, 0).await?;
                Testimony::check(&[], entries, signed_head, self)
            }
            result => result,
        }
        .map_err(|fault| format!("{}: {fault}", entry.id.short()))
    }

    async fn fetch_entries(
        &self,
        coordinator: &CoordinatorEntry,
        from: usize,
    ) -> Result<(Vec<LedgerEntry>, Signed<LedgerHead>), String> {
        let mut entries = Vec::new();
        loop {
            let page = self.fetch_page(coordinator.id, from.saturating_add(entries.len())).await?;
            let end = page.entries.is_empty();
            entries.extend(page.entries);
            if entries.len() > LEDGER_ENTRIES_MAX {
                return Err(format!("{} shows an endless ledger", coordinator.id.short()));
            }
            let head = page.signed_head.peek().map_err(|error| error.to_string())?;
            let length = u64::try_from(from.saturating_add(entries.len())).unwrap_or(u64::MAX);
            if end || length >= head.entries {
                return Ok((entries, page.signed_head));
            }
        }
    }

    async fn fetch_page(&self, coordinator: NodeId, from: usize) -> Result<LedgerPage, String> {
        let request = CoordinatorRequest::GetLedger { from: u64::try_from(from).unwrap_or(u64::MAX) };
        match self.ask_coordinator(coordinator, &request, PAGE_TIMEOUT).await {
            // Its signature was checked with the reply; a head of a colleague is not its own word.
            Ok(CoordinatorReply::Ledger(page)) if NodeId::from(page.signed_head.signer()) == coordinator => {
                Ok(page)
            }
            Ok(_) => Err(format!("{} shows another's ledger", coordinator.short())),
            // One was asked: its sentence says who it is.
            Err(AskError::NoAnswer { tried, .. }) if !tried.is_empty() => Err(tried.join("; ")),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Testimony {
    /// The chain of `known` followed by `added`, cut where the head says, if it is a chain and the head's.
    fn check(
        known: &[LedgerEntry],
        added: Vec<LedgerEntry>,
        signed_head: Signed<LedgerHead>,
        client: &CoordinatorClient,
    ) -> Result<Self, String> {
        let head = signed_head.open(client.roster().archive()).map_err(|error| error.to_string())?;
        Self::chain(known, added, *head, signed_head)
    }

    fn chain(
        known: &[LedgerEntry],
        added: Vec<LedgerEntry>,
        head: LedgerHead,
        signed_head: Signed<LedgerHead>,
    ) -> Result<Self, String> {
        let length = usize::try_from(head.entries).map_err(|_| "its ledger is endless".to_owned())?;
        let mut entries: Vec<_> = known.iter().take(length).cloned().collect();
        entries.extend(added);
        if entries.len() != length {
            return Err("its ledger is not as long as it says".into());
        }
        let mut digests = Vec::with_capacity(length);
        let mut previous = NO_ENTRY;
        for (position, entry) in entries.iter().enumerate() {
            if u64::try_from(position) != Ok(entry.position) || entry.previous != previous {
                return Err(format!("its ledger is broken at entry {position}"));
            }
            previous = entry.digest();
            digests.push(previous);
        }
        if previous != head.digest {
            return Err("its ledger is not the one it signed".into());
        }
        Ok(Self { entries, digests, signed_head })
    }

    /// How many entries both chains share.
    fn common(&self, other: &Self) -> usize {
        self.digests.iter().zip(&other.digests).take_while(|(own, others)| own == others).count()
    }
}

// The predecessor of the first entry.
const NO_ENTRY: Digest = Digest::from_bytes([0; 32]);

/// The longest chain whose every entry is in the chains of at least `needed` coordinators. There are at least
/// so many testimonies.
fn vouched(testimonies: &[Testimony], needed: usize) -> VerifiedLedger {
    let mut best: Option<(&Testimony, usize)> = None;
    for candidate in testimonies {
        let mut shared: Vec<_> = testimonies.iter().map(|other| candidate.common(other)).collect();
        shared.sort_unstable_by(|one, other| other.cmp(one));
        let length = shared.get(needed.saturating_sub(1)).copied().unwrap_or(0);
        if best.is_none_or(|(_, longest)| length > longest) {
            best = Some((candidate, length));
        }
    }
    let mut ledger = VerifiedLedger::empty();
    if let Some((candidate, length)) = best {
        ledger.entries.extend(candidate.entries.iter().take(length).cloned());
        let agree = testimonies.iter().filter(|other| candidate.common(other) >= length);
        ledger.heads.extend(agree.map(|other| other.signed_head.clone()));
    }
    ledger.state = LedgerState::read(&ledger.entries);
    ledger
}

#[cfg(test)]
mod tests {
    use firn_base::{ArchiveId, Timestamp, TokenId};
    use firn_wire::{Identity, LedgerAct};

    use super::*;

    const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

    fn chain(tokens: &[u8]) -> Vec<LedgerEntry> {
        let mut entries: Vec<LedgerEntry> = Vec::new();
        for (position, token) in tokens.iter().enumerate() {
            entries.push(LedgerEntry {
                position: u64::try_from(position).unwrap(),
                previous: entries.last().map_or(NO_ENTRY, LedgerEntry::digest),
                at: Timestamp::from_millis(5),
                by: firn_wire::Actor::Coordinators,
                act: LedgerAct::UseToken {
                    token: TokenId::from_bytes([*token; 32]),
                    node: firn_base::PublicKey::from_bytes([9; 32]),
                    operator: "ada".into(),
                    failure_domain: None,
                },
            });
        }
        entries
    }

    fn head(entries: &[LedgerEntry]) -> LedgerHead {
        let digest = entries.last().map_or(NO_ENTRY, LedgerEntry::digest);
        LedgerHead { entries: u64::try_from(entries.len()).unwrap(), digest }
    }

    fn check(known: &[LedgerEntry], added: Vec<LedgerEntry>, head: LedgerHead) -> Result<Testimony, String> {
        Testimony::chain(known, added, head, Signed::seal(&Identity::from_seed(&[7; 32]), ARCHIVE, &head))
    }

    fn testimony(tokens: &[u8]) -> Testimony {
        let entries = chain(tokens);
        let head = head(&entries);
        check(&[], entries, head).unwrap()
    }

    fn length_vouched(chains: &[&[u8]], needed: usize) -> usize {
        let testimonies: Vec<_> = chains.iter().map(|tokens| testimony(tokens)).collect();
        let ledger = vouched(&testimonies, needed);
        assert!(ledger.heads.len() >= needed);
        assert_eq!(ledger.state.used_tokens.len(), ledger.entries.len());
        ledger.entries.len()
    }

    #[test]
    fn the_longest_prefix_that_a_majority_shares_is_believed() {
        assert_eq!(length_vouched(&[&[1, 2, 3]], 1), 3);
        assert_eq!(length_vouched(&[&[1, 2, 3], &[1, 2, 3, 4], &[1]], 2), 3);
        assert_eq!(length_vouched(&[&[1], &[1, 2]], 2), 1);
        assert_eq!(length_vouched(&[&[], &[1, 2]], 2), 0);
    }

    #[test]
    fn a_single_liar_adds_and_removes_nothing() {
        assert_eq!(length_vouched(&[&[6, 6, 6, 6, 6], &[1, 2, 3], &[1, 2]], 2), 2);
        assert_eq!(length_vouched(&[&[1, 2, 9, 9, 9], &[1, 2, 3], &[1, 2, 3]], 2), 3);
    }

    #[test]
    fn a_page_that_goes_on_from_what_is_known_is_taken_and_a_shorter_ledger_too() {
        let all = chain(&[1, 2, 3, 4]);
        assert_eq!(check(&all[..2], all[2..].to_vec(), head(&all)).unwrap().entries.len(), 4);
        assert_eq!(check(&all, Vec::new(), head(&all[..1])).unwrap().entries.len(), 1);
        assert_eq!(check(&all, Vec::new(), head(&[])).unwrap().entries.len(), 0);
    }

    #[test]
    fn a_chain_that_is_broken_or_not_the_signed_one_is_refused() {
        let (all, other) = (chain(&[1, 2, 3]), chain(&[1, 5, 3]));
        assert!(check(&[], all.clone(), head(&other)).is_err());
        assert!(check(&[], all[..2].to_vec(), head(&all)).is_err());
        assert!(check(&other[..2], all[2..].to_vec(), head(&all)).is_err());
        let mut renumbered = all.clone();
        renumbered[1].position = 7;
        assert!(check(&[], renumbered, head(&all)).is_err());
        assert!(check(&[], all, LedgerHead { entries: u64::MAX, digest: NO_ENTRY }).is_err());
    }
}
