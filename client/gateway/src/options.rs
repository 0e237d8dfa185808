//! What a gateway is told by whoever starts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::server::ServerOptions;

/// What is answered for a path that is archived and cannot be read at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnreadable {
    /// 503 with Retry-After: Nix waits and tries again. Right for a cache that others rely on.
    Retry,
    /// 404 that says so in a header and is not cached: Nix goes on without the path. Right for a laptop.
    Miss,
}

/// How NARs are compressed on their way to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NarCompression {
    /// With zstd while they are sent: a third to a half of the bytes, and one core for 200 MB/s of NAR.
    Zstd,
    /// Not at all: right where the line is faster than that.
    None,
}

/// What of the archive's filters a gateway keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FilterChoice {
    /// All of them: nine bits for each key, and misses are answered from memory.
    #[default]
    Full,
    /// None: every question is settled by a coordinator, from the first 20 to 24 bits of its hash.
    None,
    /// All of them, from a mirror: what another gateway serves below `/firn/filters`. Coordinators sign the lists.
    Mirror(String),
}

/// A text names no choice of filters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is `full`, `none`, or the URL of a mirror that begins with https:// or http://")]
pub struct ParseFilterChoiceError;

impl FromStr for FilterChoice {
    type Err = ParseFilterChoiceError;

    fn from_str(text: &str) -> Result<Self, ParseFilterChoiceError> {
        match text {
            "full" => Ok(Self::Full),
            "none" => Ok(Self::None),
            url if url.starts_with("https://") || url.starts_with("http://") => {
                Ok(Self::Mirror(url.to_owned()))
            }
            _ => Err(ParseFilterChoiceError),
        }
    }
}

/// How a gateway serves.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// Where it listens for HTTP.
    pub listen: SocketAddr,
    /// What is answered for what cannot be read; by default [`WhenUnreadable::Miss`] on loopback and
    /// [`WhenUnreadable::Retry`] elsewhere.
    pub when_unreadable: Option<WhenUnreadable>,
    /// How the narinfos say that NARs are compressed; by default [`NarCompression::None`] on loopback and
    /// [`NarCompression::Zstd`] elsewhere. Below `/plain` it is always the former.
    pub nar_compression: Option<NarCompression>,
    /// Bytes of decompressed frames that are remembered: NARs that are asked for again come from there.
    pub cache_bytes: usize,
    /// Bytes of narinfos and records that are remembered. A record takes about four times its narinfo.
    pub narinfo_cache_bytes: usize,
    /// Bytes of listings that are remembered.
    pub listing_cache_bytes: usize,
    /// Bytes of index ranges that are remembered.
    pub range_cache_bytes: usize,
    /// What of the archive's filters is kept.
    pub filter: FilterChoice,
    /// Where filters, the end of the feed and what was read of the archive are kept, so that a gateway started again
    /// answers while every coordinator and node is away. Without it they are in memory alone.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of files with what was read of the archive, at most; without any nothing of it is kept on disk.
    pub cache_size_bytes: u64,
    /// How long the port stays closed until the archive's feed and its publishers' ranks are heard; with
    /// [`WhenUnreadable::Retry`] five times as long if any coordinator answers within it. Then it opens with what was saved.
    /// Without that it opens with [`WhenUnreadable::Miss`] all the same, and with [`WhenUnreadable::Retry`] once the feed is
    /// heard.
    pub first_feed_wait: Duration,
    /// How clients are taken.
    pub server: ServerOptions,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            when_unreadable: None,
            nar_compression: None,
            cache_bytes: 256 << 20,
            narinfo_cache_bytes: 64 << 20,
            listing_cache_bytes: 16 << 20,
            range_cache_bytes: 16 << 20,
            filter: FilterChoice::Full,
            cache_dir: None,
            cache_size_bytes: 20_000_000_000,
            // Nix that finds the port closed tries again for as long as it takes to fail.
            first_feed_wait: Duration::from_millis(1500),
            server: ServerOptions::default(),
        }
    }
}

impl GatewayOptions {
    /// What is answered for what cannot be read.
    pub fn when_unreadable(&self) -> WhenUnreadable {
        let by_listener =
            if self.listen.ip().is_loopback() { WhenUnreadable::Miss } else { WhenUnreadable::Retry };
        self.when_unreadable.unwrap_or(by_listener)
    }

    /// How the narinfos say that NARs are compressed.
    pub fn nar_compression(&self) -> NarCompression {
        let by_listener =
            if self.listen.ip().is_loopback() { NarCompression::None } else { NarCompression::Zstd };
        self.nar_compression.unwrap_or(by_listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_filters_is_a_word_or_a_url() {
        assert_eq!("full".parse(), Ok(FilterChoice::Full));
        assert_eq!("none".parse(), Ok(FilterChoice::None));
        let url = "https://cache.example.org/firn/filters";
        assert_eq!(url.parse(), Ok(FilterChoice::Mirror(url.to_owned())));
        assert_eq!("all".parse::<FilterChoice>(), Err(ParseFilterChoiceError));
    }

    #[test]
    fn what_cannot_be_read_is_a_miss_on_loopback_and_to_be_retried_elsewhere() {
        let mut options = GatewayOptions::default();
        assert_eq!(options.when_unreadable(), WhenUnreadable::Miss);
        options.listen = (Ipv4Addr::UNSPECIFIED, 80).into();
        assert_eq!(options.when_unreadable(), WhenUnreadable::Retry);
        options.when_unreadable = Some(WhenUnreadable::Miss);
        assert_eq!(options.when_unreadable(), WhenUnreadable::Miss);
    }

    #[test]
    fn nars_are_compressed_on_public_listeners_and_not_on_loopback() {
        let mut options = GatewayOptions::default();
        assert_eq!(options.nar_compression(), NarCompression::None);
        options.listen = (Ipv4Addr::UNSPECIFIED, 80).into();
        assert_eq!(options.nar_compression(), NarCompression::Zstd);
        options.nar_compression = Some(NarCompression::None);
        assert_eq!(options.nar_compression(), NarCompression::None);
    }
}
