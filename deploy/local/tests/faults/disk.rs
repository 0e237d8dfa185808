//! A disk of a host's own, that can be made to stall.

use std::path::{Path, PathBuf};

use crate::support::{quietly, wait_for};

const IMAGE_BYTES: u64 = 512 << 20;

/// A file system in an image file, mounted until this is dropped.
pub(crate) struct Disk {
    mounted_at: PathBuf,
    stalls: bool,
}

impl Disk {
    /// An empty one below `place`. The error says what this machine or user lacks.
    pub(crate) fn make(place: &Path, number: usize) -> Result<Self, String> {
        let (image, mounted_at) =
            (place.join(format!("image-{number}")), place.join(format!("disk-{number}")));
        std::fs::create_dir(&mounted_at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let made = quietly("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])
            && quietly("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mounted_at]);
        match made {
            true => Ok(Self { mounted_at, stalls: false }),
            false => Err("it needs root, mkfs.ext4 and loop devices".to_owned()),
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mounted_at
    }

    /// From here on whoever writes to it waits, until [`Self::go_on`].
    pub(crate) fn stall(&mut self) {
        if !self.stalls {
            assert!(quietly("fsfreeze", &["--freeze".as_ref(), &self.mounted_at]));
            self.stalls = true;
        }
    }

    /// It works as ever.
    pub(crate) fn go_on(&mut self) {
        if self.stalls {
            assert!(quietly("fsfreeze", &["--unfreeze".as_ref(), &self.mounted_at]));
            self.stalls = false;
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.stalls {
            quietly("fsfreeze", &["--unfreeze".as_ref(), &self.mounted_at]);
        }
        // A process that was just killed may still hold it.
        if std::thread::panicking() {
            quietly("umount", &["--lazy".as_ref(), &self.mounted_at]);
        } else {
            wait_for("the disk is unmounted", || quietly("umount", &[&self.mounted_at]).then_some(()));
        }
    }
}
