//! Writing archived objects into a binary cache.
//!
//! Owns: which form of an object becomes which file. Always holds: a NAR gets its name only after its NarHash was
//! found right, a log after its hash; a listing is made from the very bytes that were written, and is there when the
//! narinfo is.
//! Leaves to others: where files lie (`cache_directory`), which objects are wanted (`recovery`, `export`).

use std::sync::{Arc, Mutex, PoisonError};

use firn_bundle::{Blob, Encoding, PublishedFile, Record, RecordBody};
use firn_nix_format::{NarInspector, PathInfo, PublisherKey};
use firn_retrieval::{ByteStream, ObjectPlan, ReadError};
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::cache_check::{RightNar, There};
use crate::cache_directory::{CacheDirectory, NamedNar, NarInfoOutcome, StoredNar};
use crate::file_writer::WriteError;
use crate::nar_encoder::NarCompression;

/// In which form NARs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NarForm {
    /// As which file.
    pub(crate) file: NarFile,
    /// With a listing beside each.
    pub(crate) listings: bool,
}

/// As which file a NAR is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum NarFile {
    /// As the archive has it: bare, or the file that was published.
    #[default]
    AsArchived,
    /// As the very file that was published.
    AsPublished,
    /// Compressed like this.
    Compressed(NarCompression),
}

/// What becomes of the content of an object on its way into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    /// It is the published file, which is not the NAR.
    Verbatim,
    /// The NAR is compressed, which gives the published file.
    Published(NarCompression),
    /// The NAR is compressed into a file of ours.
    Own(NarCompression),
}

impl Passage {
    /// Whether it takes the memory and the time of a recipe's encoder.
    const fn takes_encoder(self) -> bool {
        matches!(self, Self::Published(NarCompression::Recipe(_)) | Self::Own(NarCompression::Recipe(_)))
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Something worth knowing that is no failure.
    pub(crate) note: Option<String>,
}

/// The listing of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NarListing {
    /// As Nix writes it.
    Json(Vec<u8>),
    /// There is none: a name in the NAR is no text.
    NotText,
}

/// Writes objects into a cache.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    cache: CacheDirectory,
    form: NarForm,
    /// One permit for each encoder of a recipe: more than cores would take memory and make nothing sooner.
    encoders: Semaphore,
}

impl ObjectWriter {
    /// Writes into `cache`.
    pub(crate) fn new(cache: CacheDirectory, form: NarForm) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cache, form, encoders: Semaphore::new(cores) }
    }

    /// The cache.
    pub(crate) const fn cache(&self) -> &CacheDirectory {
        &self.cache
    }

    /// Writes the object of `plan`, as its own record describes it.
    pub(crate) async fn write(&self, plan: &ObjectPlan) -> Result<Written, WriteError> {
        match &plan.record().body {
            RecordBody::StorePath(info) => self.write_path(plan, info, NamedNar::First).await,
            RecordBody::Blob(blob) => self.write_blob(plan, blob).await,
        }
    }

    /// Writes the NAR of `plan` and the narinfo of `info`, which may carry more signatures than the record. A narinfo that
    /// is there goes on to name the NAR that `named` says.
    pub(crate) async fn write_path(
        &self,
        plan: &ObjectPlan,
        info: &PathInfo,
        named: NamedNar,
    ) -> Result<Written, WriteError> {
        let passage = passage(plan.record(), self.form.file)?;
        // Never closed, so waiting ends with a permit.
        let _permit = if passage.takes_encoder() { self.encoders.acquire().await.ok() } else { None };
        let listing = Arc::new(Mutex::new(NarInspector::new(info.nar_size)));
        let mut stream = self.inspected(plan.stream(None)?, &listing);
        let nar = match passage {
            Passage::Verbatim => {
                // The file is not the NAR, so whether the NAR is right shows before it is written.
                while let Some(piece) = stream.next().await {
                    piece?;
                }
                drop(stream);
                self.cache.add_published_nar(info, NarCompression::None, plan.stream_file(None)?).await?
            }
            Passage::Published(compression) => {
                self.cache.add_published_nar(info, compression, stream).await?
            }
            Passage::Own(compression) => self.cache.add_nar(info, compression, stream).await?,
        };
        let inspector = Arc::into_inner(listing).map(Mutex::into_inner);
        let inspector = inspector.map(|inspector| inspector.unwrap_or_else(PoisonError::into_inner));
        let listing = inspector.filter(|_| self.form.listings).map(list);
        let note = self.add_narinfo(info, &nar, named, listing).await?;
        Ok(Written { bytes: nar.bytes, note })
    }

    /// What lies in the cache of the store path of `info`; with its listing, if listings are wanted.
    pub(crate) async fn look(&self, info: &PathInfo, publishers: &[PublisherKey]) -> There<RightNar> {
        let as_published = self.form.file == NarFile::AsPublished;
        self.cache.look(info, publishers, self.form.listings, as_published).await
    }

    /// Completes what lies there, and is right: the archive may know signatures that were not there then, and a listing
    /// may be wanted that was not then. Gives what is worth knowing.
    pub(crate) async fn complete(
        &self,
        info: &PathInfo,
        there: RightNar,
    ) -> Result<Option<String>, WriteError> {
        self.add_narinfo(info, &there.nar, NamedNar::First, there.listing).await
    }

    async fn add_narinfo(
        &self,
        info: &PathInfo,
        nar: &StoredNar,
        named: NamedNar,
        listing: Option<NarListing>,
    ) -> Result<Option<String>, WriteError> {
        let has_none = listing == Some(NarListing::NotText);
        let json = match listing {
            Some(NarListing::Json(json)) => Some(json),
            Some(NarListing::NotText) | None => None,
        };
        Ok(match self.cache.add_narinfo(info, nar, named, json).await? {
            NarInfoOutcome::OtherStays => Some(format!(
                "{} was found with two contents: its narinfo names one, the NAR {} lies beside it",
                info.store_path, info.nar_hash
            )),
            _ => has_none.then(|| format!("{} has no listing: names in it are not text", info.store_path)),
        })
    }

    async fn write_blob(&self, plan: &ObjectPlan, blob: &Blob) -> Result<Written, WriteError> {
        let kind = plan.record().key.kind();
        let stream = match plan.record().encoding {
            Encoding::Chunked => plan.stream(None)?,
            Encoding::Verbatim => {
                check_whole(plan).await?;
                plan.stream_file(None)?
            }
        };
        let there = self.cache.add_blob(kind, &blob.url, stream).await?;
        let note = (!there).then(|| format!("{} was found with two contents: one was kept", blob.url));
        Ok(Written { bytes: plan.file_bytes(), note })
    }

    /// The same bytes, which are looked at on their way if listings are wanted.
    fn inspected(&self, stream: ByteStream, listing: &Arc<Mutex<NarInspector>>) -> ByteStream {
        if !self.form.listings {
            return stream;
        }
        let listing = Arc::clone(listing);
        let look = move |piece: Result<bytes::Bytes, ReadError>| {
            if let Ok(bytes) = &piece {
                // What is no NAR shows in `finish`.
                let mut inspector = listing.lock().unwrap_or_else(PoisonError::into_inner);
                inspector.push(bytes).ok();
            }
            piece
        };
        stream.map(look).boxed()
    }
}

/// How the NAR of `record` becomes such a file.
fn passage(record: &Record, file: NarFile) -> Result<Passage, WriteError> {
    let is_verbatim = record.encoding == Encoding::Verbatim;
    let published = record.path_info();
    match file {
        NarFile::AsArchived if is_verbatim => Ok(Passage::Verbatim),
        NarFile::AsArchived => Ok(Passage::Own(NarCompression::None)),
        NarFile::Compressed(form) => {
            let is_wanted = published.is_some_and(|info| info.compression == form.into());
            Ok(if is_verbatim && is_wanted { Passage::Verbatim } else { Passage::Own(form) })
        }
        NarFile::AsPublished => match record.published_file() {
            PublishedFile::Content if is_verbatim => Ok(Passage::Verbatim),
            PublishedFile::Content => Ok(Passage::Published(NarCompression::None)),
            PublishedFile::Made(recipe) => Ok(Passage::Published(NarCompression::Recipe(recipe))),
            PublishedFile::Newer(number) => Err(WriteError::NewerRecipe(number)),
            PublishedFile::Lost => Err(WriteError::Lost),
        },
    }
}

/// The listing of a NAR that went by as a whole.
pub(crate) fn list(inspector: NarInspector) -> NarListing {
    let json = inspector.finish().ok().and_then(|listing| listing.to_json().ok());
    json.map_or(NarListing::NotText, NarListing::Json)
}

/// Reads the object to its end: its hash is right, or there is an error.
async fn check_whole(plan: &ObjectPlan) -> Result<(), ReadError> {
    let mut stream = plan.stream(None)?;
    while let Some(piece) = stream.next().await {
        piece?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;
    use firn_bundle::RecipeNumber;
    use firn_nix_format::{Compression, Recipe, Sha256, StorePath};

    use super::*;

    fn record(compression: Compression, encoding: Encoding, recipe: u8) -> Record {
        let info = PathInfo {
            store_path: StorePath::from_parts([1; 20], "x").unwrap(),
            url: "nar/x.nar".to_owned(),
            compression,
            file_hash: Some(Sha256::of(if compression == Compression::None { b"nar" } else { b"xyz" })),
            file_size: Some(3),
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
    fn what_becomes_of_a_content_depends_on_how_it_is_kept_and_what_is_wanted() {
        use Encoding::{Chunked, Verbatim};
        use NarFile::{AsArchived, AsPublished, Compressed};
        use Passage::{Own, Published};
        let xz6 = NarCompression::XZ;
        let bzip2 = NarCompression::Recipe(Recipe::Bzip2_9);
        let bare = NarCompression::None;
        for ((compression, encoding, recipe), file, expected) in [
            ((Compression::Xz, Chunked, 1), AsArchived, Own(bare)),
            ((Compression::Xz, Verbatim, 0), AsArchived, Passage::Verbatim),
            ((Compression::Xz, Chunked, 1), Compressed(xz6), Own(xz6)),
            ((Compression::Xz, Verbatim, 0), Compressed(xz6), Passage::Verbatim),
            ((Compression::Bzip2, Verbatim, 0), Compressed(xz6), Own(xz6)),
            ((Compression::Xz, Verbatim, 0), Compressed(bare), Own(bare)),
            ((Compression::Xz, Chunked, 1), AsPublished, Published(xz6)),
            ((Compression::Bzip2, Chunked, 2), AsPublished, Published(bzip2)),
            ((Compression::None, Chunked, 0), AsPublished, Published(bare)),
            ((Compression::Zstd, Verbatim, 0), AsPublished, Passage::Verbatim),
        ] {
            let found = passage(&record(compression, encoding, recipe), file);
            assert_eq!(found.unwrap(), expected, "{compression} {encoding:?} {recipe} {file:?}");
        }
        let refused = |compression, recipe| passage(&record(compression, Chunked, recipe), AsPublished);
        assert!(matches!(refused(Compression::Xz, 0), Err(WriteError::Lost)));
        assert!(matches!(refused(Compression::Bzip2, 1), Err(WriteError::Lost)));
        assert!(matches!(refused(Compression::Zstd, 200), Err(WriteError::NewerRecipe(200))));
    }

    #[test]
    fn only_what_a_recipe_makes_waits_for_an_encoder() {
        let waits = [
            Passage::Verbatim,
            Passage::Own(NarCompression::None),
            Passage::Own(NarCompression::Zstd),
            Passage::Own(NarCompression::XZ),
            Passage::Published(NarCompression::None),
            Passage::Published(NarCompression::XZ),
        ]
        .map(Passage::takes_encoder);
        assert_eq!(waits, [false, false, false, true, false, true]);
    }
}
