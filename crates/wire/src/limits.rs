//! The largest of everything that a stranger may send: checked before anything is allocated.

/// Acts of governance in one request: a commit of theirs takes as long as an ordinary one.
pub const ACTS_PER_REQUEST_MAX: usize = 256;

/// An ordinary request or reply. The largest is a page of the feed or of bundles.
pub const CONTROL_BYTES_MAX: usize = 4 << 20;

/// A commit carries the manifests of its bundles: one of 32 MiB, or those of a head and its parts.
pub const COMMIT_BYTES_MAX: usize = 80 << 20;

/// The longest range of a shard that one request may ask for. Longer reads are several requests, so that a
/// node's send buffers stay bounded and a slow reader holds little.
pub const RANGE_BYTES_MAX: u64 = 4 << 20;

/// Keys in one presence or lookup request.
pub const KEYS_PER_REQUEST_MAX: usize = 10_000;

/// Features in one request for similar objects: those of some hundred objects. A coordinator looks up four bundles for each,
/// whoever asks.
pub const FEATURES_PER_REQUEST_MAX: usize = 512;

/// How many objects are remembered for a feature. One name stands for builds on several systems and of several branches;
/// the last four are mostly one of each that is still built.
pub const SIMILAR_RECORDS_MAX: usize = 4;

/// Bundles in one request for bundle facts: 40 roots and placements each stay within a control message.
pub const BUNDLES_PER_REQUEST_MAX: usize = 256;

/// Events in one page of the feed.
pub const FEED_EVENTS_MAX: usize = 65_536;

/// Filters in a list: one for each binary digit of the feed's length.
pub const FILTERS_MAX: usize = 64;

/// Bytes of a filter for each event of its range, at most: 1.13 where parts are large, up to 2.5 and 20 for each part
/// where they are tiny.
pub const FILTER_BYTES_PER_EVENT_MAX: u64 = 4;

/// Bytes of a filter beside those for its events: header, trailer, parts without keys.
pub const FILTER_BYTES_BASE: u64 = 1 << 16;

/// The longest piece of a filter that is sent at once.
pub const FILTER_PIECE_BYTES_MAX: usize = 1 << 20;

/// Keys in one page of an index range: 24 bits have 18 of 300 million.
pub const INDEX_RANGE_KEYS_MAX: usize = 4_096;

/// Shards in one page of an inventory.
pub const INVENTORY_SHARDS_MAX: usize = 65_536;

/// Names of operators, failure domains, publishers and uploaders.
pub const NAME_BYTES_MAX: usize = 200;

/// A host and port as text.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// The part of a node's upload rate that repair and moves may take, in per cent: readers have the rest. The leader
/// orders no more, and a node that carries out a build sends no faster.
pub const REPAIR_PER_CENT: u64 = 30;
