//! Disks that are slow for a while, or stand still.
//!
//! Always holds: whatever may block on such a disk waits, reads too, and nothing else does; what was begun is done once
//! the disk goes on, unless its machine loses its power first. Leaves to others: when (`faults`), what a loss of power
//! does (`machines`).

use std::time::Duration;

use firn_transport::{BoxFuture, DiskPace};
use tokio::sync::watch;
use tokio::time::sleep;

/// How fast a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pace {
    /// As if everything were done at once.
    #[default]
    Quick,
    /// Everything takes so long.
    Slow(Duration),
    /// Nothing is done.
    Still,
}

/// The disk of a machine, as all runs of its program see it.
#[derive(Debug, Default)]
pub(crate) struct SlowDisk(watch::Sender<Pace>);

impl SlowDisk {
    pub(crate) fn set(&self, pace: Pace) {
        self.0.send_replace(pace);
    }
}

impl DiskPace for SlowDisk {
    fn wait(&self) -> Option<BoxFuture<'static, ()>> {
        let mut disk = self.0.subscribe();
        let pace = *disk.borrow_and_update();
        match pace {
            Pace::Quick => None,
            Pace::Slow(takes) => Some(Box::pin(sleep(takes))),
            Pace::Still => Some(Box::pin(async move {
                // That nobody can set it any more is the end of the world.
                let _ = disk.wait_for(|pace| *pace != Pace::Still).await;
            })),
        }
    }
}
