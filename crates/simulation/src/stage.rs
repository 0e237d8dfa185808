//! What the clients inside the simulated world and the driver around it tell each other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use firn_coordinator::storage::Memory;
use firn_storage_node::MemoryDisk;

use crate::cache::CachedPath;
use crate::machines::Machine;

/// What a client wishes to happen to the world.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// Draw faults for so long.
    Rage(Duration),
    /// Take the power from whoever leads the coordinators.
    CrashLeader,
    /// Take the power from a machine, for good.
    CrashForGood(Machine),
    /// Take the power from a machine for so long.
    CrashFor(Machine, Duration),
    /// Give a machine its power back that was to be without for good.
    Return(Machine),
    /// Take the power from every node for a moment, one after the other.
    RestartNodes,
    /// Let all machines sleep for so long.
    Sleep(Duration),
    /// Take every coordinator with its disks, for good, and let others begin.
    LoseCoordinators,
}

/// Shared by all in one run; all of it lives on one thread.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// Wishes that the driver has not fulfilled yet.
    pub(crate) wishes: RefCell<VecDeque<Wish>>,
    /// Whether all faults are over. Kept by the driver.
    pub(crate) calm: Cell<bool>,
    /// How many of the nodes that come later may come.
    pub(crate) joining: Rc<Cell<usize>>,
    /// What the publisher was told is committed.
    pub(crate) committed: RefCell<Vec<CachedPath>>,
    /// What must never happen and did.
    pub(crate) violations: RefCell<Vec<String>>,
    /// Set once everything is read: the run ends.
    pub(crate) finished: Cell<bool>,
    /// Paths read rightly.
    pub(crate) reads: Cell<u64>,
    /// Paths that could not be had at the moment.
    pub(crate) reads_put_off: Cell<u64>,
    /// Bytes that repair has moved, as leaders say.
    pub(crate) repaired_bytes: Cell<u64>,
    /// The disks of nodes, to be looked at from outside.
    pub(crate) disks: RefCell<Vec<MemoryDisk>>,
    /// The states of coordinators, likewise.
    pub(crate) states: RefCell<Vec<Memory>>,
    /// Bundles that were packed anew, and erasures that ended.
    pub(crate) purged: Cell<usize>,
    /// Bundles that came back after a disaster.
    pub(crate) restored: Cell<u64>,
    /// Who was away while they did, in a few words.
    pub(crate) away: Cell<&'static str>,
}

impl Stage {
    /// Asks the driver for something.
    pub(crate) fn wish(&self, wish: Wish) {
        self.wishes.borrow_mut().push_back(wish);
    }

    /// Notes what must never happen.
    pub(crate) fn violated(&self, what: impl Into<String>) {
        self.violations.borrow_mut().push(what.into());
    }
}
