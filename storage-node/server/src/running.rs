//! The node as a program: started, looked at, and kept off the archive while its disk is gone.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use firn_storage_node::{
    DataDirectory, DeletionLimits, NodeHandle, OpenDataError, OwnerNotifier, StorageNode, StorageNodeOptions,
    keep_notifying, kept_descriptor, serve_control, serve_monitoring,
};
use firn_transport::Environment;
use firn_wire::Descriptor;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::{Config, read_descriptor};
use crate::{Failure, failed};

// Looks for a disk that is gone: a few system calls.
const DISK_AWAITED_EVERY: Duration = Duration::from_secs(2);

// Whoever has the address may be the node before this one, which is being stopped.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Runs the node until it is asked to stop or has left the archive. While its disk is gone it is offline, and comes
/// back with the disk; where another node's comes instead, the program ends.
pub(crate) async fn serve(config: Config) -> Result<(), Failure> {
    let environment = Environment::real();
    let mut directory = DataDirectory::open(&config.data_dir, &environment).map_err(failed)?;
    let id = directory.identity().node_id();
    let looked = watch::Sender::new(None);
    if let Some(address) = config.http {
        tokio::spawn(show(address, looked.subscribe()));
    }
    let notifier = config.notify_command.clone().map(|command| {
        let notifier = Arc::new(Mutex::new(OwnerNotifier::new(environment.clone(), command)));
        tokio::spawn(keep_notifying(Arc::clone(&notifier), looked.subscribe()));
        notifier
    });
    let mut stop = Box::pin(firn_program::stop_signal());
    loop {
        let descriptor = find_descriptor(&directory, config.archive.as_deref())?;
        let watched = Watched { looked: &looked, notifier: notifier.as_deref() };
        let gone = run(&config, environment.clone(), directory, descriptor, watched, stop.as_mut()).await?;
        let Some(gone) = gone else { return Ok(()) };
        tracing::error!(
            data_dir = %config.data_dir.display(), %gone,
            "the disk with the data directory is gone: the node is offline until it is mounted again"
        );
        directory = tokio::select! {
            () = stop.as_mut() => {
                tracing::info!("the node was asked to stop");
                return Ok(());
            }
            back = until_back(&config, id) => back?,
        };
        tracing::info!("the disk with the data directory is back");
    }
}

/// Shows the node by HTTP. An address that is taken keeps nobody off the archive: it is tried again.
async fn show(address: SocketAddr, mut node: watch::Receiver<Option<NodeHandle>>) {
    // Before it runs for the first time nothing is known of it, also not that its disk was gone.
    if node.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut is_told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !is_told {
                    tracing::warn!(%address, %error, "nothing listens for --http: it is tried again");
                }
                is_told = true;
            }
        }
        sleep(LISTEN_AGAIN_AFTER).await;
    };
    if let Err(error) = serve_monitoring(listener, node).await {
        tracing::error!(%error, "the page for monitoring has ended");
    }
}

/// Who looks at the node from outside.
#[derive(Clone, Copy)]
struct Watched<'a> {
    /// Where the running node is shown.
    looked: &'a watch::Sender<Option<NodeHandle>>,
    /// Who tells its owner, if they want to be told.
    notifier: Option<&'a Mutex<OwnerNotifier>>,
}

/// Runs the node in a directory. Ends when the node shall, with nothing; or when the disk is gone, with what is there.
async fn run(
    config: &Config,
    environment: Environment,
    directory: DataDirectory,
    descriptor: Descriptor,
    watched: Watched<'_>,
    stop: impl Future<Output = ()>,
) -> Result<Option<std::io::Error>, Failure> {
    let own_address = match config.advertise {
        None if config.listen.ip().is_unspecified() => own_address(&descriptor),
        _ => None,
    };
    let options = StorageNodeOptions {
        deletion_limits: DeletionLimits::STANDARD,
        scrub: config.scrub,
        identity: directory.identity().clone(),
        disk: directory.disk(),
        descriptor,
        token: config.token.clone(),
        quota: config.quota,
        terms: config.terms,
        failure_domain: config.failure_domain.clone(),
        listen: config.listen,
        advertise: config.advertise.clone(),
        own_address,
    };
    let node = StorageNode::start(environment, options).await.map_err(failed)?;
    watched.looked.send_replace(Some(node.handle()));
    // Ended with the node.
    let mut beside = JoinSet::new();
    let (handle, path) = (node.handle(), config.data_dir.clone());
    beside.spawn(async move {
        if let Err(error) = serve_control(&path, handle).await {
            tracing::error!(%error, "the control socket has ended: `status` and `leave` do not work");
        }
    });
    if let Some(archive) = config.archive.clone() {
        beside.spawn(look_for_coordinators(node.handle(), archive));
    }
    let mut stop = std::pin::pin!(stop);
    let ended = tokio::select! {
        () = stop.as_mut() => {
            tracing::info!("the node was asked to stop");
            Ok(None)
        }
        () = node.left() => {
            tracing::info!(
                "the node has left: what lies in its data directory counts for nobody and is yours to delete"
            );
            if let Some(notifier) = watched.notifier {
                let told = async { notifier.lock().await.tell_drained(&node.handle()).await };
                unless_stopped(told, stop.as_mut()).await;
            }
            Ok(None)
        }
        gone = node.disk_gone() => Ok(Some(gone)),
        sentence = node.copied() => {
            if let Some(notifier) = watched.notifier {
                let told = async { notifier.lock().await.tell_copied(&node.handle()).await };
                unless_stopped(told, stop.as_mut()).await;
            }
            Err(Failure::Failed(sentence))
        }
    };
    beside.shutdown().await;
    if matches!(ended, Ok(Some(_))) {
        watched.looked.send_replace(None);
    }
    node.shutdown().await;
    ended
}

/// Does `work` to its end, or until the program shall stop: an owner's command is not waited for then.
async fn unless_stopped(work: impl Future<Output = ()>, stop: Pin<&mut impl Future<Output = ()>>) {
    tokio::select! {
        () = stop => {}
        () = work => {}
    }
}

/// Waits until the disk of a node is there again, and opens its directory. Where another node comes in its place that one is to run:
/// this one most often began in the empty directory on which the disk is mounted now.
async fn until_back(config: &Config, id: firn_base::NodeId) -> Result<DataDirectory, Failure> {
    let mut told = String::new();
    loop {
        sleep(DISK_AWAITED_EVERY).await;
        match DataDirectory::open_again(&config.data_dir, id) {
            Ok(directory) => return Ok(directory),
            Err(error @ OpenDataError::AnotherNode { .. }) => return Err(failed(error)),
            Err(error) => {
                let error = error.to_string();
                if told != error {
                    tracing::warn!(error, "the disk is not back yet");
                    told = error;
                }
            }
        }
    }
}

/// Looks at `--archive` again while no coordinator answers: after a rebuild they are others, at other addresses.
async fn look_for_coordinators(node: NodeHandle, archive: String) {
    const LOOK_EVERY: Duration = Duration::from_secs(30);
    loop {
        sleep(LOOK_EVERY).await;
        if node.is_connected() {
            continue;
        }
        let named = archive.clone();
        // It may block for long.
        let Ok(read) = tokio::task::spawn_blocking(move || read_descriptor(&named)).await else { return };
        let offered = match read {
            Ok(descriptor) => node.offer_descriptor(descriptor).await.map_err(|error| error.to_string()),
            Err(sentence) => Err(sentence),
        };
        if let Err(sentence) = offered {
            tracing::debug!(sentence, "no coordinator answers, and --archive names no others");
        }
    }
}

/// The address from which this machine reaches a coordinator. No packet is sent for it.
fn own_address(descriptor: &Descriptor) -> Option<IpAddr> {
    let roster = descriptor.verify().ok()?;
    let towards = |address: &str| {
        let remote = address.to_socket_addrs().ok()?.find(SocketAddr::is_ipv4)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok()
    };
    let found = roster.roster().coordinators.iter().find_map(|entry| towards(&entry.address))?.ip();
    tracing::info!(address = %found, "readers are told this address: give --advertise if they need another");
    Some(found)
}

/// The descriptor that was given, or the one that the node has kept.
fn find_descriptor(directory: &DataDirectory, given: Option<&str>) -> Result<Descriptor, Failure> {
    let kept = kept_descriptor(directory.disk().as_ref()).map_err(failed)?;
    match (given.map(read_descriptor), kept) {
        (Some(Ok(given)), _) => Ok(given),
        (Some(Err(sentence)), Some(kept)) => {
            tracing::warn!("{sentence}; the node goes on with the descriptor that it has kept");
            Ok(kept)
        }
        (Some(Err(sentence)), None) => Err(Failure::Failed(sentence)),
        (None, Some(kept)) => Ok(kept),
        (None, None) => {
            Err(Failure::Usage("say which archive the node is for: --archive FILE|URL".to_owned()))
        }
    }
}
