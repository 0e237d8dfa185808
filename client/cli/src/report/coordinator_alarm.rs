//! What is wrong with single coordinators, as `firn status` tells it: each with a sentence for people.

use firn_wire::{ClockDifference, StateDifference};
use serde::Serialize;

/// A coordinator whose clock is wrong.
#[derive(Debug, Serialize)]
pub(crate) struct ClockReport {
    coordinator: String,
    ahead_millis: i64,
    pub(crate) sentence: String,
}

impl From<&ClockDifference> for ClockReport {
    fn from(difference: &ClockDifference) -> Self {
        Self {
            sentence: format!(
                "the clock of coordinator {} is {difference}: set it right, until then it does not lead",
                difference.coordinator.short()
            ),
            coordinator: difference.coordinator.to_string(),
            ahead_millis: difference.ahead_millis,
        }
    }
}

/// A coordinator whose state is not that of the one that answers.
#[derive(Debug, Serialize)]
pub(crate) struct DifferenceReport {
    coordinator: String,
    applied: u64,
    content: bool,
    governance: bool,
    rest: bool,
    pub(crate) sentence: String,
}

impl From<&StateDifference> for DifferenceReport {
    fn from(difference: &StateDifference) -> Self {
        let coordinator = difference.coordinator.to_string();
        let short: String = coordinator.chars().take(10).collect();
        Self {
            sentence: format!(
                "coordinator {short} and the one that answers have different states ({difference}): one of them errs; \
                 with three, it is the one that both others name"
            ),
            coordinator,
            applied: difference.applied,
            content: difference.content,
            governance: difference.governance,
            rest: difference.rest,
        }
    }
}
