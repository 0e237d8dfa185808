//! Reading store paths back as readers do: coordinators say where, nodes give ranges, hashes decide.

use std::sync::Arc;

use firn_client::Archive;
use firn_nix_format::Sha256;
use firn_retrieval::{
    CachedDirectory, CoordinatorSource, Directory, DirectoryOptions, ManifestOptions, ManifestReader,
    NodeSource, ObjectOptions, ObjectReader, SwarmOptions, SwarmReader,
};

use crate::cache::CachedPath;

/// A reader that has read nothing yet.
pub(crate) struct Reader {
    archive: Archive,
    directory: Arc<dyn Directory>,
    objects: ObjectReader,
}

/// What became of reading a path.
#[derive(Debug)]
pub(crate) enum Reading {
    /// It is what was published.
    Right,
    /// It could not be had now.
    NotNow(String),
    /// The archive gave something else, or says that it is not there.
    Wrong(String),
}

impl Reader {
    pub(crate) fn new(archive: &Archive) -> Self {
        let environment = archive.environment().clone();
        let source = Arc::new(CoordinatorSource::new(archive.coordinators().clone()));
        let directory: Arc<dyn Directory> =
            Arc::new(CachedDirectory::new(source, environment.clone(), DirectoryOptions::default()));
        let nodes = Arc::new(NodeSource::new(archive.pool().clone()));
        let swarm = SwarmReader::new(Arc::clone(&directory), nodes, SwarmOptions::default());
        let manifests = ManifestReader::new(Arc::new(swarm), ManifestOptions::default());
        let objects = ObjectReader::new(manifests, environment, ObjectOptions::default());
        Self { archive: archive.clone(), directory, objects }
    }

    /// What it reads objects with.
    pub(crate) const fn objects(&self) -> &ObjectReader {
        &self.objects
    }

    /// Reads one path and compares its NAR.
    pub(crate) async fn read(&self, path: &CachedPath) -> Reading {
        let places = match self.archive.coordinators().lookup(&[path.key]).await {
            Ok(places) => places.into_iter().next().unwrap_or_default(),
            Err(error) => return Reading::NotNow(error.to_string()),
        };
        // A coordinator that lags behind knows less: that is no lie, but at the end it is a fault.
        let Some(place) = places.first() else { return Reading::NotNow("it is not in the index".to_owned()) };
        let facts = match self.directory.numbered(place.bundle).await {
            Ok(facts) => facts,
            Err(error) => return Reading::NotNow(error.to_string()),
        };
        let record = self.objects.manifests().record(facts.id, place.block, place.entry, &path.key).await;
        let record = match record {
            Ok(record) => record,
            Err(error) => return judge(error),
        };
        let plan = match self.objects.open(facts.id, record).await {
            Ok(plan) => plan,
            Err(error) => return judge(error),
        };
        match plan.read_all(path.nar_bytes).await {
            Ok(nar) if Sha256::of(&nar) == path.nar_hash => Reading::Right,
            Ok(_) => Reading::Wrong("its NAR is another one".to_owned()),
            Err(error) => judge(error),
        }
    }
}

fn judge(error: firn_retrieval::ReadError) -> Reading {
    use firn_retrieval::ReadError;
    match error {
        ReadError::Damaged { .. } | ReadError::WrongObject { .. } | ReadError::OutOfRange { .. } => {
            Reading::Wrong(error.to_string())
        }
        other => Reading::NotNow(other.to_string()),
    }
}
