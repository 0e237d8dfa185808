//! A gateway as a role of this process: what `firn gateway` does around its library, without flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use firn_client::{Archive, ArchiveOptions};
use firn_gateway::{ArchiveParts, Gateway, GatewayOptions, RunningGateway, ServerLimits};
use firn_transport::{EndpointOptions, Environment};
use firn_wire::Identity;

use crate::failure::Failure;
use crate::holdings::Holdings;
use crate::role_thread::Running;

/// What a gateway is started with.
#[derive(Debug)]
pub(crate) struct GatewayRole {
    /// Where it keeps what it knows of the archive.
    pub(crate) directory: PathBuf,
    /// Its address.
    pub(crate) listen: SocketAddr,
    /// The file of the archive's descriptor.
    pub(crate) descriptor: PathBuf,
    /// Whom nodes take it for.
    pub(crate) identity: Identity,
}

struct Served {
    gateway: RunningGateway,
    archive: Archive,
    address: SocketAddr,
}

// Downloads that go on when the whole archive is told to end; the roles they read from end too.
const DRAIN_WAIT: Duration = Duration::from_secs(3);

/// Starts it.
pub(crate) async fn start(role: GatewayRole) -> Result<impl Running, Failure> {
    let environment = Environment::real();
    let options = ArchiveOptions {
        descriptor: role.descriptor.to_string_lossy().into_owned(),
        state_dir: Some(role.directory.clone()),
        endpoint: EndpointOptions::default(),
    };
    let archive = Archive::open(options, role.identity, &environment).await?;
    let parts = ArchiveParts { environment, coordinators: archive.coordinators().clone() };
    let options = GatewayOptions {
        listen: role.listen,
        cache_dir: Some(role.directory),
        // The nodes' files lie on the same disk.
        cache_size_bytes: 0,
        server: ServerLimits { drain_wait: DRAIN_WAIT, ..ServerLimits::default() }.into(),
        ..GatewayOptions::default()
    };
    let gateway = Gateway::start(parts, options).await?;
    let address = gateway.local_address();
    Ok(Served { gateway, archive, address })
}

impl Running for Served {
    async fn ended(&mut self) -> String {
        std::future::pending().await
    }

    async fn shutdown(self) {
        self.gateway.shutdown().await;
        self.archive.close().await;
    }

    fn holdings(&self) -> Holdings {
        Holdings { tcp: Some(self.address), ..Holdings::default() }
    }
}
