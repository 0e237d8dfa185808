//! What nodes upload, by their own counters of what they hand to the network, beside the bound on each line.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::Failure;
use crate::archive::Archive;
use crate::snapshot::Snapshot;

/// Nodes whose lines are looked at again and again.
pub(crate) struct Lines {
    first: BTreeMap<String, Look>,
    last: BTreeMap<String, Look>,
    most: Option<Share>,
}

/// Parts of a line's bound.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    /// Everything.
    pub(crate) all: f64,
    /// What went to builds.
    pub(crate) for_builds: f64,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    // Before and after the node was asked.
    begun: Instant,
    ended: Instant,
    rate: u64,
    all: u64,
    for_builds: u64,
}

impl Lines {
    /// Looks at all nodes of `snapshot` but those `absent` whose lines have a bound.
    pub(crate) fn watch(archive: &Archive, snapshot: &Snapshot, absent: &[String]) -> Result<Self, Failure> {
        let mut first = BTreeMap::new();
        let active = snapshot.nodes.iter().filter(|node| node.state == "active");
        for role in active.map(|node| &node.failure_domain).filter(|role| !absent.contains(role)) {
            // As all have a bound or none, the first tells.
            let Some(look) = Look::take(archive, role)? else { break };
            first.insert(role.clone(), look);
        }
        Ok(Self { last: first.clone(), first, most: None })
    }

    /// Looks again. A node that does not answer is looked at the next time.
    pub(crate) fn look(&mut self, archive: &Archive) {
        for (role, last) in &mut self.last {
            if let Ok(Some(look)) = Look::take(archive, role) {
                let (share, most) = (look.since(last), self.most.get_or_insert_default());
                most.all = most.all.max(share.all);
                most.for_builds = most.for_builds.max(share.for_builds);
                *last = look;
            }
        }
    }

    /// The most of any line between two looks; none if no line has a bound.
    pub(crate) const fn most(&self) -> Option<Share> {
        self.most
    }

    /// The most for builds and in all of any line from the first look to the last.
    pub(crate) fn over_all(&self) -> String {
        let shares = || self.first.iter().filter_map(|(role, first)| Some(self.last.get(role)?.since(first)));
        let most = |part: fn(Share) -> f64| shares().map(part).fold(0.0, f64::max) * 100.0;
        format!("{:.1}; {:.1}", most(|share| share.for_builds), most(|share| share.all))
    }
}

impl Look {
    fn take(archive: &Archive, role: &str) -> Result<Option<Self>, Failure> {
        let begun = Instant::now();
        let report = archive.report(role)?;
        let ended = Instant::now();
        let figures = (
            report["max_upload_bytes_per_second"].as_u64(),
            report["uploaded_bytes"].as_u64(),
            report["done"]["build_bytes_uploaded"].as_u64(),
        );
        let (Some(rate), Some(all), Some(for_builds)) = figures else { return Ok(None) };
        Ok(Some(Self { begun, ended, rate, all, for_builds }))
    }

    /// Parts of what the line could have taken since `before`, at the longest that this may have been.
    fn since(&self, before: &Self) -> Share {
        let could = self.rate as f64 * self.ended.duration_since(before.begun).as_secs_f64();
        Share {
            all: (self.all - before.all) as f64 / could,
            for_builds: (self.for_builds - before.for_builds) as f64 / could,
        }
    }
}
