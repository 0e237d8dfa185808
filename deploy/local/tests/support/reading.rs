//! Reading everything again and again, for as long as something else goes on.
//!
//! Always holds: a read that fails is a failed test; where a test fails otherwise, its readers end with it.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{ScopedJoinHandle, scope};

/// Says that it is over when it is dropped, so also where a test fails: a scope waits for its threads.
pub struct EndsWhenDropped<'a>(pub &'a AtomicBool);

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A reader at work.
pub struct Reading<'scope> {
    thread: ScopedJoinHandle<'scope, ()>,
}

impl Reading<'_> {
    /// Asserts that none of its reads has failed.
    #[track_caller]
    pub fn assert_goes_on(&self) {
        assert!(!self.thread.is_finished(), "a reader failed");
    }
}

/// Has `read` done again and again by another thread until `meanwhile` is done. Gives how often it was.
pub fn while_reading(read: impl Fn() + Sync, meanwhile: impl FnOnce(&Reading<'_>)) -> u64 {
    let (ended, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|scope| {
        let ends = EndsWhenDropped(&ended);
        let thread = scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                read();
                rounds.fetch_add(1, Ordering::AcqRel);
            }
        });
        let reading = Reading { thread };
        meanwhile(&reading);
        drop(ends);
        if let Err(failure) = reading.thread.join() {
            resume_unwind(failure);
        }
    });
    rounds.into_inner()
}
