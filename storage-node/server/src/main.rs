//! The `firn-storage-node` program: reads its flags, runs, and gives an exit code.

mod config;
mod inspect;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use firn_base::BitRate;
use firn_storage_node::{
    ControlReply, ControlRequest, DataDirectory, DeletionLimits, NodeHandle, NodeReport, StorageNode,
    StorageNodeOptions, ask_control, kept_descriptor, serve_control, serve_monitoring,
};
use firn_transport::Environment;
use firn_wire::Descriptor;
use tokio::net::TcpListener;
use tokio::time::sleep;

use config::{Arguments, Command, Config, read_descriptor};

/// Why the program ends with an error.
enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn main() -> ExitCode {
    match run(firn_program::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(sentence)) => {
            eprintln!("error: {sentence}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(Failure::Failed(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = arguments.settings;
    arguments.log.begin(arguments.command.is_some());
    if let Some(Command::Inspect { file, json }) = &arguments.command {
        return inspect::inspect(file, *json).map_err(Failure::Failed);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    match arguments.command {
        None => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            runtime.block_on(serve(settings.check(&host).map_err(Failure::Usage)?))
        }
        Some(Command::Inspect { .. }) => Ok(()),
        Some(Command::Id) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            println!("{}", DataDirectory::read_identity(&path).map_err(failed)?.node_id());
            Ok(())
        }
        Some(Command::Status { json }) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            runtime.block_on(status(&path, json))
        }
        Some(Command::Leave { dry_run }) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            runtime.block_on(leave(&path, dry_run))
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

async fn serve(config: Config) -> Result<(), Failure> {
    let environment = Environment::real();
    let directory = DataDirectory::open(&config.data_dir, &environment).map_err(failed)?;
    let descriptor = find_descriptor(&directory, config.archive.as_deref())?;
    let listener = match config.http {
        None => None,
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|error| failed(format!("cannot listen on {address} for --http: {error}")))?,
        ),
    };
    let own_address = match config.advertise {
        None if config.listen.ip().is_unspecified() => own_address(&descriptor),
        _ => None,
    };
    let options = StorageNodeOptions {
        deletion_limits: DeletionLimits::STANDARD,
        identity: directory.identity().clone(),
        disk: directory.disk(),
        descriptor,
        token: config.token,
        quota: config.quota,
        max_upload: config.max_upload,
        failure_domain: config.failure_domain,
        listen: config.listen,
        advertise: config.advertise,
        own_address,
    };
    let node = StorageNode::start(environment, options).await.map_err(failed)?;
    if let Some(listener) = listener {
        let handle = node.handle();
        tokio::spawn(async move {
            if let Err(error) = serve_monitoring(listener, handle).await {
                tracing::error!(%error, "the page for monitoring has ended");
            }
        });
    }
    let (handle, path) = (node.handle(), config.data_dir);
    tokio::spawn(async move {
        if let Err(error) = serve_control(&path, handle).await {
            tracing::error!(%error, "the control socket has ended: `status` and `leave` do not work");
        }
    });
    if let Some(archive) = config.archive {
        tokio::spawn(look_for_coordinators(node.handle(), archive));
    }
    tokio::select! {
        () = firn_program::stop_signal() => tracing::info!("the node was asked to stop"),
        () = node.left() => tracing::info!(
            "the node has left: what lies in its data directory counts for nobody and is yours to delete"
        ),
    }
    node.shutdown().await;
    Ok(())
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

async fn status(path: &Path, json: bool) -> Result<(), Failure> {
    let ControlReply::Status(report) = ask_control(path, ControlRequest::Status).await.map_err(failed)?
    else {
        return Err(failed("the node gives no usable answer: is it of the same version?"));
    };
    if json {
        println!("{}", serde_json::to_string(&report).map_err(failed)?);
    } else {
        print_report(&report);
    }
    Ok(())
}

fn print_report(report: &NodeReport) {
    let bytes = |bytes: u64| firn_base::ByteCount(bytes).to_string();
    println!("node        {}", report.node);
    println!("archive     {}", report.archive);
    println!("address     {}", report.address);
    println!("domain      {}", report.failure_domain);
    let state = report.state.as_deref().unwrap_or("not admitted");
    println!("state       {state}{}", if report.leaving { ", leaving" } else { "" });
    println!("shards      {}", report.shards);
    println!(
        "space       {} of {} used, {} of it trash",
        bytes(report.used_bytes),
        bytes(report.quota_bytes),
        bytes(report.trash_bytes)
    );
    let max_upload = report.max_upload_bytes_per_second;
    let rate = max_upload.map(|bytes_per_second| BitRate { bytes_per_second }.to_string());
    println!(
        "upload      {}",
        rate.map_or_else(|| "as fast as it can".to_owned(), |rate| format!("at most {rate}"))
    );
    println!(
        "deleted     {} within a day; {} more would be, {} of that if nothing else may hold it",
        bytes(report.deleted_bytes),
        bytes(report.deletion_room_bytes),
        bytes(report.deletion_room_unique_bytes)
    );
    for sentence in report.needs_attention() {
        println!("attention   {sentence}");
    }
    if report.damaged > 0 {
        println!("damaged     {} shards since the start", report.damaged);
    }
    println!("served      {} in {} ranges", bytes(report.done.bytes_served), report.done.ranges_served);
    println!("stored      {} in {} shards", bytes(report.done.bytes_stored), report.done.shards_stored);
    for link in &report.coordinators {
        let link_state = match (link.connected, link.heard_seconds_ago, &link.trouble) {
            (true, Some(seconds), _) => format!("connected, heard {seconds} s ago"),
            (true, None, _) => "connected, not heard yet".to_owned(),
            (false, _, Some(trouble)) => format!("not connected: {trouble}"),
            (false, _, None) => "not connected yet".to_owned(),
        };
        println!("coordinator {} at {}: {link_state}", link.id.get(..10).unwrap_or(&link.id), link.address);
    }
}

async fn leave(path: &Path, dry_run: bool) -> Result<(), Failure> {
    let request = if dry_run { ControlRequest::Status } else { ControlRequest::Leave };
    match ask_control(path, request).await.map_err(failed)? {
        ControlReply::Status(report) => {
            println!("{} shards would be given other homes, then the node would end", report.shards);
            Ok(())
        }
        ControlReply::Leaving { shards } => {
            println!(
                "the node leaves: {shards} shards are given other homes; it ends when each has one, and deletes nothing: what lies in its data directory is then yours to delete"
            );
            Ok(())
        }
        ControlReply::Failed(sentence) => Err(Failure::Failed(sentence)),
    }
}
