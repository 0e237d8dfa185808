//! Commands for the coordinator that runs on a data directory.

use std::path::Path;

use firn_base::{ByteCount, ObjectKey, PublicKey};
use firn_coordinator::{ask_control, ask_ledger};
use firn_nix_format::{PublisherKey, StorePath};
use firn_wire::{AdminReply, AdminRequest, LedgerAct, LedgerState, NodeState, PublisherEntry, StateDigests};

use super::Failure;
use super::arguments::{Action, IdentityAction, NodeAction, PathAction, PublisherAction, TokenAction};
use super::coordinators::{member, roster};
use super::{disowning, purges};

/// Carries out `action` and prints what came of it.
pub(crate) async fn administer(action: &Action, directory: &Path, json: bool) -> Result<(), Failure> {
    match action {
        Action::Id => super::print_id(directory),
        Action::Resync { dry_run } => super::resync(directory, *dry_run),
        Action::Token(TokenAction::Create { operator, failure_domain, valid }) => {
            let request = AdminRequest::CreateToken {
                operator: operator.clone(),
                failure_domain: failure_domain.clone(),
                valid_millis: u64::try_from(valid.as_millis()).unwrap_or(u64::MAX),
            };
            match ask_control(directory, &request).await? {
                AdminReply::Token(token) => println!("{}", token.to_text()),
                _ => return Err("the coordinator's answer does not fit".into()),
            }
            Ok(())
        }
        Action::Node(action) => node(action, directory, json).await,
        Action::Publisher(action) => publisher(action, directory, json).await,
        Action::Uploader(action) => identity(action, directory, json, Right::Upload).await,
        Action::Operator(action) => identity(action, directory, json, Right::Operate).await,
        Action::Snapshot { to } => {
            // The coordinator has a working directory of its own.
            let to = std::path::absolute(to)?;
            let to = to.to_str().ok_or("the file's name must be text")?.to_owned();
            match ask_control(directory, &AdminRequest::Snapshot { to }).await? {
                AdminReply::SnapshotWritten { bytes } => println!("written: {}", ByteCount(bytes)),
                _ => return Err("the coordinator's answer does not fit".into()),
            }
            Ok(())
        }
        Action::Digest => {
            let AdminReply::Digests(digests) = ask_control(directory, &AdminRequest::Digests).await? else {
                return Err("the coordinator's answer does not fit".into());
            };
            let StateDigests { applied, content, governance, rest } = digests;
            let parts = [("content", content), ("governance", governance), ("rest", rest)]
                .map(|(part, digest)| (part, digest.to_string()));
            if json {
                let mut printed = serde_json::json!({ "applied": applied });
                parts.iter().for_each(|(part, digest)| printed[*part] = digest.as_str().into());
                println!("{printed}");
            } else {
                parts.iter().for_each(|(part, digest)| println!("{part:<10}  {digest}"));
                println!("applied     {applied}");
            }
            Ok(())
        }
        Action::Rebuild(_) => Err("a rebuild is run, not administered".into()),
        Action::Path(PathAction::Withdraw { path, reason, dry_run }) => {
            let parsed: StorePath = path.parse()?;
            if *dry_run {
                println!("would withdraw {parsed}");
                return Ok(());
            }
            let key = ObjectKey::store_path(*parsed.hash());
            govern(directory, LedgerAct::Withdraw { key, reason: reason.clone() }).await
        }
        Action::Path(PathAction::Purge { path, reason, dry_run }) => {
            purges::begin(directory, path, reason, *dry_run).await
        }
        Action::Path(PathAction::Purges) => purges::list(directory, json).await,
        Action::Path(PathAction::Reinstate { path, reason }) => {
            let parsed: StorePath = path.parse()?;
            let key = ObjectKey::store_path(*parsed.hash());
            govern(directory, LedgerAct::Reinstate { key, reason: reason.clone() }).await
        }
        Action::Member(action) => member(action, directory, json).await,
        Action::Roster(action) => roster(action, directory).await,
        Action::Log => {
            for entry in ask_ledger(directory).await? {
                match json {
                    true => println!("{}", serde_json::to_string(&entry)?),
                    false => println!("{:>6}  {}  {:?}", entry.position, entry.at, entry.act),
                }
            }
            Ok(())
        }
    }
}

async fn done(directory: &Path, request: AdminRequest) -> Result<(), Failure> {
    match ask_control(directory, &request).await? {
        AdminReply::Done => Ok(()),
        _ => Err("the coordinator's answer does not fit".into()),
    }
}

pub(super) async fn govern(directory: &Path, act: LedgerAct) -> Result<(), Failure> {
    done(directory, AdminRequest::Govern(act)).await
}

async fn node(action: &NodeAction, directory: &Path, json: bool) -> Result<(), Failure> {
    let (node, state) = match action {
        NodeAction::List => return nodes(directory, json).await,
        NodeAction::Suspend { node } => (node, NodeState::Suspended),
        NodeAction::Resume { node } => (node, NodeState::Active),
        NodeAction::Drain { node } => (node, NodeState::Draining),
        NodeAction::Remove { node, lost, dry_run } => {
            let state = if *lost { NodeState::Lost } else { NodeState::Gone };
            if *dry_run {
                println!("would make node {node} {state}");
                return Ok(());
            }
            (node, state)
        }
    };
    let name = node.short();
    match ask_control(directory, &AdminRequest::SetNodeState { node: *node, state }).await? {
        AdminReply::Draining(Some(backlog)) => println!("node {name} is draining: {backlog}"),
        AdminReply::Draining(None) => println!("node {name} is draining"),
        AdminReply::Done if state == NodeState::Draining => {
            println!("node {name} held nothing that counts: it is gone")
        }
        AdminReply::Done => println!("node {name} is {state}"),
        _ => return Err("the coordinator's answer does not fit".into()),
    }
    Ok(())
}

async fn nodes(directory: &Path, json: bool) -> Result<(), Failure> {
    let AdminReply::Nodes(nodes) = ask_control(directory, &AdminRequest::Nodes).await? else {
        return Err("the coordinator's answer does not fit".into());
    };
    for node in nodes {
        match json {
            true => println!(
                "{}",
                serde_json::json!({
                    "node": node.node.to_string(), "operator": node.operator, "failure_domain": node.failure_domain,
                    "address": node.address, "state": node.state.to_string(), "online": node.online,
                    "proved": node.proved, "quota": node.quota.0, "assigned": node.assigned.0, "shards": node.shards,
                    "drain": node.drain, "refused_deletions": node.refused_deletions,
                })
            ),
            false => println!(
                "{}  {:<10}  {:<7}  {:<20}  {:>6} shards  {} of {}",
                node.node,
                node.state.to_string(),
                if node.online { "online" } else { "offline" },
                node.failure_domain,
                node.shards,
                node.assigned,
                node.quota,
            ),
        }
        if let Some(backlog) = node.drain.filter(|_| !json) {
            println!("    draining: {backlog}");
        }
        if node.refused_deletions > 0 && !json {
            println!(
                "    refused delete orders that went beyond what it deletes in a day: {}",
                node.refused_deletions
            );
        }
    }
    Ok(())
}

async fn publisher(action: &PublisherAction, directory: &Path, json: bool) -> Result<(), Failure> {
    match action {
        PublisherAction::Add { key, rank } => {
            let parsed: PublisherKey = key.trim().parse()?;
            let entry = PublisherEntry {
                name: parsed.name().to_owned(),
                key: PublicKey::from_bytes(*parsed.as_bytes()),
                rank: *rank,
            };
            govern(directory, LedgerAct::AddPublisher(entry)).await
        }
        PublisherAction::Remove { name, since: Some(since), dry_run } => {
            disowning::remove(directory, name, *since, *dry_run).await
        }
        PublisherAction::Remove { name, .. } => {
            govern(directory, LedgerAct::RemovePublisher { name: name.clone() }).await
        }
        PublisherAction::List => {
            let state = LedgerState::read(&ask_ledger(directory).await?);
            for entry in state.publishers_by_rank() {
                let key = PublisherKey::from_parts(&entry.name, entry.key.as_bytes())?;
                match json {
                    true => println!("{}", serde_json::json!({ "key": key.to_string(), "rank": entry.rank })),
                    false => println!("{:>6}  {key}", entry.rank),
                }
            }
            Ok(())
        }
    }
}

/// What an identity may be allowed.
#[derive(Clone, Copy)]
enum Right {
    Upload,
    Operate,
}

async fn identity(
    action: &IdentityAction,
    directory: &Path,
    json: bool,
    right: Right,
) -> Result<(), Failure> {
    match (action, right) {
        (IdentityAction::Add { key, name }, Right::Upload) => {
            govern(directory, LedgerAct::AddUploader { key: *key, name: name.clone() }).await
        }
        (IdentityAction::Add { key, name }, Right::Operate) => {
            govern(directory, LedgerAct::AddOperator { key: *key, name: name.clone() }).await
        }
        (IdentityAction::Remove { key }, Right::Upload) => {
            govern(directory, LedgerAct::RemoveUploader { key: *key }).await
        }
        (IdentityAction::Remove { key }, Right::Operate) => {
            govern(directory, LedgerAct::RemoveOperator { key: *key }).await
        }
        (IdentityAction::List, right) => {
            let state = LedgerState::read(&ask_ledger(directory).await?);
            let allowed = match right {
                Right::Upload => &state.uploaders,
                Right::Operate => &state.operators,
            };
            for (key, name) in allowed {
                match json {
                    true => println!("{}", serde_json::json!({ "key": key.to_string(), "name": name })),
                    false => println!("{key}  {name}"),
                }
            }
            Ok(())
        }
    }
}
