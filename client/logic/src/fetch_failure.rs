//! What a failed request to a source's server says: of the file, of the server, or of the moment.
//!
//! Always holds: nothing counts as missing because a request for it failed.
//! Leaves to others: how often and when to try again (`retry_schedule`), what the whole server is worth (`server_state`).

/// Why a request gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFailure {
    /// An answer of this status.
    Status(u16),
    /// Nobody knows an address of the host.
    Unresolved,
    /// The host may not be spoken to: its certificate does not hold, or its address is none that it may have.
    Untrusted,
    /// The server refuses whatever this user asks for, and says why.
    Refused,
    /// No answer came, or it broke off.
    Broken,
    /// An answer that cannot be used.
    Unusable,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchVerdict {
    /// It may be otherwise in a while.
    Passes,
    /// This file cannot be had.
    FileFails,
    /// No file can be had.
    ServerFails,
}

impl FetchFailure {
    /// What follows, if the server has (not) answered anything before. 403 passes: servers that limit rates give it too.
    pub const fn verdict(self, answered: bool) -> FetchVerdict {
        match self {
            Self::Status(403 | 408 | 425 | 429 | 500 | 502..=504 | 520..=530) | Self::Broken => {
                FetchVerdict::Passes
            }
            // A resolver that knew the host an hour ago is what fails; one that never did is right.
            Self::Unresolved if answered => FetchVerdict::Passes,
            Self::Unresolved | Self::Untrusted | Self::Refused => FetchVerdict::ServerFails,
            Self::Status(_) | Self::Unusable => FetchVerdict::FileFails,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_moment_pass_and_others_do_not() {
        for status in [403, 408, 425, 429, 500, 502, 503, 504, 520, 530] {
            assert_eq!(FetchFailure::Status(status).verdict(true), FetchVerdict::Passes, "{status}");
        }
        for status in [206, 400, 401, 402, 405, 418, 501, 505, 600] {
            assert_eq!(FetchFailure::Status(status).verdict(true), FetchVerdict::FileFails, "{status}");
        }
    }

    #[test]
    fn a_host_that_was_never_found_is_not_looked_for_again() {
        assert_eq!(FetchFailure::Unresolved.verdict(false), FetchVerdict::ServerFails);
        assert_eq!(FetchFailure::Unresolved.verdict(true), FetchVerdict::Passes);
        assert_eq!(FetchFailure::Untrusted.verdict(true), FetchVerdict::ServerFails);
        assert_eq!(FetchFailure::Refused.verdict(true), FetchVerdict::ServerFails);
    }
}
