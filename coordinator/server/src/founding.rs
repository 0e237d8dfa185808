//! How a coordinator comes to know its archive: it founds one, remembers one, or asks its peers.
//!
//! Owns: the first roster and the first descriptor. Leaves to others: later rosters (`roster sign`).

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use firn_base::NodeId;
use firn_transport::Endpoint;
use firn_wire::{
    AdminReply, AdminRequest, CONTROL_BYTES_MAX, CoordinatorEntry, CoordinatorReply, CoordinatorRequest,
    Descriptor, Identity, MemberChange, MemberStep, MembersInForce, Roster, Signed,
};

/// Another coordinator as an operator names it: `ID@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: NodeId,
    /// Host and UDP port.
    pub address: String,
}

/// A text is no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a peer: write ID@HOST:PORT, with the ID that `firn-coordinator id` prints there")]
pub struct ParsePeerError {
    text: String,
}

impl FromStr for Peer {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParsePeerError { text: text.chars().take(120).collect() };
        let (id, address) = text.split_once('@').ok_or_else(refuse)?;
        if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(refuse());
        }
        Ok(Self { id: id.parse().map_err(|_| refuse())?, address: address.to_owned() })
    }
}

/// The first descriptor of a new archive: `own` and `peers` are its coordinators, `archive_key` signs.
pub fn found_archive(
    archive_key: &Identity,
    own: Peer,
    peers: &[Peer],
    issued: firn_base::Timestamp,
) -> Descriptor {
    let archive = archive_key.public().into();
    let coordinators = std::iter::once(&own)
        .chain(peers)
        .zip(1..)
        .map(|(peer, raft_id)| CoordinatorEntry { id: peer.id, raft_id, address: peer.address.clone() })
        .collect();
    let roster = Roster { archive, generation: 1, issued, coordinators, retired: Vec::new() };
    Descriptor { archive, roster: Signed::seal(archive_key, archive, &roster) }
}

/// What a coordinator learns that takes part.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The archive.
    pub descriptor: Descriptor,
    /// The entry of the log that made it a member; none if the roster names it.
    pub named_since: Option<u64>,
}

/// The archive has retired this identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "coordinator {} was removed from its archive and takes part no more: to add this machine again, start with an \
     empty --data-dir", .0.short()
)]
pub struct RetiredError(NodeId);

enum Unready {
    Waiting(String),
    Retired(RetiredError),
}

/// Asks `peers` in turn until one knows the archive, and its roster or its members name this coordinator, which
/// others reach at `address` if that is known. Goes on for as long as it takes: the others may be started later, and
/// an operator has to add it.
pub async fn ask_peers(
    endpoint: &Endpoint,
    peers: &[Peer],
    address: Option<&str>,
) -> Result<Joined, RetiredError> {
    ask_each(peers, async |peer| ask_peer(endpoint, peer, address).await).await
}

/// Asks `peers` in turn until they have taken this coordinator back, which the roster names and which has lost its log
/// or its state: see [`plan_readmission`](firn_coordinator_logic::plan_readmission). Nothing else is said in its name
/// meanwhile.
pub async fn ask_back(endpoint: &Endpoint, peers: &[Peer]) -> Result<Joined, RetiredError> {
    ask_each(peers, async |peer| ask_back_by(endpoint, peer).await).await
}

async fn ask_each(
    peers: &[Peer],
    ask: impl AsyncFn(&Peer) -> Result<Joined, Unready>,
) -> Result<Joined, RetiredError> {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut said = BTreeSet::new();
    loop {
        for peer in peers {
            match ask(peer).await {
                Ok(joined) => return Ok(joined),
                Err(Unready::Retired(error)) => return Err(error),
                Err(Unready::Waiting(reason)) => {
                    if said.insert((peer.address.clone(), reason.clone())) {
                        tracing::info!(peer = %peer.address, reason, "waiting for the archive");
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_peer(endpoint: &Endpoint, peer: &Peer, address: Option<&str>) -> Result<Joined, Unready> {
    const WITHIN: Duration = Duration::from_secs(5);
    let waiting = |error: &dyn std::fmt::Display| Unready::Waiting(error.to_string());
    let connection = endpoint.connect(peer.id, &peer.address).await.map_err(|error| waiting(&error))?;
    let ask = async |request: CoordinatorRequest| {
        connection.call(&request, CONTROL_BYTES_MAX, WITHIN).await.map_err(|error| waiting(&error))
    };
    let CoordinatorReply::Descriptor(descriptor) = ask(CoordinatorRequest::GetDescriptor).await? else {
        return Err(Unready::Waiting("it does not know an archive yet".to_owned()));
    };
    let roster = descriptor.verify().map_err(|error| waiting(&error))?;
    let own = NodeId::from(endpoint.public());
    if roster.has_retired(own) {
        return Err(Unready::Retired(RetiredError(own)));
    }
    if roster.entry(own).is_some() {
        return Ok(Joined { descriptor, named_since: None });
    }
    if !roster.has_coordinator(peer.id.into()) {
        return Err(Unready::Waiting("it is not in the roster of its archive itself".to_owned()));
    }
    match ask(CoordinatorRequest::GetMembers).await? {
        CoordinatorReply::Members(answer) if answer.members.iter().any(|entry| entry.id == own) => {
            Ok(Joined { descriptor, named_since: Some(answer.since) })
        }
        _ => Err(Unready::Waiting(format!(
            "archive {} does not know this coordinator yet: add it with `firn-coordinator member add {own}@{}` on one \
             that runs",
            descriptor.archive.short(),
            address.unwrap_or("HOST:PORT")
        ))),
    }
}

async fn ask_back_by(endpoint: &Endpoint, peer: &Peer) -> Result<Joined, Unready> {
    // A change of voters waits for the disks of a majority, twice.
    const WITHIN: Duration = Duration::from_secs(30);
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    const LOOKS_MAX: usize = 25;
    let waiting = |error: &dyn std::fmt::Display| Unready::Waiting(error.to_string());
    let odd = || Unready::Waiting("it gave an answer that does not fit".to_owned());
    let connection = endpoint.connect(peer.id, &peer.address).await.map_err(|error| waiting(&error))?;
    let ask = async |request: CoordinatorRequest| {
        connection.call(&request, CONTROL_BYTES_MAX, WITHIN).await.map_err(|error| waiting(&error))
    };
    let CoordinatorReply::Descriptor(descriptor) = ask(CoordinatorRequest::GetDescriptor).await? else {
        return Err(odd());
    };
    let own = NodeId::from(endpoint.public());
    if descriptor.verify().map_err(|error| waiting(&error))?.has_retired(own) {
        return Err(Unready::Retired(RetiredError(own)));
    }
    let members = async || match ask(CoordinatorRequest::GetMembers).await? {
        CoordinatorReply::Members(answer) => Ok::<MembersInForce, Unready>(answer),
        _ => Err(odd()),
    };
    let before = members().await?.since;
    loop {
        let change = AdminRequest::ChangeMember(MemberChange::Readmit { id: own });
        match ask(CoordinatorRequest::Admin(change)).await? {
            CoordinatorReply::Admin(AdminReply::MemberChanged(MemberStep::Removed)) => {}
            CoordinatorReply::Admin(AdminReply::MemberChanged(MemberStep::Added)) => break,
            CoordinatorReply::Refused(refused) => return Err(waiting(&refused)),
            _ => return Err(odd()),
        }
    }
    // What the leader has committed is applied a moment later.
    for _ in 0..LOOKS_MAX {
        let answer = members().await?;
        if answer.since > before && answer.members.iter().any(|entry| entry.id == own) {
            return Ok(Joined { descriptor, named_since: Some(answer.since) });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // Asked again, all of it is done again.
    Err(Unready::Waiting("it does not learn that this coordinator was taken back".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_id_and_an_address() {
        let id = "ab".repeat(32);
        let peer: Peer = format!("{id}@127.0.0.1:4433").parse().unwrap();
        assert_eq!((peer.id.to_string(), peer.address.as_str()), (id.clone(), "127.0.0.1:4433"));
        for text in ["", "x@y:1", &format!("{id}@host"), &format!("{id}@:1"), &id] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_founder_is_the_first_in_the_roster() {
        let key = Identity::from_seed(&[1; 32]);
        let peer = |byte| Peer { id: NodeId::from_bytes([byte; 32]), address: format!("h:{byte}") };
        let descriptor = found_archive(&key, peer(1), &[peer(2), peer(3)], Default::default());
        let roster = descriptor.verify().unwrap();
        let ids: Vec<_> = roster.roster().coordinators.iter().map(|entry| entry.raft_id).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(roster.roster().coordinators[0].id, NodeId::from_bytes([1; 32]));
    }
}
