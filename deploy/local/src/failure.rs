//! How an act of this program fails: with a sentence for the person at the terminal.

/// An error for the person at the terminal.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `sentence` as a failure.
pub(crate) fn failure(sentence: impl Into<String>) -> Failure {
    sentence.into().into()
}
