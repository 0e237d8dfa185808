//! `firn bundle`: looking at bundles.

use std::str::FromStr;

use clap::Subcommand;
use firn_base::{BundleId, BundleNumber};
use firn_bundle::ContentHeader;
use firn_transport::AskError;
use firn_wire::{BundleInfo, BundleName, BundleSummary, CoordinatorReply, CoordinatorRequest};

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::node;
use crate::output::print_as;
use crate::report::{BundleDetails, BundleReport, bundle_table};
use crate::session::Session;

/// Look at bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// List all bundles
    List,
    /// Print one bundle with the homes of its shards
    Show {
        /// Its number, or its id of 64 hexadecimal digits
        #[arg(value_name = "ID|NUMBER", value_parser = parse_name)]
        name: BundleName,
    },
}

fn parse_name(text: &str) -> Result<BundleName, String> {
    match u32::from_str(text) {
        Ok(number) => Ok(BundleName::Number(BundleNumber(number))),
        Err(_) => match BundleId::from_str(text) {
            Ok(id) => Ok(BundleName::Id(id)),
            Err(_) => Err("a bundle is named by its number or by 64 hexadecimal digits".to_owned()),
        },
    }
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, command: &BundleCommand) -> Result<Done, CommandError> {
    let session = Session::open(common).await?;
    match command {
        BundleCommand::List => {
            let bundles: Vec<BundleReport> = list(&session).await?.iter().map(BundleReport::from).collect();
            print_as(common.json, &bundles, |bundles| bundle_table(bundles))?;
        }
        BundleCommand::Show { name } => {
            let details = show(&session, *name).await?;
            print_as(common.json, &details, ToString::to_string)?;
        }
    }
    session.close().await;
    Ok(Done::Completely)
}

/// The bundles from number `from` on, as many as one answer holds; none behind the last.
pub(crate) async fn page(session: &Session, from: BundleNumber) -> Result<Vec<BundleSummary>, AskError> {
    match session.ask_leader(&CoordinatorRequest::ListBundles { from }).await? {
        CoordinatorReply::BundleList(bundles) => Ok(bundles),
        _ => Err(AskError::UnexpectedReply),
    }
}

async fn list(session: &Session) -> Result<Vec<BundleSummary>, AskError> {
    let mut all: Vec<BundleSummary> = Vec::new();
    let mut from = Some(BundleNumber(0));
    while let Some(next) = from {
        let bundles = page(session, next).await?;
        let Some(last) = bundles.last().map(|bundle| bundle.number) else { break };
        // A coordinator that goes back would be asked for ever.
        if last < next {
            return Err(AskError::UnexpectedReply);
        }
        from = last.0.checked_add(1).map(BundleNumber);
        all.extend(bundles);
    }
    Ok(all)
}

async fn show(session: &Session, name: BundleName) -> Result<BundleDetails, CommandError> {
    let unknown = || {
        CommandError::Failed(match name {
            BundleName::Number(number) => format!("the archive has no bundle with the number {number}"),
            BundleName::Id(id) => format!("the archive has no bundle {id}"),
        })
    };
    let infos = session.archive().coordinators().bundles(&[name]).await?;
    let info: BundleInfo = infos.into_iter().next().flatten().ok_or_else(unknown)?;
    let content = ContentHeader::parse(&info.content_header);
    let content = content.map_err(|error| CommandError::Failed(error.to_string()))?;
    let bundles = page(session, info.number).await?;
    let bundle = bundles.into_iter().find(|bundle| bundle.number == info.number).ok_or_else(unknown)?;
    Ok(BundleDetails::new(&bundle, &content, node::list(session).await?))
}
