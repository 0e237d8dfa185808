//! Reading an object in a place of its own.
//!
//! Always holds: whatever is read of an object that has to be decompressed, its decoder begins only in a place for one;
//! only listings, which are few at once, need none. Leaves to others: how many places there are (`download_places`),
//! what an object is and where it lies (`open_object`).

use std::ops::Range;

use firn_retrieval::ByteStream;

use super::GatewayCore;
use crate::download_places::{ClientPlaces, DownloadPlace, NoPlace, WITHOUT_PLACE_BYTES_MAX};
use crate::open_object::OpenObject;
use crate::serve_error::ServeError;

/// What is done with what is read of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use {
    /// So many bytes are sent as they are.
    Sent {
        /// How many.
        bytes: u64,
    },
    /// It is compressed.
    Compressed,
    /// It is looked at here, and nobody is given any of it.
    LookedAt,
}

impl GatewayCore {
    /// A place for what is read of `object` first, which is also one of `client`'s own if that is limited. What is short and
    /// sent as it is needs none; what is decompressed needs one by its memory. Waits for a while.
    ///
    /// # Errors
    /// Nobody made room meanwhile.
    pub(crate) async fn place(
        &self,
        object: &OpenObject,
        what_for: Use,
        client: Option<&ClientPlaces>,
    ) -> Result<DownloadPlace, NoPlace> {
        let downloads = &self.downloads;
        if let Some(mebibytes) = object.decoder_mebibytes() {
            return downloads.decoder(client, mebibytes).await;
        }
        match what_for {
            Use::LookedAt => Ok(DownloadPlace::default()),
            Use::Sent { bytes } if bytes <= WITHOUT_PLACE_BYTES_MAX => Ok(DownloadPlace::default()),
            Use::Sent { .. } => downloads.plain(client).await,
            Use::Compressed => downloads.encoder(client).await,
        }
    }

    /// The bytes `range` of `object` where it can be read, and the place that they keep: `place`, which was made for
    /// `object`, or the one that was needed instead. One is waited for where none is given.
    ///
    /// # Errors
    /// What kept the first bytes from being read, or that nobody made room for a decoder.
    pub(crate) async fn begin(
        &self,
        object: &OpenObject,
        range: Range<u64>,
        mut place: Option<DownloadPlace>,
        what_for: Use,
        client: Option<&ClientPlaces>,
    ) -> Result<(ByteStream, DownloadPlace), ServeError> {
        let mut failure = None;
        for object in object.by_decoding() {
            let place = match place.take() {
                Some(place) => place,
                None => self.place(&object, what_for, client).await?,
            };
            match object.stream(range.clone()).await {
                Ok(stream) => return Ok((stream, place)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| ServeError::unreadable(&"no bundle holds it")))
    }
}
