//! A coordinator as a role of this process: what `firn-coordinator` does around its library, without flags.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::storage::{KeyValue, RocksDb, StorageError, StoreKind};
use firn_coordinator::{
    CONTROL_SOCKET, ConsensusWatch, Coordinator, CoordinatorOptions, EvidencePlace, FilterOptions, Home,
    RebuildOptions, Timing, serve_control,
};
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::{Descriptor, Policy};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::failure::{Failure, failure};
use crate::holdings::Holdings;
use crate::role_thread::Running;

/// What a coordinator is started with.
#[derive(Debug)]
pub(crate) struct CoordinatorRole {
    /// Its data directory.
    pub(crate) directory: PathBuf,
    /// Its address of the roster.
    pub(crate) listen: std::net::SocketAddr,
    /// The archive.
    pub(crate) descriptor: Descriptor,
    /// With which policy it founds the archive; none if it was founded before, or another does.
    pub(crate) policy: Option<Policy>,
    /// What its program is told.
    pub(crate) tuning: Tuning,
}

/// What the programs of coordinators are told, each time they start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// How long the fleet is wide enough for a larger k before bundles are coded anew for it.
    pub(crate) recode_after: Duration,
    /// How long shards of a bundle in whose place others are stay.
    pub(crate) erase_after: Duration,
    /// How many events of the feed come into a filter; as everywhere, if nothing is said.
    pub(crate) filter_unit: Option<u64>,
}

struct RunningCoordinator {
    coordinator: Coordinator,
    watch: ConsensusWatch,
    control: JoinHandle<std::io::Result<()>>,
    holdings: Holdings,
    // Its lock.
    _home: Home,
}

// The shares of a killed one are freed before it may be started again; this is for one that broke down.
const OPEN_ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Starts it.
pub(crate) async fn start(role: CoordinatorRole) -> Result<impl Running, Failure> {
    let environment = Environment::real();
    let CoordinatorRole { directory, listen, descriptor, policy, tuning } = role;
    let (home, log, state) = {
        let (directory, environment) = (directory.clone(), environment.clone());
        environment.clone().blocking(move || open(&directory, &descriptor, &environment)).await?
    };
    let endpoint = Endpoint::bind(&environment, home.identity(), listen, EndpointOptions::default()).await?;
    let holdings = Holdings {
        lock: Some(directory.join("lock")),
        udp: Some(listen),
        tcp: None,
        stores: vec![Arc::downgrade(&log), Arc::downgrade(&state)],
    };
    let evidence = EvidencePlace::Directory(directory.join("evidence"));
    let rebuild = RebuildOptions { evidence, ..RebuildOptions::default() };
    let coordinator = Coordinator::start(CoordinatorOptions {
        identity: home.identity().clone(),
        descriptor: home.descriptor()?.ok_or_else(|| failure("the archive's descriptor has vanished"))?,
        named_since: None,
        endpoint,
        log,
        state,
        founding: policy,
        timing: Timing::default(),
        recode_after: tuning.recode_after,
        erase_after: tuning.erase_after,
        disk_windows: None,
        address_table: None,
        filters: match tuning.filter_unit {
            Some(events) => FilterOptions::in_directory(directory.join("filters")).unit(events),
            None => FilterOptions::in_directory(directory.join("filters")),
        },
        rebuild,
        environment,
    })
    .await?;
    let administration = coordinator.administration();
    let served = directory.clone();
    let control = tokio::spawn(async move { serve_control(&served, administration).await });
    // Whoever started it may administer at once.
    while !control.is_finished() && UnixStream::connect(directory.join(CONTROL_SOCKET)).await.is_err() {
        sleep(Duration::from_millis(2)).await;
    }
    let watch = coordinator.consensus().watch();
    Ok(RunningCoordinator { coordinator, watch, control, holdings, _home: home })
}

type Opened = (Home, Arc<dyn KeyValue>, Arc<dyn KeyValue>);

fn open(
    directory: &std::path::Path,
    descriptor: &Descriptor,
    environment: &Environment,
) -> Result<Opened, Failure> {
    let home = Home::open(directory, environment)?;
    home.check_log()?;
    home.keep_descriptor(descriptor)?;
    let log = open_store(home.join("log"), StoreKind::Log)?;
    let state = open_store(home.join("state"), StoreKind::State)?;
    home.note_log()?;
    Ok((home, log, state))
}

fn open_store(path: PathBuf, kind: StoreKind) -> Result<Arc<dyn KeyValue>, StorageError> {
    let mut attempts = 0;
    loop {
        match RocksDb::open(&path, kind) {
            Err(StorageError::Locked(_)) if attempts < OPEN_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(PAUSE);
            }
            opened => return Ok(Arc::new(opened?)),
        }
    }
}

impl Running for RunningCoordinator {
    async fn ended(&mut self) -> String {
        tokio::select! {
            _ = self.watch.wait_for(|status| status.failure.is_some()) => {
                self.watch.status().failure.unwrap_or_else(|| "its consensus is gone".to_owned())
            }
            ended = &mut self.control => match ended {
                Ok(Err(error)) => format!("its control socket failed: {error}"),
                _ => "its control socket is gone".to_owned(),
            },
        }
    }

    async fn shutdown(self) {
        self.control.abort();
        self.coordinator.shutdown().await;
    }

    fn holdings(&self) -> Holdings {
        self.holdings.clone()
    }
}
