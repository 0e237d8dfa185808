//! A coordinator of an archive of millions of keys that holds nothing but their filters: enough to see what a gateway
//! takes for them.
//!
//! Leaves to others: the feed and its filters (`feed`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_benches::process::Failure;
use firn_transport::{Connection, Endpoint, EndpointOptions, Environment, Handler, Stream, serve};
use firn_wire::{
    COMMIT_BYTES_MAX, CoordinatorEntry, CoordinatorReply, CoordinatorRequest, Descriptor, FEED_EVENTS_MAX,
    FILTER_PIECE_BYTES_MAX, FeedBatch, FilterEntry, FilterList, Identity, IndexRangePage, Roster, Signed,
};
use tokio::time::sleep;

use crate::feed::{event, make_all, path};

/// Where the archive's descriptor lies, and how far its filters go.
pub(crate) struct ManyKeys {
    /// The descriptor.
    pub(crate) descriptor: PathBuf,
    /// The position behind the last filter.
    pub(crate) covered: u64,
}

struct Coordinator {
    identity: Identity,
    descriptor: Descriptor,
    directory: PathBuf,
    filters: Vec<FilterEntry>,
    events: u64,
}

/// Makes the filters of a feed of `events` events in `directory`, and answers for them as long as the program lasts.
pub(crate) fn serve_many_keys(directory: &Path, events: u64) -> Result<ManyKeys, Failure> {
    fs::create_dir_all(directory)?;
    let (tell, told) = std::sync::mpsc::channel();
    let place = directory.to_owned();
    std::thread::spawn(move || {
        let failed = run(&place, events, &tell).err();
        // Whoever waits for the answer hears of it; later nobody does, and gateways say that nobody answers.
        drop(tell.send(Err(failed.unwrap_or_else(|| "the coordinator ended".into()))));
    });
    let covered = told.recv()??;
    Ok(ManyKeys { descriptor: directory.join("archive.firn"), covered })
}

fn run(
    directory: &Path,
    events: u64,
    tell: &std::sync::mpsc::Sender<Result<u64, Failure>>,
) -> Result<(), Failure> {
    let key = Identity::from_seed(&[3; 32]);
    let archive = key.public().into();
    let filters = make_all(directory, archive, events)?.serve;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let identity = Identity::from_seed(&[4; 32]);
        let (listen, options) = ("127.0.0.1:0".parse()?, EndpointOptions::default());
        let endpoint = Endpoint::bind(&Environment::real(), &identity, listen, options).await?;
        let coordinators = vec![CoordinatorEntry {
            id: NodeId::from_bytes(*identity.public().as_bytes()),
            raft_id: 1,
            address: endpoint.local_address().to_string(),
        }];
        let issued = Timestamp::from_millis(1);
        let roster = Roster { archive, generation: 1, issued, coordinators, retired: Vec::new() };
        let descriptor = Descriptor { archive, roster: Signed::seal(&key, archive, &roster) };
        fs::write(directory.join("archive.firn"), descriptor.to_string())?;
        tell.send(Ok(filters.last().map_or(0, |last| last.range.end)))?;
        let directory = directory.to_owned();
        serve(&endpoint, Arc::new(Coordinator { identity, descriptor, directory, filters, events })).await;
        Ok(())
    })
}

impl Handler for Coordinator {
    async fn handle(&self, _connection: &Connection, mut stream: Stream) {
        let Ok(request) = stream.receive(COMMIT_BYTES_MAX).await else { return };
        match self.answer(request).await {
            Some(reply) => {
                if stream.send(&reply).await.is_ok() {
                    stream.finish();
                }
            }
            None => stream.abort(),
        }
    }
}

impl Coordinator {
    async fn answer(&self, request: CoordinatorRequest) -> Option<CoordinatorReply> {
        let archive = self.descriptor.archive;
        Some(match request {
            CoordinatorRequest::GetDescriptor => CoordinatorReply::Descriptor(self.descriptor.clone()),
            CoordinatorRequest::ListFilters => {
                let list = FilterList { filters: self.filters.clone(), head: self.events };
                CoordinatorReply::Filters(Signed::seal(&self.identity, archive, &list))
            }
            CoordinatorRequest::FilterPiece { filter, offset } => {
                let bytes = fs::read(path(&self.directory, filter)).ok()?;
                let rest = bytes.get(usize::try_from(offset).ok()?..)?;
                CoordinatorReply::FilterPiece(rest[..rest.len().min(FILTER_PIECE_BYTES_MAX)].to_vec())
            }
            CoordinatorRequest::News { from, wait_millis } => {
                if from >= self.events {
                    sleep(Duration::from_millis(wait_millis.into())).await;
                }
                let end = self.events.min(from.saturating_add(FEED_EVENTS_MAX as u64));
                let events = (from..end).map(event).collect();
                let batch = FeedBatch { first: from, events, head: self.events };
                let batch = Signed::seal(&self.identity, archive, &batch);
                CoordinatorReply::News { batch, stale_millis: None }
            }
            // Only strangers are asked for.
            CoordinatorRequest::IndexRange(_) => CoordinatorReply::IndexRange(IndexRangePage {
                position: self.events,
                keys: Vec::new(),
                more: false,
            }),
            _ => return None,
        })
    }
}
