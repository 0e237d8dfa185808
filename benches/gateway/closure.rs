//! A binary cache of one closure: genuine narinfos and signatures, made-up contents.

use std::fs;
use std::path::{Path, PathBuf};

use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};

use firn_benches::process::Failure;

/// A cache in a directory.
pub(crate) struct Closure {
    /// The directory.
    pub(crate) cache: PathBuf,
    /// Its publisher's key.
    pub(crate) publisher: String,
    /// All paths; all others are in the closure of the first. The last is one large file that nobody refers to.
    pub(crate) paths: Vec<PathInfo>,
    /// Files that nobody refers to, of [`SLOW_BYTES`] each.
    pub(crate) slow: Vec<PathInfo>,
    /// Bytes of all NARs of the closure.
    pub(crate) nar_bytes: u64,
}

/// Bytes of the large file.
pub(crate) const LARGE_BYTES: usize = 192 << 20;

/// Bytes of a file that a slow reader has for itself: more than a frame, so that there is something to be fetched ahead.
const SLOW_BYTES: usize = 6 << 20;

impl Closure {
    /// Makes one of `count` paths below `directory`, and `slow` files beside it.
    pub(crate) fn make(directory: &Path, count: usize, slow: usize) -> Result<Self, Failure> {
        let cache = directory.join("cache");
        fs::create_dir_all(cache.join("nar"))?;
        fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n")?;
        let key = PublisherSecretKey::from_seed("bench-1", &[7; 32])?;
        let publisher = key.public_key().to_string();
        let mut closure = Self { cache, publisher, paths: Vec::new(), slow: Vec::new(), nar_bytes: 0 };
        for number in 0..count {
            // A tree: nine references deep, as closures of packages are.
            let children = (2 * number + 1..=2 * number + 2).filter(|child| *child < count);
            let references = children.map(store_path).collect::<Result<_, _>>()?;
            let info = closure.add(&key, number, &contents(number, file_bytes(number)), references)?;
            closure.nar_bytes += info.nar_size;
            closure.paths.push(info);
        }
        let large = closure.add(&key, count, &contents(count, LARGE_BYTES), Vec::new())?;
        closure.paths.push(large);
        for number in count + 1..=count + slow {
            let file = closure.add(&key, number, &contents(number, SLOW_BYTES), Vec::new())?;
            closure.slow.push(file);
        }
        Ok(closure)
    }

    fn add(
        &self,
        key: &PublisherSecretKey,
        number: usize,
        contents: &[u8],
        references: Vec<StorePath>,
    ) -> Result<PathInfo, Failure> {
        let file = NarNode::Regular { contents: contents.to_vec(), executable: false };
        let nar = encode(&NarNode::Directory([(b"file".to_vec(), file)].into()))?;
        let nar_hash = Sha256::of(&nar);
        let mut info = PathInfo {
            store_path: store_path(number)?,
            url: format!("nar/{}.nar", nar_hash.to_base32()),
            compression: Compression::None,
            file_hash: Some(nar_hash),
            file_size: Some(nar.len() as u64),
            nar_hash,
            nar_size: nar.len() as u64,
            references,
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        info.signatures.push(key.sign(&info));
        fs::write(self.cache.join(&info.url), nar)?;
        fs::write(self.cache.join(format!("{}.narinfo", info.store_path.hash_part())), info.to_string())?;
        Ok(info)
    }
}

fn store_path(number: usize) -> Result<StorePath, Failure> {
    let name = format!("package-{number}");
    let digest = blake3::hash(name.as_bytes());
    Ok(StorePath::from_parts(digest.as_bytes()[..20].try_into()?, &name)?)
}

/// Most paths are small, and few hold most of the bytes, as in the public cache.
const fn file_bytes(number: usize) -> usize {
    let spread = 1 + number * 7_919 % 97;
    match number % 100 {
        0..=69 => spread * 640,
        70..=89 => spread * 10_000,
        90..=98 => spread * 20_000,
        _ => spread * 80_000,
    }
}

/// Bytes that compress to three quarters.
fn contents(number: usize, bytes: usize) -> Vec<u8> {
    let mut contents = vec![0; bytes];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut contents);
    contents.iter_mut().for_each(|byte| *byte &= 0x3f);
    contents
}
