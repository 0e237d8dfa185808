//! How much of a source is planned at a time.
//!
//! Always holds: what a plan keeps in memory is counted before it is kept, by paths and by the text of their narinfos,
//! so that neither many small ones nor a few huge ones exceed it; a half is for paths whose turn it is, so that there
//! is room for what they need; one path fits always, or nothing would go on.
//! Leaves to others: which paths come when, and reading them (the client library).

/// The most that a plan holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanWindow {
    /// Paths.
    pub paths: u64,
    /// Bytes of their narinfos as text.
    pub text_bytes: u64,
}

/// What is left of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRoom {
    left: PlanWindow,
    is_empty: bool,
}

impl Default for PlanWindow {
    /// 32,000 paths as they are in the public cache, where a narinfo has 2 kB with its 31 references. Read, with the
    /// names of what is referred to, text takes up to five times as much memory, by reckoning 300 MB. A release of a
    /// distribution has three times as many paths.
    fn default() -> Self {
        Self { paths: 65_536, text_bytes: 64 << 20 }
    }
}

impl PlanWindow {
    /// Room for the whole window.
    pub const fn whole(self) -> WindowRoom {
        WindowRoom { left: self, is_empty: true }
    }

    /// Room for the paths whose turn it is.
    pub const fn half(self) -> WindowRoom {
        let half = Self { paths: self.paths / 2, text_bytes: self.text_bytes / 2 };
        WindowRoom { left: half, is_empty: true }
    }
}

impl WindowRoom {
    /// Takes a path in whose narinfo has so many bytes, if there is room for it. The first one is taken whatever its size.
    pub fn take(&mut self, text_bytes: u64) -> bool {
        let fits = self.left.paths > 0 && self.left.text_bytes >= text_bytes;
        if fits || self.is_empty {
            self.left.paths = self.left.paths.saturating_sub(1);
            self.left.text_bytes = self.left.text_bytes.saturating_sub(text_bytes);
            self.is_empty = false;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: PlanWindow = PlanWindow { paths: 4, text_bytes: 1_000 };

    #[test]
    fn paths_are_counted_and_so_is_their_text() {
        let mut room = WINDOW.whole();
        assert_eq!([1, 1, 1, 1, 1].map(|bytes| room.take(bytes)), [true, true, true, true, false]);
        let mut room = WINDOW.whole();
        assert_eq!([600, 600, 400, 1].map(|bytes| room.take(bytes)), [true, false, true, false]);
        let mut room = WINDOW.half();
        assert_eq!([300, 300, 100, 1].map(|bytes| room.take(bytes)), [true, false, true, false]);
    }

    #[test]
    fn the_first_path_is_taken_whatever_its_size() {
        for window in [WINDOW, PlanWindow { paths: 0, text_bytes: 0 }] {
            let mut room = window.half();
            assert!(room.take(1 << 20));
            assert!(!room.take(1), "nothing is left behind it");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_never_exceeds_the_window_or_one_path(
            sizes in prop::collection::vec(1u64..1_500, 0..20),
        ) {
            let mut room = WINDOW.whole();
            let taken: Vec<u64> = sizes.into_iter().filter(|bytes| room.take(*bytes)).collect();
            prop_assert!(taken.len() <= 4);
            prop_assert!(taken.len() <= 1 || taken.iter().sum::<u64>() <= 1_000);
        }
    }
}
