//! An upload: bundles that become visible together, from the first reservation to the last late receipt.
//!
//! Owns: what to do next and what to make of every refusal. Always holds: a commit is asked for only when
//! every bundle has receipts for its threshold (k + ⌈(n-k)/2⌉) of the reservation in force; shards go on to n
//! behind the commit; every retry is bounded in number and the whole in time.
//! Leaves to others: doing the steps, and checking receipts before they are handed in (the client library).
//!
//! The driver calls [`Upload::next_step`] until it says [`UploadStep::Wait`], carries the steps out side by
//! side, and tells the results by the `handle_…` methods.

use firn_base::Timestamp;
use firn_wire::{HeldPath, Receipt, RefusalKind, RefusedRequest, ReservationGrant, Signed};

use crate::shard_progress::{SendFailure, ShardProgress};
use crate::{ShardSend, UploadError, UploadOutcome, UploadPolicy, UploadStep, UploadedPart};

/// One upload. See the module's page for how to drive it.
#[derive(Debug)]
pub struct Upload {
    policy: UploadPolicy,
    bundles: Vec<Bundle>,
    k: u8,
    phase: Phase,
    sends_in_flight: usize,
    commit_not_before: Timestamp,
    commit_retries: u32,
    recodings: u32,
    late_attempts: u32,
    last_progress: Timestamp,
    last_refusal: String,
}

#[derive(Debug)]
struct Bundle {
    state: BundleState,
    reservations: u32,
    retries: u32,
}

#[derive(Debug)]
enum BundleState {
    Unreserved { not_before: Timestamp },
    Reserving,
    Reserved(ShardProgress),
    Archived,
}

#[derive(Debug)]
enum Phase {
    Uploading,
    Committing,
    // The answer to a recoding is awaited.
    Recoding { asked: bool },
    // Committed; shards go on to n.
    Finishing { outcome: UploadOutcome, reporting: bool },
    Over(Result<UploadOutcome, UploadError>),
}

impl Upload {
    /// An upload of `bundles` bundles coded with `k` data shards each.
    pub fn new(bundles: usize, k: u8, policy: UploadPolicy, now: Timestamp) -> Self {
        assert!(bundles > 0, "an upload has a bundle");
        let fresh =
            || Bundle { state: BundleState::Unreserved { not_before: now }, reservations: 0, retries: 0 };
        Self {
            policy,
            bundles: (0..bundles).map(|_| fresh()).collect(),
            k,
            phase: Phase::Uploading,
            sends_in_flight: 0,
            commit_not_before: now,
            commit_retries: 0,
            recodings: 0,
            late_attempts: 0,
            last_progress: now,
            last_refusal: String::new(),
        }
    }

    /// What to do next. Steps are given once; call until [`UploadStep::Wait`] or [`UploadStep::Done`].
    pub fn next_step(&mut self, now: Timestamp) -> UploadStep {
        match &mut self.phase {
            Phase::Over(outcome) => return UploadStep::Done(outcome.clone()),
            Phase::Recoding { asked } => {
                return if std::mem::replace(asked, true) {
                    UploadStep::Wait(None)
                } else {
                    UploadStep::Recode
                };
            }
            Phase::Uploading | Phase::Committing | Phase::Finishing { .. } => {}
        }
        if let Some(send) = self.next_send(now) {
            return UploadStep::Send(Box::new(send));
        }
        match self.phase {
            Phase::Uploading => self.next_before_commit(now),
            Phase::Finishing { reporting: false, .. } => self.next_behind_commit(),
            _ => UploadStep::Wait(self.next_time(now)),
        }
    }

    fn next_send(&mut self, now: Timestamp) -> Option<ShardSend> {
        if self.sends_in_flight >= self.policy.sends_in_flight_max {
            return None;
        }
        let mut reserved =
            self.bundles.iter_mut().enumerate().filter_map(|(bundle, it)| match &mut it.state {
                BundleState::Reserved(progress) => Some((bundle, progress)),
                _ => None,
            });
        let send = reserved.find_map(|(bundle, progress)| {
            let (index, target, ticket) = progress.take_next(now)?;
            Some(ShardSend { bundle, reservation: progress.reservation(), index, target, ticket })
        })?;
        self.sends_in_flight += 1;
        Some(send)
    }

    fn next_before_commit(&mut self, now: Timestamp) -> UploadStep {
        self.give_up_bundles_short_of_shards(now);
        if let Phase::Over(outcome) = &self.phase {
            return UploadStep::Done(outcome.clone());
        }
        let open = self.bundles.iter().filter(|bundle| bundle.is_open(&self.policy, now)).count();
        let due =
            |it: &Bundle| matches!(it.state, BundleState::Unreserved { not_before } if not_before <= now);
        if open < self.policy.open_bundles_max
            && let Some(bundle) = self.bundles.iter().position(due)
        {
            self.bundles[bundle].state = BundleState::Reserving;
            self.bundles[bundle].reservations += 1;
            return UploadStep::Reserve(bundle);
        }
        if self.bundles.iter().all(|bundle| matches!(bundle.state, BundleState::Archived)) {
            return self.end(Ok(UploadOutcome::AlreadyArchived));
        }
        let all_ready = self.bundles.iter().all(|bundle| bundle.is_ready(&self.policy, now));
        if all_ready && self.commit_not_before <= now {
            self.phase = Phase::Committing;
            return UploadStep::Commit(self.parts_to_commit());
        }
        let stuck_for = now.since(self.last_progress);
        if stuck_for >= self.policy.give_up_after && self.sends_in_flight == 0 {
            return self.end(Err(UploadError::Unavailable(self.last_refusal.clone())));
        }
        UploadStep::Wait(self.next_time(now))
    }

    fn next_behind_commit(&mut self) -> UploadStep {
        let all_settled = self.bundles.iter().all(|bundle| bundle.progress().is_none_or(|p| p.is_settled()));
        if !all_settled {
            return UploadStep::Wait(self.bundles.iter().filter_map(|b| b.progress()?.next_retry()).min());
        }
        let late: Vec<_> =
            self.bundles.iter().filter_map(Bundle::progress).flat_map(ShardProgress::late_receipts).collect();
        let Phase::Finishing { outcome, reporting } = &mut self.phase else {
            return UploadStep::Wait(None);
        };
        if late.is_empty() || self.late_attempts >= LATE_ATTEMPTS_MAX {
            let mut outcome = outcome.clone();
            if let UploadOutcome::Committed { shards, .. } = &mut outcome {
                *shards =
                    self.bundles.iter().filter_map(Bundle::progress).map(ShardProgress::stored_count).sum();
            }
            return self.end(Ok(outcome));
        }
        *reporting = true;
        self.late_attempts += 1;
        UploadStep::ReportLate(late)
    }

    /// Space was set aside. The driver has seen that its shards reach to the grant's n.
    pub fn handle_reserved(&mut self, bundle: usize, grant: ReservationGrant, now: Timestamp) {
        self.last_progress = now;
        if grant.scheme.k() != self.k {
            return self.recode("the archive has changed its scheme");
        }
        let targets = grant.targets.len();
        match ShardProgress::new(grant, now) {
            Some(progress) if targets >= usize::from(progress.needed()) => {
                self.bundles[bundle].retries = 0;
                self.bundles[bundle].state = BundleState::Reserved(progress);
            }
            _ => {
                let sentence = "a coordinator granted space without proper tickets".to_owned();
                self.reserve_later(bundle, sentence, now);
            }
        }
    }

    /// Space was refused, or nobody answered (then as [`RefusalKind::Unavailable`]).
    pub fn handle_reserve_refused(&mut self, bundle: usize, refused: RefusedRequest, now: Timestamp) {
        match refused.kind {
            RefusalKind::AlreadyDone => {
                self.last_progress = now;
                self.bundles[bundle].state = BundleState::Archived;
            }
            RefusalKind::SchemeChanged => self.recode(&refused.sentence),
            RefusalKind::Unavailable
            | RefusalKind::Superseded
            | RefusalKind::Expired
            | RefusalKind::Disk
            | RefusalKind::Uncertain => {
                // Asking in vain does not use up a reservation: the time is bounded instead.
                let it = &mut self.bundles[bundle];
                it.reservations = it.reservations.saturating_sub(1);
                self.reserve_later(bundle, refused.sentence, now);
            }
            RefusalKind::NotAllowed | RefusalKind::Full | RefusalKind::Malformed | RefusalKind::NotFound => {
                self.fail(refused)
            }
        }
    }

    /// A node gave a receipt, which the driver has checked.
    pub fn handle_stored(&mut self, send: &ShardSend, receipt: Signed<Receipt>, now: Timestamp) {
        self.sends_in_flight -= 1;
        if let Some(progress) = self.progress_of(send) {
            progress.stored(send.index, receipt, now);
            self.last_progress = now;
        }
    }

    /// A shard did not arrive.
    pub fn handle_send_failed(&mut self, send: &ShardSend, failure: SendFailure, now: Timestamp) {
        self.sends_in_flight -= 1;
        let policy = self.policy;
        if let Some(progress) = self.progress_of(send) {
            progress.failed(send.index, failure, &policy, now);
        }
    }

    /// The commit stands.
    pub fn handle_committed(&mut self, visible: u64, held: Vec<HeldPath>, now: Timestamp) {
        self.last_progress = now;
        let outcome = UploadOutcome::Committed { visible, held, shards: 0 };
        self.phase = Phase::Finishing { outcome, reporting: false };
    }

    /// The commit was refused, or nobody answered (then as [`RefusalKind::Unavailable`]).
    pub fn handle_commit_refused(&mut self, refused: RefusedRequest, now: Timestamp) {
        self.phase = Phase::Uploading;
        match refused.kind {
            // An answer may have been lost: a single bundle that exists is this one.
            RefusalKind::AlreadyDone if self.bundles.len() == 1 => {
                self.bundles[0].state = BundleState::Archived;
            }
            // Of several, reserving again tells which exist.
            RefusalKind::AlreadyDone | RefusalKind::Expired | RefusalKind::NotFound => {
                for bundle in 0..self.bundles.len() {
                    if matches!(self.bundles[bundle].state, BundleState::Reserved(_)) {
                        self.reserve_later(bundle, refused.sentence.clone(), now);
                    }
                }
            }
            RefusalKind::SchemeChanged => self.recode(&refused.sentence),
            RefusalKind::Unavailable
            | RefusalKind::Superseded
            | RefusalKind::Disk
            | RefusalKind::Uncertain => {
                self.commit_not_before = now.after(self.policy.pause(self.commit_retries));
                self.commit_retries += 1;
                self.last_refusal = refused.sentence;
            }
            // Sealed is sealed: only packing anew makes another bundle of it.
            RefusalKind::NotAllowed | RefusalKind::Full | RefusalKind::Malformed => self.fail(refused),
        }
    }

    /// All bundles were coded anew, with `k` data shards.
    pub fn handle_recoded(&mut self, k: u8, now: Timestamp) {
        self.k = k;
        self.last_progress = now;
        self.phase = Phase::Uploading;
        for bundle in &mut self.bundles {
            if !matches!(bundle.state, BundleState::Archived) {
                bundle.state = BundleState::Unreserved { not_before: now };
            }
        }
    }

    /// Late receipts were taken, or not: then they are offered a few times more. What stays untold is found by
    /// the node's next inventory.
    pub fn handle_late_receipts(&mut self, taken: bool) {
        if taken {
            self.late_attempts = LATE_ATTEMPTS_MAX;
        }
        if let Phase::Finishing { reporting, .. } = &mut self.phase {
            *reporting = false;
        }
    }

    /// Ends the upload because the driver cannot go on.
    pub fn abandon(&mut self, error: UploadError) {
        self.phase = Phase::Over(Err(error));
    }

    fn end(&mut self, outcome: Result<UploadOutcome, UploadError>) -> UploadStep {
        self.phase = Phase::Over(outcome.clone());
        UploadStep::Done(outcome)
    }

    fn fail(&mut self, refused: RefusedRequest) {
        self.phase = Phase::Over(Err(match refused.kind {
            RefusalKind::NotAllowed => UploadError::NotAllowed(refused.sentence),
            RefusalKind::Full => UploadError::Full(refused.sentence),
            _ => UploadError::Refused(refused.sentence),
        }));
    }

    fn recode(&mut self, sentence: &str) {
        self.recodings += 1;
        self.phase = if self.recodings > self.policy.recodings_max {
            Phase::Over(Err(UploadError::Unavailable(sentence.to_owned())))
        } else {
            Phase::Recoding { asked: false }
        };
    }

    fn reserve_later(&mut self, bundle: usize, sentence: String, now: Timestamp) {
        let it = &mut self.bundles[bundle];
        it.state = BundleState::Unreserved { not_before: now.after(self.policy.pause(it.retries)) };
        it.retries = it.retries.saturating_add(1);
        self.last_refusal = sentence;
    }

    /// A bundle for which every node has answered and too few have stored gets new nodes, a few times.
    fn give_up_bundles_short_of_shards(&mut self, now: Timestamp) {
        for bundle in 0..self.bundles.len() {
            let Some(progress) = self.bundles[bundle].progress() else { continue };
            if !progress.is_settled() || progress.has_enough() {
                continue;
            }
            let (stored, needed) = (progress.stored_count(), progress.needed());
            let reasons = progress.failures().join("; ");
            if self.bundles[bundle].reservations >= self.policy.reservations_max {
                self.phase = Phase::Over(Err(UploadError::TooFewShards { stored, needed, reasons }));
                return;
            }
            self.reserve_later(bundle, reasons, now);
        }
    }

    fn parts_to_commit(&mut self) -> Vec<UploadedPart> {
        let reserved = self.bundles.iter_mut().enumerate().filter_map(|(bundle, it)| match &mut it.state {
            BundleState::Reserved(progress) => Some((bundle, progress)),
            _ => None,
        });
        reserved
            .map(|(bundle, progress)| {
                let receipts = progress.receipts_to_commit();
                UploadedPart { bundle, reservation: progress.reservation(), receipts }
            })
            .collect()
    }

    fn progress_of(&mut self, send: &ShardSend) -> Option<&mut ShardProgress> {
        match &mut self.bundles.get_mut(send.bundle)?.state {
            BundleState::Reserved(progress) if progress.reservation() == send.reservation => Some(progress),
            _ => None,
        }
    }

    /// When time alone changes something.
    fn next_time(&self, now: Timestamp) -> Option<Timestamp> {
        let of_bundles = self.bundles.iter().flat_map(|bundle| match &bundle.state {
            BundleState::Unreserved { not_before } => [Some(*not_before), None],
            BundleState::Reserved(progress) => [progress.next_retry(), progress.grace_end(&self.policy)],
            BundleState::Reserving | BundleState::Archived => [None, None],
        });
        of_bundles.flatten().chain([self.commit_not_before]).filter(|time| *time > now).min()
    }
}

impl Bundle {
    const fn progress(&self) -> Option<&ShardProgress> {
        match &self.state {
            BundleState::Reserved(progress) => Some(progress),
            _ => None,
        }
    }

    fn is_ready(&self, policy: &UploadPolicy, now: Timestamp) -> bool {
        match &self.state {
            BundleState::Reserved(progress) => progress.is_ready(policy, now),
            BundleState::Archived => true,
            BundleState::Unreserved { .. } | BundleState::Reserving => false,
        }
    }

    fn is_open(&self, policy: &UploadPolicy, now: Timestamp) -> bool {
        match &self.state {
            BundleState::Reserving => true,
            BundleState::Reserved(progress) => !progress.is_ready(policy, now),
            BundleState::Unreserved { .. } | BundleState::Archived => false,
        }
    }
}

// A receipt that nobody took is found by the node's inventory, so there is no hurry about it.
const LATE_ATTEMPTS_MAX: u32 = 3;
