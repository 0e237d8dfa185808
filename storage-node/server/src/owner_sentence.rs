//! How the node is, in words for its owner.
//!
//! Always holds: what is not known is said to be unknown; nothing is promised.

use std::time::Duration;

use firn_base::{BitRate, ByteCount};
use firn_wire::NodeState;

use crate::report::NodeReport;

// Whoever has just been started was not dialled yet.
const DIALLED_BY: Duration = Duration::from_secs(6 * 3600);
const HOUR_SECONDS: u64 = 3600;

impl NodeReport {
    /// How the node is, in one sentence: whether all is well, what it holds and why not more, whether others reach it, what
    /// went over the line, whom it helped, and whether there is something to do.
    pub fn sentence(&self) -> String {
        let is_well = self.attention.is_empty();
        let how = match (is_well, &self.rest, self.is_ready()) {
            _ if self.out_of_touch().is_some() => "This node is out of touch with its archive".to_owned(),
            (false, _, _) => "This node needs attention".to_owned(),
            (true, Some(rest), true) => format!("This node rests ({rest})"),
            (true, None, true) if self.absent_until_millis.is_some() => {
                "This node is well and may be away, as declared".to_owned()
            }
            (true, None, true) => "This node is well".to_owned(),
            (true, _, false) if self.is_answered() => "The archive does not know this node".to_owned(),
            (true, _, false) => "This node is not in touch with its archive".to_owned(),
        };
        let why = self.why_not_full().map(|why| format!(" ({why})")).unwrap_or_default();
        let limit = self.monthly_traffic_bytes.map(|limit| format!(" of {}", ByteCount(limit)));
        let rate = self
            .max_upload_now_bytes_per_second
            .map(|bytes_per_second| format!(" at {} up at most", BitRate { bytes_per_second }));
        let to_do = match (&self.attention[..], self.is_ready()) {
            ([], true) if self.absent_until_millis.is_some() => {
                "`resume` once it is there to stay".to_owned()
            }
            ([], true) => "there is nothing to do".to_owned(),
            ([], false) => "it goes on trying, and there is nothing to do yet".to_owned(),
            ([only], _) => format!("to do: {}", only.sentence),
            ([first, others @ ..], _) => format!("to do: {}; and {} more", first.sentence, others.len()),
        };
        format!(
            "{how}: it holds {} shards in {} of {}{why}, {}, moved {} today and {}{} this month{}, and helped {} reads within a week; {to_do}.",
            self.shards,
            ByteCount(self.used_bytes),
            ByteCount(self.quota_bytes),
            self.reach(),
            ByteCount(self.traffic_today_bytes),
            ByteCount(self.traffic_month_bytes),
            limit.unwrap_or_default(),
            rate.unwrap_or_default(),
            self.reads_helped_in_week,
        )
    }

    /// Where the node is in its life, in a word or two.
    pub fn state_in_words(&self) -> &str {
        match &self.state {
            Some(state) => state,
            None if self.was_answered() => "not admitted",
            None => "not known yet",
        }
    }

    /// Whether a coordinator that is connected now has answered.
    fn is_answered(&self) -> bool {
        self.coordinators.iter().any(|link| link.connected && link.heard_seconds_ago.is_some())
    }

    /// Whether a coordinator has answered in this run: before, nobody knows what the archive makes of the node.
    const fn was_answered(&self) -> bool {
        self.heard_seconds_ago.is_some()
    }

    /// What its owner has to see to, a sentence each.
    pub fn needs_attention(&self) -> Vec<String> {
        self.attention.iter().map(|attention| attention.sentence.clone()).collect()
    }

    /// Why most of the quota is empty; none if it is not.
    fn why_not_full(&self) -> Option<&'static str> {
        let is = |state: NodeState| self.state == Some(state.to_string());
        if self.used_bytes >= self.quota_bytes / 2 {
            return None;
        }
        Some(if self.state.is_none() && !self.was_answered() {
            "no coordinator has said yet whether the archive knows it"
        } else if self.state.is_none() && self.shards > 0 {
            "the archive does not know it"
        } else if self.state.is_none() {
            "the archive has not admitted it yet"
        } else if self.leaving || is(NodeState::Draining) {
            "what it holds is moved to others"
        } else if is(NodeState::Suspended) {
            "it is suspended and is given nothing new"
        } else if is(NodeState::Gone) || is(NodeState::Lost) {
            "the archive counts on nothing here"
        } else if self.is_disk_filled {
            "its disk has no room for more"
        } else if self.rest.is_some() {
            "it takes nothing while it rests"
        } else if self.absent_until_millis.is_some() {
            "it is given nothing while it may be away"
        } else {
            "it fills as paths are published and others' shards need a home"
        })
    }

    /// Whether others reach it.
    fn reach(&self) -> String {
        match self.dialled_seconds_ago {
            Some(seconds) if seconds < HOUR_SECONDS => "others reach it".to_owned(),
            Some(seconds) => format!("others reached it last {} h ago", seconds / HOUR_SECONDS),
            None if self.uptime_seconds < DIALLED_BY.as_secs() => "nobody has dialled it yet".to_owned(),
            None => format!(
                "nobody has dialled it since it was started (does UDP get through to {}?)",
                self.address
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{AttentionReport, LinkReport};

    fn report() -> NodeReport {
        NodeReport {
            state: Some("active".into()),
            shards: 3,
            used_bytes: 1_200_000_000,
            beside_bytes: 0,
            quota_bytes: 50_000_000_000,
            max_upload_now_bytes_per_second: Some(1_250_000),
            monthly_traffic_bytes: Some(2_000_000_000_000),
            traffic_today_bytes: 120_000_000,
            traffic_month_bytes: 2_000_000_000,
            dialled_seconds_ago: Some(180),
            reads_helped_in_week: 1234,
            heard_seconds_ago: Some(2),
            coordinators: vec![LinkReport {
                connected: true,
                heard_seconds_ago: Some(2),
                ..LinkReport::default()
            }],
            address: "203.0.113.7:4434".into(),
            ..NodeReport::default()
        }
    }

    #[test]
    fn a_healthy_node_says_all_that_its_owner_wants_to_know_in_one_sentence() {
        assert_eq!(
            report().sentence(),
            "This node is well: it holds 3 shards in 1.2 GB of 50.0 GB (it fills as paths are published and others' shards need a home), others reach it, moved 120.0 MB today and 2.0 GB of 2.0 TB this month at 10.0 Mbit/s up at most, and helped 1234 reads within a week; there is nothing to do."
        );
    }

    #[test]
    fn a_node_that_may_be_away_is_given_nothing_until_its_owner_says_that_it_is_back() {
        let away = NodeReport { absent_until_millis: Some(1_800_000_000_000), ..report() }.sentence();
        assert!(
            away.starts_with("This node is well and may be away, as declared: it holds 3 shards"),
            "{away}"
        );
        assert!(away.contains(" (it is given nothing while it may be away), "), "{away}");
        assert!(away.ends_with("; `resume` once it is there to stay."), "{away}");
    }

    #[test]
    fn what_is_to_do_and_what_is_not_known_is_said() {
        let attention = |sentence: &str| AttentionReport {
            cause: "cause".into(),
            sentence: sentence.into(),
            consequence_millis: None,
        };
        let ailing = NodeReport {
            attention: vec![attention("mount the disk"), attention("ask why")],
            dialled_seconds_ago: None,
            uptime_seconds: 86_400,
            ..report()
        };
        let sentence = ailing.sentence();
        assert!(sentence.starts_with("This node needs attention: "), "{sentence}");
        assert!(sentence.contains("does UDP get through to 203.0.113.7:4434?"), "{sentence}");
        assert!(sentence.ends_with("; to do: mount the disk; and 1 more."), "{sentence}");
        let young = NodeReport { uptime_seconds: 60, ..ailing };
        assert!(young.sentence().contains("nobody has dialled it yet"));
        let away = NodeReport { coordinators: vec![], heard_seconds_ago: None, state: None, ..report() };
        assert!(away.sentence().starts_with("This node is not in touch with its archive: "));
        assert!(away.sentence().contains("no coordinator has said yet"));
        assert_eq!(away.state_in_words(), "not known yet");
        let forgotten = NodeReport { state: None, ..report() };
        assert!(forgotten.sentence().starts_with("The archive does not know this node: "));
        assert!(forgotten.sentence().contains("(the archive does not know it)"));
        assert_eq!(forgotten.state_in_words(), "not admitted");
        let fresh = NodeReport { shards: 0, ..forgotten };
        assert!(fresh.sentence().contains("has not admitted it yet"));
    }

    #[test]
    fn a_node_whose_disk_is_full_does_not_say_that_it_fills() {
        let sentence = NodeReport { is_disk_filled: true, ..report() }.sentence();
        assert!(sentence.contains(" of 50.0 GB (its disk has no room for more), "), "{sentence}");
    }

    #[test]
    fn a_node_that_is_half_full_needs_no_excuse() {
        let full = NodeReport { used_bytes: 25_000_000_000, ..report() };
        assert_eq!(full.why_not_full(), None);
        for (state, why) in [
            ("draining", "what it holds is moved to others"),
            ("suspended", "it is suspended and is given nothing new"),
            ("lost", "the archive counts on nothing here"),
        ] {
            let node = NodeReport { state: Some(state.into()), ..report() };
            assert_eq!(node.why_not_full(), Some(why));
        }
    }
}
