//! What the owner of an archive on one machine decides in it: publishers, the uploader, the operator, tokens.
//!
//! Always holds: nothing is recorded twice; the coordinators are asked as any administrator asks them, by the
//! control socket in a data directory, so that no handle keeps a killed one alive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use firn_base::PublicKey;
use firn_coordinator::{ControlError, ask_control, ask_ledger};
use firn_nix_format::PublisherKey;
use firn_transport::load_identity;
use firn_wire::{
    AdminReply, AdminRequest, JoinToken, LedgerAct, LedgerState, OperatorRole, PublisherEntry, RefusalKind,
    Signed,
};
use tokio::time::{Instant, sleep};

use crate::failure::{Failure, failure};
use crate::place::Place;
use crate::role::Role;

/// The key of the public Nix cache: the publisher of an archive that is founded without another.
pub(crate) const PUBLIC_CACHE_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

// An election takes two seconds on a busy machine.
const LEADER_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

const OPERATOR: &str = "local";
const TOKEN_VALID: Duration = Duration::from_secs(3600);
const RANK: u32 = 100;

/// An administrator, by the data directory of a coordinator that runs.
#[derive(Debug, Clone)]
pub(crate) struct Administrator {
    directory: PathBuf,
}

impl Administrator {
    /// Asks the coordinator that runs on `directory`.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Records what is not recorded yet: the keys of `place`, and `publishers`.
    pub(crate) async fn settle(&self, place: &Place, publishers: &[PublisherKey]) -> Result<(), Failure> {
        let known = self.governance().await?;
        for act in missing(&known, place, publishers)? {
            self.ask(&AdminRequest::Govern(act)).await?;
        }
        Ok(())
    }

    /// A token for a new storage node, whose failure domain is its own.
    pub(crate) async fn token(&self, role: Role) -> Result<Signed<JoinToken>, Failure> {
        let request = AdminRequest::CreateToken {
            operator: OPERATOR.to_owned(),
            failure_domain: Some(role.to_string()),
            valid_millis: u64::try_from(TOKEN_VALID.as_millis()).unwrap_or(u64::MAX),
        };
        match self.ask(&request).await? {
            AdminReply::Token(token) => Ok(token),
            _ => Err(failure("the coordinator's answer does not fit")),
        }
    }

    async fn governance(&self) -> Result<LedgerState, Failure> {
        Ok(LedgerState::read(&ask_ledger(&self.directory).await?))
    }

    /// Asks until there is a leader to answer.
    async fn ask(&self, request: &AdminRequest) -> Result<AdminReply, Failure> {
        let deadline = Instant::now() + LEADER_WITHIN;
        loop {
            match ask_control(&self.directory, request).await {
                Err(ControlError::Refused(refusal))
                    // What is asked for here may be done twice.
                    if matches!(refusal.kind, RefusalKind::Unavailable | RefusalKind::Uncertain)
                        && Instant::now() < deadline =>
                {
                    sleep(PAUSE).await;
                }
                answered => return Ok(answered?),
            }
        }
    }
}

fn missing(
    known: &LedgerState,
    place: &Place,
    publishers: &[PublisherKey],
) -> Result<Vec<LedgerAct>, Failure> {
    let mut acts = Vec::new();
    let uploader = load_identity(&place.uploader_key())?.public();
    if !known.uploaders.contains_key(&uploader) {
        acts.push(LedgerAct::AddUploader { key: uploader, name: OPERATOR.to_owned() });
    }
    let operator = load_identity(&place.operator_key())?.public();
    if !known.operator_may(operator, OperatorRole::Admin) {
        let (name, role) = (OPERATOR.to_owned(), OperatorRole::Admin);
        acts.push(LedgerAct::AddOperator { key: operator, name, role });
    }
    for publisher in publishers {
        let key = PublicKey::from_bytes(*publisher.as_bytes());
        if known.publishers.get(publisher.name()).is_none_or(|entry| entry.key != key) {
            let entry = PublisherEntry { name: publisher.name().to_owned(), key, rank: RANK };
            acts.push(LedgerAct::AddPublisher(entry));
        }
    }
    Ok(acts)
}

/// Whether a storage node that runs on `directory` is admitted and in touch with a coordinator, looked for until
/// `within` has passed.
pub(crate) async fn node_is_heard(directory: &Path, within: Duration) -> bool {
    use firn_storage_node::{ControlReply, ControlRequest};
    let deadline = Instant::now() + within;
    loop {
        let reply = firn_storage_node::ask_control(directory, ControlRequest::Status).await;
        if matches!(reply, Ok(ControlReply::Status(report)) if report.is_ready()) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use firn_transport::{Environment, load_or_create_identity};

    use super::*;

    #[test]
    fn what_is_recorded_is_not_recorded_again() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::open(&directory.path().join("archive")).unwrap();
        for key in [place.uploader_key(), place.operator_key()] {
            load_or_create_identity(&key, &Environment::real()).unwrap();
        }
        let publisher: PublisherKey = PUBLIC_CACHE_KEY.parse().unwrap();
        let mut known = LedgerState::default();
        let acts = missing(&known, &place, std::slice::from_ref(&publisher)).unwrap();
        assert_eq!(acts.len(), 3);
        acts.iter().for_each(|act| known.apply(act));
        assert_eq!(missing(&known, &place, &[publisher]).unwrap(), []);
    }
}
