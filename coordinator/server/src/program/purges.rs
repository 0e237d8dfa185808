//! `path purge` and `path purges`.

use firn_base::{BundleId, KeyKind, ObjectKey};
use firn_nix_format::{StorePath, nixbase32};
use firn_wire::{AdminReply, AdminRequest, LedgerAct, LedgerState, NodeState, PurgeHolder, PurgeProgress};

use super::Failure;
use super::administration::govern;
use super::desk::{Desk, misfit};

/// Begins the purge of a path, and prints what it needs.
pub(super) async fn begin(desk: &Desk, path: &str, reason: &str, dry_run: bool) -> Result<(), Failure> {
    let parsed: StorePath = path.parse()?;
    let key = ObjectKey::store_path(*parsed.hash());
    if dry_run {
        let ledger = LedgerState::read(&desk.ledger().await?);
        match ledger.withdrawn.get(&key) {
            Some(withdrawn) => println!("would purge {parsed}, which was withdrawn: {withdrawn}"),
            None => {
                return Err(format!("{parsed} is not withdrawn: only what is withdrawn can be purged").into());
            }
        }
        return Ok(());
    }
    govern(desk, LedgerAct::Purge { key, reason: reason.to_owned() }).await?;
    for purge in ask(desk).await?.iter().filter(|purge| purge.key == key) {
        tell(purge);
    }
    Ok(())
}

/// Prints how far all purges have come.
pub(super) async fn list(desk: &Desk, json: bool) -> Result<(), Failure> {
    for purge in ask(desk).await? {
        match json {
            true => println!("{}", to_json(&purge)),
            false => tell(&purge),
        }
    }
    Ok(())
}

async fn ask(desk: &Desk) -> Result<Vec<PurgeProgress>, Failure> {
    match desk.ask(AdminRequest::Purges).await? {
        AdminReply::Purges(purges) => Ok(purges),
        _ => Err(misfit()),
    }
}

fn to_json(purge: &PurgeProgress) -> serde_json::Value {
    let bundles = |bundles: &[BundleId]| bundles.iter().map(BundleId::to_string).collect::<Vec<_>>();
    let kept = purge.kept.iter();
    let waiting = purge.waiting.iter();
    serde_json::json!({
        "key": purge.key.to_string(),
        "since": purge.since.to_string(),
        "to_repack": bundles(&purge.to_repack),
        "passing": bundles(&purge.passing),
        "kept": kept
            .map(|kept| serde_json::json!({ "bundle": kept.bundle.to_string(), "dependents": kept.dependents }))
            .collect::<Vec<_>>(),
        "holders": purge.holders,
        "waiting": waiting
            .map(|holder| serde_json::json!({
                "node": holder.node.to_string(), "state": holder.state.to_string(), "online": holder.online,
                "last_seen": holder.last_seen.to_string(),
            }))
            .collect::<Vec<_>>(),
        "done": purge.is_done(),
    })
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
