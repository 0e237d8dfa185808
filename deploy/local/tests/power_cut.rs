//! The power of every coordinator and storage node is cut at once, on a real file system.
//!
//! The archive lies on ext4 in an image file. All programs are stopped at a random moment while they write, and the
//! image is copied: what was not synced lies in the kernel's memory only, and is not in the copy. The archive then goes
//! on from the copy. What `firn publish` or `firn-coordinator` had reported as done must be there, each time.
//!
//! `FIRN_TEST_POWER_CUTS` says how often (default 3). It needs root and loop devices; with `FIRN_TEST_ROOT=required`
//! these have to be there.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use firn_nix_format::PathInfo;
use support::cache::{Cache, noise};
use support::fetch::{assert_served, get, path_infos};
use support::local::Local;
use support::{command, quietly, run, wait_for};

const IMAGE_BYTES: u64 = 1 << 30;

/// A file system in an image file, mounted.
struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    /// An empty one; none where this machine or user cannot have it.
    fn make(place: &Path) -> Option<Self> {
        let (image, mounted_at) = (place.join("disk-0"), place.join("mounted"));
        fs::create_dir(&mounted_at).unwrap();
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let made = quietly("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])
            && quietly("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mounted_at]);
        made.then_some(Self { image, mounted_at })
    }

    /// What lies on the device now, as the image file `copy`. Nobody writes meanwhile but the kernel: it is copied again
    /// until the copy is the image at one moment.
    fn copy(&self, copy: &Path) {
        wait_for("the kernel rests", || {
            assert!(quietly("cp", &["--sparse=always".as_ref(), &self.image, copy]));
            quietly("cmp", &["--silent".as_ref(), &self.image, copy]).then_some(())
        });
    }

    /// Goes on with the file system in `copy`, which is checked as it is after a loss of power.
    fn replace(&mut self, copy: PathBuf) {
        assert!(quietly("umount", &[&self.mounted_at]), "nobody uses it any more");
        fs::remove_file(&self.image).unwrap();
        self.image = copy;
        assert!(quietly("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, &self.mounted_at]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        quietly("umount", &[&self.mounted_at]);
    }
}

/// What was reported as done.
#[derive(Default)]
struct Done {
    paths: BTreeMap<String, PathInfo>,
    uploaders: Vec<String>,
}

/// Somebody who writes until the power is cut.
#[derive(Default)]
struct Writer {
    done: Mutex<Done>,
    command: Mutex<Option<Child>>,
    is_cut: AtomicBool,
}

impl Writer {
    /// Publishes one path after another, and allows an uploader after each.
    fn write(&self, local: &Local, place: &Path, run_number: u64) {
        for number in 0_u64.. {
            let name = format!("path-{run_number}-{number}");
            let cache = Cache::new(place.join(&name));
            let bytes = 1 << (10 + (run_number * 7 + number * 5) % 11);
            cache.add(cache.entry(&name, &noise(bytes, run_number * 1000 + number)));
            let mut publish = command("firn", local.home());
            publish.arg("--config").arg(local.dir().join("firn.toml")).arg("publish").arg(cache.path());
            if !self.succeeds(&mut publish) {
                return;
            }
            self.done.lock().unwrap().paths.extend(path_infos(cache.path()));
            let uploader = format!("{run_number:032x}{number:032x}");
            let mut allow = command("firn-coordinator", local.home());
            allow.args(["uploader", "add", &uploader, "--name", &name, "--data-dir"]);
            if !self.succeeds(allow.arg(local.role("coordinator-1"))) {
                return;
            }
            self.done.lock().unwrap().uploaders.push(uploader);
        }
    }

    /// Whether a command reported that all was done before the cut.
    fn succeeds(&self, command: &mut Command) -> bool {
        {
            let mut running = self.command.lock().unwrap();
            if self.is_cut.load(Ordering::Acquire) {
                return false;
            }
            *running = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
        let status =
            wait_for("a command ends", || self.command.lock().unwrap().as_mut().unwrap().try_wait().unwrap());
        // One that ends after the cut may have reported or not: it is not counted.
        let counts = !self.is_cut.load(Ordering::Acquire);
        assert!(!counts || status.success(), "{command:?}");
        counts
    }

    /// From here on nothing is done any more.
    fn end(&self) {
        let mut running = self.command.lock().unwrap();
        self.is_cut.store(true, Ordering::Release);
        drop(running.as_mut().unwrap().kill());
    }
}

fn signal(local: &Local, signal: &str) {
    let id = local.process.as_ref().unwrap().id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

fn assert_kept(local: &Local, fresh: &Done, before: &Done) {
    local.firn(&["status", "--until-nodes", "6"]).success();
    // It answers from what it had saved until a coordinator has told it the rest.
    for hash_part in fresh.paths.keys() {
        wait_for("the gateway knows what was archived last", || {
            (get(&format!("{}/{hash_part}.narinfo", local.url)).status == 200).then_some(())
        });
    }
    let key = Cache::new(local.home().join("key")).publisher();
    assert_served(&local.url, &fresh.paths, &key);
    for coordinator in 1..=3 {
        let directory = local.role(&format!("coordinator-{coordinator}"));
        let list = ["uploader", "list", "--data-dir", directory.to_str().unwrap()];
        // Each answers from what it has applied: one that follows may be a moment behind.
        wait_for("a coordinator knows whom it had allowed", || {
            let listed = run(local.home(), "firn-coordinator", list);
            let mut allowed = fresh.uploaders.iter().chain(&before.uploaders);
            (listed.code == Some(0) && allowed.all(|uploader| listed.stdout.contains(uploader))).then_some(())
        });
    }
}

#[test]
fn what_was_reported_as_done_survives_the_loss_of_power_of_everything_at_once() {
    let cuts: u64 = std::env::var("FIRN_TEST_POWER_CUTS").map_or(3, |count| count.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let Some(mut disk) = Disk::make(place.path()) else {
        let is_required = std::env::var("FIRN_TEST_ROOT").is_ok_and(|value| value == "required");
        assert!(!is_required, "it needs root, mkfs.ext4 and loop devices");
        println!("skipped: it needs root, mkfs.ext4 and loop devices");
        return;
    };
    let publisher = Cache::new(place.path().join("key")).publisher();
    let options =
        ["--coordinators", "3", "--storage-nodes", "6", "--quota", "64MiB", "--publisher", &publisher];
    // Only the archive lies on the disk: what `firn` keeps and the caches belong to another machine.
    let mut local = Local::new(place.path(), &options);
    std::os::unix::fs::symlink(disk.mounted_at.join("archive"), local.dir()).unwrap();
    fs::create_dir(disk.mounted_at.join("archive")).unwrap();
    local.start();
    let mut before = Done::default();
    for cut in 0..cuts {
        let writer = Writer::default();
        let copy = place.path().join(format!("disk-{}", cut + 1));
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write(&local, place.path(), cut));
            wait_for("something is reported as done", || {
                (!writer.done.lock().unwrap().uploaders.is_empty()).then_some(())
            });
            // Any moment of a write is as good as another.
            let moment = Instant::now() + Duration::from_millis(u64::from(blake3_byte(cut)) * 3);
            while Instant::now() < moment {
                std::thread::yield_now();
            }
            signal(&local, "-STOP");
            writer.end();
            disk.copy(&copy);
        });
        local.process.take().unwrap().kill();
        disk.replace(copy);
        // It was running when the power was cut, and says so until it starts again.
        fs::remove_file(local.dir().join("ready")).unwrap();
        local.start();
        let done = writer.done.into_inner().unwrap();
        assert_kept(&local, &done, &before);
        before.paths.extend(done.paths);
        before.uploaders.extend(done.uploaders);
    }
    let key = Cache::new(place.path().join("key")).publisher();
    assert_served(&local.url, &before.paths, &key);
    println!("{cuts} losses of power, {} paths and {} acts kept", before.paths.len(), before.uploaders.len());
    assert_eq!(local.terminate(), Some(0));
}

/// A byte by lot, the same in every run.
fn blake3_byte(seed: u64) -> u8 {
    blake3::hash(&seed.to_le_bytes()).as_bytes()[0]
}
