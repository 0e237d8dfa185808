//! What packages and generations of them take in the archive.
//!
//! Owns: who is charged for what lies in a bundle. Always holds: every stored byte of a bundle is charged once: to the
//! first object that uses a chunk, in the order in which objects lie in bundles, in proportion to what the chunk's
//! frame takes; manifests, padding and redundancy are charged with the frames. Memory grows with packages and their
//! outputs, not with paths.
//! Leaves to others: reading manifests (`firn-cli`).

use std::collections::BTreeMap;

use firn_base::BundleId;

use crate::package_name::{package_and_version, release_of};

/// What lies in one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleFacts {
    /// Bytes of all its durable shards.
    pub stored_bytes: u64,
    /// Raw bytes and payload bytes of each frame.
    pub frames: Vec<(u32, u32)>,
    /// Frame and bytes of each chunk.
    pub chunks: Vec<(u32, u32)>,
    /// Its objects, in order.
    pub objects: Vec<ObjectFacts>,
    /// Bundles that hold nothing but parts of the object in this one.
    pub parts: Vec<BundleId>,
}

/// One object of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectFacts {
    /// The store path's name behind the hash; of anything else none.
    pub name: Option<String>,
    /// Bytes of its NAR or contents.
    pub content_bytes: u64,
    /// Bytes of the file that was published.
    pub file_bytes: u64,
    /// Whether a recipe of the published file is kept.
    pub has_recipe: bool,
    /// The bundle's own chunks that it uses.
    pub chunks: Vec<u32>,
}

/// What a group of objects takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Takings {
    /// Objects.
    pub objects: u64,
    /// Those of them that have a recipe of their published file.
    pub recipes: u64,
    /// Bytes of their contents.
    pub logical: u64,
    /// Bytes of the files that were published.
    pub files: u64,
    /// Raw bytes of the chunks that no object before them used.
    pub unique: u64,
    /// Bytes of shards, with all redundancy.
    pub stored: u64,
}

/// How objects are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// By package, without version and output.
    Package,
    /// By how many paths of the same package and output lie before them: 1 for the first.
    Generation,
    /// All together.
    Total,
}

// A chunk's part of its frame is seldom a whole number of bytes: counted in 65,536ths.
const SCALE: u128 = 1 << 16;

/// The group of what is no store path.
pub const OTHER_OBJECTS: &str = "(logs and other files)";

/// The books. Bundles are entered in the order of their numbers.
#[derive(Debug)]
pub struct Accounts {
    grouping: Grouping,
    groups: BTreeMap<String, Takings>,
    /// How many paths of a package and output there were.
    generations: BTreeMap<String, u64>,
    /// Parts whose head is still to come, and groups of parts that are.
    parts: BTreeMap<BundleId, Takings>,
    heads: BTreeMap<BundleId, String>,
}

impl Accounts {
    /// Empty books.
    pub const fn new(grouping: Grouping) -> Self {
        Self {
            grouping,
            groups: BTreeMap::new(),
            generations: BTreeMap::new(),
            parts: BTreeMap::new(),
            heads: BTreeMap::new(),
        }
    }

    /// Enters a bundle.
    pub fn enter(&mut self, id: BundleId, bundle: &BundleFacts) {
        if bundle.objects.is_empty() {
            let takings = whole(bundle);
            match self.heads.remove(&id) {
                Some(group) => self.charge(&group, takings),
                None => drop(self.parts.insert(id, takings)),
            }
            return;
        }
        let payload: u128 = bundle.frames.iter().map(|(_, payload)| u128::from(*payload)).sum();
        let mut charged = vec![false; bundle.chunks.len()];
        let (mut left, mut last) = (bundle.stored_bytes, None);
        for object in &bundle.objects {
            let group = self.group_of(object);
            let mut paid = 0;
            let mut takings = Takings {
                objects: 1,
                recipes: u64::from(object.has_recipe),
                logical: object.content_bytes,
                files: object.file_bytes,
                ..Takings::default()
            };
            for chunk in &object.chunks {
                let index = *chunk as usize;
                let Some(false) = charged.get(index).copied() else { continue };
                charged[index] = true;
                let (frame, bytes) = bundle.chunks[index];
                let (raw, stored) = bundle.frames.get(frame as usize).copied().unwrap_or_default();
                takings.unique = takings.unique.saturating_add(bytes.into());
                paid += u128::from(stored) * u128::from(bytes) * SCALE / u128::from(raw.max(1));
            }
            let stored = u128::from(bundle.stored_bytes).saturating_mul(paid) / (payload * SCALE).max(1);
            takings.stored = u64::try_from(stored).unwrap_or(u64::MAX).min(left);
            left -= takings.stored;
            for part in &bundle.parts {
                match self.parts.remove(part) {
                    Some(part) => self.charge(&group, part),
                    None => drop(self.heads.insert(*part, group.clone())),
                }
            }
            self.charge(&group, takings);
            last = Some(group);
        }
        // What rounding left, and what no object uses.
        if let Some(group) = last {
            self.charge(&group, Takings { stored: left, ..Takings::default() });
        }
    }

    /// All groups. Parts without a head are charged to nobody that is known: their group has no objects.
    pub fn groups(mut self) -> BTreeMap<String, Takings> {
        for takings in std::mem::take(&mut self.parts).into_values() {
            self.charge(OTHER_OBJECTS, takings);
        }
        self.groups
    }

    fn group_of(&mut self, object: &ObjectFacts) -> String {
        let Some(name) = &object.name else { return OTHER_OBJECTS.to_owned() };
        let (package, version) = package_and_version(name);
        match self.grouping {
            Grouping::Package => package.to_owned(),
            Grouping::Generation => {
                let output = &version[release_of(version).len()..];
                let generation = self.generations.entry(format!("{package}{output}")).or_default();
                *generation += 1;
                // Wide enough that numbers sort as they should.
                format!("{generation:>6}")
            }
            Grouping::Total => "all".to_owned(),
        }
    }

    fn charge(&mut self, group: &str, takings: Takings) {
        match self.groups.get_mut(group) {
            Some(known) => known.add(takings),
            None => drop(self.groups.insert(group.to_owned(), takings)),
        }
    }
}

impl Takings {
    /// Adds another group's.
    pub const fn add(&mut self, other: Self) {
        self.objects = self.objects.saturating_add(other.objects);
        self.recipes = self.recipes.saturating_add(other.recipes);
        self.logical = self.logical.saturating_add(other.logical);
        self.files = self.files.saturating_add(other.files);
        self.unique = self.unique.saturating_add(other.unique);
        self.stored = self.stored.saturating_add(other.stored);
    }
}

/// A bundle that belongs to one object as a whole.
fn whole(bundle: &BundleFacts) -> Takings {
    let unique = bundle.chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    Takings { unique, stored: bundle.stored_bytes, ..Takings::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> BundleId {
        BundleId::from_bytes([number; 32])
    }

    fn object(name: &str, chunks: &[u32]) -> ObjectFacts {
        ObjectFacts {
            name: Some(name.to_owned()),
            content_bytes: 100,
            file_bytes: 50,
            has_recipe: name.starts_with('a'),
            chunks: chunks.to_vec(),
        }
    }

    /// Two frames, the second one compressed to a quarter; two chunks in each.
    fn bundle(objects: Vec<ObjectFacts>) -> BundleFacts {
        let chunks = vec![(0, 60), (0, 40), (1, 40), (1, 40)];
        BundleFacts {
            stored_bytes: 360,
            frames: vec![(100, 100), (80, 20)],
            chunks,
            objects,
            parts: Vec::new(),
        }
    }

    #[test]
    fn the_first_user_of_a_chunk_pays_for_it() {
        let mut accounts = Accounts::new(Grouping::Package);
        accounts.enter(id(1), &bundle(vec![object("a-1", &[0, 1, 0]), object("b-1", &[1, 2, 3])]));
        let groups = accounts.groups();
        let expected = Takings { objects: 1, recipes: 1, logical: 100, files: 50, unique: 100, stored: 300 };
        assert_eq!(groups["a"], expected, "100 of 120 payload bytes, stored three times");
        assert_eq!(groups["b"], Takings { recipes: 0, unique: 80, stored: 60, ..expected });
    }

    #[test]
    fn generations_are_counted_for_each_package_and_output() {
        let mut accounts = Accounts::new(Grouping::Generation);
        let names = ["a-1.0", "a-1.0-dev", "a-1.1", "b-1", "a-1.1-dev", "a-1.0"];
        accounts.enter(id(1), &bundle(names.map(|name| object(name, &[])).into()));
        let objects: Vec<u64> = accounts.groups().values().map(|takings| takings.objects).collect();
        assert_eq!(objects, [3, 2, 1]);
    }

    #[test]
    fn parts_of_a_large_object_are_charged_to_it_whatever_comes_first() {
        let part = BundleFacts { objects: Vec::new(), ..bundle(Vec::new()) };
        let head = BundleFacts { parts: vec![id(1), id(3)], ..bundle(vec![object("a-1", &[0])]) };
        let mut accounts = Accounts::new(Grouping::Package);
        for (number, facts) in [(1, &part), (2, &head), (3, &part)] {
            accounts.enter(id(number), facts);
        }
        let groups = accounts.groups();
        assert_eq!((groups.len(), groups["a"].stored, groups["a"].unique), (1, 3 * 360, 60 + 2 * 180));
    }

    #[test]
    fn what_is_no_store_path_is_a_group_of_its_own() {
        let mut accounts = Accounts::new(Grouping::Package);
        accounts.enter(id(1), &bundle(vec![ObjectFacts { name: None, ..object("", &[0]) }]));
        assert_eq!(accounts.groups()[OTHER_OBJECTS].objects, 1);
    }

    proptest! {
        #[test]
        fn every_stored_byte_is_charged_once(
            stored_bytes in any::<u64>(),
            frames in prop::collection::vec((0u32..2000, 0u32..2000), 0..5),
            chunks in prop::collection::vec((0u32..6, 0u32..2000), 0..8),
            users in prop::collection::vec(prop::collection::vec(0u32..10, 0..8), 1..6),
        ) {
            let objects: Vec<_> =
                users.iter().enumerate().map(|(number, chunks)| object(&format!("p{number}x"), chunks)).collect();
            let mut accounts = Accounts::new(Grouping::Package);
            accounts.enter(id(1), &BundleFacts { stored_bytes, frames, chunks, objects, parts: Vec::new() });
            let groups = accounts.groups();
            prop_assert_eq!(groups.values().map(|takings| u128::from(takings.stored)).sum::<u128>(), u128::from(stored_bytes));
        }
    }
}
