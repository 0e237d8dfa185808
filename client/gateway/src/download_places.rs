//! How many downloads go on at once.
//!
//! A client that takes its time keeps for as long what was read or is compressed for it, and may open many downloads. Always
//! holds: what goes on at once is bounded for the gateway, and for one client, who cannot take the places of all others;
//! whoever finds none in time is told to come again. Leaves to others: who is one client (`server`), compressing
//! (`compressed_nar`), what is fetched ahead for all together (`firn-retrieval`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Encoders at once. Each has 2.6 MB for itself where its NAR has a megabyte or more, and as much as one turn compresses
/// comes in, goes out and waits: less than 1 GB together.
const ENCODERS_MAX: usize = 256;

/// Encoders of one client at once: more than two machines that download as Nix does by default, and a quarter of all.
const CLIENT_ENCODERS_MAX: usize = 64;

/// Decoders at once, for what is archived as the file that was published. Each has as much memory as that file asks for: 65 MB
/// for one that was made by `xz -9`, 136 MiB at most. A few last bytes of such an object cost as much as all of it.
const DECODERS_MAX: usize = 32;

/// Decoders of one client at once: a quarter of all.
const CLIENT_DECODERS_MAX: usize = 8;

/// Downloads of what is sent as it is, at once: as many as there may be connections by default. Each may hold three frames
/// beyond what all fetch ahead together: the one that its client is given, the one that waits until it is known to be right,
/// and the next. They have 1 MiB as our publisher makes them.
const PLAIN_MAX: usize = 1024;

/// The same of one client: as many as it may have compressed.
const CLIENT_PLAIN_MAX: usize = 64;

/// What is no longer than this needs no place if it is sent as it is: it goes at once. It keeps its frame only where that has
/// less than four times as many bytes, so all that one client may ask for at once, 1,600 of these, keeps 420 MB at most.
pub(crate) const WITHOUT_PLACE_BYTES_MAX: u64 = 64 << 10;

// Nix tries again by itself, and later than at once. Most NARs are sent in less.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// The places of one gateway.
#[derive(Debug)]
pub(crate) struct DownloadPlaces {
    encoders: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    plain: Arc<Semaphore>,
}

/// The places of one client, which are some of its gateway's. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ClientPlaces {
    encoders: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    plain: Arc<Semaphore>,
}

/// A place for one download, until this is dropped. The default is that of a download that needs none.
#[derive(Debug, Default)]
pub(crate) struct DownloadPlace {
    _all: Option<OwnedSemaphorePermit>,
    _of_client: Option<OwnedSemaphorePermit>,
}

/// Nobody made room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// For an encoder.
    #[error("as many downloads as may be are compressed now: ask again")]
    Encoders,
    /// For a decoder.
    #[error("as many downloads as may be are decompressed now: ask again")]
    Decoders,
    /// For what is sent as it is.
    #[error("as many downloads as may be go on now: ask again")]
    Plain,
}

impl Default for DownloadPlaces {
    fn default() -> Self {
        let [encoders, decoders, plain] = semaphores([ENCODERS_MAX, DECODERS_MAX, PLAIN_MAX]);
        Self { encoders, decoders, plain }
    }
}

impl Default for ClientPlaces {
    fn default() -> Self {
        let [encoders, decoders, plain] =
            semaphores([CLIENT_ENCODERS_MAX, CLIENT_DECODERS_MAX, CLIENT_PLAIN_MAX]);
        Self { encoders, decoders, plain }
    }
}

fn semaphores<const N: usize>(places: [usize; N]) -> [Arc<Semaphore>; N] {
    places.map(|places| Arc::new(Semaphore::new(places)))
}

impl DownloadPlaces {
    /// A place for what is compressed, which is also one of `client`'s own if that is limited. Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn encoder(&self, client: Option<&ClientPlaces>) -> Result<DownloadPlace, NoPlace> {
        let place = place(&self.encoders, client.map(|client| &client.encoders)).await;
        place.ok_or(NoPlace::Encoders)
    }

    /// A place for what has to be decompressed, whatever it is then. Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn decoder(&self, client: Option<&ClientPlaces>) -> Result<DownloadPlace, NoPlace> {
        let place = place(&self.decoders, client.map(|client| &client.decoders)).await;
        place.ok_or(NoPlace::Decoders)
    }

    /// A place for what is sent as it is, and longer than [`WITHOUT_PLACE_BYTES_MAX`]. Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn plain(&self, client: Option<&ClientPlaces>) -> Result<DownloadPlace, NoPlace> {
        let place = place(&self.plain, client.map(|client| &client.plain)).await;
        place.ok_or(NoPlace::Plain)
    }

    /// How many encoders there are.
    pub(crate) fn encoders_taken(&self) -> usize {
        ENCODERS_MAX.saturating_sub(self.encoders.available_permits())
    }

    /// How many decoders there are.
    pub(crate) fn decoders_taken(&self) -> usize {
        DECODERS_MAX.saturating_sub(self.decoders.available_permits())
    }

    /// How many downloads are sent as they are.
    pub(crate) fn plain_taken(&self) -> usize {
        PLAIN_MAX.saturating_sub(self.plain.available_permits())
    }
}

async fn place(all: &Arc<Semaphore>, client: Option<&Arc<Semaphore>>) -> Option<DownloadPlace> {
    let place = async {
        // Its own first: whoever has too much under way shall not wait with a place that others could have.
        let of_client = match client {
            Some(client) => Some(Arc::clone(client).acquire_owned().await.ok()?),
            None => None,
        };
        let all = Arc::clone(all).acquire_owned().await.ok()?;
        Some(DownloadPlace { _all: Some(all), _of_client: of_client })
    };
    timeout(PLACE_WAIT, place).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_client_does_not_take_the_places_of_others_and_all_together_are_bounded() {
        let places = DownloadPlaces::default();
        let (greedy, other) = (ClientPlaces::default(), ClientPlaces::default());
        let mut taken = Vec::new();
        for _ in 0..CLIENT_ENCODERS_MAX {
            taken.push(places.encoder(Some(&greedy)).await.unwrap());
        }
        assert_eq!(places.encoder(Some(&greedy)).await.err(), Some(NoPlace::Encoders));
        assert!(places.encoder(Some(&other)).now_or_never().unwrap().is_ok(), "another one does not wait");
        while places.encoders_taken() < ENCODERS_MAX {
            taken.push(places.encoder(None).await.unwrap());
        }
        assert_eq!(places.encoder(Some(&other)).await.err(), Some(NoPlace::Encoders));
        let left = other.encoders.available_permits();
        assert_eq!(left, CLIENT_ENCODERS_MAX, "whoever is refused keeps nothing");
        let (place, ()) = tokio::join!(places.encoder(Some(&other)), async { drop(taken.pop()) });
        assert!(place.is_ok(), "whoever waits has the next place");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_decompressed_has_few_places() {
        let places = DownloadPlaces::default();
        let (greedy, other) = (ClientPlaces::default(), ClientPlaces::default());
        let mut taken = Vec::new();
        for _ in 0..CLIENT_DECODERS_MAX {
            taken.push(places.decoder(Some(&greedy)).await.unwrap());
        }
        assert_eq!(places.decoder(Some(&greedy)).await.err(), Some(NoPlace::Decoders));
        while places.decoders_taken() < DECODERS_MAX {
            taken.push(places.decoder(None).await.unwrap());
        }
        assert_eq!(places.decoder(Some(&other)).await.err(), Some(NoPlace::Decoders));
        assert!(places.plain(Some(&greedy)).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_as_it_is_has_places_of_its_own() {
        let places = DownloadPlaces::default();
        let (greedy, other) = (ClientPlaces::default(), ClientPlaces::default());
        let mut taken = Vec::new();
        for _ in 0..CLIENT_PLAIN_MAX {
            taken.push(places.plain(Some(&greedy)).await.unwrap());
        }
        assert_eq!(places.plain(Some(&greedy)).await.err(), Some(NoPlace::Plain));
        assert!(places.encoder(Some(&greedy)).now_or_never().unwrap().is_ok());
        while places.plain_taken() < PLAIN_MAX {
            taken.push(places.plain(None).await.unwrap());
        }
        assert_eq!(places.plain(Some(&other)).await.err(), Some(NoPlace::Plain));
        drop(taken);
        assert!(places.plain(Some(&greedy)).now_or_never().unwrap().is_ok());
    }
}
