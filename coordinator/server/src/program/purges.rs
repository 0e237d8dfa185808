//! `path purge` and `path purges`.
//!
//! Always holds: purges come in order of keys, a page at a time; a reader that stops reading ends the list without an
//! error.

use std::io::{self, Write};

use firn_base::{BundleId, KeyKind, ObjectKey, Timestamp};
use firn_nix_format::{StorePath, nixbase32};
use firn_wire::{AdminReply, AdminRequest, LedgerAct, LedgerState, NodeState, PurgeHolder, PurgeProgress};

use super::Failure;
use super::administration::govern;
use super::desk::{Desk, misfit};
use super::since::Since;

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
    let mut after = None;
    loop {
        let page = page(desk, BEGINNING, after).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key);
        if let Some(purge) = page.iter().find(|purge| purge.key == key) {
            println!("{}", text(purge));
            return Ok(());
        }
    }
}

const BEGINNING: Timestamp = Timestamp::from_millis(0);

/// Prints how far purges have come, at most `limit` of those asked for since then and behind `after`.
pub(super) async fn list(
    desk: &Desk,
    since: Option<Since>,
    mut after: Option<ObjectKey>,
    limit: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let since = match since {
        None => BEGINNING,
        Some(Since::Time(time)) => time,
        Some(Since::Position(position)) => {
            let entry = desk.ledger_page(position).await?.into_iter().next();
            entry.ok_or_else(|| format!("the ledger has no entry {position} so far"))?.at
        }
    };
    let mut left = limit.unwrap_or(u64::MAX);
    let mut output = io::stdout().lock();
    while left > 0 {
        let page = page(desk, since, after).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key);
        for purge in page.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            let lines = if json { to_json(purge).to_string() } else { text(purge) };
            match writeln!(output, "{lines}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
            left -= 1;
        }
    }
    Ok(())
}

async fn page(
    desk: &Desk,
    since: Timestamp,
    after: Option<ObjectKey>,
) -> Result<Vec<PurgeProgress>, Failure> {
    match desk.ask(AdminRequest::Purges { since, after }).await? {
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
            .map(|kept| serde_json::json!({
                "bundle": kept.bundle.to_string(), "dependents": kept.dependents,
                "to_repack": bundles(&kept.to_repack),
            }))
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

fn text(purge: &PurgeProgress) -> String {
    let name = match purge.key.kind() {
        KeyKind::StorePath => nixbase32::encode(purge.key.name()),
        _ => purge.key.to_string(),
    };
    let mut lines = vec![format!("{name}  asked for {}", purge.since)];
    lines.extend(sentences(purge).into_iter().map(|sentence| format!("    {sentence}")));
    lines.join("\n")
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
            "bundle {} STAYS WHOLE on its nodes, the path in it too, until {} other bundles that use chunks of it are packed \
             anew: run `firn repack --operator-key FILE`",
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
