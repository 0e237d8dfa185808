//! How archived objects are packed until the archive lets the new bundles take the place of the old ones.
//!
//! Owns: what the next attempt does otherwise, and when there is none. Always holds: no two attempts can come to the same
//! bundles; there are [`ATTEMPTS_MAX`] at most, so that it ends whatever the archive says.
//! Leaves to others: packing, asking and sending (the client library).

use std::collections::BTreeSet;

use firn_base::BundleId;

/// Each reads and packs everything again. One is the rule; a bundle that came back with a rebuild beside what had taken
/// its place needs two or three, and so does one whose dependency is replaced while it is packed.
const ATTEMPTS_MAX: u8 = 8;

/// Bytes of a mark: the id of a bundle that goes, and which mark it is.
pub const MARK_BYTES: usize = 33;

/// What is left to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacementAttempts {
    old: BundleId,
    going: BTreeSet<BundleId>,
    marks: u8,
    attempts: u8,
}

impl ReplacementAttempts {
    /// The first attempt to pack what lies in `old`, among others, with nothing of what is `going`: that is one of them.
    pub fn new(old: BundleId, mut going: BTreeSet<BundleId>) -> Self {
        going.insert(old);
        Self { old, going, marks: 0, attempts: 1 }
    }

    /// Bundles of which this attempt uses no chunk, and which none of the new bundles can be.
    pub const fn going(&self) -> &BTreeSet<BundleId> {
        &self.going
    }

    /// A chunk that no object has, for each new bundle of this attempt; none in the first. The same objects in the same
    /// order are the same bundle always, and one that is archived cannot come again, whatever became of it: with a mark
    /// it is another one, also where the objects are a single chunk or none. Whoever is interrupted and begins anew
    /// comes to the same marks.
    pub fn mark(&self) -> Option<[u8; MARK_BYTES]> {
        (self.marks > 0).then(|| {
            let mut mark = [self.marks; MARK_BYTES];
            mark[..32].copy_from_slice(self.old.as_bytes());
            mark
        })
    }

    /// One of the new bundles is archived already, and has not taken the place of the old ones. Says whether there is
    /// another attempt.
    pub const fn note_archived(&mut self) -> bool {
        self.marks += 1;
        self.begin_next()
    }

    /// The new bundles were refused, and others have taken the place of `replaced` among those that they use. Says
    /// whether there is another attempt, without these: none if nothing would be otherwise.
    pub fn note_refused(&mut self, replaced: &[BundleId]) -> bool {
        let known = self.going.len();
        self.going.extend(replaced);
        self.going.len() > known && self.begin_next()
    }

    const fn begin_next(&mut self) -> bool {
        self.attempts += 1;
        self.attempts <= ATTEMPTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(number: u8) -> BundleId {
        BundleId::from_bytes([number; 32])
    }

    #[test]
    fn no_two_attempts_are_alike_and_there_is_an_end() {
        let mut attempts = ReplacementAttempts::new(bundle(1), BTreeSet::new());
        assert_eq!((attempts.going(), attempts.mark()), (&[bundle(1)].into(), None));
        let mut seen = vec![(attempts.going().clone(), attempts.mark())];
        for number in 0..u8::MAX {
            let goes_on = match number % 2 {
                0 => attempts.note_archived(),
                _ => attempts.note_refused(&[bundle(100 + number)]),
            };
            if !goes_on {
                assert_eq!(seen.len(), usize::from(ATTEMPTS_MAX));
                return;
            }
            let next = (attempts.going().clone(), attempts.mark());
            assert!(!seen.contains(&next));
            seen.push(next);
        }
        panic!("it has no end");
    }

    #[test]
    fn what_takes_the_place_of_another_bundle_bears_another_mark_and_the_same_one_if_it_begins_anew() {
        let marked = |old| {
            let mut attempts = ReplacementAttempts::new(bundle(old), BTreeSet::new());
            assert!(attempts.note_archived());
            attempts.mark().unwrap()
        };
        assert_eq!(marked(1), marked(1));
        assert_ne!(marked(1), marked(2));
    }

    #[test]
    fn a_refusal_is_no_reason_to_pack_again_where_nothing_that_is_used_was_replaced() {
        let mut attempts = ReplacementAttempts::new(bundle(1), [bundle(2)].into());
        assert!(!attempts.note_refused(&[]));
        assert!(!attempts.note_refused(&[bundle(2)]), "of that one nothing was used");
        assert!(attempts.note_refused(&[bundle(2), bundle(3)]));
        assert_eq!((attempts.going(), attempts.mark()), (&[1, 2, 3].map(bundle).into(), None));
    }
}
