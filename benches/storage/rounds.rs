//! What many small publishes come to once their bundles are packed together.
//!
//! Owns: a history in rounds, and its compaction as coordinators plan it and `firn compact` carries it out. Leaves to
//! others: the plan (`firn-coordinator-logic`), packing (`firn-client`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use firn_base::{BundleId, BundleNumber, ByteCount, Scheme, Timestamp};
use firn_benches::process::{Failure, cpu_time};
use firn_bundle::{FrameCompression, comes_together};
use firn_client::{
    CompactError, CompactOptions, CompactionRounds, PaperArchive, PaperBundle, PublishEvents, PublishOptions,
    UploadPolicy,
};
use firn_coordinator_logic::{SmallBundle, plan_groups};
use firn_transport::Environment;
use firn_wire::{BundleFill, CompactionGroup, CompactionPlan};

use crate::corpus::Corpus;
use crate::variant::{K, N, stored_bytes};

/// Publishes the generations in so many rounds, one behind the other, compacts until nothing is told, and prints what
/// that takes beside one publish of everything.
pub(crate) fn print_rounds(
    corpus: &Corpus,
    rounds: usize,
    compression: FrameCompression,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let all = corpus.in_order();
    let at_once = PaperArchive::new(Scheme::new(K, N)?);
    runtime.block_on(publish(&at_once, corpus, all.clone(), compression))?;
    let archive = PaperArchive::new(Scheme::new(K, N)?);
    for round in all.chunks(all.len().div_ceil(rounds.max(1)).max(1)) {
        runtime.block_on(publish(&archive, corpus, round.to_vec(), compression))?;
    }
    println!(
        "| {rounds} rounds | bundles | under a quarter full, of the payload | payload, of {kind} | stored 16/40, of {kind} |",
        kind = corpus.file_kind()
    );
    println!("| --- | --- | --- | --- | --- |");
    row("one publish of everything", corpus, &at_once.bundles());
    row("published in rounds", corpus, &archive.bundles());
    let before = cpu_time(std::process::id())?;
    let failed = runtime.block_on(compact(&archive, compression))?;
    let cpu = cpu_time(std::process::id())?.saturating_sub(before);
    let bundles = archive.bundles();
    row("and compacted until nothing is told", corpus, &bundles);
    let (one, now) = (stored_bytes(&at_once.bundles()), stored_bytes(&bundles));
    println!(
        "\nstored, of one publish: {:.3}; compaction took {:.1} s of processor time; {failed} groups stayed as they were",
        now as f64 / one as f64,
        cpu.as_secs_f64()
    );
    let records: usize = bundles.iter().map(records_of).sum::<u64>().try_into()?;
    if records != all.len() {
        return Err(format!("{records} records of {} paths are left", all.len()).into());
    }
    Ok(())
}

async fn publish(
    archive: &PaperArchive,
    corpus: &Corpus,
    paths: Vec<String>,
    compression: FrameCompression,
) -> Result<(), Failure> {
    let options = PublishOptions {
        paths: Some(paths.into()),
        frame_compression: compression,
        ..PublishOptions::new(corpus.source()?)
    };
    let publishers = vec![corpus.publisher.clone()];
    let summary = archive.publish(publishers, &Environment::real(), options, PublishEvents::none()).await?;
    if summary.exit_code() != 0 {
        return Err(format!("not everything was published: {summary}").into());
    }
    Ok(())
}

/// Packs together what a leader tells, until it tells nothing new. Gives how many groups would have been no gain.
async fn compact(archive: &PaperArchive, compression: FrameCompression) -> Result<u64, Failure> {
    let (mut rounds, mut failed) = (CompactionRounds::default(), 0);
    loop {
        let plan = plan(&archive.bundles(), rounds.behind());
        let mut next: VecDeque<CompactionGroup> = rounds.take(&plan.groups).into();
        while let Some(group) = next.pop_front() {
            let options = CompactOptions {
                bundles: group.bundles,
                frame_compression: Some(compression),
                spool_dir: None,
                policy: UploadPolicy::default(),
            };
            match archive.compact(&Environment::real(), &options, PublishEvents::none()).await {
                Ok(_) => rounds.note_packed(),
                Err(CompactError::InParts { parts, .. }) => next.extend(rounds.take(&parts)),
                Err(CompactError::NoFewer { .. } | CompactError::NoGain { .. }) => failed += 1,
                Err(error) => return Err(error.into()),
            }
        }
        if !rounds.go_on(&plan.groups) {
            return Ok(failed);
        }
    }
}

/// What a leader of this archive tells: nothing is ever withdrawn here, and every bundle is at rest.
fn plan(bundles: &[PaperBundle], behind: Option<BundleId>) -> CompactionPlan {
    let mut dependents: BTreeMap<BundleId, Vec<BundleNumber>> = BTreeMap::new();
    for (number, bundle) in (0..).map(BundleNumber).zip(bundles) {
        for named in bundle.content.dependencies() {
            dependents.entry(*named).or_default().push(number);
        }
    }
    let first = behind.and_then(|id| bundles.iter().position(|bundle| bundle.content.bundle_id() == id));
    let small: Vec<SmallBundle> = (0..)
        .map(BundleNumber)
        .zip(bundles)
        .skip(first.map_or(0, |first| first + 1))
        .filter(|(_, bundle)| is_small(bundle))
        .map(|(number, bundle)| {
            let order = (0, Timestamp::from_millis(number.0.into()), number);
            let own = dependents.remove(&bundle.content.bundle_id()).unwrap_or_default();
            SmallBundle::new(&bundle.content, order, records_of(bundle), own)
        })
        .collect();
    plan_groups(&small, &BTreeSet::new(), fill_of(bundles))
}

fn fill_of(bundles: &[PaperBundle]) -> BundleFill {
    let payload = |bundles: &[&PaperBundle]| {
        ByteCount(bundles.iter().map(|bundle| bundle.content.payload_bytes()).sum())
    };
    let all: Vec<&PaperBundle> = bundles.iter().collect();
    let small: Vec<&PaperBundle> = bundles.iter().filter(|bundle| is_small(bundle)).collect();
    BundleFill {
        bundles: all.len() as u64,
        payload: payload(&all),
        small_bundles: small.len() as u64,
        small_payload: payload(&small),
    }
}

fn is_small(bundle: &PaperBundle) -> bool {
    comes_together(bundle.content.role(), bundle.content.payload_bytes(), records_of(bundle))
}

fn records_of(bundle: &PaperBundle) -> u64 {
    bundle.manifest.header().record_count().into()
}

fn row(what: &str, corpus: &Corpus, bundles: &[PaperBundle]) {
    let fill = fill_of(bundles);
    let file_bytes = corpus.file_bytes() as f64;
    println!(
        "| {what} | {} | {:.1} % | {:.3} | {:.3} |",
        fill.bundles,
        fill.small_payload.0 as f64 * 100.0 / fill.payload.0.max(1) as f64,
        fill.payload.0 as f64 / file_bytes,
        stored_bytes(bundles) as f64 / file_bytes
    );
}
