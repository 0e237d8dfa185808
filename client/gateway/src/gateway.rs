//! Starting and stopping a gateway.
//!
//! Owns: its tasks. Always holds: the port is taken before anything else and opened only when absence can be
//! decided (or, where misses are allowed, after a wait), and ranks of publishers were heard or waited for; what was saved
//! answers as soon as every coordinator was asked once in vain; dropping what `start` gave ends everything.
//! Leaves to others: what the tasks do.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use firn_base::ArchiveId;
use firn_retrieval::{
    CachedDirectory, CoordinatorSource, Directory, DirectoryOptions, DirectorySource, ManifestOptions,
    ManifestReader, NodeSource, ObjectOptions, ObjectReader, PayloadReader, SwarmOptions, SwarmReader,
};
use firn_transport::{BoxFuture, CoordinatorClient, Environment};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::cached_payloads::CachedPayloads;
use crate::coordinators::{FilterSource, GovernanceSource, NetworkCoordinators};
use crate::disk_cache::{DiskCache, DiskCacheWriter, remove_left};
use crate::feed_follower::FeedFollower;
use crate::filter_chain::{FilterChain, HeldFilter};
use crate::filter_files::FilterFiles;
use crate::filter_keeper::FilterKeeper;
use crate::filter_mirror::FilterMirror;
use crate::gateway_core::{CoreParts, DiskParts, GatewayCore};
use crate::governance_file::GovernanceFile;
use crate::key_view::KeyView;
use crate::options::{FilterChoice, GatewayOptions, WhenUnreadable};
use crate::place_book::PlaceBook;
use crate::remembering_source::RememberingSource;
use crate::routes::Router;
use crate::server::{BoundPort, ListenError, RunningServer};
use crate::view_file::{ViewFile, ViewFileError};

/// The archive that a gateway serves: how to reach it.
#[derive(Debug, Clone)]
pub struct ArchiveParts {
    /// Clock, sockets and blocking work.
    pub environment: Environment,
    /// The archive's coordinators. Nodes are reached over the same connections: passes are made out to the key
    /// of their endpoint.
    pub coordinators: CoordinatorClient,
}

/// Why a gateway was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The cache directory.
    #[error(transparent)]
    ViewFile(#[from] ViewFileError),
}

/// Starts gateways.
#[derive(Debug)]
pub struct Gateway;

/// A gateway's core with the tasks that keep it up to date, without a port. Dropping it ends the tasks.
#[derive(Debug)]
pub struct OpenGateway {
    core: Arc<GatewayCore>,
    swarm: SwarmReader,
    network: Arc<NetworkCoordinators>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A gateway that serves. Dropping it ends it at once.
#[derive(Debug)]
pub struct RunningGateway {
    server: RunningServer,
    open: OpenGateway,
}

// Ranks change by an act of governance: rarely, and not in a hurry. The feed tells of what is withdrawn; of the ledger
// only the reason is taken.
const GOVERNANCE_EVERY: Duration = Duration::from_secs(60);
const GOVERNANCE_RETRY: Duration = Duration::from_secs(2);

/// Coordinators make a filter of every 2^20 events: four times as many are 180 MB, and come together only where an archive
/// is loaded faster than filters are made.
const TAIL_KEYS_MAX: usize = 1 << 22;
/// Without filters the tail is only what makes answers of coordinators last longer.
const TAIL_KEYS_WITHOUT_FILTERS: usize = 1 << 16;

/// Whoever answers with retries waits so much longer for the feed before it answers from what was saved, if anybody is there
/// who may tell it.
const PATIENCE: u32 = 5;

/// Who tells the feed tells the ledger, unless something is wrong with it.
const RANKS_WAIT: Duration = Duration::from_secs(30);

const REMIND_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Gateway {
    /// Opens the archive and follows its feed, without a port: for programs that read through the core.
    pub fn open(
        archive: ArchiveParts,
        options: &GatewayOptions,
    ) -> BoxFuture<'_, Result<OpenGateway, StartError>> {
        Box::pin(Self::opened(archive, options))
    }

    async fn opened(archive: ArchiveParts, options: &GatewayOptions) -> Result<OpenGateway, StartError> {
        let ArchiveParts { environment, coordinators } = archive;
        let archive = coordinators.roster().archive();
        let keeps_filters = options.filter != FilterChoice::None;
        let directory = options.cache_dir.clone();
        let kept = directory.as_ref().filter(|_| keeps_filters).map(|directory| directory.join("filters"));
        let files = FilterFiles::new(kept);
        let ranks = directory.as_ref().map(|directory| GovernanceFile::in_directory(directory, archive));
        let (file, view) = match directory {
            None => (None, None),
            Some(directory) => {
                let (files, seed) = (files.clone(), environment.seed());
                let load = move || load_view(&directory, &files, archive, &seed, keeps_filters);
                environment.blocking(load).await?
            }
        };
        let source: Arc<dyn DirectorySource> = Arc::new(CoordinatorSource::new(coordinators.clone()));
        if let Some(left) = options.cache_dir.clone().filter(|_| options.cache_size_bytes == 0) {
            environment.blocking(move || remove_left(&left.join("data"))).await;
        }
        let (cache, writer) = open_cache(options, archive, &environment).unzip();
        let source = match &cache {
            Some(cache) => {
                let (inner, cache, reader) = (source, cache.clone(), coordinators.pool().endpoint().public());
                Arc::new(RememberingSource::new(inner, cache, environment.clone(), reader))
            }
            None => source,
        };
        let directory: Arc<dyn Directory> =
            Arc::new(CachedDirectory::new(source, environment.clone(), DirectoryOptions::default()));
        let nodes = Arc::new(NodeSource::new(coordinators.pool().clone()));
        let swarm = SwarmReader::new(Arc::clone(&directory), nodes, SwarmOptions::default());
        let payloads: Arc<dyn PayloadReader> = match &cache {
            Some(cache) => Arc::new(CachedPayloads { inner: Arc::new(swarm.clone()), cache: cache.clone() }),
            None => Arc::new(swarm.clone()),
        };
        let disk = match (cache, options.cache_dir.clone()) {
            (Some(cache), Some(directory)) => {
                let open = move || PlaceBook::open(directory.join("gateway.places"), archive);
                Some(DiskParts { cache, places: Arc::new(environment.blocking(open).await) })
            }
            _ => None,
        };
        let places = disk.as_ref().map(|disk| Arc::clone(&disk.places));
        let manifests = ManifestReader::new(payloads, ManifestOptions::default());
        let object_options =
            ObjectOptions { frame_cache_bytes: options.cache_bytes, ..ObjectOptions::default() };
        let clients = coordinators.clone();
        let network = Arc::new(NetworkCoordinators::new(coordinators, directory));
        let core = GatewayCore::new(CoreParts {
            environment: environment.clone(),
            index: network.clone(),
            objects: ObjectReader::new(manifests, environment.clone(), object_options),
            view,
            tail_keys_max: if keeps_filters { TAIL_KEYS_MAX } else { TAIL_KEYS_WITHOUT_FILTERS },
            range_cache_bytes: options.range_cache_bytes,
            narinfo_cache_bytes: options.narinfo_cache_bytes,
            listing_cache_bytes: options.listing_cache_bytes,
        });
        let core = Arc::new(core.with_disk(disk));
        let saved = match ranks.clone() {
            Some(ranks) => environment.blocking(move || ranks.load()).await,
            None => None,
        };
        if let Some(saved) = saved {
            core.recall_governance(saved);
        }
        let follower = FeedFollower {
            keys: Arc::clone(&core.keys),
            source: network.clone(),
            lists: network.clone(),
            keeps_filters,
            reach: Arc::clone(&core.reach),
            file,
            environment: environment.clone(),
        };
        let source: Arc<dyn FilterSource> = match &options.filter {
            FilterChoice::Mirror(url) => Arc::new(FilterMirror {
                url: url.clone(),
                coordinators: clients,
                environment: environment.clone(),
            }),
            FilterChoice::Full | FilterChoice::None => network.clone(),
        };
        let keeper = keeps_filters.then(|| FilterKeeper {
            keys: Arc::clone(&core.keys),
            source,
            files,
            environment: environment.clone(),
            counts: Arc::clone(&core.keeper),
            lists: Arc::clone(&core.filter_lists),
        });
        let (stop, stopped) = watch::channel(false);
        let keeping = places.map(|places| tokio::spawn(places.run(environment.clone(), stopped.clone())));
        let writing = writer.map(|writer| tokio::spawn(writer.run(stopped.clone())));
        let mut tasks = vec![
            tokio::spawn(follower.run(stopped.clone())),
            tokio::spawn(follow_governance(Arc::clone(&core), network.clone(), ranks, stopped.clone())),
        ];
        tasks.extend(keeping);
        tasks.extend(writing);
        tasks.extend(keeper.map(|keeper| tokio::spawn(keeper.run(stopped))));
        Ok(OpenGateway { core, swarm, network, stop, tasks })
    }

    /// Starts a gateway: takes the port, follows the feed to its head, opens the port.
    ///
    /// Waits for the archive as the options say; give up by dropping the future.
    pub async fn start(archive: ArchiveParts, options: GatewayOptions) -> Result<RunningGateway, StartError> {
        Self::start_at(BoundPort::bind(options.listen)?, archive, options).await
    }

    /// [`Self::start`] at a port that was taken, or handed over, already: it stands for the one of the options.
    pub async fn start_at(
        port: BoundPort,
        archive: ArchiveParts,
        options: GatewayOptions,
    ) -> Result<RunningGateway, StartError> {
        let options = GatewayOptions { listen: port.address(), ..options };
        let open = Self::open(archive, &options).await?;
        let when_unreadable = options.when_unreadable();
        // What an earlier life saved may be old: with a network it is not answered from.
        let turn = options.first_feed_wait;
        let wait = match when_unreadable {
            WhenUnreadable::Retry => turn * PATIENCE,
            WhenUnreadable::Miss => turn,
        };
        let heard = timeout(wait, open.is_heard(turn)).await.unwrap_or(false);
        if !heard && open.core.feed_age().is_none() {
            // The first question does not wait for them once more: the follower tries, and tells.
            open.core.reach.doubt();
        }
        if !heard && open.core.is_usable() {
            let away = open.core.feed_age().is_none();
            let what =
                if away { "no coordinator answers" } else { "no coordinator has told the publishers' ranks" };
            tracing::warn!("{what}: what is known as of the last time is answered from");
        } else if !heard && when_unreadable == WhenUnreadable::Miss {
            tracing::warn!("no coordinator answers: until one does, every path is answered as unreadable");
        } else {
            if !heard {
                tracing::warn!("no coordinator has told the archive's feed: the port opens once one does");
            }
            open.usable().await;
        }
        let (core, swarm) = (Arc::clone(&open.core), Some(open.swarm.clone()));
        let router = Router::new(core, when_unreadable, options.nar_compression(), swarm);
        let server = port.serve(router, options.server)?;
        tracing::info!(
            "gateway listens on {}://{}/ at feed position {}: {} keys are in filters, {} were told of since",
            if server.is_encrypted() { "https" } else { "http" },
            server.address(),
            open.core.feed_position(),
            open.core.filter_keys(),
            open.core.tail_keys()
        );
        Ok(RunningGateway { server, open })
    }
}

impl OpenGateway {
    /// The core, which answers as long as this lives.
    pub const fn core(&self) -> &Arc<GatewayCore> {
        &self.core
    }

    /// How reading from nodes goes.
    pub const fn swarm(&self) -> &SwarmReader {
        &self.swarm
    }

    /// Waits until the feed was heard to its head in this life, and the publishers' ranks; false once no coordinator has
    /// answered within `turn`. Those that are there may be electing a leader: they are waited for.
    async fn is_heard(&self, turn: Duration) -> bool {
        let heard = async {
            while self.core.feed_age().is_none() || !self.core.heard_governance() {
                sleep(LOOK_EVERY).await;
            }
        };
        let nobody_is_there = async {
            if self.network.are_there(turn).await {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = heard => true,
            () = nobody_is_there => false,
        }
    }

    /// Waits until absence can be decided, and for a while until the publishers' ranks are known (paths whose contents
    /// differ are not served without); says now and then that it waits.
    pub async fn usable(&self) {
        let mut remind = Instant::now() + REMIND_EVERY;
        while !self.core.is_usable() {
            if Instant::now() >= remind {
                tracing::warn!("waiting for the archive's feed: no coordinator has told it yet");
                remind = Instant::now() + REMIND_EVERY;
            }
            sleep(LOOK_EVERY).await;
        }
        let ranks = async {
            while !self.core.knows_ranks() {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(RANKS_WAIT, ranks).await.is_err() {
            tracing::warn!(
                "no coordinator has told the publishers' ranks: paths whose contents differ wait for them"
            );
        }
    }

    /// Ends the tasks in order; what is known of keys is saved if there is a place for it.
    pub async fn close(mut self) {
        self.core.end();
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            drop(task.await);
        }
    }
}

impl Drop for OpenGateway {
    fn drop(&mut self) {
        self.core.end();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl RunningGateway {
    /// Where it listens.
    pub const fn local_address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The core that it serves from.
    pub const fn core(&self) -> &Arc<GatewayCore> {
        self.open.core()
    }

    /// Reads the certificate's files again, if it speaks TLS: clients to come see what is in them. The request log goes
    /// on in a file opened anew.
    pub async fn reload(&self) {
        self.server.reload().await;
    }

    /// Takes no more connections, lets transfers end for a while, saves what is known of keys.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        self.open.close().await;
    }
}

/// The cache on disk, where one is wanted.
fn open_cache(
    options: &GatewayOptions,
    archive: ArchiveId,
    environment: &Environment,
) -> Option<(DiskCache, DiskCacheWriter)> {
    let directory = options.cache_dir.as_ref().filter(|_| options.cache_size_bytes > 0)?;
    let bytes = options.cache_size_bytes;
    Some(DiskCache::new(environment.clone(), archive, directory.join("data"), bytes))
}

/// What earlier lives knew, with filters and without. A filter that is not there any more leaves a gap, which coordinators
/// fill.
fn load_view(
    directory: &std::path::Path,
    files: &FilterFiles,
    archive: ArchiveId,
    seed: &[u8; 32],
    keeps_filters: bool,
) -> Result<(Option<ViewFile>, Option<KeyView>), ViewFileError> {
    let saved_in = |file: &ViewFile| match file.load() {
        Err(error @ ViewFileError::Unfit { .. }) => {
            tracing::warn!("{error}");
            Ok(None)
        }
        saved => saved,
    };
    let file = ViewFile::in_directory(directory, archive)?;
    let without_filters = file.without_filters();
    let saved = match (saved_in(&file)?, saved_in(&without_filters)?) {
        (Some(saved), Some(unfiltered)) => Some(saved.with_unfiltered(unfiltered)),
        // Where filters are wanted and none are named, it is better to begin anew than with the end alone.
        (saved, unfiltered) => saved.or(unfiltered.filter(|_| !keeps_filters)),
    };
    let file = if keeps_filters { file } else { without_filters };
    let view = saved.map(|saved| {
        let filters = saved.filters.into_iter().map_while(|entry| {
            let bytes = files.read(&entry).ok().flatten()?;
            let opened = HeldFilter::open(archive, entry, bytes, seed);
            opened.inspect_err(|why| tracing::warn!("the filter {} is not used: {why}", entry.id)).ok()
        });
        KeyView { filters: FilterChain::new(filters.map(Arc::new)), tail: saved.tail }
    });
    Ok((Some(file), view))
}

async fn follow_governance(
    core: Arc<GatewayCore>,
    source: Arc<dyn GovernanceSource>,
    file: Option<GovernanceFile>,
    mut stop: watch::Receiver<bool>,
) {
    let refresh = async {
        let mut known = false;
        loop {
            match source.governance().await {
                Ok(governance) => {
                    let is_new = !known || *core.governance() != governance;
                    known = true;
                    core.set_governance(governance);
                    if let Some(file) = file.clone().filter(|_| is_new) {
                        save_governance(&core, file).await;
                    }
                }
                Err(error) => {
                    tracing::debug!("the publishers' ranks were not renewed: {error}");
                    // What is known from an earlier life may be later.
                    if !core.knows_ranks()
                        && let Some(governance) = source.governance_signed_before().await
                    {
                        tracing::warn!(
                            "too few coordinators answer: publishers and withdrawals are as a majority of them signed them before"
                        );
                        core.set_governance(governance);
                    }
                }
            }
            sleep(if known { GOVERNANCE_EVERY } else { GOVERNANCE_RETRY }).await;
        }
    };
    tokio::select! {
        () = refresh => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn save_governance(core: &GatewayCore, file: GovernanceFile) {
    let governance = core.governance();
    let saved = core.environment().blocking(move || file.save(&governance)).await;
    if let Err(error) = saved {
        tracing::warn!("the publishers' ranks are not saved: {error}");
    }
}
