//! The power is cut while a store writes, on a real file system.
//!
//! The store lies on ext4 in an image file. Before a call that changes the disk the image is copied: what was not synced
//! lies in the kernel's memory only, and is not in the copy. A store then goes on from the copy, and what was acknowledged
//! until then must be there.
//!
//! `FIRN_TEST_STORE_POWER_CUTS` says how many images are taken (default 6, which one life of about ninety calls gives): one
//! before each eleventh to fifteenth call, so that lives are cut in other places each. It needs root and loop devices; with
//! `FIRN_TEST_ROOT=required` these have to be there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::life::{Said, check, live};
use crate::support::{CodedBundle, skip};
use firn_storage_node::{Disk, DiskEntry, DiskFile, FileDisk};

const IMAGE_BYTES: u64 = 64 << 20;

// Calls from one image to the next: of other lengths, so that no two lives are cut in the same places.
const GAP_LEAST: u64 = 11;
const GAPS: u64 = 5;

fn quietly(program: &str, arguments: &[&Path]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A file system in an image file, mounted.
struct Mounted {
    image: PathBuf,
    at: PathBuf,
}

impl Mounted {
    /// None where this machine or user cannot have it.
    fn new(image: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = quietly("mount", &["-o".as_ref(), "loop".as_ref(), image, at]);
        mounted.then(|| Self { image: image.to_owned(), at: at.to_owned() })
    }

    /// What lies on the device now. Nobody writes meanwhile but the kernel: it is copied again until the copy is the image
    /// at one moment.
    fn copy(&self, to: &Path) {
        loop {
            assert!(quietly("cp", &["--sparse=always".as_ref(), &self.image, to]));
            if quietly("cmp", &["--silent".as_ref(), &self.image, to]) {
                return;
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        quietly("umount", &[&self.at]);
    }
}

/// Something to do before each call that changes the disk.
type Before = Arc<dyn Fn() + Send + Sync>;

struct Stepped {
    disk: FileDisk,
    before: Before,
}

struct SteppedFile {
    file: Box<dyn DiskFile>,
    before: Before,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.disk.fmt(formatter)
    }
}

impl std::fmt::Debug for SteppedFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(formatter)
    }
}

impl Stepped {
    fn stepped(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(SteppedFile { file, before: Arc::clone(&self.before) })
    }
}

impl Disk for Stepped {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        (self.before)();
        self.disk.create(path).map(|file| self.stepped(file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        (self.before)();
        self.disk.open_writable(path).map(|file| self.stepped(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.before)();
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        (self.before)();
        self.disk.remove(path)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        (self.before)();
        self.disk.make_directory(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        (self.before)();
        self.disk.sync_directory(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>> {
        self.disk.list(path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn check_presence(&self) -> io::Result<()> {
        self.disk.check_presence()
    }
}

impl DiskFile for SteppedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.before)();
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        (self.before)();
        self.file.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

#[test]
fn whatever_was_acknowledged_is_in_an_image_of_the_disk_taken_at_any_moment() {
    let cuts: u64 = std::env::var("FIRN_TEST_STORE_POWER_CUTS").map_or(6, |count| count.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("image");
    fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
    let made = quietly("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image]);
    let Some(mounted) = made.then(|| Mounted::new(&image, &place.path().join("mounted"))).flatten() else {
        return skip("root, mkfs.ext4 and loop devices");
    };
    let node = mounted.at.join("node");
    fs::create_dir(&node).unwrap();
    // That it is there at all is not the store's to say.
    assert!(quietly("sync", &["--file-system".as_ref(), &mounted.at]));
    let (said, taken) = (Arc::new(Said::default()), Arc::new(AtomicU64::new(0)));
    let looked_for = Arc::new(AtomicU64::new(0));
    let before: Before = {
        let (said, taken, looked_for) = (Arc::clone(&said), Arc::clone(&taken), Arc::clone(&looked_for));
        // Calls until the next image.
        let left = AtomicU64::new(GAP_LEAST);
        let (copy, at) = (place.path().join("copy"), place.path().join("copied"));
        Arc::new(move || {
            let cut = taken.load(Ordering::Relaxed);
            if cut == cuts || left.fetch_sub(1, Ordering::Relaxed) > 1 {
                return;
            }
            left.store(GAP_LEAST + (cut + 1) % GAPS, Ordering::Relaxed);
            mounted.copy(&copy);
            let copied = Mounted::new(&copy, &at).expect("a copy is mounted as the image was");
            let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(copied.at.join("node")));
            looked_for.fetch_add(said.here(), Ordering::Relaxed);
            check(&disk, &said, &format!("image {cut}"));
            drop((disk, copied));
            fs::remove_file(&copy).unwrap();
            taken.store(cut + 1, Ordering::Relaxed);
        })
    };
    let disk: Arc<dyn Disk> = Arc::new(Stepped { disk: FileDisk::new(&node), before });
    let mut numbers = 0_usize..;
    while taken.load(Ordering::Relaxed) < cuts {
        // Each has contents or a length of its own.
        let bundles = std::array::from_fn(|_| {
            let number = numbers.next().unwrap();
            CodedBundle::new(number.to_le_bytes()[0], 60_000 + number / 256, 1)
        });
        live(&disk, &bundles, &said).expect("the disk works");
    }
    let looked_for = looked_for.load(Ordering::Relaxed);
    assert!(looked_for > 0, "no image was taken with a shard that had to be in it");
    println!("{cuts} images of the disk, none of {looked_for} shards missing");
}
