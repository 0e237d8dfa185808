//! `firn node`: looking at storage nodes.

use std::collections::BTreeMap;

use clap::Subcommand;
use firn_base::{NodeId, Timestamp};
use firn_transport::{AskError, VerifiedLedger};
use firn_wire::{CoordinatorReply, CoordinatorRequest, LedgerAct, NodeSummary, RestingNode};

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::print_as;
use crate::report::{NodeReport, node_table};
use crate::session::Session;

/// Look at storage nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List all nodes of the archive
    List,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, command: &NodeCommand) -> Result<Done, CommandError> {
    let NodeCommand::List = command;
    let session = Session::open(common).await?;
    let nodes = list(&session).await?;
    // Only the ledger knows when a node joined; without it the list is as good.
    let joined = match common.json {
        false => BTreeMap::new(),
        true => match session.archive().ledger().await {
            Ok(ledger) => joined_at(&ledger),
            Err(error) => {
                tracing::warn!("when nodes joined is not known: {error}");
                BTreeMap::new()
            }
        },
    };
    let resting = resting(&session).await.unwrap_or_default();
    let resting: BTreeMap<NodeId, RestingNode> = resting.into_iter().map(|node| (node.node, node)).collect();
    let reports: Vec<NodeReport> =
        nodes.iter().map(|node| NodeReport::new(node, &joined, &resting)).collect();
    print_as(common.json, &reports, |reports| node_table(reports))?;
    session.close().await;
    Ok(Done::Completely)
}

/// All nodes, as the leader sees them if it answers.
pub(crate) async fn list(session: &Session) -> Result<Vec<NodeSummary>, AskError> {
    match session.ask_leader(&CoordinatorRequest::ListNodes).await? {
        CoordinatorReply::NodeList(nodes) => Ok(nodes),
        _ => Err(AskError::UnexpectedReply),
    }
}

/// The nodes that rest, as the leader hears them if it answers; none where nobody says, or is of a version that does.
pub(crate) async fn resting(session: &Session) -> Option<Vec<RestingNode>> {
    match session.ask_leader(&CoordinatorRequest::ListResting).await {
        Ok(CoordinatorReply::Resting(nodes)) => Some(nodes),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!("which nodes rest is not known: {error}");
            None
        }
    }
}

/// When each node used up its token: that is how nodes join.
fn joined_at(ledger: &VerifiedLedger) -> BTreeMap<NodeId, Timestamp> {
    let mut joined = BTreeMap::new();
    for entry in &ledger.entries {
        if let LedgerAct::UseToken { node, .. } = &entry.act {
            joined.entry(NodeId::from(*node)).or_insert(entry.at);
        }
    }
    joined
}
