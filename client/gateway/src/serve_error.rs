//! Why an object is not served, as far as a client should know.

use firn_retrieval::ReadError;

use crate::coordinators::CoordinatorsAway;
use crate::download_places::NoPlace;

/// Why an object is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The archive does not have it, as of the feed position: 404.
    #[error("{0}")]
    NotArchived(&'static str),
    /// The archive has it and it cannot be read at the moment: 503, or what `--when-unreadable` says.
    #[error("this is archived but cannot be read now: {cause}")]
    Unreadable {
        /// What stands in the way.
        cause: String,
        /// Whether it may pass by itself. Otherwise what is remembered of the object is forgotten: it may lie
        /// elsewhere by now.
        passing: bool,
    },
    /// Whether the archive has it cannot be known at the moment: answered as what cannot be read.
    #[error("whether this is archived cannot be settled now: {cause}; try again later")]
    Unsettled {
        /// What stands in the way.
        cause: String,
    },
    /// As much goes on as may at the moment: 503, to whoever shall come again soon.
    #[error("{why}")]
    Busy {
        /// What there is too much of.
        why: String,
    },
}

impl ServeError {
    /// Nobody could be asked for this reason.
    pub(crate) fn unsettled(cause: &impl std::fmt::Display) -> Self {
        Self::Unsettled { cause: cause.to_string() }
    }

    /// It is archived and was not read for this reason.
    pub(crate) fn unreadable(cause: &impl std::fmt::Display) -> Self {
        Self::Unreadable { cause: cause.to_string(), passing: true }
    }

    /// What stands in the way, without the words that an answer has before it.
    pub(crate) fn cause(self) -> String {
        match self {
            Self::NotArchived(sentence) => sentence.to_owned(),
            Self::Unreadable { cause, .. } | Self::Unsettled { cause } | Self::Busy { why: cause } => cause,
        }
    }
}

impl From<NoPlace> for ServeError {
    fn from(error: NoPlace) -> Self {
        Self::Busy { why: error.to_string() }
    }
}

impl From<ReadError> for ServeError {
    fn from(error: ReadError) -> Self {
        Self::Unreadable { cause: error.to_string(), passing: error.is_temporary() }
    }
}

impl From<CoordinatorsAway> for ServeError {
    fn from(error: CoordinatorsAway) -> Self {
        Self::unreadable(&error)
    }
}
