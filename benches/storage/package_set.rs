//! Made-up packages that refer to each other, and a corpus of them: a system of which a thousand paths are needed,
//! among others.
//!
//! Always holds: everything is computed from the set's size, so that a corpus is the same wherever it is made; a
//! package refers only to those of smaller numbers; the last one leads to exactly as many as are wanted. A generation
//! calls all of them anew, as if the first had changed, and changes the contents of some.

use std::fs;
use std::path::Path;

use firn_benches::process::Failure;
use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};

// Bytes of a compressed NAR in the public cache below which so many tenths of all paths are. The largest tenth is left
// out: of its paths each fills frames by itself.
const FILE_BYTES: [u64; 10] = [200, 600, 1_800, 4_600, 10_500, 22_600, 38_000, 65_536, 250_000, 1_100_000];

// References of a path, in the same way; the public cache has 5 in the middle and 721 at most.
const REFERENCES: [u64; 11] = [0, 1, 2, 3, 4, 5, 7, 10, 16, 30, 60];

// What compresses to a quarter, about as programs do: of each block so much is noise, and the rest is the same in all.
const BLOCK_BYTES: usize = 1024;
const NOISE_BYTES: usize = 250;
const NAR_SHARE: u64 = (BLOCK_BYTES / NOISE_BYTES) as u64;

// From one generation to the next, one package of so many changes.
const CHANGED_OF: usize = 8;

const FILE_LEVEL: i32 = 3;

/// Packages, by their numbers.
#[derive(Debug)]
pub(crate) struct PackageSet {
    references: Vec<Vec<usize>>,
    file_bytes: Vec<u64>,
}

/// Numbers that are alike in every run.
struct Dice(blake3::OutputReader);

impl PackageSet {
    /// So many packages, of which the last one and what it leads to are `closure`.
    pub(crate) fn new(count: usize, closure: usize) -> Result<Self, Failure> {
        let mut dice = Dice::new("packages");
        let mut set = Self { references: Vec::new(), file_bytes: Vec::new() };
        for number in 0..count.saturating_sub(1) {
            let wanted = dice.of_tenths(&REFERENCES).min(number as u64);
            // The smaller its number, the more refer to a package.
            let mut references: Vec<usize> = (0..wanted).map(|_| dice.rather_small(number)).collect();
            references.sort_unstable();
            references.dedup();
            set.references.push(references);
            set.file_bytes.push(dice.of_tenths(&FILE_BYTES));
        }
        let root = set.root_of(closure.saturating_sub(1), &mut dice)?;
        set.references.push(root);
        set.file_bytes.push(FILE_BYTES[1]);
        Ok(set)
    }

    /// References that lead to exactly so many packages.
    fn root_of(&self, wanted: usize, dice: &mut Dice) -> Result<Vec<usize>, Failure> {
        let (mut seen, mut root, mut count) = (vec![false; self.references.len()], Vec::new(), 0);
        for _ in 0..self.references.len() * 100 {
            if count == wanted {
                root.sort_unstable();
                return Ok(root);
            }
            let candidate = dice.below(self.references.len());
            let more = self.closure(candidate, &seen);
            if !more.is_empty() && count + more.len() <= wanted {
                count += more.len();
                more.iter().for_each(|number| seen[*number] = true);
                root.push(candidate);
            }
        }
        Err(format!("among these packages no {wanted} are found that one leads to").into())
    }

    /// A package and all that it leads to, without those that were seen.
    fn closure(&self, root: usize, seen: &[bool]) -> Vec<usize> {
        let mut seen = seen.to_vec();
        let mut closure: Vec<usize> =
            (!std::mem::replace(&mut seen[root], true)).then_some(root).into_iter().collect();
        let mut looked_at = 0;
        while let Some(number) = closure.get(looked_at) {
            looked_at += 1;
            let references = &self.references[*number];
            closure.extend(references.iter().filter(|number| !std::mem::replace(&mut seen[**number], true)));
        }
        closure
    }

    /// Makes a corpus of so many generations in `dir`, if it is not there.
    pub(crate) fn make_corpus(&self, dir: &Path, generations: u32) -> Result<(), Failure> {
        let paths_file = dir.join("paths.txt");
        if paths_file.exists() {
            return Ok(());
        }
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let cache = dir.join("cache");
        fs::create_dir_all(cache.join("nar"))?;
        fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n")?;
        let key = PublisherSecretKey::from_seed("storage-made-up-1", &[7; 32])?;
        fs::write(dir.join("key.pub"), key.public_key().to_string())?;
        let mut paths = String::new();
        for generation in 1..=generations {
            for number in 0..self.references.len() {
                let store_path = self.write_path(&cache, &key, number, generation)?;
                paths.push_str(&format!("{generation} {store_path}\n"));
            }
        }
        // Last: only now is it whole.
        Ok(fs::write(paths_file, paths)?)
    }

    fn write_path(
        &self,
        cache: &Path,
        key: &PublisherSecretKey,
        number: usize,
        generation: u32,
    ) -> Result<StorePath, Failure> {
        let store_path = self.store_path(number, generation)?;
        let references: Result<Vec<_>, _> =
            self.references[number].iter().map(|other| self.store_path(*other, generation)).collect();
        let references = references?;
        let nar = self.nar(number, generation, &references)?;
        let file = zstd::bulk::compress(&nar, FILE_LEVEL)?;
        let url = format!("nar/{}.nar.zst", store_path.hash_part());
        let info = PathInfo::of_nar(store_path.clone(), url, Sha256::of(&nar), nar.len() as u64);
        let mut info = PathInfo {
            compression: Compression::Zstd,
            file_hash: Some(Sha256::of(&file)),
            file_size: Some(file.len() as u64),
            references,
            ..info
        };
        info.signatures.push(key.sign(&info));
        fs::write(cache.join(&info.url), file)?;
        fs::write(cache.join(format!("{}.narinfo", store_path.hash_part())), info.to_string())?;
        Ok(store_path)
    }

    /// Names say nothing of what depends on what, so that an order by name is no order by closure.
    fn store_path(&self, number: usize, generation: u32) -> Result<StorePath, Failure> {
        let name = if number + 1 == self.references.len() {
            "nixos-system".to_owned()
        } else {
            let digest = blake3::hash(&number.to_le_bytes());
            let letter = char::from(b'a' + digest.as_bytes()[0] % 26);
            format!("{letter}{}", &digest.to_hex()[..8])
        };
        let name = format!("{name}-1.{generation}");
        let mut hash = [0; 20];
        hash.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..20]);
        Ok(StorePath::from_parts(hash, &name)?)
    }

    /// A file that names what it refers to, and one of contents.
    fn nar(&self, number: usize, generation: u32, references: &[StorePath]) -> Result<Vec<u8>, Failure> {
        let changes = |at: u32| (number + at as usize).is_multiple_of(CHANGED_OF);
        let since = (2..=generation).rev().find(|at| changes(*at)).unwrap_or(1);
        let bytes = usize::try_from(self.file_bytes[number] * NAR_SHARE)?;
        let (mut filler, mut contents) = ([0; BLOCK_BYTES], vec![0; bytes]);
        blake3::Hasher::new().finalize_xof().fill(&mut filler);
        let seed = [number.to_le_bytes().as_slice(), &since.to_le_bytes()].concat();
        let mut noise = blake3::Hasher::new().update(&seed).finalize_xof();
        for block in contents.chunks_mut(BLOCK_BYTES) {
            block.copy_from_slice(&filler[..block.len()]);
            let noisy = NOISE_BYTES.min(block.len());
            noise.fill(&mut block[..noisy]);
        }
        let named: Vec<String> = references.iter().map(StorePath::to_string).collect();
        let file = |contents| NarNode::Regular { contents, executable: false };
        let entries = [
            (b"contents".to_vec(), file(contents)),
            (b"references".to_vec(), file(named.join("\n").into_bytes())),
        ];
        Ok(encode(&NarNode::Directory(entries.into()))?)
    }
}

impl Dice {
    fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    fn throw(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// A number below `count`, all of them alike.
    fn below(&mut self, count: usize) -> usize {
        self.throw() as usize % count.max(1)
    }

    /// A number below `count`, the smaller ones more often: a part of a part of it.
    fn rather_small(&mut self, count: usize) -> usize {
        let scaled = (count as u64 * u64::from(self.throw())) >> 32;
        let scaled = (scaled * u64::from(self.throw())) >> 32;
        usize::try_from(scaled).unwrap_or(0)
    }

    /// A number that is distributed so: as many lie between any two neighbours of `borders`.
    fn of_tenths(&mut self, borders: &[u64]) -> u64 {
        let place = self.below(borders.len() - 1);
        let (from, to) = (borders[place], borders[place + 1]);
        from + (to - from) * u64::from(self.throw()) / u64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_package_leads_to_as_many_as_are_wanted() {
        for (count, closure) in [(400, 100), (5_000, 1_000)] {
            let set = PackageSet::new(count, closure).expect("there is such a closure");
            assert_eq!(set.references.len(), count);
            assert_eq!(set.closure(count - 1, &vec![false; count]).len(), closure);
            let only_smaller = set
                .references
                .iter()
                .enumerate()
                .all(|(number, others)| others.iter().all(|other| *other < number));
            assert!(only_smaller);
        }
        assert!(PackageSet::new(10, 11).is_err());
    }
}
