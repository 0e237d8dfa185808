//! Running a coordinator on a data directory.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use firn_base::NodeId;
use firn_coordinator::storage::{KeyValue, RocksDb, StoreKind};
use firn_coordinator::{
    Coordinator, CoordinatorOptions, EvidencePlace, FilterOptions, Home, HomeError, Joined, Peer,
    RebuildOptions, Resync, Timing, ask_back, ask_peers, bind_http, found_archive, read_address_table,
    serve_control, serve_http,
};
use firn_program::stop_signal;
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::Descriptor;

use super::Failure;
use super::arguments::RunOptions;
use super::rebuild::Beginning;

/// The port that a coordinator listens on if it is not told another.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4433);

/// Prints the coordinator's ID.
pub(crate) fn print_id(directory: &Path) -> Result<(), Failure> {
    // The directory may be in use by the running coordinator: its public half is all that is asked for.
    let key = directory.join(firn_transport::IDENTITY_FILE);
    let identity = match firn_transport::load_identity(&key) {
        Ok(identity) => identity,
        Err(firn_transport::IdentityFileError::Missing { .. }) => {
            Home::open(directory, &Environment::real())?.identity().clone()
        }
        Err(error) => return Err(error.into()),
    };
    println!("{}", identity.public());
    Ok(())
}

/// Runs until the process is asked to stop, or a part of it fails.
pub(crate) async fn run(
    options: &RunOptions,
    directory: &Path,
    beginning: Option<&Beginning>,
) -> Result<(), Failure> {
    let address_table = match &options.address_table {
        Some(file) => Some(read_address_table(file)?),
        None => None,
    };
    let environment = Environment::real();
    let home = Home::open(directory, &environment)?;
    let known = home.descriptor()?;
    let listen = options.listen.unwrap_or(DEFAULT_LISTEN);
    let endpoint = Endpoint::bind(&environment, home.identity(), listen, EndpointOptions::default()).await?;
    let http = match options.http {
        Some(address) => Some(bind_http(address).await?),
        None => None,
    };
    let resync = home.resync()?;
    if resync == Some(Resync::Asking) {
        // It may have been interrupted.
        home.begin_resync()?;
    } else {
        home.check_log()?;
    }
    let joined = match known {
        Some(descriptor) if resync == Some(Resync::Asking) => {
            let peers = others(&descriptor, home.identity().node_id())?;
            let joined = tokio::select! {
                joined = ask_back(&endpoint, &peers) => joined?,
                () = stop_signal() => return Ok(()),
            };
            home.note_admitted(joined.named_since.unwrap_or(0))?;
            joined
        }
        Some(descriptor) if let Some(beginning) = beginning => {
            beginning.check_begun(&descriptor)?;
            Joined { descriptor, named_since: None }
        }
        Some(descriptor) => Joined {
            descriptor,
            named_since: match resync {
                Some(Resync::Admitted(since)) => Some(since),
                _ => None,
            },
        },
        None if let Some(beginning) = beginning => {
            let own = Peer { id: home.identity().node_id(), address: advertised(options, &endpoint)? };
            let descriptor = beginning.descriptor(&own, &options.peer, environment.now())?;
            home.keep_descriptor(&descriptor)?;
            Joined { descriptor, named_since: None }
        }
        None if options.bootstrap => {
            let address = advertised(options, &endpoint)?;
            let own = Peer { id: home.identity().node_id(), address };
            Joined { descriptor: found(&home, own, &options.peer, &environment)?, named_since: None }
        }
        None if options.peer.is_empty() => {
            return Err("this coordinator knows no archive: found one with --bootstrap, or name its coordinators with --peer".into());
        }
        None => {
            let address = advertised(options, &endpoint).ok();
            tokio::select! {
                joined = ask_peers(&endpoint, &options.peer, address.as_deref()) => joined?,
                () = stop_signal() => return Ok(()),
            }
        }
    };
    home.check_log()?;
    let open = |kind: StoreKind, name: &str| -> Result<Arc<dyn KeyValue>, Failure> {
        Ok(Arc::new(RocksDb::open(&home.join(name), kind)?))
    };
    let (log, state) = (open(StoreKind::Log, "log")?, open(StoreKind::State, "state")?);
    let mut rebuild = RebuildOptions::default();
    if let Some(beginning) = beginning {
        beginning.begin(&log, &state, (home.identity().node_id(), &joined.descriptor), &environment).await?;
        rebuild = beginning.options();
    }
    rebuild.evidence = EvidencePlace::Directory(home.join("evidence"));
    home.note_log()?;
    let coordinator = Coordinator::start(CoordinatorOptions {
        identity: home.identity().clone(),
        descriptor: joined.descriptor,
        named_since: joined.named_since,
        endpoint,
        log,
        state,
        // Also when the archive is known: a founder that was killed before its first entry was on disk founds it
        // now; one that has a log goes on with it. One that is rebuilt founds nothing: the others have the archive.
        founding: (options.bootstrap && resync.is_none()).then(|| options.policy()),
        timing: Timing::for_round_trip(options.round_trip),
        recode_after: options.recode_after,
        erase_after: options.erase_after,
        disk_windows: options.disk_windows,
        address_table,
        filters: FilterOptions::in_directory(home.join("filters")),
        rebuild,
        environment,
    })
    .await?;
    // Only now: what it was told when it joined is on disk.
    home.keep_descriptor(&coordinator.descriptor())?;
    tracing::info!(id = %coordinator.id(), archive = %coordinator.descriptor().archive, %listen, "coordinator runs");
    let mut watch = coordinator.consensus().watch();
    let mut rosters = coordinator.watch_descriptor();
    let keeping = async {
        while let Some(descriptor) = rosters.next().await {
            home.keep_descriptor(&descriptor)?;
        }
        std::future::pending::<Result<(), HomeError>>().await
    };
    let returning = async {
        if resync.is_some() {
            coordinator.administration().regain_vote().await;
            home.end_resync()?;
            tracing::info!("this coordinator is rebuilt and has its vote again");
        }
        std::future::pending::<Result<(), HomeError>>().await
    };
    let serving = async {
        match http {
            Some(listener) => serve_http(listener, coordinator.administration()).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = serve_control(directory, coordinator.administration()) => result.map_err(Failure::from),
        result = serving => result.map_err(Failure::from),
        returned = returning => returned.map_err(Failure::from),
        kept = keeping => kept.map_err(Failure::from),
        _ = watch.wait_for(|status| status.failure.is_some()) => {
            Err(format!("the coordinator has stopped: {}", watch.status().failure.unwrap_or_default()).into())
        }
        () = stop_signal() => Ok(()),
    };
    coordinator.shutdown().await;
    result
}

/// The other coordinators, as far as they are known here.
fn others(descriptor: &Descriptor, own: NodeId) -> Result<Vec<Peer>, Failure> {
    let roster = descriptor.verify()?;
    let others = roster.roster().coordinators.iter().filter(|entry| entry.id != own);
    Ok(others.map(|entry| Peer { id: entry.id, address: entry.address.clone() }).collect())
}

fn found(home: &Home, own: Peer, peers: &[Peer], environment: &Environment) -> Result<Descriptor, Failure> {
    let key = home.create_archive_key(environment)?;
    let descriptor = found_archive(&key, own, peers, environment.now());
    home.keep_descriptor(&descriptor)?;
    tracing::warn!(
        key = %home.join("archive.key").display(),
        "archive founded: move its key to a safe place off this machine; only new rosters need it"
    );
    Ok(descriptor)
}

fn advertised(options: &RunOptions, endpoint: &Endpoint) -> Result<String, Failure> {
    match &options.advertise {
        Some(address) => Ok(address.clone()),
        None if endpoint.local_address().ip().is_unspecified() => {
            Err("others must know how to reach this coordinator: give --advertise HOST:PORT, or a --listen address that is not 0.0.0.0".into())
        }
        None => Ok(endpoint.local_address().to_string()),
    }
}
