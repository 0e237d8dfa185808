//! How a coordinator comes to know its archive: it founds one, remembers one, or asks its peers.
//!
//! Owns: the first roster and the first descriptor. Leaves to others: later rosters (`roster sign`).

use std::str::FromStr;
use std::time::Duration;

use firn_base::NodeId;
use firn_transport::Endpoint;
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorEntry, CoordinatorReply, CoordinatorRequest, Descriptor, Identity, Roster,
    Signed,
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
    let roster = Roster { archive, generation: 1, issued, coordinators };
    Descriptor { archive, roster: Signed::seal(archive_key, archive, &roster) }
}

/// Asks `peers` in turn until one knows the archive and its roster names this coordinator. Goes on for as long
/// as it takes: the others may be started later.
pub async fn ask_peers(endpoint: &Endpoint, peers: &[Peer]) -> Descriptor {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut said = false;
    loop {
        for peer in peers {
            match ask_peer(endpoint, peer).await {
                Ok(descriptor) => return descriptor,
                Err(reason) if !said => {
                    tracing::info!(peer = %peer.address, reason, "waiting for the archive")
                }
                Err(_) => {}
            }
        }
        said = true;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_peer(endpoint: &Endpoint, peer: &Peer) -> Result<Descriptor, String> {
    const WITHIN: Duration = Duration::from_secs(5);
    let connection = endpoint.connect(peer.id, &peer.address).await.map_err(|error| error.to_string())?;
    let reply = connection
        .call(&CoordinatorRequest::GetDescriptor, CONTROL_BYTES_MAX, WITHIN)
        .await
        .map_err(|error| error.to_string())?;
    let CoordinatorReply::Descriptor(descriptor) = reply else {
        return Err("it does not know an archive yet".to_owned());
    };
    let roster = descriptor.verify().map_err(|error| error.to_string())?;
    if roster.has_coordinator(endpoint.public()) {
        Ok(descriptor)
    } else {
        Err(format!(
            "the archive {} does not have this coordinator in its roster: was it founded with --peer {}@…?",
            descriptor.archive.short(),
            NodeId::from(endpoint.public())
        ))
    }
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
