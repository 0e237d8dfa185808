//! Filters from a mirror: another gateway, or any web server that knows ranges.
//!
//! A mirror is not believed: lists are signed by coordinators, and a filter's name is the hash of its bytes.
//! Always holds: what a mirror sends is bounded before it is kept. Leaves to others: signatures (`filter_keeper`).

use std::io::Read;

use bytes::Bytes;
use firn_base::FilterId;
use firn_client::http_client::{FetchError, Fetched, agent, get, get_range};
use firn_transport::{CoordinatorClient, Environment};
use firn_wire::{FILTER_PIECE_BYTES_MAX, FilterList, Signed, VerifiedRoster};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::coordinators::{CoordinatorsAway, FilterSource};

/// Lists of 64 filters by nine coordinators are 100 kB of text.
const LISTS_BYTES_MAX: u64 = 1 << 20;

/// Filters below a URL: the lists at the URL itself, each filter below it under its id.
#[derive(Debug)]
pub(crate) struct FilterMirror {
    pub(crate) url: String,
    /// Whose roster is believed.
    pub(crate) coordinators: CoordinatorClient,
    pub(crate) environment: Environment,
}

impl FilterMirror {
    /// At most `bytes_max` bytes of what `ask` gives.
    async fn read(
        &self,
        url: String,
        bytes_max: u64,
        ask: impl FnOnce(&str) -> Result<Option<Fetched>, FetchError> + Send + 'static,
    ) -> Result<Vec<u8>, CoordinatorsAway> {
        let read = move || {
            let away = |why: &dyn std::fmt::Display| CoordinatorsAway { cause: format!("{url}: {why}") };
            let fetched = ask(&url).map_err(|error| away(&error))?;
            let fetched = fetched.ok_or_else(|| away(&"there is nothing"))?;
            let mut bytes = Vec::new();
            let read = fetched.reader.take(bytes_max).read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(|error| away(&error))
        };
        self.environment.blocking(read).await
    }
}

impl FilterSource for FilterMirror {
    fn roster(&self) -> VerifiedRoster {
        self.coordinators.roster()
    }

    fn lists(&self) -> BoxFuture<'_, Result<Vec<Signed<FilterList>>, CoordinatorsAway>> {
        async move {
            let text = self.read(self.url.clone(), LISTS_BYTES_MAX, |url| get(&agent(), url)).await?;
            let text = String::from_utf8_lossy(&text);
            Ok(text.lines().filter_map(Signed::from_text).collect())
        }
        .boxed()
    }

    fn piece(
        &self,
        filter: FilterId,
        offset: u64,
        _: usize,
    ) -> BoxFuture<'_, Result<Bytes, CoordinatorsAway>> {
        async move {
            let url = format!("{}/{filter}", self.url.trim_end_matches('/'));
            let length = FILTER_PIECE_BYTES_MAX as u64;
            let range = offset..offset.saturating_add(length);
            self.read(url, length, move |url| get_range(&agent(), url, range)).await.map(Bytes::from)
        }
        .boxed()
    }
}
