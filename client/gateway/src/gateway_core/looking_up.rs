//! From a key to what is served of it: remembered, recalled from an earlier life, or looked up.
//!
//! Always holds: what may be old is looked up again behind the answer, while coordinators seem to be there; nobody waits for
//! what is looked up ahead, and there is a bound to it. Leaves to others: remembering (`bounded_cache`, `place_book`),
//! choosing (`variants`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::ObjectKey;
use firn_retrieval::ReadError;
use futures::FutureExt;
use tokio::time::Instant;

use super::found::{Found, NarInfos};
use super::{GatewayCore, KnownGovernance, NOT_ARCHIVED};
use crate::coordinators::RecordPlace;
use crate::key_ranges::Settled;
use crate::key_view::Presence;
use crate::options::NarCompression;
use crate::place_book::KnownPlaces;
use crate::serve_error::ServeError;
use crate::variants::{Variant, are_contested, preferred};

/// What is known of a key that may be archived.
pub(super) enum Remembered {
    Found(Hit),
    Unknown(Presence),
}

/// A key that was found before, and still is what was found.
#[derive(Debug)]
pub(crate) struct Hit {
    key: ObjectKey,
    presence: Presence,
    pub(super) found: Arc<Found>,
}

// The feed does not tell of a further publisher's record of a known key: what is older is looked up again, while
// the old answer is served.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

// Parsed records, and the path info made of them, beside the text that it is rendered to.
const RECORD_SHARE: usize = 3;
const PATH_INFO_SHARE: usize = 3;

impl GatewayCore {
    /// What is known of a key without asking anybody; an error if it is known not to be archived. Only looks: who answers
    /// with a hit tells [`Self::take_hit`].
    pub(super) fn remembered(&self, key: &ObjectKey) -> Result<Remembered, ServeError> {
        let presence = self.keys.presence(key);
        let presence =
            presence.ok_or_else(|| ServeError::unsettled(&"the archive's feed was not heard yet"))?;
        let as_of = match presence {
            Presence::Absent => return Err(ServeError::NotArchived(NOT_ARCHIVED)),
            Presence::Visible { as_of } | Presence::Unsettled { as_of } => as_of,
        };
        let generation = self.generation();
        let holds = |found: &Arc<Found>| found.position >= as_of && found.generation == generation;
        Ok(match self.found.get(key).filter(holds) {
            Some(found) => Remembered::Found(Hit { key: *key, presence, found }),
            None => Remembered::Unknown(presence),
        })
    }

    /// Counts a hit, and sees that it stays true.
    pub(super) fn take_hit(self: &Arc<Self>, hit: &Hit) {
        self.metrics.count_cache_hit();
        self.refresh_behind(hit.key, hit.presence, &hit.found);
    }

    /// Looks up again what may be old, while it is answered: if it fails, or too much is under way, whoever asks next
    /// begins it once more.
    fn refresh_behind(self: &Arc<Self>, key: ObjectKey, presence: Presence, found: &Arc<Found>) {
        let is_old = found.at.is_none_or(|at| at.elapsed() >= REFRESH_AFTER);
        if !is_old || !self.reach.is_there() {
            return;
        }
        let Some(refresh) = found.begin_refresh() else { return };
        let core = Arc::clone(self);
        self.refreshes.begin(move || {
            async move {
                let _refresh = refresh;
                drop(core.look_up_anew(key, presence).await);
            }
            .boxed()
        });
    }

    pub(super) async fn find(
        self: &Arc<Self>,
        key: ObjectKey,
        absent: &'static str,
    ) -> Result<Arc<Found>, ServeError> {
        let found = match self.remembered(&key) {
            Ok(Remembered::Found(hit)) => {
                self.take_hit(&hit);
                Ok(hit.found)
            }
            Ok(Remembered::Unknown(presence)) => self.look_up(key, presence).await,
            Err(error) => Err(error),
        };
        found.map_err(|error| match error {
            ServeError::NotArchived(_) => ServeError::NotArchived(absent),
            other => other,
        })
    }

    /// Where the records of `key` lie, and as of which position.
    async fn locate(
        &self,
        key: &ObjectKey,
        presence: Presence,
    ) -> Result<(Vec<RecordPlace>, u64), ServeError> {
        let (as_of, visible) = match presence {
            Presence::Absent => return Err(ServeError::NotArchived(NOT_ARCHIVED)),
            Presence::Visible { as_of } => (as_of, true),
            Presence::Unsettled { as_of } => (as_of, false),
        };
        match self.ranges.settle(key, as_of).await {
            Ok(Settled::Here { locations, position }) => Ok((self.index.places(locations).await?, position)),
            // It was withdrawn a moment ago, and the feed tells it soon; or two coordinators lie.
            Ok(Settled::Absent) if visible => Err(ServeError::unreadable(&"the coordinators do not find it")),
            Ok(Settled::Absent) => Err(ServeError::NotArchived(NOT_ARCHIVED)),
            Err(error) if visible => Err(ServeError::unreadable(&error)),
            Err(error) => Err(ServeError::unsettled(&error)),
        }
    }

    pub(super) async fn look_up(
        self: &Arc<Self>,
        key: ObjectKey,
        presence: Presence,
    ) -> Result<Arc<Found>, ServeError> {
        let found = match self.recall(key, presence).await {
            Some(found) => {
                self.refresh_behind(key, presence, &found);
                found
            }
            None => self.look_up_anew(key, presence).await?,
        };
        self.look_ahead(key);
        Ok(found)
    }

    /// Looks up what a client that asked for `key` will ask for next. Nobody waits for it; what is too much is left out.
    fn look_ahead(self: &Arc<Self>, key: ObjectKey) {
        for key in self.walk.ahead_of(key) {
            let core = Arc::clone(self);
            self.ahead.begin(move || async move { core.look_up_ahead(key).await }.boxed());
        }
    }

    async fn look_up_ahead(self: Arc<Self>, key: ObjectKey) {
        if self.found.get(&key).is_some() {
            return;
        }
        let Ok(_permit) = self.ahead_permits.acquire().await else { return };
        let presence = self.keys.presence(&key).filter(|known| *known != Presence::Absent);
        let Some(presence) = presence else { return };
        // Boxed, so that what waits for a permit is small.
        if self.found.get(&key).is_none() && Box::pin(self.look_up(key, presence)).await.is_ok() {
            self.metrics.count_looked_ahead();
        }
    }

    /// What an earlier life found, if the feed told nothing of the key since and all of it can be read. It is looked up
    /// again behind the answer: the feed does not tell of another publisher's record.
    async fn recall(self: &Arc<Self>, key: ObjectKey, presence: Presence) -> Option<Arc<Found>> {
        let known = self.disk.as_ref()?.places.get(&key)?;
        let (Presence::Visible { as_of } | Presence::Unsettled { as_of }) = presence else { return None };
        if known.position < as_of {
            return None;
        }
        let (variants, failure) = self.read_records(&known.places, &key).await;
        let whole = failure.is_none() && !variants.is_empty();
        whole.then(|| self.keep_found(key, variants, known.position, None))
    }

    async fn read_records(
        &self,
        places: &[RecordPlace],
        key: &ObjectKey,
    ) -> (Vec<Variant>, Option<ReadError>) {
        let (mut variants, mut failure) = (Vec::new(), None);
        for place in places {
            let manifests = self.objects.manifests();
            match manifests.record(place.bundle, place.block, place.entry, key).await {
                Ok(record) => variants.push(Variant { bundle: place.bundle, record }),
                Err(error) => failure = Some(error),
            }
            if !self.walk.knows(place.bundle, place.block)
                && let Ok(records) = manifests.block(place.bundle, place.block).await
            {
                self.walk.learn(place.bundle, place.block, &records);
            }
        }
        (variants, failure)
    }

    async fn look_up_anew(
        self: &Arc<Self>,
        key: ObjectKey,
        presence: Presence,
    ) -> Result<Arc<Found>, ServeError> {
        let (places, position) = self.locate(&key, presence).await?;
        let (variants, failure) = self.read_records(&places, &key).await;
        if variants.is_empty() {
            return Err(match failure {
                Some(error) => error.into(),
                None => ServeError::unreadable(&"the coordinators do not find it yet"),
            });
        }
        if let Some(error) = failure {
            // With a record missing the answer may be another one than it should be: good for now only.
            tracing::warn!("one of several records of {key} cannot be read: {error}");
            return Ok(Arc::new(self.found_now(variants, position)));
        }
        if let Some(disk) = &self.disk {
            disk.places.put(key, KnownPlaces { places, position });
        }
        Ok(self.keep_found(key, variants, position, Some(Instant::now())))
    }

    fn found_now(&self, variants: Vec<Variant>, position: u64) -> Found {
        let KnownGovernance { governance, generation, .. } = self.known_governance();
        // Nix remembers a narinfo for a month: while no ranks are known none is given that ranks could decide otherwise.
        let chosen = (generation > 0 || !are_contested(&variants))
            .then(|| preferred(&variants, &governance.publishers))
            .flatten();
        let narinfos = chosen.map(NarInfos::new);
        let at = Some(Instant::now());
        Found { variants, narinfos, position, generation, at, refreshing: false.into() }
    }

    fn keep_found(
        &self,
        key: ObjectKey,
        variants: Vec<Variant>,
        position: u64,
        at: Option<Instant>,
    ) -> Arc<Found> {
        let found = Arc::new(Found { at, ..self.found_now(variants, position) });
        let text = found.narinfos.as_ref();
        let text = text.map_or(0, |narinfos| narinfos.rendered(NarCompression::None).text.len());
        let bytes = (text + 256).saturating_mul(2 + PATH_INFO_SHARE + RECORD_SHARE * found.variants.len());
        self.found.insert(key, Arc::clone(&found), bytes);
        found
    }
}
