//! Waiting for a turn that comes fairly.
//!
//! Always holds: a turn is given back when it is dropped, also one that comes while whoever waited for it goes. Leaves to
//! others: whose turn is next (`storage-node/logic`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::PublicKey;
use firn_storage_node_logic::{AskedTurn, FairTurns, Place, TurnBounds};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Where readers wait for their turns.
#[derive(Debug)]
pub(crate) struct FairGate {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    turns: FairTurns<PublicKey>,
    waiting: BTreeMap<Place, oneshot::Sender<()>>,
}

/// A turn.
#[derive(Debug)]
pub(crate) struct FairTurn {
    gate: Arc<FairGate>,
    who: PublicKey,
}

/// Somebody who waits.
struct Waiting {
    gate: Arc<FairGate>,
    who: PublicKey,
    place: Place,
    has_turn: bool,
}

impl FairGate {
    /// All turns are free.
    pub(crate) fn new(bounds: TurnBounds) -> Arc<Self> {
        let inner = Inner { turns: FairTurns::new(bounds), waiting: BTreeMap::new() };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    /// Waits for a turn, for so long; none if it does not come by then, or too many wait.
    pub(crate) async fn take(self: &Arc<Self>, who: PublicKey, wait: Duration) -> Option<FairTurn> {
        let (mut waiting, called) = {
            let mut inner = self.inner();
            match inner.turns.ask(who) {
                AskedTurn::Granted => return Some(FairTurn { gate: Arc::clone(self), who }),
                AskedTurn::TooMany => return None,
                AskedTurn::Waits(place) => {
                    let (call, called) = oneshot::channel();
                    inner.waiting.insert(place, call);
                    (Waiting { gate: Arc::clone(self), who, place, has_turn: false }, called)
                }
            }
        };
        // Dropped with it: whoever waits no more, and has been called meanwhile, gives the turn back.
        timeout(wait, called).await.ok()?.ok()?;
        waiting.has_turn = true;
        Some(FairTurn { gate: Arc::clone(self), who })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, who: &PublicKey) {
        let mut inner = self.inner();
        if let Some(place) = inner.turns.give_back(who)
            && let Some(call) = inner.waiting.remove(&place)
        {
            // Whoever has stopped listening gives it back himself.
            let _ = call.send(());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.has_turn {
            return;
        }
        let waited = {
            let mut inner = self.gate.inner();
            inner.waiting.remove(&self.place);
            inner.turns.give_up(self.place)
        };
        if !waited {
            self.gate.give_back(&self.who);
        }
    }
}

impl Drop for FairTurn {
    fn drop(&mut self) {
        self.gate.give_back(&self.who);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const BOUNDS: TurnBounds = TurnBounds { turns: 1, turns_each: 1, waiting: 9, waiting_each: 3 };
    const LONG: Duration = Duration::from_secs(600);

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_comes_while_whoever_waited_goes_is_anothers() {
        let gate = FairGate::new(BOUNDS);
        let first = gate.take(key(1), LONG).await.unwrap();
        let mut second = Box::pin(gate.take(key(2), LONG));
        let mut third = Box::pin(gate.take(key(3), LONG));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        // It was called and never looked.
        drop(second);
        assert!(third.await.is_some());
        assert!(gate.take(key(4), LONG).await.is_some(), "the third one's turn is over");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_has_no_turn_and_holds_nobody_up() {
        let gate = FairGate::new(BOUNDS);
        let first = gate.take(key(1), LONG).await.unwrap();
        assert!(gate.take(key(2), Duration::from_secs(2)).await.is_none());
        assert!(gate.inner().waiting.is_empty());
        drop(first);
        assert!(gate.take(key(3), LONG).await.is_some());
    }
}
