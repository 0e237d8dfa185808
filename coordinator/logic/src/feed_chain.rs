//! The digest chain of the feed: one value that stands for all events up to a position, in their order.

use firn_base::Digest;
use firn_wire::FeedEvent;

// Sets these hashes apart from all others of the archive.
const CONTEXT: &[u8] = b"firn/feed/1\0";

/// The digest behind `event`, when `before` was the one before it.
pub(crate) fn behind(before: Digest, event: FeedEvent) -> Digest {
    let (kind, key) = match event {
        FeedEvent::Visible(key) => (1, key),
        FeedEvent::Withdrawn(key) => (2, key),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(CONTEXT);
    hasher.update(before.as_bytes());
    hasher.update(&[kind]);
    hasher.update(&key.to_bytes());
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// The digest of the feed behind `events`, when `before` was the one before the first of them.
pub fn feed_digest_behind(before: Digest, events: &[FeedEvent]) -> Digest {
    events.iter().fold(before, |digest, event| behind(digest, *event))
}
