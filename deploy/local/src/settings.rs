//! What an archive on one machine is made of: its roles and their ports, kept in `local.json`.
//!
//! Always holds: numbers of roles and ports are given once and for good; the file is written before a role that
//! it names is started.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use firn_base::{BitRate, ByteCount};
use firn_coordinator::RepairAt;
use firn_transport::write_synced;
use firn_wire::{DomainRule, Policy};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, failure};
use crate::place::Place;
use crate::ports;
use crate::role::Role;

const FILE: &str = "local.json";

/// The roles of an archive on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Whether the archive was founded to the end: publishers, uploader and operator are in its ledger.
    pub(crate) founded: bool,
    /// Where the gateway listens.
    pub(crate) gateway: SocketAddr,
    /// The quota of each storage node, in bytes.
    pub(crate) quota_bytes: u64,
    /// When bundles are repaired, in place of their scheme's own rule. Files of before do not have it.
    #[serde(default)]
    pub(crate) repair_at: Option<RepairAt>,
    /// After how long a silent node counts as lost, in place of the usual time.
    #[serde(default)]
    pub(crate) count_lost_after_millis: Option<u64>,
    /// How many bytes storage nodes upload in a second at most; none: as many as they can.
    #[serde(default)]
    pub(crate) max_upload_bytes_per_second: Option<u64>,
    /// Rates of storage nodes that have one of their own, by number.
    #[serde(default)]
    pub(crate) own_rates: BTreeMap<u16, u64>,
    /// UDP ports of the coordinators, by number.
    pub(crate) coordinators: BTreeMap<u16, u16>,
    /// UDP ports of the storage nodes, by number.
    pub(crate) storage_nodes: BTreeMap<u16, u16>,
    /// The greatest number that a storage node ever had.
    pub(crate) storage_nodes_made: u16,
}

/// What a new archive is made of, and what may be changed later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Coordinators; for a new archive.
    pub(crate) coordinators: Option<u16>,
    /// Storage nodes; for a new archive.
    pub(crate) storage_nodes: Option<u16>,
    /// Where the gateway is to listen.
    pub(crate) gateway: Option<SocketAddr>,
    /// The quota of each storage node.
    pub(crate) quota: Option<ByteCount>,
    /// When bundles are repaired; for a new archive.
    pub(crate) repair_at: Option<RepairAt>,
    /// After how long a silent node counts as lost; for a new archive.
    pub(crate) count_lost_after: Option<Duration>,
    /// How fast storage nodes without a rate of their own upload at most.
    pub(crate) max_upload: Option<BitRate>,
}

const COUNT_LOST_AFTER_MILLIS: u64 = 72 * 3_600_000;
const COORDINATORS_DEFAULT: u16 = 3;
const STORAGE_NODES_DEFAULT: u16 = 16;
const QUOTA_DEFAULT: ByteCount = ByteCount(10_000_000_000);
const GATEWAY_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

impl Settings {
    /// What is kept in `place`; none if no archive was begun there.
    pub(crate) fn load(place: &Place) -> Result<Option<Self>, Failure> {
        let path = place.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure(format!("cannot read {}: {error}", path.display()))),
        };
        let read = serde_json::from_str(&text);
        read.map(Some).map_err(|error| {
            failure(format!("{} is damaged: restore it from a backup ({error})", path.display()))
        })
    }

    /// Keeps them in `place`.
    pub(crate) fn save(&self, place: &Place) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_synced(place.path(), FILE, text.as_bytes(), 0o644)
            .map_err(|error| failure(format!("cannot write {}: {error}", place.join(FILE).display())))
    }

    /// Those of a new archive.
    pub(crate) fn new(wanted: &Wanted) -> Result<Self, Failure> {
        let coordinators = wanted.coordinators.unwrap_or(COORDINATORS_DEFAULT);
        let nodes = wanted.storage_nodes.unwrap_or(STORAGE_NODES_DEFAULT);
        let mut ports = ports::free(usize::from(coordinators) + usize::from(nodes))?.into_iter();
        Ok(Self {
            founded: false,
            gateway: wanted.gateway.unwrap_or(GATEWAY_DEFAULT),
            quota_bytes: wanted.quota.unwrap_or(QUOTA_DEFAULT).0,
            repair_at: wanted.repair_at,
            count_lost_after_millis: wanted.count_lost_after.map(millis),
            max_upload_bytes_per_second: wanted.max_upload.map(|rate| rate.bytes_per_second),
            own_rates: BTreeMap::new(),
            coordinators: (1..=coordinators).zip(ports.by_ref()).collect(),
            storage_nodes: (1..=nodes).zip(ports).collect(),
            storage_nodes_made: nodes,
        })
    }

    /// Takes over what may change between two starts, and says what may not.
    pub(crate) fn adopt(&mut self, wanted: &Wanted) -> Vec<String> {
        self.gateway = wanted.gateway.unwrap_or(self.gateway);
        self.quota_bytes = wanted.quota.map_or(self.quota_bytes, |quota| quota.0);
        self.max_upload_bytes_per_second =
            wanted.max_upload.map(|rate| rate.bytes_per_second).or(self.max_upload_bytes_per_second);
        let mut remarks = Vec::new();
        let is = [
            (wanted.coordinators, self.coordinators.len(), "coordinators", ""),
            (
                wanted.storage_nodes,
                self.storage_nodes.len(),
                "storage nodes",
                "; `add storage-node` makes more",
            ),
        ];
        for (wanted, there, what, hint) in is {
            if wanted.is_some_and(|wanted| usize::from(wanted) != there) {
                remarks.push(format!("this archive was founded before and has {there} {what}{hint}"));
            }
        }
        if wanted.repair_at.is_some_and(|wanted| Some(wanted) != self.repair_at) {
            remarks.push("this archive was founded before: when it repairs stays as it was".to_owned());
        }
        if wanted.count_lost_after.is_some_and(|wanted| Some(millis(wanted)) != self.count_lost_after_millis)
        {
            remarks.push(
                "this archive was founded before: when it counts nodes as lost stays as it was".to_owned(),
            );
        }
        remarks
    }

    /// Makes room for one more storage node, which may have a rate of its own, and names it.
    pub(crate) fn add_storage_node(&mut self, max_upload: Option<BitRate>) -> Result<Role, Failure> {
        let number =
            self.storage_nodes_made.checked_add(1).ok_or_else(|| failure("there are too many nodes"))?;
        let taken: Vec<u16> =
            self.coordinators.values().chain(self.storage_nodes.values()).copied().collect();
        let port = ports::free(taken.len() + 1)?.into_iter().find(|port| !taken.contains(port));
        let port = port.ok_or_else(|| failure("no UDP port is free"))?;
        self.storage_nodes_made = number;
        self.storage_nodes.insert(number, port);
        if let Some(rate) = max_upload {
            self.own_rates.insert(number, rate.bytes_per_second);
        }
        Ok(Role::StorageNode(number))
    }

    /// How fast a storage node uploads at most; none: as fast as it can.
    pub(crate) fn max_upload(&self, number: u16) -> Option<BitRate> {
        let rate = self.own_rates.get(&number).copied().or(self.max_upload_bytes_per_second);
        rate.map(|bytes_per_second| BitRate { bytes_per_second })
    }

    /// The policy that the archive begins with: each node is a domain of its own, everything else as usual unless its
    /// owner says otherwise.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            domains: DomainRule::Named,
            repair_at: self.repair_at.and_then(RepairAt::shards),
            repair_at_full: self.repair_at == Some(RepairAt::Full),
            count_lost_after_millis: self.count_lost_after_millis.unwrap_or(COUNT_LOST_AFTER_MILLIS),
            brake: true,
            trust_declared_domains: false,
        }
    }

    /// All roles.
    pub(crate) fn roles(&self) -> impl Iterator<Item = Role> + '_ {
        let coordinators = self.coordinators.keys().map(|number| Role::Coordinator(*number));
        let nodes = self.storage_nodes.keys().map(|number| Role::StorageNode(*number));
        coordinators.chain(nodes).chain([Role::Gateway])
    }

    /// Where a role listens; none if there is no such role.
    pub(crate) fn address(&self, role: Role) -> Option<SocketAddr> {
        let port = match role {
            Role::Gateway => return Some(self.gateway),
            Role::Coordinator(number) => self.coordinators.get(&number),
            Role::StorageNode(number) => self.storage_nodes.get(&number),
        };
        port.map(|port| (Ipv4Addr::LOCALHOST, *port).into())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        coordinators: Some(1),
        storage_nodes: Some(2),
        gateway: None,
        quota: None,
        repair_at: Some(RepairAt::Full),
        count_lost_after: None,
        max_upload: None,
    };

    #[test]
    fn what_is_kept_is_what_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::open(&directory.path().join("archive")).unwrap();
        assert_eq!(Settings::load(&place).unwrap(), None);
        let settings = Settings::new(&WANTED).unwrap();
        settings.save(&place).unwrap();
        assert_eq!(Settings::load(&place).unwrap(), Some(settings));
        std::fs::write(place.join(FILE), "{").unwrap();
        assert!(Settings::load(&place).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut settings = Settings::new(&WANTED).unwrap();
        assert_eq!(settings.add_storage_node(None).unwrap(), Role::StorageNode(3));
        settings.storage_nodes.remove(&3);
        assert_eq!(settings.add_storage_node(None).unwrap(), Role::StorageNode(4));
        assert_eq!(settings.address(Role::StorageNode(3)), None);
        assert_eq!(settings.roles().count(), 1 + 3 + 1);
    }

    #[test]
    fn a_node_has_its_own_rate_or_that_of_all_others() {
        let rate = |bytes_per_second| Some(BitRate { bytes_per_second });
        let mut settings = Settings::new(&WANTED).unwrap();
        settings.add_storage_node(rate(125_000)).unwrap();
        assert_eq!((settings.max_upload(2), settings.max_upload(3)), (None, rate(125_000)));
        settings.adopt(&Wanted { max_upload: rate(1_250_000), ..WANTED });
        settings.adopt(&WANTED);
        assert_eq!((settings.max_upload(2), settings.max_upload(3)), (rate(1_250_000), rate(125_000)));
    }

    #[test]
    fn a_later_start_may_move_the_gateway_and_is_told_that_roles_stay() {
        let mut settings = Settings::new(&WANTED).unwrap();
        let gateway = "127.0.0.1:9".parse().unwrap();
        let other = Wanted { coordinators: Some(3), gateway: Some(gateway), ..WANTED };
        assert_eq!(settings.adopt(&other), ["this archive was founded before and has 1 coordinators"]);
        let lazily = Wanted { repair_at: Some(RepairAt::Shards(2)), ..WANTED };
        let [remark] = &settings.adopt(&lazily)[..] else { panic!("one remark is expected") };
        assert!(remark.contains("when it repairs stays"), "{remark}");
        assert_eq!(settings.repair_at, Some(RepairAt::Full));
        assert_eq!((settings.gateway, settings.quota_bytes), (gateway, QUOTA_DEFAULT.0));
    }
}
