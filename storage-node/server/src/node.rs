//! A running storage node.
//!
//! Always holds: the same code runs as a program of its own, within `firn-local` and in the simulation; only
//! disk and environment differ. [`StorageNode::shutdown`] tells the peers; dropping the node, or the runtime it
//! lives in, ends it as a power cut would.
//! Leaves to others: flags and files (`config`), the tasks themselves (`serve`, `link`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_base::{ByteCount, NodeId, Timestamp};
use firn_storage_node_logic::{
    Concern, DeletionLimits, DeletionRefusals, HourCounts, LineTerms, Membership, ScrubPlan, Silence,
    pause_until,
};
use firn_transport::{
    BindError, BoxFuture, ConnectionPool, CoordinatorClient, Endpoint, EndpointOptions, Environment, serve,
};
use firn_wire::{
    ADDRESS_BYTES_MAX, Descriptor, DescriptorError, Identity, JoinToken, NAME_BYTES_MAX, NodeStanding, Signed,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::authority::Authority;
use crate::certificates::{Certificates, keep_certificates};
use crate::governance::{ArchiveFileError, LedgerCopy, keep_descriptor};
use crate::lent::{self, Lent};
use crate::line_part::{LinePart, Sending};
use crate::link::{adopt_descriptor, keep_links};
use crate::owner::{concerns_of, silence_of};
use crate::report::NodeReport;
use crate::scrub::{Scrub, keep_scrubbing};
use crate::serve::Server;
use crate::shared::{Counters, Shared, Turns};
use crate::store::{Disk, ScanReport, ShardStore, read_small, replace_small};
use crate::terms::{declare_absence, end_absence, keep_terms_told};
use crate::week::{self, Week, keep_week};

/// The quota of a node whose owner names none.
pub const QUOTA_DEFAULT: ByteCount = ByteCount(50_000_000_000);

const LEAVING_FILE: &str = "leaving";
const LEAVING_TEXT: &str = "this node leaves its archive\n";
const LEFT_TEXT: &str = "this node has left its archive\n";

const COPIED_FILE: &str = "copied";
const COPIED_TEXT: &str = "another process was heard as this node\n";

// A look at one small file, or at what the kernel knows of the disk.
const DISK_LOOK_INTERVAL: Duration = Duration::from_secs(60);

// Trash is a week old when it goes: minutes do not matter.
const TRASH_INTERVAL: Duration = Duration::from_secs(600);

/// What a node is started with.
#[derive(Debug)]
pub struct StorageNodeOptions {
    /// Who it is.
    pub identity: Identity,
    /// Its data directory, or a disk of the simulation.
    pub disk: Arc<dyn Disk>,
    /// The archive. If the node has kept a newer roster, that one counts.
    pub descriptor: Descriptor,
    /// Its invitation, for the first start.
    pub token: Option<Signed<JoinToken>>,
    /// How many bytes it may have on its disk, everything included; none: [`QUOTA_DEFAULT`], and never more than
    /// half of what the disk has for it.
    pub quota: Option<ByteCount>,
    /// What it is lent of its owner's line.
    pub terms: LineTerms,
    /// How much it deletes within a day: the standard limits, but in tests.
    pub deletion_limits: DeletionLimits,
    /// When its shards are read again.
    pub scrub: ScrubPlan,
    /// What it can vanish together with.
    pub failure_domain: String,
    /// The UDP address it listens on.
    pub listen: SocketAddr,
    /// Host and port at which readers reach it; none: `listen` as it was bound.
    pub advertise: Option<String>,
    /// This machine's address as others see it: takes the place of an unspecified one in `listen`.
    pub own_address: Option<IpAddr>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartNodeError {
    /// The descriptor is not sound.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The data directory is of another archive, or its copy of the descriptor unusable.
    #[error(transparent)]
    Archive(#[from] ArchiveFileError),
    /// The port is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The disk cannot be used.
    #[error("cannot use the data directory: {0}")]
    Disk(#[from] io::Error),
    /// It ended because another process was heard as this node.
    #[error(
        "another process was heard as this node when it ran here last, so one of the two data directories is a copy. If this one is to go on, stop the other one for good, then delete the file `copied` in this one and start it again; else delete this one"
    )]
    Copied,
    /// Nobody would find the node.
    #[error(
        "others must know how to reach this node: give --advertise HOST:PORT, or a --listen address that is not {listen}"
    )]
    NoAddress {
        /// What it listens on.
        listen: SocketAddr,
    },
    /// A name is longer than coordinators take.
    #[error("the {what} is longer than {most} bytes: choose a shorter one")]
    TooLong {
        /// Which.
        what: &'static str,
        /// How long it may be.
        most: usize,
    },
}

/// A running storage node.
#[derive(Debug)]
pub struct StorageNode {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    scan: ScanReport,
    // Aborted when this is dropped.
    tasks: JoinSet<()>,
}

/// What programs around a node may do with it: look, and let it leave. Clones are for tasks of their own.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

impl StorageNode {
    /// Opens the store and the port and begins to talk to the coordinators, reachable or not.
    pub fn start(
        environment: Environment,
        options: StorageNodeOptions,
    ) -> BoxFuture<'static, Result<Self, StartNodeError>> {
        Box::pin(Self::started(environment, options))
    }

    async fn started(environment: Environment, options: StorageNodeOptions) -> Result<Self, StartNodeError> {
        check_length("failure domain", &options.failure_domain, NAME_BYTES_MAX)?;
        check_length("address", options.advertise.as_deref().unwrap_or_default(), ADDRESS_BYTES_MAX)?;
        let opened = {
            let (environment, disk) = (environment.clone(), Arc::clone(&options.disk));
            let (descriptor, quota) = (options.descriptor, options.quota);
            let inner = environment.clone();
            environment.blocking(move || open_disk(inner, disk, descriptor, quota)).await?
        };
        let Opened { roster, store, scan, ledger, certificates, erased_through, leaving, disk_free_bytes } =
            opened;
        store.set_deletion_limits(options.deletion_limits);
        for sentence in &scan.sentences {
            tracing::error!("{sentence}");
        }
        let lent = {
            let (disk, terms, inner) = (Arc::clone(&options.disk), options.terms, environment.clone());
            environment.blocking(move || Lent::open(disk.as_ref(), &inner, terms)).await?
        };
        let line = Some(Arc::clone(&lent.line));
        let endpoint_options = EndpointOptions { line, ..EndpointOptions::default() };
        let endpoint =
            Endpoint::bind(&environment, &options.identity, options.listen, endpoint_options).await?;
        let pool = ConnectionPool::new(endpoint.clone());
        let generation = roster.roster().generation;
        let archive = roster.archive();
        let client = CoordinatorClient::new(pool.clone(), roster);
        let node = options.identity.node_id();
        let authority =
            Authority::open(environment.clone(), node, Arc::clone(&options.disk), client.clone())?;
        let scrub = {
            let (disk, now) = (Arc::clone(&options.disk), environment.now());
            environment.blocking(move || Scrub::open(disk.as_ref(), options.scrub, now)).await?
        };
        let week = {
            let disk = Arc::clone(&options.disk);
            environment.blocking(move || Week::open(disk.as_ref())).await
        };
        let address = match options.advertise {
            Some(address) => address,
            None => reachable(endpoint.local_address(), options.own_address)?.to_string(),
        };
        let readers = Arc::new(Sending::default());
        let shared = Arc::new(Shared {
            archive,
            address,
            failure_domain: options.failure_domain,
            build_line: LinePart::of_repair(options.terms.max_upload, Arc::clone(&readers)),
            readers,
            lent,
            token: options.token,
            refusals: Mutex::new(DeletionRefusals::default()),
            store,
            disk: options.disk,
            disk_free_bytes: AtomicU64::new(disk_free_bytes),
            pool,
            client,
            authority,
            ledger,
            certificates,
            erased_through: AtomicU64::new(erased_through),
            scrub,
            week,
            dialled_at_millis: AtomicU64::new(0),
            membership: Mutex::new(Membership::default()),
            links: Mutex::default(),
            heard_at: Mutex::default(),
            led_at: Mutex::default(),
            leaving: AtomicBool::new(leaving),
            leave_watch: Mutex::default(),
            standing: Mutex::default(),
            announced: Mutex::default(),
            counters: Counters::default(),
            turns: Turns::default(),
            started: Instant::now(),
            generation: watch::Sender::new(generation),
            copies: Mutex::default(),
            copied: watch::Sender::new(None),
            left: watch::Sender::new(false),
            run: environment.random_u64(),
            identity: options.identity,
            environment,
        });
        tracing::info!(
            node = %node, archive = %archive.short(), address = shared.address,
            shards = scan.shards, quota = %shared.store.quota(), "the storage node is up"
        );
        let tasks = spawn_tasks(&shared, &endpoint);
        Ok(Self { shared, endpoint, scan, tasks })
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.shared.id()
    }

    /// The address it was bound to.
    pub fn local_address(&self) -> SocketAddr {
        self.endpoint.local_address()
    }

    /// What was on the disk at start.
    pub const fn scan(&self) -> &ScanReport {
        &self.scan
    }

    /// For whoever wants to look at the node or let it leave.
    pub fn handle(&self) -> NodeHandle {
        NodeHandle { shared: Arc::clone(&self.shared) }
    }

    /// Waits until nothing of a node that was told to leave counts any more. Of any other this never ends.
    pub async fn left(&self) {
        let mut left = self.shared.left.subscribe();
        // The sender lives as long as we do.
        let _ = left.wait_for(|left| *left).await;
        if let Err(error) = write_down(&self.shared, LEAVING_FILE, LEFT_TEXT).await {
            tracing::warn!(%error, "that this node has left cannot be written down");
        }
    }

    /// Waits until another process is heard as this node, and says what its owner should know. The node is to be shut down
    /// then: two copies of a data directory are not one node, and what either does is wrong for the other. It does not start
    /// again before its owner says that this is the one to stay: a coordinator that is started again knows no longer which
    /// was heard, and a service manager that kept starting both would make it a matter of luck.
    pub async fn copied(&self) -> String {
        let mut copied = self.shared.copied.subscribe();
        let found = copied.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // The sender lives as long as we do.
        let Some(other) = found else { return std::future::pending().await };
        if let Err(error) = write_down(&self.shared, COPIED_FILE, COPIED_TEXT).await {
            tracing::warn!(%error, "that another process is heard as this node cannot be written down");
        }
        format!(
            "{other}: two copies of the data directory of node {} must not run at once. Delete this copy; or, if it is the one to stay, stop the other one and delete the file `{COPIED_FILE}` here, then start this one again. To move a node, stop it before its directory is copied",
            self.id()
        )
    }

    /// Waits until the disk is not the one any more that was opened, and says what is there. The node is to be shut down
    /// then, and started again when the disk is back: meanwhile it is offline, and its shards are away, not lost.
    pub async fn disk_gone(&self) -> io::Error {
        let shared = &self.shared;
        loop {
            let disk = Arc::clone(&shared.disk);
            if let Err(error) = shared.environment.blocking(move || disk.check_presence()).await {
                return error;
            }
            // Whichever comes first.
            let _ = timeout(DISK_LOOK_INTERVAL, shared.store.doubts_its_disk()).await;
        }
    }

    /// Ends the node and tells its peers. What is being written is dropped; everything acknowledged is on disk.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        self.endpoint.close().await;
        lent::close(&self.shared).await;
        week::close(&self.shared).await;
    }
}

impl NodeHandle {
    /// The node at a glance.
    pub fn report(&self) -> NodeReport {
        NodeReport::of(&self.shared)
    }

    /// What its owner has to see to, the gravest first.
    pub fn concerns(&self) -> Vec<Concern> {
        concerns_of(&self.shared)
    }

    /// Since when no coordinator has answered it, be it a moment, and what follows.
    pub(crate) fn silence(&self) -> Silence {
        silence_of(&self.shared)
    }

    /// What it did in the last week, hour by hour, the last of which is the one that runs; none for an hour in which it did
    /// not run.
    pub fn last_week(&self) -> Vec<Option<HourCounts>> {
        self.shared.week.last_week(self.shared.local_time())
    }

    /// Where it keeps its files.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    /// Whether any coordinator answers.
    pub fn is_connected(&self) -> bool {
        let links = self.shared.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        links.values().any(|link| link.connected)
    }

    /// Takes a descriptor that somebody brings into force, if it is of this archive and newer. Says whether it was.
    pub async fn offer_descriptor(&self, descriptor: Descriptor) -> Result<bool, ArchiveFileError> {
        adopt_descriptor(&self.shared, descriptor).await
    }

    /// Lets the node read every shard now. Gives how many it holds.
    pub fn scrub(&self) -> u64 {
        self.shared.scrub.ask();
        self.shared.store.shards()
    }

    /// Lets the node do nothing but stay in touch for `duration`, also across restarts. Gives when that ends.
    pub async fn pause(&self, duration: Duration) -> Result<Timestamp, String> {
        let shared = &self.shared;
        let until = pause_until(shared.local_time(), duration)?;
        let paused = shared.lent.pause(&shared.disk, &shared.environment, Some(until)).await;
        paused.map_err(|error| format!("the pause cannot be written down: {error}"))?;
        Ok(until)
    }

    /// Ends a pause, and an absence that was declared: the node is here.
    pub async fn resume(&self) -> Result<(), String> {
        let shared = &self.shared;
        let resumed = shared.lent.pause(&shared.disk, &shared.environment, None).await;
        resumed.map_err(|error| format!("the end of the pause cannot be written down: {error}"))?;
        end_absence(shared).await
    }

    /// Declares that the node may be away for `duration` from now on. Gives where it stands then.
    pub async fn declare_absence(&self, duration: Duration) -> Result<NodeStanding, String> {
        declare_absence(&self.shared, duration).await.map_err(|error| error.to_string())
    }

    /// Lets the node leave the archive: its shards are moved to others first, also across restarts. Gives the
    /// number of shards to be moved.
    pub async fn leave(&self) -> io::Result<u64> {
        write_down(&self.shared, LEAVING_FILE, LEAVING_TEXT).await?;
        self.shared.leaving.store(true, Ordering::Release);
        tracing::info!("this node is to leave: every shard that counts gets another home");
        Ok(self.shared.store.shards())
    }
}

/// Writes down in the data directory what must outlive the process.
async fn write_down(shared: &Shared, file: &'static str, text: &'static str) -> io::Result<()> {
    let disk = Arc::clone(&shared.disk);
    let written = shared.environment.blocking(move || {
        disk.check_presence()?;
        replace_small(disk.as_ref(), "", file, text.as_bytes())
    });
    written.await
}

/// Whether the node that was in this data directory has left its archive: nothing there counts for anybody.
pub fn has_left(data_dir: &Path) -> bool {
    std::fs::read(data_dir.join(LEAVING_FILE)).is_ok_and(|text| text == LEFT_TEXT.as_bytes())
}

struct Opened {
    roster: firn_wire::VerifiedRoster,
    store: Arc<ShardStore>,
    scan: ScanReport,
    ledger: LedgerCopy,
    certificates: Certificates,
    erased_through: u64,
    leaving: bool,
    disk_free_bytes: u64,
}

fn open_disk(
    environment: Environment,
    disk: Arc<dyn Disk>,
    descriptor: Descriptor,
    quota: Option<ByteCount>,
) -> Result<Opened, StartNodeError> {
    if read_small(disk.as_ref(), COPIED_FILE, 1 << 12)?.is_some() {
        return Err(StartNodeError::Copied);
    }
    let roster = keep_descriptor(disk.as_ref(), descriptor)?.verify()?;
    let (store, scan) = ShardStore::open(Arc::clone(&disk), QUOTA_DEFAULT, environment.now())?;
    let disk_free_bytes = disk.free_bytes()?;
    let available = disk_free_bytes.saturating_add(store.used().0);
    match quota {
        // What is there stays, whoever has filled the disk since: its shards would be moved away for a quota below it.
        None => store.set_quota(ByteCount(QUOTA_DEFAULT.0.min((available / 2).max(store.used().0)))),
        Some(quota) => {
            if quota.0 > available {
                let available = ByteCount(available);
                tracing::warn!(%quota, %available, "the quota is larger than what the disk has for this node");
            }
            store.set_quota(quota);
        }
    }
    // Within the quota, so behind it.
    keep_index(&store);
    let leaving = read_small(disk.as_ref(), LEAVING_FILE, 1 << 12)?.is_some();
    let certificates = Certificates::open(Arc::clone(&disk))?;
    let mut ledger = LedgerCopy::open(environment, disk)?;
    // What the node was told before it died and had not done, and what has come back since, by whatever hand.
    let (erased, through) = ledger.erased();
    let erased_through = match store.erase(&erased) {
        Ok(removed) => {
            if removed > 0 {
                tracing::info!(files = removed, "shards of erased bundles are removed");
            }
            through
        }
        // A file that cannot be removed must not cost the node: it is served no more, and tried again while the node runs.
        Err(error) => {
            tracing::error!(%error, "shards of erased bundles cannot be removed");
            0
        }
    };
    Ok(Opened { roster, store, scan, ledger, certificates, erased_through, leaving, disk_free_bytes })
}

/// Mends the index of shards. Without it the next start takes longer, nothing more.
fn keep_index(store: &ShardStore) {
    if let Err(error) = store.keep_index() {
        tracing::warn!(%error, "the index of shards cannot be written");
    }
}

fn spawn_tasks(shared: &Arc<Shared>, endpoint: &Endpoint) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let server = Arc::new(Server { shared: Arc::clone(shared), is_dialled: true });
    let endpoint = endpoint.clone();
    tasks.spawn(async move { serve(&endpoint, server).await });
    tasks.spawn(keep_links(Arc::clone(shared), shared.generation.subscribe()));
    tasks.spawn(keep_certificates(Arc::clone(shared)));
    tasks.spawn(keep_scrubbing(Arc::clone(shared)));
    tasks.spawn(keep_week(Arc::clone(shared)));
    tasks.spawn(lent::keep_to_terms(Arc::clone(shared)));
    tasks.spawn(keep_terms_told(Arc::clone(shared)));
    tasks.spawn(keep_room_known(Arc::clone(shared)));
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        let mut measured = None;
        loop {
            let now = shared.local_time();
            let node = Arc::clone(&shared);
            let emptied = shared.with_store(move |store| {
                let emptied = store.empty_trash(now);
                // What has gone is no trash any more: it has to count as free at once.
                node.look_for_room();
                emptied
            });
            if let Err(error) = emptied.await {
                tracing::error!(%error, "trash cannot be emptied");
            }
            shared.with_store(|store| keep_index(store)).await;
            // What lies beside them grows with shards and ledger: a disk that is not in use is left alone.
            let grown = (shared.store.shards(), shared.store.trash_bytes(), shared.ledger.entries());
            if measured != Some(grown) {
                match shared.with_store(|store| store.measure_beside()).await {
                    Ok(()) => measured = Some(grown),
                    Err(error) => tracing::warn!(%error, "the data directory cannot be measured"),
                }
            }
            // Where the disk failed before.
            shared.erase().await;
            sleep(TRASH_INTERVAL).await;
        }
    });
    tasks
}

/// Looks what the disk has free, so that coordinators and owner know it also while nobody brings a shard. It wakes no disk.
async fn keep_room_known(shared: Arc<Shared>) {
    loop {
        sleep(DISK_LOOK_INTERVAL).await;
        let node = Arc::clone(&shared);
        shared.with_store(move |_| node.look_for_room()).await;
    }
}

/// Where others reach a node that listens on `bound`.
fn reachable(bound: SocketAddr, own_address: Option<IpAddr>) -> Result<SocketAddr, StartNodeError> {
    match own_address {
        _ if !bound.ip().is_unspecified() => Ok(bound),
        Some(own) => Ok(SocketAddr::new(own, bound.port())),
        None => Err(StartNodeError::NoAddress { listen: bound }),
    }
}

fn check_length(what: &'static str, text: &str, most: usize) -> Result<(), StartNodeError> {
    if text.len() <= most { Ok(()) } else { Err(StartNodeError::TooLong { what, most }) }
}
