//! Trying the recipe of a published file, once its object is read and checked.
//!
//! Always holds: the recipe is recorded only if it has just made that file; no longer is compressed than it may be that
//! one, or than the publish goes on and nobody asks it to stop. Leaves to others: how many are tried at once
//! (`publish`), comparing (`firn-nix-format`).

use std::sync::Arc;

use firn_bundle::{PatchApplier, PatchError, RecipeNumber, hash_parts};
use firn_nix_format::{PublishedBytes, Recipe, Reproduction};
use tokio::sync::Semaphore;

use crate::spool::{SpoolDir, SpoolError};
use crate::verify::VerifiedObject;

/// Bytes of a file's beginning with which the one is compared that is made again. Another preset shows in the first bytes,
/// another encoder in the first block of LZMA2, which takes up to 64 KiB.
pub(crate) const FILE_HEAD_BYTES_MAX: usize = 64 << 10;

/// Why an object has no recipe, and none may be recorded as tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Better published by the next run than without.
    #[error("the publish was asked to stop, or is over")]
    Stopped,
    /// What was read of it cannot be read again.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Its patches are not those of its content.
    #[error(transparent)]
    Patches(#[from] PatchError),
}

/// How many files one publish compresses again at once. Dropping it, however the publish ends, ends what is under way
/// and what waits: nobody would take it, and a next publish has encoders of its own.
#[derive(Debug)]
pub(crate) struct Encoders(Arc<Semaphore>);

impl Encoders {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// A permit for each of them; closed once the publish is over.
    pub(crate) fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0)
    }
}

impl Drop for Encoders {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Tries `recipe` on an object whose file begins with `head`, which takes several times as long as reading it, until
/// `is_over`. Blocks.
pub(crate) fn try_recipe(
    mut object: VerifiedObject,
    recipe: Recipe,
    head: Vec<u8>,
    spool: &SpoolDir,
    is_over: impl Fn() -> bool,
) -> Result<VerifiedObject, TrialError> {
    let Some(info) = object.record.body.path_info() else { return Ok(object) };
    // Without it there is nothing to know the file by.
    let Some(sha256) = info.file_hash else { return Ok(object) };
    let begun = Reproduction::new(recipe, PublishedBytes { head, sha256, bytes: info.file_size });
    let mut reproduction = match begun {
        Ok(reproduction) => reproduction,
        Err(error) => {
            tracing::warn!(path = %info.store_path, %error, "its recipe is not tried");
            return Ok(object);
        }
    };
    let mut patches = PatchApplier::new(&object.record.patches, &hash_parts(info))?;
    let mut chunks = object.content.read_again(spool);
    while let Some(chunk) = chunks.next_chunk()? {
        if is_over() {
            return Err(TrialError::Stopped);
        }
        patches.apply(chunk)?;
        reproduction.push(chunk);
        if !reproduction.may_succeed() {
            break;
        }
    }
    object.recipe_tried = true;
    object.record.recipe = reproduction.finish().map(RecipeNumber::from).unwrap_or_default();
    Ok(object)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use firn_bundle::Encoding;
    use firn_nix_format::{RecipeEncoder, Sha256};

    use super::*;
    use crate::tests::cache::{Cache, nar_of, noise, store_path};
    use crate::verify::verify_path;

    #[test]
    fn a_file_is_made_again_of_what_was_read_with_its_hash_parts_put_back_unless_it_is_to_stop() {
        let own = store_path("own").hash_part().as_bytes().to_vec();
        // In memory and in the spool.
        for bytes in [10_000, 4_200_000] {
            let contents = [noise(bytes, 1), own.clone(), noise(bytes, 2)].concat();
            let (mut cache, spool) = (Cache::new(), SpoolDir::open(None).unwrap());
            let mut entry = cache.entry("own", &contents, Recipe::Bzip2_9.compression(), &[]);
            let mut encoder = RecipeEncoder::new(Recipe::Bzip2_9, Vec::new()).unwrap();
            encoder.write_all(&nar_of(&contents)).unwrap();
            entry.file = encoder.finish().unwrap();
            entry.info.file_hash = Some(Sha256::of(&entry.file));
            entry.info.file_size = Some(entry.file.len() as u64);
            let (info, file) = (entry.info.clone(), entry.file.clone());
            cache.add(entry);
            let read = || {
                verify_path(&cache.source(), &info, Encoding::Chunked, FILE_HEAD_BYTES_MAX, &spool).unwrap()
            };
            let (object, head) = read();
            assert_eq!(head, file[..FILE_HEAD_BYTES_MAX.min(file.len())]);
            assert_eq!(object.record.patches.len(), 1);
            let tried = try_recipe(object, Recipe::Bzip2_9, head, &spool, || false).unwrap();
            assert_eq!((tried.recipe_tried, tried.record.recipe.recipe()), (true, Some(Recipe::Bzip2_9)));
            let (object, mut head) = read();
            head[500] ^= 1;
            let tried = try_recipe(object, Recipe::Bzip2_9, head, &spool, || false).unwrap();
            assert_eq!((tried.recipe_tried, tried.record.recipe.is_none()), (true, true));
            let (object, head) = read();
            let stopped = try_recipe(object, Recipe::Bzip2_9, head, &spool, || true);
            assert!(matches!(stopped, Err(TrialError::Stopped)));
        }
    }

    #[tokio::test]
    async fn what_is_tried_and_what_waits_for_an_encoder_end_with_the_publish() {
        let encoders = Encoders::new(1);
        let places = encoders.places();
        let trial = Arc::clone(&places).acquire_owned().await.unwrap();
        let waiting = tokio::spawn(Arc::clone(&places).acquire_owned());
        drop(encoders);
        assert!(places.is_closed(), "what is tried asks so");
        assert!(waiting.await.unwrap().is_err());
        drop(trial);
    }
}
