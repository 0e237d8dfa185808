//! A client that walks a closure, as Nix does: it asks for a path, reads its references, and asks for those.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{ArchiveMaker, MemoryArchive, body, get, nar_of, path_info_of, router};
use firn_gateway::{Router, WhenUnreadable};
use firn_nix_format::{PathInfo, StorePath, nixbase32};
use hyper::StatusCode;
use tokio::time::Instant;

const PATHS: u16 = 500;
const LATENCY: Duration = Duration::from_millis(40);

fn hash(number: u16) -> [u8; 20] {
    let hash = blake3::hash(&number.to_le_bytes());
    *hash.as_bytes().first_chunk().unwrap()
}

fn path(number: u16) -> StorePath {
    StorePath::from_parts(hash(number), "package").unwrap()
}

/// Path 0 needs all others: each refers to its next one, and to three that come later.
fn archive() -> Arc<MemoryArchive> {
    let mut maker = ArchiveMaker::default();
    let nar = nar_of(10);
    for number in 0..PATHS {
        let later = [1, 2, 7, 30].map(|step| number + step);
        let references = later.into_iter().filter(|later| *later < PATHS).map(path).collect();
        maker.path(&path_info_of(path(number), &nar, references), &nar);
    }
    maker.seal();
    let mut archive = maker.finish();
    archive.latency = LATENCY;
    Arc::new(archive)
}

/// Asks for the path infos of all that path 0 needs, a layer at a time; gives the layers.
async fn walk(router: &Router) -> u32 {
    let (mut known, mut layer, mut layers) = (BTreeSet::new(), BTreeSet::from([hash(0)]), 0);
    while !layer.is_empty() {
        layers += 1;
        let asked = layer.iter().map(|hash| async move {
            let answer = get(router, &format!("/{}.narinfo", nixbase32::encode(hash))).await;
            assert_eq!(answer.status(), StatusCode::OK);
            PathInfo::parse(&body(answer).await).unwrap()
        });
        let infos = futures::future::join_all(asked).await;
        known.append(&mut layer);
        let references = infos.iter().flat_map(|info| &info.references).map(|path| *path.hash());
        layer = references.filter(|hash| !known.contains(hash)).collect();
    }
    assert_eq!(known.len(), usize::from(PATHS));
    layers
}

#[tokio::test(start_paused = true)]
async fn a_closure_is_walked_in_fewer_round_trips_than_it_has_layers() {
    let archive = archive();
    let router = router(&archive, WhenUnreadable::Retry);
    let began = Instant::now();
    let layers = walk(&router).await;
    // The clock stands still but for the latency of coordinators and nodes.
    let trips = began.elapsed().as_millis() / LATENCY.as_millis();
    eprintln!("{layers} layers, {trips} round trips one after the other");
    assert!(layers >= 20, "{layers}");
    // A block of records is looked up at once: what is left are the blocks, one after the other.
    assert!(trips <= 10, "{trips} round trips for {layers} layers");
    // Again from memory.
    let began = Instant::now();
    walk(&router).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}
