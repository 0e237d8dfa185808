//! A storage node as a role of this process: what `firn-storage-node` does around its library, without flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use firn_base::{BitRate, ByteCount};
use firn_storage_node::{
    DataDirectory, DeletionLimits, LineTerms, ScrubPlan, StorageNode, StorageNodeOptions, serve_control,
};
use firn_transport::Environment;
use firn_wire::{Descriptor, JoinToken, Signed};
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::holdings::Holdings;
use crate::role::Role;
use crate::role_thread::Running;

/// What a storage node is started with.
#[derive(Debug)]
pub(crate) struct StorageNodeRole {
    /// Its name, which is its failure domain too.
    pub(crate) role: Role,
    /// Its data directory.
    pub(crate) directory: PathBuf,
    /// Its address.
    pub(crate) listen: SocketAddr,
    /// The archive.
    pub(crate) descriptor: Descriptor,
    /// An invitation, which only a node that was never admitted uses.
    pub(crate) token: Option<Signed<JoinToken>>,
    /// How much it may hold.
    pub(crate) quota: ByteCount,
    /// How fast it uploads at most; none: as fast as it can.
    pub(crate) max_upload: Option<BitRate>,
}

struct RunningStorageNode {
    node: StorageNode,
    control: JoinHandle<std::io::Result<()>>,
    lock: PathBuf,
    listen: SocketAddr,
}

/// Starts it.
pub(crate) async fn start(role: StorageNodeRole) -> Result<impl Running, Failure> {
    let environment = Environment::real();
    let directory = {
        let (path, environment) = (role.directory.clone(), environment.clone());
        environment.clone().blocking(move || DataDirectory::open(&path, &environment)).await?
    };
    let options = StorageNodeOptions {
        deletion_limits: DeletionLimits::STANDARD,
        scrub: ScrubPlan::STANDARD,
        identity: directory.identity().clone(),
        disk: directory.disk(),
        descriptor: role.descriptor,
        token: role.token,
        quota: Some(role.quota),
        terms: LineTerms { max_upload: role.max_upload, ..LineTerms::default() },
        failure_domain: role.role.to_string(),
        listen: role.listen,
        advertise: None,
        own_address: None,
    };
    let node = StorageNode::start(environment, options).await?;
    let (served, handle) = (role.directory.clone(), node.handle());
    let control = tokio::spawn(async move { serve_control(&served, handle).await });
    let lock = role.directory.join("lock");
    Ok(RunningStorageNode { node, control, lock, listen: role.listen })
}

impl Running for RunningStorageNode {
    async fn ended(&mut self) -> String {
        tokio::select! {
            () = self.node.left() => "it has left the archive".to_owned(),
            gone = self.node.disk_gone() => format!("its disk is gone: {gone}"),
            sentence = self.node.copied() => sentence,
            ended = &mut self.control => match ended {
                Ok(Err(error)) => format!("its control socket failed: {error}"),
                _ => "its control socket is gone".to_owned(),
            },
        }
    }

    async fn shutdown(self) {
        self.control.abort();
        self.node.shutdown().await;
    }

    fn holdings(&self) -> Holdings {
        Holdings { lock: Some(self.lock.clone()), udp: Some(self.listen), ..Holdings::default() }
    }
}
