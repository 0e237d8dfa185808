//! A signed binary cache of NARs that nothing compresses, of mixed sizes.

use std::path::{Path, PathBuf};

use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};

use crate::Failure;

/// A cache on disk.
pub(crate) struct Cache {
    directory: PathBuf,
    /// Its key, as archives are told it.
    pub(crate) publisher: String,
    /// Its paths.
    pub(crate) paths: Vec<PathInfo>,
}

// Sizes from 1 KiB to 32 MiB, each power of two as often as another: most paths are small, most bytes are in large ones.
const POWERS: std::ops::Range<u32> = 10..25;

impl Cache {
    /// Makes one of about `bytes` in `directory`.
    pub(crate) fn make(directory: &Path, bytes: u64) -> Result<Self, Failure> {
        let (mut sizes, mut made) = (Vec::new(), 0);
        while made < bytes {
            let chance = blake3::hash(&u64::try_from(sizes.len())?.to_be_bytes());
            let (power, rest) = chance.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
            let part = rest.first_chunk::<8>().expect("24 bytes are left");
            let (power, part) = (u64::from_le_bytes(*power), u64::from_le_bytes(*part));
            let least = 1_u64 << (u64::from(POWERS.start) + power % u64::from(POWERS.end - POWERS.start));
            let size = (least + part % least).min(bytes - made);
            made += size;
            sizes.push(size);
        }
        Self::of(directory, sizes)
    }

    /// Makes one in `directory` whose paths have files of these sizes.
    pub(crate) fn of(directory: &Path, sizes: impl IntoIterator<Item = u64>) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory.join("nar"))?;
        std::fs::write(directory.join("nix-cache-info"), "StoreDir: /nix/store\n")?;
        let key = PublisherSecretKey::from_seed("swarm-1", &[9; 32])?;
        let mut paths = Vec::new();
        for size in sizes {
            let number = u64::try_from(paths.len())?;
            let mut noise = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
            let mut contents = vec![0; usize::try_from(size)?];
            noise.fill(&mut contents);
            let nar = encode(&NarNode::Regular { contents, executable: false })?;
            let name = format!("noise-{number}");
            let store_path =
                StorePath::from_parts(blake3::hash(name.as_bytes()).as_bytes()[..20].try_into()?, &name)?;
            let mut info = PathInfo {
                url: format!("nar/{}.nar", store_path.hash_part()),
                store_path,
                compression: Compression::None,
                file_hash: None,
                file_size: None,
                nar_hash: Sha256::of(&nar),
                nar_size: u64::try_from(nar.len())?,
                references: Vec::new(),
                deriver: None,
                signatures: Vec::new(),
                ca: None,
                extra: Vec::new(),
            };
            info.signatures.push(key.sign(&info));
            std::fs::write(directory.join(&info.url), nar)?;
            std::fs::write(
                directory.join(format!("{}.narinfo", info.store_path.hash_part())),
                info.to_string(),
            )?;
            paths.push(info);
        }
        Ok(Self { directory: directory.to_owned(), publisher: key.public_key().to_string(), paths })
    }

    /// Its directory, as `firn publish` takes it.
    pub(crate) fn text(&self) -> String {
        self.directory.display().to_string()
    }
}
