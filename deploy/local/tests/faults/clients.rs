//! Those who write and read while things go wrong.
//!
//! Owns: writers that go from one coordinator to the next when one does not answer, a reader for each coordinator, and
//! what they were told. Always holds: an act is asked for once; what is recorded as refused was certainly not done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use firn_base::PublicKey;
use firn_coordinator::{ControlError, ask_control, ask_ledger};
use firn_wire::{AdminReply, AdminRequest, LedgerAct, LedgerEntry, RefusalKind};
use tokio::time::{sleep, timeout};

use crate::history::{Answer, History, Key, OTHERS_END, Read, Write};

const WRITERS: usize = 4;

// Long enough for every answer that comes; short enough to find out who answers now.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(8);

/// What a coordinator says that knows nobody to hand an act on to.
const NO_LEADER: &str = "the coordinators have no leader now";

/// Writers and readers at work.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    stop: AtomicBool,
    history: Mutex<History>,
    began: Instant,
    directories: Vec<PathBuf>,
}

impl Clients {
    /// Writes to and reads from the coordinators in `directories` until they are stopped.
    pub(crate) fn start(directories: Vec<PathBuf>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let began_millis = since_1970.as_millis().try_into().unwrap();
        let stop = AtomicBool::new(false);
        let history = Mutex::new(History { began_millis, ..History::default() });
        let shared = Arc::new(Shared { stop, history, began: Instant::now(), directories });
        let working = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let writers = (0..WRITERS).map(|writer| tokio::spawn(Arc::clone(&working).write(writer)));
                let replicas = 0..working.directories.len();
                let readers = replicas.map(|replica| tokio::spawn(Arc::clone(&working).read(replica)));
                for task in writers.chain(readers).collect::<Vec<_>>() {
                    task.await.unwrap();
                }
            });
        });
        Self { shared, thread }
    }

    /// Acts that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        let history = self.shared.history.lock().unwrap();
        history.writes.iter().filter(|write| write.answer == Answer::Acknowledged).count()
    }

    /// Lets them end, and gives what they were told.
    pub(crate) fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.shared.history.lock().unwrap())
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn write(self: Arc<Self>, writer: usize) {
        let mut target = writer;
        for number in 0_u64.. {
            if self.is_over() {
                return;
            }
            let key = key(writer, number);
            let directory = &self.directories[target % self.directories.len()];
            let asked = self.now();
            let answer = add_uploader(directory, key).await;
            let answered = self.now();
            self.history.lock().unwrap().writes.push(Write { key, asked, answered, answer });
            if answer != Answer::Acknowledged {
                target += 1;
                sleep(PAUSE * 5).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(self: Arc<Self>, replica: usize) {
        let mut seen: usize = 0;
        while !self.is_over() {
            // With the last one that was there: a replica that went back would not have it.
            let from = seen.saturating_sub(1);
            if let Some(entries) = page(&self.directories[replica], from).await {
                seen = seen.max(from + entries.len());
                self.history.lock().unwrap().reads.push(Read { replica, from, entries });
            }
            sleep(PAUSE * 2).await;
        }
    }
}

fn key(writer: usize, number: u64) -> Key {
    let mut key = [0xfa; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8] = u8::try_from(writer).expect("there are few writers");
    key
}

/// One act, asked of one coordinator.
async fn add_uploader(directory: &Path, key: Key) -> Answer {
    let act = LedgerAct::AddUploader { key: PublicKey::from_bytes(key), name: "load".to_owned() };
    match timeout(PATIENCE, ask_control(directory, &AdminRequest::Govern(act))).await {
        Ok(Ok(AdminReply::Done)) => Answer::Acknowledged,
        Ok(Err(ControlError::NotRunning { .. })) => Answer::Refused,
        Ok(Err(ControlError::Refused(refused))) if refused.kind != RefusalKind::Unavailable => {
            Answer::Unknown
        }
        Ok(Err(ControlError::Refused(refused))) if refused.sentence.starts_with(NO_LEADER) => Answer::Refused,
        _ => Answer::Unknown,
    }
}

async fn page(directory: &Path, from: usize) -> Option<Vec<Key>> {
    let from = u64::try_from(from).unwrap();
    let asked = timeout(PATIENCE, ask_control(directory, &AdminRequest::Ledger { from })).await;
    let Ok(Ok(AdminReply::Ledger(entries))) = asked else { return None };
    Some(entries.iter().map(name).collect())
}

/// The whole ledger of one coordinator.
pub(crate) fn ledger(directory: &Path) -> Option<Vec<Key>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = runtime.block_on(async { timeout(PATIENCE, ask_ledger(directory)).await });
    Some(asked.ok()?.ok()?.iter().map(name).collect())
}

/// When each entry of the ledger of one coordinator was made, by the archive's time in milliseconds.
pub(crate) fn ledger_times(directory: &Path) -> Option<BTreeMap<Key, u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = runtime.block_on(async { timeout(PATIENCE, ask_ledger(directory)).await });
    Some(asked.ok()?.ok()?.iter().map(|entry| (name(entry), entry.at.as_millis())).collect())
}

/// One act, asked of one coordinator behind all others.
pub(crate) fn add_uploader_once(directory: &Path, key: Key) -> Write {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(add_uploader(directory, key));
    Write { key, asked: u64::MAX, answered: u64::MAX, answer }
}

fn name(entry: &LedgerEntry) -> Key {
    match &entry.act {
        LedgerAct::AddUploader { key, .. } => *key.as_bytes(),
        _ => {
            let mut name = *entry.digest().as_bytes();
            name[31] = OTHERS_END;
            name
        }
    }
}
