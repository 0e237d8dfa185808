//! The recipe of a record, as its number, and what it gives back.
//!
//! Always holds: the number of a recipe is for ever; one of a newer version is kept as it is by whoever packs the
//! object anew.
//! Leaves to others: making the file (`firn-nix-format`), comparing it with its FileHash.

use firn_nix_format::{Compression, Recipe};

use crate::record::{Encoding, Record, RecordBody};

/// Number of the recipe that makes the published file out of an object's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecipeNumber(u8);

/// How the published file of a store path is had from what is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedFile {
    /// It is the content as archived.
    Content,
    /// It is made of the content.
    Made(Recipe),
    /// By a recipe that this version does not know, of this number.
    Newer(u8),
    /// Nothing says how.
    Lost,
}

impl RecipeNumber {
    /// No recipe.
    pub const NONE: Self = Self(0);

    /// The number that stands in a record.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// As it stands in a record.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// Whether there is none.
    pub const fn is_none(self) -> bool {
        self.0 == Self::NONE.0
    }

    /// The recipe, if this version knows it.
    pub fn recipe(self) -> Option<Recipe> {
        Recipe::ALL.into_iter().find(|recipe| Self::from(*recipe) == self)
    }
}

impl From<Recipe> for RecipeNumber {
    fn from(recipe: Recipe) -> Self {
        Self(match recipe {
            Recipe::Xz6 => 1,
            Recipe::Bzip2_9 => 2,
        })
    }
}

impl Record {
    /// How the file is had that was published as this store path, or log.
    pub fn published_file(&self) -> PublishedFile {
        let (compression, nar_hash, file_hash) = match &self.body {
            RecordBody::StorePath(info) => (info.compression, Some(info.nar_hash), info.file_hash),
            RecordBody::Blob(blob) => (blob.compression, None, None),
        };
        if self.encoding == Encoding::Verbatim {
            return PublishedFile::Content;
        }
        if compression == Compression::None {
            // A bare file is the NAR, whatever else its uploader may say.
            let is_nar = file_hash.is_none() || file_hash == nar_hash;
            return if is_nar { PublishedFile::Content } else { PublishedFile::Lost };
        }
        match self.recipe.recipe() {
            // Only a FileHash tells whether what is made is it; and a file that is compressed otherwise than its uploader
            // says would be read by nobody, whatever its hash.
            Some(recipe) if file_hash.is_some() && recipe.compression() == compression => {
                PublishedFile::Made(recipe)
            }
            None if !self.recipe.is_none() => PublishedFile::Newer(self.recipe.to_byte()),
            _ => PublishedFile::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;
    use firn_nix_format::{PathInfo, Sha256, StorePath};

    use super::*;
    use crate::record::NewRecord;
    use crate::record_codec::{Content, put_record};

    fn record(compression: Compression, encoding: Encoding, recipe: u8) -> Record {
        let info = PathInfo {
            store_path: StorePath::from_parts([1; 20], "x").unwrap(),
            url: "nar/x.nar".to_owned(),
            compression,
            file_hash: Some(Sha256::of(if compression == Compression::None { b"nar" } else { b"xyz" })),
            file_size: Some(4),
            nar_hash: Sha256::of(b"nar"),
            nar_size: 3,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        Record {
            key: ObjectKey::store_path([1; 20]),
            encoding,
            recipe: RecipeNumber::from_byte(recipe),
            content_bytes: 3,
            chunk_list: 0..0,
            body: RecordBody::StorePath(Box::new(info)),
        }
    }

    #[test]
    fn the_numbers_of_recipes_are_pinned() {
        let numbers = Recipe::ALL.map(|recipe| RecipeNumber::from(recipe).to_byte());
        assert_eq!(numbers, [1, 2]);
        for byte in 0..=u8::MAX {
            let number = RecipeNumber::from_byte(byte);
            assert_eq!((number.to_byte(), number.is_none()), (byte, byte == 0));
            assert_eq!(number.recipe().is_some(), numbers.contains(&byte), "{byte}");
        }
    }

    #[test]
    fn a_number_has_its_place_behind_the_encoding() {
        let known = record(Compression::Xz, Encoding::Chunked, 0);
        let mut record = NewRecord::store_path(known.path_info().unwrap().clone(), Encoding::Chunked);
        let content = Content { bytes: 3, list_offset: 0, list_bytes: 0 };
        let without = put_record(&record, content, &[]).unwrap();
        record.recipe = RecipeNumber::from(Recipe::Bzip2_9);
        let with = put_record(&record, content, &[]).unwrap();
        let differ: Vec<usize> = (0..with.len()).filter(|at| with[*at] != without[*at]).collect();
        assert_eq!((differ, without[26], with[26]), (vec![26], 0, 2));
    }

    #[test]
    fn how_a_published_file_is_had_is_told_apart() {
        use PublishedFile::{Content, Lost, Made, Newer};
        let had = |compression, encoding, recipe| record(compression, encoding, recipe).published_file();
        assert_eq!(had(Compression::Xz, Encoding::Verbatim, 0), Content);
        assert_eq!(had(Compression::None, Encoding::Chunked, 0), Content);
        assert_eq!(had(Compression::Xz, Encoding::Chunked, 1), Made(Recipe::Xz6));
        assert_eq!(had(Compression::Bzip2, Encoding::Chunked, 2), Made(Recipe::Bzip2_9));
        assert_eq!(had(Compression::Zstd, Encoding::Chunked, 200), Newer(200));
        assert_eq!(had(Compression::Xz, Encoding::Chunked, 0), Lost);
        let xyz = Some(Sha256::of(b"xyz"));
        for (compression, file_hash, expected) in [
            (Compression::Xz, None, Lost),
            (Compression::Xz, xyz, Made(Recipe::Xz6)),
            (Compression::Bzip2, xyz, Lost),
            (Compression::Zstd, xyz, Lost),
            (Compression::None, None, Content),
            (Compression::None, Some(Sha256::of(b"another")), Lost),
        ] {
            let mut record = record(compression, Encoding::Chunked, 1);
            let RecordBody::StorePath(info) = &mut record.body else { panic!("it is a store path") };
            info.file_hash = file_hash;
            assert_eq!(record.published_file(), expected, "{compression} {file_hash:?}");
        }
    }
}
