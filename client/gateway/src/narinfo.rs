//! A narinfo as it goes over the wire: rendered once, served many times.
//!
//! Always holds: what was signed is as published; URL, Compression, FileHash and FileSize are the gateway's.

use bytes::Bytes;
use firn_nix_format::{PathInfo, Sha256};
use hyper::header::HeaderValue;

/// The text of one narinfo with the headers that depend on it.
#[derive(Debug, Clone)]
pub struct RenderedNarInfo {
    /// The text.
    pub text: Bytes,
    pub(crate) etag: HeaderValue,
    pub(crate) content_length: HeaderValue,
}

impl RenderedNarInfo {
    /// The narinfo of `info` with the gateway's own URL.
    pub fn new(info: &PathInfo) -> Self {
        let url = nar_url(info.store_path.hash_part(), info.nar_hash);
        // The file is the NAR itself.
        let text = info.to_narinfo(&url, "none", Some((info.nar_hash, info.nar_size)));
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let etag = format!("\"{}\"", &hash[..32]);
        let etag = HeaderValue::try_from(etag).expect("hexadecimal digits stand in any header");
        Self { content_length: text.len().into(), etag, text: text.into() }
    }
}

/// Where the gateway serves a NAR, relative to its root: good for ever, since it names the contents.
pub fn nar_url(hash_part: &str, nar_hash: Sha256) -> String {
    format!("nar/{hash_part}-{}.nar", nar_hash.to_base32())
}
