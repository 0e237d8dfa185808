//! Looking store paths up in the archive, with all that they refer to.
//!
//! Always holds: what was asked for and everything that a closure refers to is either found or named as missing, with
//! the reason and whoever refers to it; each path is looked up once.
//! Leaves to others: reading contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use firn_base::{Location, ObjectKey};
use firn_client::publisher_keys;
use firn_gateway::{LocateError, Located};
use firn_nix_format::{PublisherKey, StorePath};
use firn_retrieval::ReadError;
use firn_transport::{AskError, LedgerError, VerifiedLedger};
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::record_finder::{FoundPath, RecordFinder};
use crate::session::Session;
use crate::store_path_argument::StorePathArgument;

/// Why a path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MissingState {
    /// The archive does not have it.
    NotArchived,
    /// The archive's operators have taken it back.
    Withdrawn,
    /// The archive has it, and no key that is trusted here has signed it.
    Untrusted,
    /// The archive has it, and it cannot be read now; or it is not known now whether the archive has it.
    Unreadable,
    /// Where it should be written lies another content of it.
    Different,
    /// The archive gave it, and it could not be written.
    Unwritable,
    /// The archive has it, and not the file as which it was published.
    NotAsPublished,
    /// It has a URL that a cache must not have, and was not written.
    Refused,
}

/// Why it is not known whose signatures count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WhoseError {
    /// No majority says who the publishers are. One coordinator alone might name its own.
    #[error(
        "who the publishers of this archive are is not known now: {0}; pass their keys with --trusted-public-keys, or try again \
         later"
    )]
    NotVouched(LedgerError),
    /// No coordinator gave a ledger: keys would not help.
    #[error("nothing can be looked up now: {0}; try again later")]
    NobodyVouches(LedgerError),
    /// The coordinators.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// A path that was asked for, or is referred to, and is not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Missing {
    /// Its store path, as far as it is known, or the URL of a log.
    pub(crate) path: String,
    /// In what way.
    pub(crate) state: MissingState,
    /// The reason as a sentence.
    pub(crate) reason: String,
}

/// What is looked for, and in whose names.
#[derive(Debug)]
pub(crate) struct PathSearch {
    finder: RecordFinder,
    publishers: Vec<PublisherKey>,
    withdrawn: BTreeMap<ObjectKey, String>,
}

/// Records are small and lie on different nodes: most of the time is waiting.
const LOOKS_AT_ONCE: usize = 32;

impl PathSearch {
    /// Looks in the archive of `session`, for what `trusted` or, if that is not given, any publisher of the archive has
    /// signed.
    pub(crate) async fn new(
        session: &Session,
        trusted: Option<Vec<PublisherKey>>,
    ) -> Result<Self, WhoseError> {
        let (publishers, withdrawn) = whose_signatures(session.archive().ledger().await, trusted)?;
        Ok(Self { finder: session.finder(), publishers, withdrawn })
    }

    /// The records.
    pub(crate) const fn finder(&self) -> &RecordFinder {
        &self.finder
    }

    /// Whose signatures count, the most preferred first.
    pub(crate) fn publishers(&self) -> &[PublisherKey] {
        &self.publishers
    }

    /// Finds `paths`, and with `closure` everything that they refer to. What is found comes in the order in which it
    /// lies in bundles.
    pub(crate) async fn find(
        &self,
        paths: &[StorePathArgument],
        closure: bool,
    ) -> Result<(Vec<FoundPath>, Vec<Missing>), LocateError> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let mut seen: BTreeSet<ObjectKey> = BTreeSet::new();
        // With the name of a path that refers to it.
        let mut next: BTreeMap<ObjectKey, (StorePathArgument, Option<StorePath>)> =
            paths.iter().map(|path| (path.key(), (path.clone(), None))).collect();
        while !next.is_empty() {
            seen.extend(next.keys());
            let keys: Vec<ObjectKey> = next.keys().copied().collect();
            let Located { places, doubt } = self.finder.locate(&keys).await?;
            let doubt = &doubt;
            let looks = next.iter().zip(places).map(|((key, (argument, referrer)), places)| async move {
                let path = match doubt {
                    Some(why) if places.is_empty() && !self.withdrawn.contains_key(key) => Err(Missing {
                        path: argument.to_string(),
                        state: MissingState::Unreadable,
                        reason: unsettled(why),
                    }),
                    _ => self.look(key, &places, argument).await,
                };
                path.map_err(|missing| match referrer {
                    None => missing,
                    Some(path) => {
                        Missing { reason: format!("{}; {path} refers to it", missing.reason), ..missing }
                    }
                })
            });
            let looks: Vec<_> = stream::iter(looks).buffered(LOOKS_AT_ONCE).collect().await;
            let mut references = BTreeMap::new();
            for look in looks {
                match look {
                    Err(path) => missing.push(path),
                    Ok(path) => {
                        for reference in path.info.references.iter().filter(|_| closure) {
                            let key = ObjectKey::store_path(*reference.hash());
                            if !seen.contains(&key) {
                                let argument = StorePathArgument::Path(reference.clone());
                                references.insert(key, (argument, Some(path.info.store_path.clone())));
                            }
                        }
                        found.push(path);
                    }
                }
            }
            next = references;
        }
        found.sort_by_key(|path| (path.found.bundle, path.found.record.chunk_list.start));
        missing.sort();
        Ok((found, missing))
    }

    /// The path at these places of the index, if it is the one that is meant and was signed.
    pub(crate) async fn look(
        &self,
        key: &ObjectKey,
        places: &[Location],
        argument: &StorePathArgument,
    ) -> Result<FoundPath, Missing> {
        let missing = |state, reason| Missing { path: argument.to_string(), state, reason };
        match self.finder.path(key, places, &self.publishers).await {
            Err(error) => Err(missing(MissingState::Unreadable, unreadable(&error))),
            Ok(None) => Err(match self.withdrawn.get(key) {
                Some(why) => missing(MissingState::Withdrawn, format!("it was withdrawn: {why}")),
                None => missing(MissingState::NotArchived, "it is not archived".to_owned()),
            }),
            Ok(Some(path)) if !argument.names(&path.info.store_path) => {
                let reason = format!("it is not archived; {} is", path.info.store_path);
                Err(missing(MissingState::NotArchived, reason))
            }
            Ok(Some(path)) if path.publisher.is_none() => {
                let reason = "no key that is trusted here has signed it".to_owned();
                Err(Missing {
                    path: path.info.store_path.to_string(),
                    ..missing(MissingState::Untrusted, reason)
                })
            }
            Ok(Some(path)) => Ok(path),
        }
    }
}

/// Whose signatures count, the most preferred first, and why paths were withdrawn: as `ledger` says, unless the
/// publishers are `trusted` ones.
pub(crate) fn whose_signatures(
    ledger: Result<VerifiedLedger, AskError>,
    trusted: Option<Vec<PublisherKey>>,
) -> Result<(Vec<PublisherKey>, BTreeMap<ObjectKey, String>), WhoseError> {
    match (ledger, trusted) {
        (Ok(ledger), trusted) => {
            Ok((trusted.unwrap_or_else(|| publisher_keys(&ledger)), ledger.state.withdrawn))
        }
        // Whose word counts is known without it, and what is withdrawn is in no index.
        (Err(AskError::Ledger(error @ LedgerError::TooFew { .. })), Some(trusted)) => {
            tracing::warn!("why a path was withdrawn is not known now: {error}");
            Ok((trusted, BTreeMap::new()))
        }
        (Err(AskError::Ledger(error @ LedgerError::TooFew { found: 0, .. })), None) => {
            Err(WhoseError::NobodyVouches(error))
        }
        (Err(AskError::Ledger(error @ LedgerError::TooFew { .. })), None) => {
            Err(WhoseError::NotVouched(error))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// That it may be archived or not, as a sentence.
pub(crate) fn unsettled(why: &str) -> String {
    format!("whether it is archived is not known now: {why}; try again later")
}

/// That it was read and cannot be written, as a sentence.
pub(crate) fn unwritable(error: &impl Display) -> String {
    format!("{error}; see to that, then run the command again: it goes on where it is")
}

/// That it is archived and cannot be read, as a sentence.
pub(crate) fn unreadable(error: &ReadError) -> String {
    format!("it is archived and cannot be read now: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_majority_only_keys_that_were_passed_count_and_whoever_passed_none_is_told_to() {
        let too_few =
            || Err(AskError::Ledger(LedgerError::TooFew { found: 1, needed: 2, failures: Vec::new() }));
        let key: PublisherKey =
            firn_nix_format::PublisherSecretKey::from_seed("test-1", &[7; 32]).unwrap().public_key();
        let (publishers, withdrawn) = whose_signatures(too_few(), Some(vec![key.clone()])).unwrap();
        assert_eq!((publishers, withdrawn.len()), (vec![key.clone()], 0));
        let sentence = whose_signatures(too_few(), None).unwrap_err().to_string();
        assert!(sentence.contains("pass their keys with --trusted-public-keys"), "{sentence}");
        let nobody = LedgerError::TooFew { found: 0, needed: 2, failures: Vec::new() };
        let sentence = whose_signatures(Err(AskError::Ledger(nobody)), None).unwrap_err().to_string();
        assert!(
            !sentence.contains("--trusted-public-keys") && sentence.contains("try again later"),
            "{sentence}"
        );
        let rewritten = Err(AskError::Ledger(LedgerError::Rewritten { position: 3 }));
        assert!(whose_signatures(rewritten, Some(vec![key])).is_err());
    }

    #[test]
    fn states_are_pinned_as_json() {
        let state = |state: MissingState| serde_json::to_string(&state).unwrap();
        assert_eq!(state(MissingState::NotArchived), r#""not-archived""#);
        let others = [
            MissingState::Withdrawn,
            MissingState::Untrusted,
            MissingState::Unreadable,
            MissingState::Different,
            MissingState::Unwritable,
            MissingState::NotAsPublished,
            MissingState::Refused,
        ];
        let others = others.map(state);
        let names = [
            "withdrawn",
            "untrusted",
            "unreadable",
            "different",
            "unwritable",
            "not-as-published",
            "refused",
        ];
        assert_eq!(others, names.map(|name| format!("\"{name}\"")));
    }
}
