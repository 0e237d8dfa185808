//! Whether a node is in touch with its archive.
//!
//! Leaves to others: hearing (the session), what an owner is told beside it (the shell).

use std::time::Duration;

/// So long nothing may be heard before the owner has to see to it: coordinators that are restarted, a router that is, or an
/// election take less, and 72 h later what is not heard counts as lost.
pub const OUT_OF_TOUCH_AFTER: Duration = Duration::from_secs(300);

/// For how long a node has been out of touch that has run for `uptime`, and last heard a coordinator so long ago, if it did; none
/// while that is not worth a word.
pub fn out_of_touch(heard_ago: Option<Duration>, uptime: Duration) -> Option<Duration> {
    let silence = heard_ago.unwrap_or(uptime);
    (silence >= OUT_OF_TOUCH_AFTER).then_some(silence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_minutes_without_a_word_are_too_many_also_from_the_start_on() {
        let seconds = Duration::from_secs;
        assert_eq!(out_of_touch(None, seconds(299)), None);
        assert_eq!(out_of_touch(None, seconds(300)), Some(seconds(300)));
        assert_eq!(out_of_touch(Some(seconds(2)), seconds(90_000)), None);
        assert_eq!(out_of_touch(Some(seconds(7_200)), seconds(90_000)), Some(seconds(7_200)));
    }
}
