//! `firn path-info`: what the archive knows of store paths.

use clap::Args;
use firn_gateway::Located;
use firn_nix_format::{PathInfo, StorePath};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::trusted_keys;
use crate::output::{print, print_json};
use crate::path_search::{unsettled, whose_signatures};
use crate::record_finder::FoundPath;
use crate::session::Session;
use crate::store_path_argument::StorePathArgument;

/// Print what the archive knows of store paths, as narinfo text.
///
/// The text is the one that was published, with its original URL; --json adds where the archive keeps it.
#[derive(Debug, Args)]
pub(crate) struct PathInfoOptions {
    /// Store paths: whole, by base name, or by their hash of 32 characters
    #[arg(required = true, value_name = "STOREPATH")]
    paths: Vec<StorePathArgument>,
    /// Name as publishers only these keys, "K1 K2"; by default all of the archive's
    #[arg(long, value_name = "KEYS", env = "FIRN_TRUSTED_PUBLIC_KEYS")]
    trusted_public_keys: Vec<String>,
}

/// A path info as it is printed.
#[derive(Debug, Serialize)]
struct PathInfoReport {
    store_path: String,
    nar_hash: String,
    nar_size: u64,
    references: Vec<String>,
    deriver: Option<String>,
    signatures: Vec<String>,
    ca: Option<String>,
    url: String,
    compression: &'static str,
    file_hash: Option<String>,
    file_size: Option<u64>,
    /// The publisher of the archive whose signature holds.
    publisher: Option<String>,
    bundle: String,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: PathInfoOptions) -> Result<Done, CommandError> {
    let trusted = trusted_keys(&options.trusted_public_keys)?;
    let session = Session::open(common).await?;
    let finder = session.finder();
    let keys: Vec<_> = options.paths.iter().map(StorePathArgument::key).collect();
    let (places, ledger) = tokio::join!(finder.locate(&keys), session.archive().ledger());
    let (publishers, _) = whose_signatures(ledger, trusted)?;
    let (mut found, mut complete) = (Vec::new(), true);
    let Located { places, doubt } = places?;
    for ((argument, key), places) in options.paths.iter().zip(&keys).zip(places) {
        match finder.path(key, &places, &publishers).await? {
            Some(path) if argument.names(&path.info.store_path) => found.push(path),
            Some(path) => {
                complete = false;
                eprintln!("error: {argument} is not archived; {} is", path.info.store_path);
            }
            None => {
                complete = false;
                match &doubt {
                    Some(why) => eprintln!("error: {argument}: {}", unsettled(why)),
                    None => eprintln!("error: {argument} is not archived"),
                }
            }
        }
    }
    if common.json {
        print_json(&found.iter().map(PathInfoReport::from).collect::<Vec<_>>())?;
    } else if !found.is_empty() {
        let texts: Vec<String> = found.iter().map(|path| path.info.to_string()).collect();
        print(&texts.join("\n"))?;
    }
    session.close().await;
    Ok(Done::when(complete))
}

impl From<&FoundPath> for PathInfoReport {
    fn from(path: &FoundPath) -> Self {
        let info: &PathInfo = &path.info;
        Self {
            store_path: info.store_path.to_string(),
            nar_hash: info.nar_hash.to_string(),
            nar_size: info.nar_size,
            references: info.references.iter().map(StorePath::to_string).collect(),
            deriver: info.deriver.as_ref().map(StorePath::to_string),
            signatures: info.signatures.iter().map(ToString::to_string).collect(),
            ca: info.ca.clone(),
            url: info.url.clone(),
            compression: info.compression.name(),
            file_hash: info.file_hash.map(|hash| hash.to_string()),
            file_size: info.file_size,
            publisher: path.publisher.as_ref().map(|key| key.name().to_owned()),
            bundle: path.found.bundle.to_string(),
        }
    }
}
