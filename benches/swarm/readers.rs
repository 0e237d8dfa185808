//! Readers: each fetches one path after the other from the gateway and checks every byte.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use firn_nix_format::{PathInfo, VerifyingReader};

use crate::Failure;
use crate::archive::Gateway;

/// Readers that run until they are stopped.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _gateway: Gateway,
}

struct Shared {
    url: String,
    agent: ureq::Agent,
    paths: Vec<PathInfo>,
    stop: AtomicBool,
    so_far: Mutex<SoFar>,
    looked_at: Mutex<Instant>,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SoFar {
    /// Paths.
    pub(crate) reads: u64,
    /// Bytes of NARs.
    pub(crate) bytes: u64,
    /// Paths that were not served, or not as they were published.
    pub(crate) failed: u64,
    /// The time that the slowest path took.
    pub(crate) slowest: Duration,
    /// The time in which all that was read.
    pub(crate) took: Duration,
}

const READ_WITHIN: Duration = Duration::from_secs(60);
// Readers are there to see failures, not to keep the machine busy.
const PAUSE: Duration = Duration::from_millis(100);

impl Readers {
    /// Waits until everything is served, then starts `count` of them.
    pub(crate) fn start(gateway: Gateway, paths: Vec<PathInfo>, count: u64) -> Result<Self, Failure> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(READ_WITHIN)).build().into();
        let (url, so_far) = (gateway.url.clone(), Mutex::default());
        let (stop, looked_at) = (AtomicBool::new(false), Mutex::new(Instant::now()));
        let shared = Arc::new(Shared { url, agent, paths, stop, so_far, looked_at });
        let since = Instant::now();
        // The gateway may not have heard of the last ones yet.
        while let Some(error) = shared.paths.iter().find_map(|path| shared.narinfo(path).err()) {
            if since.elapsed() > READ_WITHIN {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
        let threads = (0..count).map(|number| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.read(number))
        });
        Ok(Self { threads: threads.collect(), shared, _gateway: gateway })
    }

    /// What was read since this was last asked.
    pub(crate) fn since_last(&self) -> SoFar {
        let now = Instant::now();
        let mut looked_at = self.shared.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let took = now.duration_since(std::mem::replace(&mut looked_at, now));
        SoFar { took, ..std::mem::take(&mut *self.shared.so_far()) }
    }

    /// Stops them after the path that each is at.
    pub(crate) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // One that broke has said so.
            drop(thread.join());
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn read(&self, number: u64) {
        for turn in 0_u64.. {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let chance = blake3::hash(&[number.to_le_bytes(), turn.to_le_bytes()].concat());
            let (chance, _) = chance.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
            let position = u64::from_le_bytes(*chance) % (self.paths.len() as u64).max(1);
            let Some(path) = usize::try_from(position).ok().and_then(|position| self.paths.get(position))
            else {
                return;
            };
            let since = Instant::now();
            let result = self.narinfo(path).and_then(|url| self.nar(path, &url));
            let mut so_far = self.so_far();
            so_far.reads += 1;
            so_far.slowest = so_far.slowest.max(since.elapsed());
            match result {
                Ok(()) => so_far.bytes += path.nar_size,
                Err(error) => {
                    so_far.failed += 1;
                    eprintln!(
                        "a read failed after {:.1} s: {}: {error}",
                        since.elapsed().as_secs_f64(),
                        path.store_path
                    );
                }
            }
            drop(so_far);
            std::thread::sleep(PAUSE);
        }
    }

    /// Fetches and compares a narinfo; gives the NAR's URL.
    fn narinfo(&self, path: &PathInfo) -> Result<String, Failure> {
        let mut answer =
            self.agent.get(format!("{}/{}.narinfo", self.url, path.store_path.hash_part())).call()?;
        let served = PathInfo::parse(&answer.body_mut().read_to_vec()?)?;
        if served.fingerprint() != path.fingerprint() {
            return Err("another narinfo than was published".into());
        }
        Ok(served.url)
    }

    fn nar(&self, path: &PathInfo, url: &str) -> Result<(), Failure> {
        let body = self.agent.get(format!("{}/{url}", self.url)).call()?.into_body();
        let mut nar = VerifyingReader::new(body.into_reader(), path.nar_hash, path.nar_size);
        io::copy(&mut nar, &mut io::sink())?;
        Ok(nar.finish()?)
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
