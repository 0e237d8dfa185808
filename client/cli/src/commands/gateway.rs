//! `firn gateway`: the archive as a binary cache over HTTP.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use firn_base::ByteCount;
use firn_gateway::{ArchiveParts, FilterChoice, Gateway, GatewayOptions, NarCompression, WhenUnreadable};
use firn_program::{ServiceSignal, ServiceSignals};
use firn_transport::{EndpointOptions, Environment, IdentityFileError, load_identity, write_identity};
use firn_wire::Identity;

use super::server_flags::ServerFlags;
use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::service_manager;
use crate::session::Session;

/// Serve the archive to Nix as a binary cache over HTTP.
///
/// Runs until SIGTERM or SIGINT; SIGHUP has it read its certificate again. Nix reads it as any other cache: add its URL
/// to the substituters, and the publishers' keys to trusted-public-keys if they are not there yet.
#[derive(Debug, Args)]
pub(crate) struct GatewayFlags {
    #[command(flatten)]
    server: ServerFlags,
    /// What is kept of the archive's filters: `full` answers for absent paths from memory (nine bits for each archived
    /// path), `none` asks a coordinator each time, by the first bits of the hash; the URL of a mirror (another gateway's
    /// /firn/filters) is as `full`, with the filters fetched from there
    #[arg(long, value_name = "full|none|URL", default_value = "full", env = "FIRN_FILTER")]
    filter: FilterChoice,
    /// Where filters, the end of the feed and what was read are kept, so that a gateway started again answers at once,
    /// also while nobody else does
    #[arg(long, value_name = "DIR", env = "FIRN_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Bytes on disk for what was read, at most; 0 keeps none of it
    #[arg(long, value_name = "SIZE", default_value = "20GB", env = "FIRN_CACHE_SIZE")]
    cache_size: ByteCount,
    /// How NARs are compressed on their way: `zstd` takes a third to a half of the bytes and a core for 200 MB/s.
    /// Default: none on loopback, else zstd. Below /plain it is always none
    #[arg(long, value_enum, env = "FIRN_NAR_COMPRESSION")]
    nar_compression: Option<NarCompressionFlag>,
    /// Bytes of NAR contents to remember
    #[arg(long, value_name = "SIZE", default_value = "256MB", env = "FIRN_MEMORY_CACHE")]
    memory_cache: ByteCount,
    /// What is answered for an archived path that cannot be read now: `retry` is 503 with Retry-After, `miss` is
    /// 404. Default: miss on loopback, else retry
    #[arg(long, value_enum, env = "FIRN_WHEN_UNREADABLE")]
    when_unreadable: Option<WhenUnreadableFlag>,
}

/// See [`WhenUnreadable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhenUnreadableFlag {
    Retry,
    Miss,
}

/// See [`NarCompression`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NarCompressionFlag {
    Zstd,
    None,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, flags: GatewayFlags) -> Result<Done, CommandError> {
    // Taken before anything else: whatever is wrong with it is wrong at once.
    let port = flags.server.port()?;
    let environment = Environment::real();
    let server = flags.server.options(&environment)?;
    let identity = match &common.reader_key {
        Some(file) => load_identity(file)?,
        None => identity(flags.cache_dir.as_deref())?,
    };
    let session = Session::open_as(common, identity, EndpointOptions::default(), &environment).await?;
    let archive = session.archive().clone();
    let refreshing = tokio::spawn(async move {
        // An old roster still finds the coordinators that are in both.
        if let Err(error) = archive.refresh().await {
            tracing::debug!("the roster was not refreshed: {error}");
        }
    });
    let parts = ArchiveParts {
        environment: session.archive().environment().clone(),
        coordinators: session.archive().coordinators().clone(),
    };
    let options = GatewayOptions {
        when_unreadable: flags.when_unreadable.map(|flag| match flag {
            WhenUnreadableFlag::Retry => WhenUnreadable::Retry,
            WhenUnreadableFlag::Miss => WhenUnreadable::Miss,
        }),
        nar_compression: flags.nar_compression.map(|flag| match flag {
            NarCompressionFlag::Zstd => NarCompression::Zstd,
            NarCompressionFlag::None => NarCompression::None,
        }),
        cache_bytes: usize::try_from(flags.memory_cache.0).unwrap_or(usize::MAX),
        filter: flags.filter,
        cache_dir: flags.cache_dir,
        cache_size_bytes: flags.cache_size.0,
        server,
        ..GatewayOptions::default()
    };
    let mut signals = ServiceSignals::new();
    let started = tokio::select! {
        started = Gateway::start_at(port, parts, options) => Some(started?),
        () = signals.stop() => None,
    };
    if let Some(gateway) = started {
        service_manager::tell_ready();
        while signals.next().await == ServiceSignal::Reload {
            gateway.reload().await;
        }
        service_manager::tell_stopping();
        tracing::info!("stopping");
        gateway.shutdown().await;
    }
    refreshing.abort();
    session.close().await;
    Ok(Done::Completely)
}

/// Who the gateway is to the archive: a stranger, and where it has a place to keep things the same one each time, so that
/// the right to read that it was given outlives it.
fn identity(cache_dir: Option<&Path>) -> Result<Identity, CommandError> {
    let fresh = || Identity::from_seed(&Environment::real().seed());
    let Some(directory) = cache_dir else { return Ok(fresh()) };
    let file = directory.join("gateway.key");
    match load_identity(&file) {
        Err(IdentityFileError::Missing { .. }) => {
            std::fs::create_dir_all(directory)
                .map_err(|source| CommandError::file("make the directory", directory, source))?;
            let identity = fresh();
            write_identity(&file, &identity)?;
            Ok(identity)
        }
        loaded => Ok(loaded?),
    }
}
