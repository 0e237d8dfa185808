//! How many NARs are compressed at once.
//!
//! A client that takes its time keeps an encoder for as long, and may open many downloads. Always holds: all encoders of a
//! gateway together are bounded, and so are those of one client, who cannot take the places of all others; whoever finds
//! none in time is told to come again. Leaves to others: who is one client (`server`), compressing (`compressed_nar`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Encoders at once. Each has 2.6 MB for itself where its NAR has a megabyte or more, and as much as one turn compresses
/// comes in, goes out and waits: less than 1 GB together.
pub(crate) const ENCODERS_MAX: usize = 256;

/// Encoders of one client at once: more than two machines that download as Nix does by default, and a quarter of all.
pub(crate) const CLIENT_ENCODERS_MAX: usize = 64;

// Nix tries again by itself, and later than at once. Most NARs are compressed in less.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// The places for encoders of one gateway.
#[derive(Debug)]
pub(crate) struct EncoderPlaces {
    all: Arc<Semaphore>,
}

/// A place for one encoder, until this is dropped.
#[derive(Debug)]
pub(crate) struct EncoderPlace {
    _all: OwnedSemaphorePermit,
    _of_client: Option<OwnedSemaphorePermit>,
}

/// Nobody made room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many downloads as may be are compressed now: ask again")]
pub(crate) struct EncodersBusy;

impl Default for EncoderPlaces {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ENCODERS_MAX)) }
    }
}

impl EncoderPlaces {
    /// A place, which is also one of the client's own if `client` are those. Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn place(&self, client: Option<&Arc<Semaphore>>) -> Result<EncoderPlace, EncodersBusy> {
        let place = async {
            // Its own first: whoever has too much under way shall not wait with a place that others could have.
            let of_client = match client {
                Some(client) => Some(Arc::clone(client).acquire_owned().await.ok()?),
                None => None,
            };
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(EncoderPlace { _all: all, _of_client: of_client })
        };
        timeout(PLACE_WAIT, place).await.ok().flatten().ok_or(EncodersBusy)
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        ENCODERS_MAX.saturating_sub(self.all.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_client_does_not_take_the_places_of_others_and_all_together_are_bounded() {
        let places = EncoderPlaces::default();
        let client = || Arc::new(Semaphore::new(CLIENT_ENCODERS_MAX));
        let greedy = client();
        let mut taken = Vec::new();
        for _ in 0..CLIENT_ENCODERS_MAX {
            taken.push(places.place(Some(&greedy)).await.unwrap());
        }
        assert_eq!(places.place(Some(&greedy)).await.err(), Some(EncodersBusy));
        let other = client();
        assert!(places.place(Some(&other)).now_or_never().unwrap().is_ok(), "another one does not wait");
        while places.taken() < ENCODERS_MAX {
            taken.push(places.place(None).await.unwrap());
        }
        assert_eq!(places.place(Some(&other)).await.err(), Some(EncodersBusy));
        assert_eq!(other.available_permits(), CLIENT_ENCODERS_MAX, "whoever is refused keeps nothing");
        let (place, ()) = tokio::join!(places.place(Some(&other)), async { drop(taken.pop()) });
        assert!(place.is_ok(), "whoever waits has the next place");
    }
}
