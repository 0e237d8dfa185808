//! `path purge` and `path purges`.

use std::path::Path;

use firn_base::{KeyKind, ObjectKey};
use firn_coordinator::{ask_control, ask_ledger};
use firn_nix_format::{StorePath, nixbase32};
use firn_wire::{AdminReply, AdminRequest, LedgerAct, LedgerState, NodeState, PurgeHolder, PurgeProgress};

use super::Failure;
use super::administration::govern;

/// Begins the purge of a path, and prints what it needs.
pub(super) async fn begin(directory: &Path, path: &str, reason: &str, dry_run: bool) -> Result<(), Failure> {
    let parsed: StorePath = path.parse()?;
    let key = ObjectKey::store_path(*parsed.hash());
    if dry_run {
        let ledger = LedgerState::read(&ask_ledger(directory).await?);
        match ledger.withdrawn.get(&key) {
            Some(withdrawn) => println!("would purge {parsed}, which was withdrawn: {withdrawn}"),
            None => {
                return Err(format!("{parsed} is not withdrawn: only what is withdrawn can be purged").into());
            }
        }
        return Ok(());
    }
    govern(directory, LedgerAct::Purge { key, reason: reason.to_owned() }).await?;
    for purge in ask(directory).await?.iter().filter(|purge| purge.key == key) {
        tell(purge);
    }
    Ok(())
}

/// Prints how far all purges have come.
pub(super) async fn list(directory: &Path, json: bool) -> Result<(), Failure> {
    for purge in ask(directory).await? {
        match json {
            true => println!("{}", serde_json::to_string(&purge)?),
            false => tell(&purge),
        }
    }
    Ok(())
}

async fn ask(directory: &Path) -> Result<Vec<PurgeProgress>, Failure> {
    match ask_control(directory, &AdminRequest::Purges).await? {
        AdminReply::Purges(purges) => Ok(purges),
        _ => Err("the coordinator's answer does not fit".into()),
    }
}

fn tell(purge: &PurgeProgress) {
    let name = match purge.key.kind() {
        KeyKind::StorePath => nixbase32::encode(purge.key.name()),
        _ => purge.key.to_string(),
    };
    println!("{name}  asked for {}", purge.since);
    for sentence in sentences(purge) {
        println!("    {sentence}");
    }
}

/// Where a purge stands, a sentence for each thing.
fn sentences(purge: &PurgeProgress) -> Vec<String> {
    let mut sentences = Vec::new();
    if !purge.to_repack.is_empty() {
        sentences.push(format!(
            "{} bundles hold it beside other paths: run `firn repack --operator-key FILE`",
            purge.to_repack.len()
        ));
    }
    if !purge.passing.is_empty() {
        sentences.push(format!(
            "{} bundles are needed no more and go once readers know, and their replacements are whole",
            purge.passing.len()
        ));
    }
    for kept in &purge.kept {
        sentences.push(format!(
            "bundle {} STAYS: {} other bundles use chunks of it; what they share with the path is not purged",
            kept.bundle, kept.dependents
        ));
    }
    let gone = purge.holders.saturating_sub(purge.waiting.len() as u64);
    if purge.holders > 0 {
        sentences.push(format!("gone from {gone} of {} holders", purge.holders));
    }
    sentences.extend(purge.waiting.iter().map(waiting));
    if purge.is_done() {
        let done = "nothing of it is left on any node that was known to hold it".to_owned();
        sentences.push(if purge.holders == 0 { "no bundle holds it".to_owned() } else { done });
    }
    sentences
}

fn waiting(holder: &PurgeHolder) -> String {
    let node = holder.node;
    match (holder.state, holder.online) {
        (_, true) => format!("waiting for node {node}, which is online and has not read the ledger so far"),
        (NodeState::Gone | NodeState::Lost, false) => {
            format!("node {node} was removed ({}) and may still hold shards: ask its owner", holder.state)
        }
        (_, false) => format!("waiting for node {node}, away since {}", holder.last_seen),
    }
}
