//! The roles of an archive on this machine: which run, and starting and ending each.
//!
//! Owns: the threads. Always holds: a role runs at most once; what is on disk of a role that is stopped or removed
//! stays. Leaves to others: what a role is (`*_role`), when (`up`, `control`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use firn_base::{BitRate, ByteCount, NodeId};
use firn_nix_format::PublisherKey;
use firn_storage_node::DataDirectory;
use firn_transport::{Environment, load_identity};
use firn_wire::Descriptor;
use tokio::task::JoinSet;

use crate::coordinator_role::{self, CoordinatorRole, Tuning};
use crate::failure::{Failure, failure};
use crate::founding;
use crate::gateway_role::{self, GatewayRole};
use crate::governance::{Administrator, node_is_heard};
use crate::place::Place;
use crate::role::Role;
use crate::role_thread::{Ending, RoleThread, Threads};
use crate::settings::{Settings, Wanted};
use crate::storage_node_role::{self, StorageNodeRole};

/// The archive in a directory.
#[derive(Debug)]
pub(crate) struct LocalArchive {
    place: Place,
    settings: Settings,
    descriptor: Descriptor,
    // Of the coordinators; for this run.
    tuning: Tuning,
    running: BTreeMap<Role, RoleThread>,
}

// A node that was started is heard within moments; without a leader it is not, and is left to itself.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

impl LocalArchive {
    /// Opens the archive in `place`, founding it if there is none. Starts nothing. Gives remarks for its owner.
    pub(crate) fn open(
        place: Place,
        wanted: &Wanted,
        tuning: Tuning,
    ) -> Result<(Self, Vec<String>), Failure> {
        let environment = Environment::real();
        let (settings, remarks) = match Settings::load(&place)? {
            None => (Settings::new(wanted)?, Vec::new()),
            Some(mut settings) => {
                let remarks = settings.adopt(wanted);
                (settings, remarks)
            }
        };
        settings.save(&place)?;
        let descriptor = founding::descriptor(&place, &settings, &environment)?;
        place.write_config(settings.gateway)?;
        let running = BTreeMap::new();
        Ok((Self { place, settings, descriptor, tuning, running }, remarks))
    }

    /// Its directory.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Its descriptor.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Where its gateway listens.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.settings.gateway
    }

    /// Whether its ledger was begun.
    pub(crate) fn is_founded(&self) -> bool {
        self.settings.founded
    }

    /// How many coordinators and storage nodes it has.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.settings.coordinators.len(), self.settings.storage_nodes.len())
    }

    /// The identities of its coordinators.
    pub(crate) fn coordinator_ids(&self) -> Result<Vec<NodeId>, Failure> {
        let homes =
            self.settings.coordinators.keys().map(|number| self.place.role(Role::Coordinator(*number)));
        homes.map(|home| Ok(load_identity(&home.join(firn_transport::IDENTITY_FILE))?.node_id())).collect()
    }

    /// The identities of its storage nodes, which have run before.
    pub(crate) fn node_ids(&self) -> Result<BTreeSet<NodeId>, Failure> {
        let homes =
            self.settings.storage_nodes.keys().map(|number| self.place.role(Role::StorageNode(*number)));
        homes.map(|home| Ok(DataDirectory::read_identity(&home)?.node_id())).collect()
    }

    /// Starts all roles that `choose` names, side by side.
    pub(crate) async fn start_all(&mut self, choose: impl Fn(Role) -> bool) -> Result<(), Failure> {
        let mut starting = JoinSet::new();
        for role in self.settings.roles().filter(|role| choose(*role)).collect::<Vec<_>>() {
            let start = self.starter(role).await?;
            starting.spawn(async move { (role, start.await) });
        }
        let mut failed = None;
        // All are waited for, so that none is left behind unknown.
        while let Some(started) = starting.join_next().await {
            match started? {
                (role, Ok(thread)) => drop(self.running.insert(role, thread)),
                (_, Err(error)) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Puts what its owner wants into the ledger of a led archive.
    pub(crate) async fn settle(&mut self, publishers: &[PublisherKey]) -> Result<(), Failure> {
        let administrator = self.administrator().ok_or_else(|| failure("no coordinator runs"))?;
        administrator.settle(&self.place, publishers).await?;
        if !self.settings.founded {
            self.settings.founded = true;
            self.settings.save(&self.place)?;
        }
        Ok(())
    }

    /// Starts a role that was stopped. Gives a sentence.
    pub(crate) async fn start(&mut self, role: Role) -> Result<String, Failure> {
        self.known(role)?;
        if self.is_running(role) {
            return Err(failure(format!("{role} is running already")));
        }
        // One that has ended by itself is cleared away first.
        if let Some(ended) = self.running.remove(&role) {
            ended.end(Ending::Kill).await?;
        }
        let thread = self.starter(role).await?.await?;
        self.running.insert(role, thread);
        let heard = match role {
            Role::StorageNode(_) => node_is_heard(&self.place.role(role), HEARD_WITHIN).await,
            Role::Coordinator(_) | Role::Gateway => true,
        };
        let remark = if heard { "" } else { "; no coordinator has heard it yet" };
        Ok(format!("{role} runs{remark}"))
    }

    /// Kills a role. Gives a sentence.
    pub(crate) async fn stop(&mut self, role: Role) -> Result<String, Failure> {
        self.known(role)?;
        let running = self.is_running(role);
        match self.running.remove(&role) {
            Some(thread) => thread.end(Ending::Kill).await?,
            None => return Err(failure(format!("{role} is not running"))),
        }
        if !running {
            return Ok(format!("{role} had ended by itself"));
        }
        Ok(format!("{role} was killed"))
    }

    /// Makes and starts one more storage node, which may have a rate of its own. Gives a sentence.
    pub(crate) async fn add_storage_node(&mut self, max_upload: Option<BitRate>) -> Result<String, Failure> {
        let role = self.settings.add_storage_node(max_upload)?;
        self.settings.save(&self.place)?;
        self.start(role).await
    }

    /// Kills a storage node and forgets it; its directory stays. Gives a sentence.
    pub(crate) async fn remove(&mut self, role: Role, dry_run: bool) -> Result<String, Failure> {
        self.known(role)?;
        let Role::StorageNode(number) = role else {
            return Err(failure(format!("{role} cannot be removed: only storage nodes can")));
        };
        let directory = self.place.role(role);
        if dry_run {
            return Ok(format!(
                "would kill {role} and not start it again; {} would stay",
                directory.display()
            ));
        }
        if let Some(thread) = self.running.remove(&role) {
            thread.end(Ending::Kill).await?;
        }
        self.settings.storage_nodes.remove(&number);
        self.settings.save(&self.place)?;
        Ok(format!(
            "{role} was killed and is not started again; its directory {} stays, and the archive counts it as away",
            directory.display()
        ))
    }

    /// Ends all roles in order: the gateway, then the nodes, then the coordinators.
    pub(crate) async fn shutdown(mut self) {
        let order: [fn(&Role) -> bool; 3] = [
            |role| matches!(role, Role::Gateway),
            |role| matches!(role, Role::StorageNode(_)),
            |role| matches!(role, Role::Coordinator(_)),
        ];
        for chosen in order {
            let mut ending = JoinSet::new();
            let roles: Vec<Role> = self.running.keys().copied().filter(chosen).collect();
            for role in roles {
                if let Some(thread) = self.running.remove(&role) {
                    ending.spawn(async move { (role, thread.end(Ending::Shutdown).await) });
                }
            }
            while let Some(ended) = ending.join_next().await {
                if let Ok((role, Err(error))) = ended {
                    tracing::warn!("{role} did not end in order: {error}");
                }
            }
        }
    }

    fn known(&self, role: Role) -> Result<(), Failure> {
        match self.settings.address(role) {
            Some(_) => Ok(()),
            None => Err(failure(format!("this archive has no {role}"))),
        }
    }

    fn is_running(&self, role: Role) -> bool {
        self.running.get(&role).is_some_and(RoleThread::is_running)
    }

    /// Whoever can be asked to administer: a coordinator that runs.
    fn administrator(&self) -> Option<Administrator> {
        let coordinators = self.running.iter().filter(|(_, thread)| thread.is_running());
        let mut coordinators = coordinators.filter(|(role, _)| matches!(role, Role::Coordinator(_)));
        coordinators.next().map(|(role, _)| Administrator::new(self.place.role(*role)))
    }

    /// What starts a role, apart from this.
    async fn starter(
        &self,
        role: Role,
    ) -> Result<impl Future<Output = Result<RoleThread, Failure>> + Send + use<>, Failure> {
        let listen = self.settings.address(role).ok_or_else(|| failure(format!("there is no {role}")))?;
        let directory = self.place.role(role);
        let descriptor = self.descriptor.clone();
        let plan = match role {
            Role::Coordinator(number) => {
                let founding = number == 1 && !self.settings.founded;
                let policy = self.settings.policy();
                Plan::Coordinator(CoordinatorRole {
                    directory,
                    listen,
                    descriptor,
                    policy: founding.then_some(policy),
                    tuning: self.tuning,
                })
            }
            Role::StorageNode(number) => {
                // Without a coordinator a node that was admitted before does without.
                let token = match self.administrator() {
                    Some(administrator) => administrator.token(role).await.ok(),
                    None => None,
                };
                let quota = ByteCount(self.settings.quota_bytes);
                let max_upload = self.settings.max_upload(number);
                Plan::StorageNode(StorageNodeRole {
                    role,
                    directory,
                    listen,
                    descriptor,
                    token,
                    quota,
                    max_upload,
                })
            }
            Role::Gateway => {
                // Nodes give strangers a tenth of a bounded line; this gateway is none.
                let identity = load_identity(&self.place.uploader_key())?;
                let descriptor = self.place.descriptor();
                Plan::Gateway(GatewayRole { directory, listen, descriptor, identity })
            }
        };
        Ok(async move {
            match plan {
                Plan::Coordinator(plan) => {
                    RoleThread::start(role, Threads::One, coordinator_role::start(plan)).await
                }
                Plan::StorageNode(plan) => {
                    RoleThread::start(role, Threads::One, storage_node_role::start(plan)).await
                }
                Plan::Gateway(plan) => {
                    RoleThread::start(role, Threads::Several, gateway_role::start(plan)).await
                }
            }
        })
    }
}

enum Plan {
    Coordinator(CoordinatorRole),
    StorageNode(StorageNodeRole),
    Gateway(GatewayRole),
}
