//! A narinfo as it goes over the wire: rendered once, served many times.
//!
//! Always holds: what was signed is as published; URL, Compression, FileHash and FileSize are the gateway's, and the
//! latter two are there only where the file is the NAR itself.

use bytes::Bytes;
use firn_nix_format::{Compression, PathInfo, Sha256};
use hyper::header::HeaderValue;

use crate::options::NarCompression;

/// The text of one narinfo with the headers that depend on it.
#[derive(Debug, Clone)]
pub struct RenderedNarInfo {
    /// The text.
    pub text: Bytes,
    pub(crate) etag: HeaderValue,
    pub(crate) content_length: HeaderValue,
}

impl RenderedNarInfo {
    /// The narinfo of `info` with the gateway's own URL, for a NAR in this form.
    pub fn new(info: &PathInfo, compression: NarCompression) -> Self {
        let url = nar_url(info.store_path.hash_part(), info.nar_hash, compression);
        let text = match compression {
            // The file is the NAR itself.
            NarCompression::None => info.to_narinfo(&url, "none", Some((info.nar_hash, info.nar_size))),
            // It is made while it is sent: its hash is not known.
            NarCompression::Zstd => info.to_narinfo(&url, Compression::Zstd.name(), None),
        };
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let etag = format!("\"{}\"", &hash[..32]);
        let etag = HeaderValue::try_from(etag).expect("hexadecimal digits stand in any header");
        Self { content_length: text.len().into(), etag, text: text.into() }
    }
}

/// Where the gateway serves a NAR, relative to its root: good for ever, since it names the contents.
pub fn nar_url(hash_part: &str, nar_hash: Sha256, compression: NarCompression) -> String {
    let suffix = match compression {
        NarCompression::None => "",
        NarCompression::Zstd => Compression::Zstd.file_suffix(),
    };
    format!("nar/{hash_part}-{}.nar{suffix}", nar_hash.to_base32())
}
