//! Commands of administration, at the coordinator that runs on a data directory or with an operator's key.

use firn_base::{ByteCount, ObjectKey, PublicKey};
use firn_nix_format::{PublisherKey, StorePath};
use firn_wire::{
    AdminReply, AdminRequest, AnnouncedSuspension, LedgerAct, LedgerState, NodeState, OperatorEntry,
    PublisherEntry, StateDigests,
};

use super::Failure;
use super::arguments::{
    Action, NodeAction, OperatorAction, PathAction, PublisherAction, RebuildArguments, TokenAction,
    UploaderAction,
};
use super::coordinators::{member, roster};
use super::desk::{Desk, misfit};
use super::{disowning, ledger_log, purges, suspensions};

/// Carries out `action` and prints what came of it.
pub(crate) async fn administer(action: &Action, desk: &Desk, json: bool) -> Result<(), Failure> {
    match action {
        Action::Id => super::print_id(desk.directory("id")?),
        Action::Resync { dry_run } => super::resync(desk.directory("resync")?, *dry_run),
        Action::Token(TokenAction::Create { operator, failure_domain, valid }) => {
            let request = AdminRequest::CreateToken {
                operator: operator.clone(),
                failure_domain: failure_domain.clone(),
                valid_millis: u64::try_from(valid.as_millis()).unwrap_or(u64::MAX),
            };
            match desk.ask(request).await? {
                AdminReply::Token(token) => println!("{}", token.to_text()),
                _ => return Err(misfit()),
            }
            Ok(())
        }
        Action::Node(action) => node(action, desk, json).await,
        Action::Publisher(action) => publisher(action, desk, json).await,
        Action::Uploader(action) => uploader(action, desk, json).await,
        Action::Operator(action) => operator(action, desk, json).await,
        Action::Snapshot { to } => {
            desk.directory("snapshot")?;
            // The coordinator has a working directory of its own.
            let to = std::path::absolute(to)?;
            let to = to.to_str().ok_or("the file's name must be text")?.to_owned();
            match desk.ask(AdminRequest::Snapshot { to }).await? {
                AdminReply::SnapshotWritten { bytes } => println!("written: {}", ByteCount(bytes)),
                _ => return Err(misfit()),
            }
            Ok(())
        }
        Action::Digest => {
            let AdminReply::Digests(digests) = desk.ask(AdminRequest::Digests).await? else {
                return Err(misfit());
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
        Action::Rebuild(RebuildArguments { action: Some(action), .. }) => {
            super::rebuild::administer(action, desk, json).await
        }
        Action::Rebuild(_) => Err("a rebuild is run, not administered".into()),
        Action::Path(PathAction::Withdraw { path, reason, dry_run }) => {
            let parsed: StorePath = path.parse()?;
            if *dry_run {
                println!("would withdraw {parsed}");
                return Ok(());
            }
            let key = ObjectKey::store_path(*parsed.hash());
            govern(desk, LedgerAct::Withdraw { key, reason: reason.clone() }).await
        }
        Action::Path(PathAction::Purge { path, reason, dry_run }) => {
            purges::begin(desk, path, reason, *dry_run).await
        }
        Action::Path(PathAction::Purges { since, after, limit }) => {
            purges::list(desk, *since, *after, *limit, json).await
        }
        Action::Path(PathAction::Reinstate { path, reason }) => {
            let parsed: StorePath = path.parse()?;
            let key = ObjectKey::store_path(*parsed.hash());
            govern(desk, LedgerAct::Reinstate { key, reason: reason.clone() }).await
        }
        Action::Member(action) => member(action, desk, json).await,
        Action::Roster(action) => roster(action, desk).await,
        Action::Log { since, limit } => ledger_log::print(desk, *since, *limit, json).await,
    }
}

/// Has a request carried out to which there is nothing to say.
pub(super) async fn done(desk: &Desk, request: AdminRequest) -> Result<(), Failure> {
    match desk.ask(request).await? {
        AdminReply::Done => Ok(()),
        _ => Err(misfit()),
    }
}

pub(super) async fn govern(desk: &Desk, act: LedgerAct) -> Result<(), Failure> {
    done(desk, AdminRequest::Govern(act)).await
}

async fn node(action: &NodeAction, desk: &Desk, json: bool) -> Result<(), Failure> {
    let (node, state) = match action {
        NodeAction::List => return nodes(desk, json).await,
        NodeAction::Suspend { node, reason: Some(reason), .. } => {
            return suspensions::announce(desk, *node, reason).await;
        }
        NodeAction::Suspend { node, .. } => (node, NodeState::Suspended),
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
    match desk.ask(AdminRequest::SetNodeState { node: *node, state }).await? {
        AdminReply::Draining(Some(backlog)) => println!("node {name} is draining: {backlog}"),
        AdminReply::Draining(None) => println!("node {name} is draining"),
        AdminReply::Done if state == NodeState::Draining => {
            println!("node {name} held nothing that counts: it is gone")
        }
        AdminReply::Done if state == NodeState::Suspended => {
            println!("node {name} is suspended now; `firn-coordinator node resume {node}` takes that back")
        }
        AdminReply::Done if state == NodeState::Active => {
            println!("node {name} is active, and no suspension is announced")
        }
        AdminReply::Done => println!("node {name} is {state}"),
        _ => return Err(misfit()),
    }
    Ok(())
}

async fn nodes(desk: &Desk, json: bool) -> Result<(), Failure> {
    let AdminReply::Nodes(nodes) = desk.ask(AdminRequest::Nodes).await? else {
        return Err(misfit());
    };
    // The nodes are listed whether it is answered or not.
    let announced = suspensions::by_node(desk).await;
    for node in nodes {
        let suspension = announced.as_ref().ok().and_then(|announced| announced.get(&node.node));
        match json {
            true => {
                let mut line = serde_json::json!({
                    "node": node.node.to_string(), "operator": node.operator, "failure_domain": node.failure_domain,
                    "address": node.address, "state": node.state.to_string(), "online": node.online,
                    "proved": node.proved, "quota": node.quota.0, "assigned": node.assigned.0, "shards": node.shards,
                    "drain": node.drain, "refused_deletions": node.refused_deletions,
                });
                if announced.is_ok() {
                    line["suspension"] = serde_json::json!(suspension.map(suspensions::json));
                }
                println!("{line}");
            }
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
        if let Some(AnnouncedSuspension { at, by, reason, .. }) = suspension.filter(|_| !json) {
            println!("    will be suspended at {at}, announced by {by}: {reason}");
        }
        if node.refused_deletions > 0 && !json {
            println!(
                "    refused delete orders that went beyond what it deletes in a day: {}",
                node.refused_deletions
            );
        }
    }
    announced
        .map(drop)
        .map_err(|error| format!("which suspensions are announced is not known: {error}").into())
}

async fn publisher(action: &PublisherAction, desk: &Desk, json: bool) -> Result<(), Failure> {
    match action {
        PublisherAction::Add { key, rank } => {
            let parsed: PublisherKey = key.trim().parse()?;
            let entry = PublisherEntry {
                name: parsed.name().to_owned(),
                key: PublicKey::from_bytes(*parsed.as_bytes()),
                rank: *rank,
            };
            govern(desk, LedgerAct::AddPublisher(entry)).await
        }
        PublisherAction::Remove { name, since: Some(since), dry_run } => {
            disowning::remove(desk, name, *since, *dry_run).await
        }
        PublisherAction::Remove { name, .. } => {
            govern(desk, LedgerAct::RemovePublisher { name: name.clone() }).await
        }
        PublisherAction::List => {
            let state = LedgerState::read(&desk.ledger().await?);
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

async fn uploader(action: &UploaderAction, desk: &Desk, json: bool) -> Result<(), Failure> {
    match action {
        UploaderAction::Add { key, name } => {
            govern(desk, LedgerAct::AddUploader { key: *key, name: name.clone() }).await
        }
        UploaderAction::Remove { key } => govern(desk, LedgerAct::RemoveUploader { key: *key }).await,
        UploaderAction::List => {
            for (key, name) in LedgerState::read(&desk.ledger().await?).uploaders {
                match json {
                    true => println!("{}", serde_json::json!({ "key": key.to_string(), "name": name })),
                    false => println!("{key}  {name}"),
                }
            }
            Ok(())
        }
    }
}

async fn operator(action: &OperatorAction, desk: &Desk, json: bool) -> Result<(), Failure> {
    match action {
        OperatorAction::Add { key, name, role } => {
            let (name, role) = (name.clone(), *role);
            govern(desk, LedgerAct::AddOperator { key: *key, name, role }).await
        }
        OperatorAction::Remove { key } => govern(desk, LedgerAct::RemoveOperator { key: *key }).await,
        OperatorAction::List => {
            for (key, OperatorEntry { name, role }) in LedgerState::read(&desk.ledger().await?).operators {
                let role = role.name();
                match json {
                    true => println!(
                        "{}",
                        serde_json::json!({ "key": key.to_string(), "name": name, "role": role })
                    ),
                    false => println!("{key}  {role:<8}  {name}"),
                }
            }
            Ok(())
        }
    }
}
