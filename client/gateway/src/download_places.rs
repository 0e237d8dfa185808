//! How many downloads go on at once.
//!
//! A client that takes its time keeps for as long what was read or is compressed for it, and may open many downloads. Always
//! holds: what goes on at once is bounded for the gateway, and for one client, who cannot take the places of all others;
//! whoever finds none in time is told to come again. Leaves to others: who is one client (`server`), compressing
//! (`compressed_nar`), what is fetched ahead for all together (`firn-retrieval`).

use std::sync::Arc;
use std::time::Duration;

use firn_nix_format::Compression;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Encoders at once. Each has 2.6 MB for itself where its NAR has a megabyte or more, and as much as one turn compresses
/// comes in, goes out and waits: less than 1 GB together.
const ENCODERS_MAX: usize = 256;

/// Encoders of one client at once: more than two machines that download as Nix does by default, and a quarter of all.
const CLIENT_ENCODERS_MAX: usize = 64;

/// MiB that a decoder has beside its dictionary, an encoder behind it, and the pieces between them take. All that there
/// is of bzip2, which has 4 MB for itself.
const DECODER_MEBIBYTES_MIN: u32 = 8;

/// MiB of a dictionary: as much as `firn-nix-format` lets a file ask for. `xz -9` asks for 64.
const DICTIONARY_MEBIBYTES_MAX: u32 = 136;

/// MiB for decoders at once, for what is archived as the file that was published: 32 of the largest. A few last bytes of
/// such an object cost as much as all of it.
const DECODERS_MEBIBYTES_MAX: usize = 4608;

/// The same of one client: a quarter of all. Nix decompresses 16 at once, which are larger than 64 MB only now and then.
const CLIENT_DECODERS_MEBIBYTES_MAX: usize = 1152;

/// Downloads of what is sent as it is, at once: as many as there may be connections by default. Each may hold two frames
/// beyond what all fetch ahead together: the one that its client is given, and the next. They have 1 MiB as our publisher
/// makes them.
const PLAIN_MAX: usize = 1024;

/// The same of one client: as many as it may have compressed.
const CLIENT_PLAIN_MAX: usize = 64;

/// What is no longer than this needs no place if it is sent as it is: it goes at once, and it is copied out of its
/// frame. So all that one client may ask for at once, 1,600 of these, keeps 105 MB at most.
pub(crate) const WITHOUT_PLACE_BYTES_MAX: u64 = 64 << 10;

// Nix tries again by itself, and later than at once. Most NARs are sent in less.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// The places of one gateway.
#[derive(Debug)]
pub(crate) struct DownloadPlaces {
    encoders: Arc<Semaphore>,
    /// By their MiB.
    decoders: Arc<Semaphore>,
    plain: Arc<Semaphore>,
    /// Each decoder has one of these.
    decoding: Arc<()>,
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
    _decoding: Option<Arc<()>>,
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
        let [encoders, decoders, plain] = semaphores([ENCODERS_MAX, DECODERS_MEBIBYTES_MAX, PLAIN_MAX]);
        Self { encoders, decoders, plain, decoding: Arc::default() }
    }
}

impl Default for ClientPlaces {
    fn default() -> Self {
        let [encoders, decoders, plain] =
            semaphores([CLIENT_ENCODERS_MAX, CLIENT_DECODERS_MEBIBYTES_MAX, CLIENT_PLAIN_MAX]);
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
        let place = place(&self.encoders, client.map(|client| &client.encoders), 1).await;
        place.ok_or(NoPlace::Encoders)
    }

    /// A place for what has to be decompressed, whatever it is then, and takes so many MiB for that
    /// ([`decoder_mebibytes`]). Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn decoder(
        &self,
        client: Option<&ClientPlaces>,
        mebibytes: u32,
    ) -> Result<DownloadPlace, NoPlace> {
        let place = place(&self.decoders, client.map(|client| &client.decoders), mebibytes).await;
        let place = place.ok_or(NoPlace::Decoders)?;
        Ok(DownloadPlace { _decoding: Some(Arc::clone(&self.decoding)), ..place })
    }

    /// A place for what is sent as it is, and longer than [`WITHOUT_PLACE_BYTES_MAX`]. Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn plain(&self, client: Option<&ClientPlaces>) -> Result<DownloadPlace, NoPlace> {
        let place = place(&self.plain, client.map(|client| &client.plain), 1).await;
        place.ok_or(NoPlace::Plain)
    }

    /// How many encoders there are.
    pub(crate) fn encoders_taken(&self) -> usize {
        ENCODERS_MAX.saturating_sub(self.encoders.available_permits())
    }

    /// How many decoders there are.
    pub(crate) fn decoders_taken(&self) -> usize {
        Arc::strong_count(&self.decoding).saturating_sub(1)
    }

    /// How many downloads are sent as they are.
    pub(crate) fn plain_taken(&self) -> usize {
        PLAIN_MAX.saturating_sub(self.plain.available_permits())
    }
}

/// MiB that it takes at most to decompress a file of this compression, which holds so many bytes.
pub(crate) fn decoder_mebibytes(compression: Compression, bytes: u64) -> u32 {
    let dictionary = match compression {
        Compression::None | Compression::Bzip2 => 0,
        // What came out of it fills the dictionary; what is not filled is asked for and takes no memory.
        Compression::Xz | Compression::Zstd => {
            u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).min(DICTIONARY_MEBIBYTES_MAX)
        }
    };
    DECODER_MEBIBYTES_MIN + dictionary
}

async fn place(all: &Arc<Semaphore>, client: Option<&Arc<Semaphore>>, weight: u32) -> Option<DownloadPlace> {
    let place = async {
        // Its own first: whoever has too much under way shall not wait with a place that others could have.
        let of_client = match client {
            Some(client) => Some(Arc::clone(client).acquire_many_owned(weight).await.ok()?),
            None => None,
        };
        let all = Arc::clone(all).acquire_many_owned(weight).await.ok()?;
        Some(DownloadPlace { _all: Some(all), _of_client: of_client, _decoding: None })
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
    async fn what_is_decompressed_has_as_many_places_as_its_memory_allows() {
        let places = DownloadPlaces::default();
        let (greedy, other) = (ClientPlaces::default(), ClientPlaces::default());
        let largest = decoder_mebibytes(Compression::Xz, u64::MAX);
        let small = decoder_mebibytes(Compression::Xz, 1000);
        let mut taken = Vec::new();
        for _ in 0..8 {
            taken.push(places.decoder(Some(&greedy), largest).await.unwrap());
        }
        assert_eq!(places.decoder(Some(&greedy), small).await.err(), Some(NoPlace::Decoders));
        while places.decoders_taken() < 32 {
            taken.push(places.decoder(None, largest).await.unwrap());
        }
        assert_eq!(places.decoder(Some(&other), small).await.err(), Some(NoPlace::Decoders));
        assert!(places.plain(Some(&greedy)).now_or_never().unwrap().is_ok());
        drop(taken);
        assert_eq!(places.decoders_taken(), 0);
        let mut taken = Vec::new();
        for _ in 0..128 {
            taken.push(places.decoder(Some(&greedy), small).await.unwrap());
        }
        assert_eq!(places.decoder(Some(&greedy), small).await.err(), Some(NoPlace::Decoders));
        assert_eq!(places.decoders_taken(), 128);
    }

    #[test]
    fn a_decoder_takes_what_the_file_can_make_it_fill() {
        assert_eq!(decoder_mebibytes(Compression::Bzip2, u64::MAX), 8);
        assert_eq!(decoder_mebibytes(Compression::Xz, 0), 8);
        assert_eq!(decoder_mebibytes(Compression::Xz, (50 << 20) + 1), 59);
        assert_eq!(decoder_mebibytes(Compression::Zstd, 136 << 20), 144);
        assert_eq!(decoder_mebibytes(Compression::Zstd, u64::MAX), 144);
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
