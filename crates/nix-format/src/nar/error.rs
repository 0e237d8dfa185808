//! What can be wrong with a NAR.

/// Why bytes are no NAR that is accepted. Offsets count bytes from the NAR's beginning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarError {
    /// The beginning is not that of a NAR.
    #[error("this is not a NAR: it does not begin with nix-archive-1")]
    NotANar,
    /// Another word stands where the format wants one.
    #[error("the NAR is malformed at byte {offset}: {expected} is expected")]
    Unexpected {
        /// Where the word begins.
        offset: u64,
        /// What may stand there.
        expected: &'static str,
    },
    /// A length is beyond what is accepted for what it measures.
    #[error("the NAR is malformed at byte {offset}: {what} of {length} bytes; at most {limit} are accepted")]
    TooLong {
        /// Where the length stands.
        offset: u64,
        /// What it measures.
        what: &'static str,
        /// What it says.
        length: u64,
        /// What is accepted; for contents, the bytes that are left of the NAR.
        limit: u64,
    },
    /// Padding is not zero.
    #[error("the NAR is malformed at byte {offset}: the padding is not zero")]
    Padding {
        /// Where the padding was read.
        offset: u64,
    },
    /// A name that no directory may hold.
    #[error("the NAR holds the name `{name}`, which no file can have")]
    Name {
        /// The name, escaped.
        name: String,
    },
    /// Names of a directory are not in strictly ascending order.
    #[error("the NAR holds `{name}` after `{previous}`: entries must be sorted and unique")]
    Order {
        /// The later name, escaped.
        name: String,
        /// The name before it, escaped.
        previous: String,
    },
    /// A symlink's target is empty or holds a NUL.
    #[error("the NAR holds a symlink at byte {offset} whose target no symlink can have")]
    Target {
        /// Where the target begins.
        offset: u64,
    },
    /// Directories are nested too deep.
    #[error("the NAR nests directories deeper than 64 levels")]
    TooDeep,
    /// There are more files than are accepted.
    #[error("the NAR holds more than {limit} files; that is more than can be archived")]
    TooManyEntries {
        /// How many are accepted.
        limit: u32,
    },
    /// Names and targets take more bytes than are accepted.
    #[error("the names and symlink targets of the NAR take more than {limit} bytes together")]
    TooMuchText {
        /// How many bytes are accepted.
        limit: u64,
    },
    /// Bytes follow the end.
    #[error("the NAR ends at byte {offset}, but more bytes follow")]
    TrailingBytes {
        /// Where it ends.
        offset: u64,
    },
    /// More bytes came than the NAR was said to have.
    #[error("the NAR is longer than its NarSize of {nar_size} bytes")]
    BeyondNarSize {
        /// What it was said to have.
        nar_size: u64,
    },
    /// The bytes ended before the NAR did.
    #[error("the NAR breaks off after {offset} bytes")]
    Truncated {
        /// Bytes that came.
        offset: u64,
    },
    /// The NAR is complete, but shorter than it was said to be.
    #[error("the NAR ends after {offset} of the {nar_size} bytes of its NarSize")]
    ShorterThanNarSize {
        /// Bytes that came.
        offset: u64,
        /// What it was said to have.
        nar_size: u64,
    },
}
