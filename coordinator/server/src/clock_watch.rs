//! Keeping this coordinator out of the lead while its clock is wrong, and telling people.
//!
//! Always holds: one whose clock cannot be within ten minutes of a majority's asks for no votes, and one whose clock is
//! right again takes part by itself. Leaves to others: the judgement (`coordinator/logic`), proposing nothing and falling
//! silent as a leader (`consensus`), which need no watch: they look at the clock each time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_base::NodeId;
use firn_coordinator_logic::{ClockStanding, Clocks};
use tokio::time::{MissedTickBehavior, interval};

use crate::shared::Shared;

/// Well within an election, so that a leader that has just fallen silent does not ask to be elected again.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Watches for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_wrong = false;
    let mut told = BTreeSet::new();
    loop {
        looks.tick().await;
        let clocks = shared.consensus.clocks();
        let is_wrong = clocks.standing() == ClockStanding::Differs;
        shared.consensus.let_stand(!is_wrong);
        if was_wrong && !is_wrong {
            tracing::info!("the clock of this coordinator is right again: it takes part as before");
            shared.listen_anew();
        }
        was_wrong = is_wrong;
        tell(&clocks, &mut told);
    }
}

/// Says once of each wrong clock that it is.
fn tell(clocks: &Clocks, told: &mut BTreeSet<NodeId>) {
    let apart = clocks.apart();
    told.retain(|id| apart.iter().any(|difference| difference.coordinator == *id));
    for difference in apart.iter().filter(|difference| told.insert(difference.coordinator)) {
        tracing::error!(
            coordinator = %difference.coordinator.short(),
            "the clock of this coordinator is {difference}: set it right, until then it does not lead"
        );
    }
}
