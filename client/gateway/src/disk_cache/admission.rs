//! What a cache keeps and what it gives up: S3-FIFO, over names and their bytes.
//!
//! What is new waits in a short queue; only what is asked for again there goes into the long one, so that somebody who
//! reads through everything once displaces a tenth and no more. What fell out of the short queue is remembered for a
//! while, and goes straight into the long one when it comes back.
//!
//! Always holds: what is kept has at most `bytes_max` together; each name is kept once; what is given up was told. Leaves
//! to others: the bytes, and whether they are where they should be (`store`).

use std::collections::{HashMap, HashSet, VecDeque};

/// The name of an entry: the first half of the BLAKE3 of its key.
pub(crate) type Name = [u8; 16];

// A tenth for what is new, as in the work that describes the scheme (Yang et al., SOSP 2023).
const NEW_SHARE: u64 = 10;

// An entry that was asked for so often survives as many turns of the long queue.
const USES_MAX: u8 = 3;

// Names that fell out are remembered as long as there are fewer of them than entries, or than this.
const FALLEN_LEAST: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    uses: u8,
    new: bool,
}

/// What is kept, and in which order it would be given up.
#[derive(Debug)]
pub(crate) struct Admission {
    bytes_max: u64,
    kept: HashMap<Name, Kept>,
    // The next one to go is in front. Names that were removed are passed over.
    new: VecDeque<Name>,
    proved: VecDeque<Name>,
    new_bytes: u64,
    proved_bytes: u64,
    fallen: HashSet<Name>,
    fallen_order: VecDeque<Name>,
}

impl Admission {
    /// Keeps nothing yet.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            kept: HashMap::new(),
            new: VecDeque::new(),
            proved: VecDeque::new(),
            new_bytes: 0,
            proved_bytes: 0,
            fallen: HashSet::new(),
            fallen_order: VecDeque::new(),
        }
    }

    /// Bytes that are kept.
    pub(crate) const fn bytes(&self) -> u64 {
        self.new_bytes + self.proved_bytes
    }

    /// Entries that are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether the entry is kept.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.kept.contains_key(name)
    }

    /// The entry was asked for.
    pub(crate) fn used(&mut self, name: &Name) {
        if let Some(kept) = self.kept.get_mut(name) {
            kept.uses = (kept.uses + 1).min(USES_MAX);
        }
    }

    /// Keeps an entry of so many bytes, unless it is kept already or could never be. Gives the names that have to go.
    pub(crate) fn insert(&mut self, name: Name, bytes: u64) -> Inserted {
        if self.contains(&name) || bytes > self.bytes_max / NEW_SHARE {
            return Inserted { kept: false, gone: Vec::new() };
        }
        let new = !self.fallen.remove(&name);
        self.kept.insert(name, Kept { bytes, uses: 0, new });
        self.enqueue(name, bytes, new);
        Inserted { kept: true, gone: self.make_room(&name) }
    }

    /// Keeps an entry that an earlier life left. Gives the names that have to go.
    pub(crate) fn restore(&mut self, name: Name, bytes: u64) -> Vec<Name> {
        if self.contains(&name) {
            return Vec::new();
        }
        if bytes > self.bytes_max / NEW_SHARE {
            return vec![name];
        }
        self.kept.insert(name, Kept { bytes, uses: 0, new: false });
        self.enqueue(name, bytes, false);
        self.make_room(&name)
    }

    /// The entry has so many bytes from now on, or is kept from now on as one that an earlier life left. Gives the names
    /// that have to go.
    pub(crate) fn replace(&mut self, name: Name, bytes: u64) -> Vec<Name> {
        let fits = bytes <= self.bytes_max / NEW_SHARE;
        let Some(kept) = self.kept.get_mut(&name).filter(|_| fits) else {
            self.remove(&name);
            return self.restore(name, bytes);
        };
        // In its place: a name that is written each minute shall not stand in the queue once for each time.
        let (before, new) = (std::mem::replace(&mut kept.bytes, bytes), kept.new);
        *self.bytes_of(new) -= before;
        *self.bytes_of(new) += bytes;
        self.make_room(&name)
    }

    /// The entry is no more.
    pub(crate) fn remove(&mut self, name: &Name) {
        if let Some(kept) = self.kept.remove(name) {
            *self.bytes_of(kept.new) -= kept.bytes;
        }
    }

    fn bytes_of(&mut self, new: bool) -> &mut u64 {
        if new { &mut self.new_bytes } else { &mut self.proved_bytes }
    }

    fn enqueue(&mut self, name: Name, bytes: u64, new: bool) {
        *self.bytes_of(new) += bytes;
        if new { &mut self.new } else { &mut self.proved }.push_back(name);
    }

    fn make_room(&mut self, fresh: &Name) -> Vec<Name> {
        let mut gone = Vec::new();
        while self.bytes() > self.bytes_max {
            let from_new = self.new_bytes > self.bytes_max / NEW_SHARE || self.proved_bytes == 0;
            let next = if from_new { self.new.pop_front() } else { self.proved.pop_front() };
            // Both queues hold every name that is kept.
            let Some(name) = next else { break };
            let Some(kept) = self.kept.get(&name).copied().filter(|kept| kept.new == from_new) else {
                continue;
            };
            if kept.uses > 0 || name == *fresh {
                // Asked for while it was new, or once more since the last turn: it stays, for longer.
                *self.bytes_of(from_new) -= kept.bytes;
                let uses = if from_new { 0 } else { kept.uses.saturating_sub(1) };
                self.kept.insert(name, Kept { uses, new: false, ..kept });
                self.enqueue(name, kept.bytes, false);
                continue;
            }
            self.remove(&name);
            if from_new {
                self.remember_fallen(name);
            }
            gone.push(name);
        }
        gone
    }

    fn remember_fallen(&mut self, name: Name) {
        if self.fallen.insert(name) {
            self.fallen_order.push_back(name);
        }
        while self.fallen_order.len() > self.kept.len().max(FALLEN_LEAST) {
            if let Some(oldest) = self.fallen_order.pop_front() {
                self.fallen.remove(&oldest);
            }
        }
    }
}

/// What came of an insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Whether the entry is kept from now on.
    pub(crate) kept: bool,
    /// What is not kept any more.
    pub(crate) gone: Vec<Name>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn name(number: u32) -> Name {
        let mut name = [0; 16];
        name[..4].copy_from_slice(&number.to_le_bytes());
        name
    }

    #[test]
    fn who_reads_through_everything_once_displaces_nothing_that_is_in_use() {
        let mut cache = Admission::new(1000);
        for number in 0..90 {
            cache.insert(name(number), 10);
            cache.used(&name(number));
        }
        // The scan pushes the used ones through the short queue into the long one, and itself through the short one only.
        for number in 1000..11_000 {
            cache.insert(name(number), 10);
        }
        let left = (0..90).filter(|number| cache.contains(&name(*number))).count();
        assert_eq!(left, 90);
    }

    #[test]
    fn what_fell_out_and_comes_back_stays_for_longer() {
        let mut cache = Admission::new(1000);
        (0..150).for_each(|number| drop(cache.insert(name(number), 10)));
        assert!(!cache.contains(&name(0)));
        assert!(cache.insert(name(0), 10).kept);
        (200..400).for_each(|number| drop(cache.insert(name(number), 10)));
        assert!(cache.contains(&name(0)));
        assert!(!cache.contains(&name(200)));
    }

    #[test]
    fn what_would_fill_the_short_queue_alone_is_not_kept() {
        let mut cache = Admission::new(1000);
        assert_eq!(cache.insert(name(1), 101), Inserted { kept: false, gone: Vec::new() });
        assert_eq!(cache.restore(name(1), 101), [name(1)], "its file is to go");
        assert!(cache.insert(name(1), 100).kept);
    }

    #[test]
    fn what_is_replaced_again_and_again_stands_in_the_queue_once() {
        let mut cache = Admission::new(1000);
        for bytes in 0..100 {
            assert_eq!(cache.replace(name(1), bytes), [] as [Name; 0]);
        }
        assert_eq!((cache.proved.len(), cache.bytes()), (1, 99));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Insert(u32, u64),
        Restore(u32, u64),
        Replace(u32, u64),
        Use(u32),
        Remove(u32),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        let (number, bytes) = (0..60u32, 0..120u64);
        prop_oneof![
            4 => (number.clone(), bytes.clone()).prop_map(|(number, bytes)| Act::Insert(number, bytes)),
            1 => (number.clone(), bytes.clone()).prop_map(|(number, bytes)| Act::Restore(number, bytes)),
            1 => (number.clone(), bytes).prop_map(|(number, bytes)| Act::Replace(number, bytes)),
            4 => number.clone().prop_map(Act::Use),
            1 => number.prop_map(Act::Remove),
        ]
    }

    proptest! {
        #[test]
        fn whoever_does_as_told_has_what_is_kept_and_no_more_bytes_than_allowed(acts in prop::collection::vec(any_act(), 0..400)) {
            let mut cache = Admission::new(1000);
            let mut files = HashMap::new();
            for act in acts {
                match act {
                    Act::Insert(number, bytes) => {
                        let inserted = cache.insert(name(number), bytes);
                        if inserted.kept {
                            files.insert(name(number), bytes);
                        }
                        files.retain(|name, _| !inserted.gone.contains(name));
                    }
                    Act::Restore(number, bytes) => {
                        files.entry(name(number)).or_insert(bytes);
                        let gone = cache.restore(name(number), bytes);
                        files.retain(|name, _| !gone.contains(name));
                    }
                    Act::Replace(number, bytes) => {
                        files.insert(name(number), bytes);
                        let gone = cache.replace(name(number), bytes);
                        files.retain(|name, _| !gone.contains(name));
                    }
                    Act::Use(number) => cache.used(&name(number)),
                    Act::Remove(number) => {
                        cache.remove(&name(number));
                        files.remove(&name(number));
                    }
                }
                let kept: BTreeSet<_> = cache.kept.keys().collect();
                prop_assert_eq!(kept, files.keys().collect::<BTreeSet<_>>());
                prop_assert_eq!(cache.bytes(), files.values().sum::<u64>());
                prop_assert!(cache.bytes() <= 1000);
            }
        }
    }
}
