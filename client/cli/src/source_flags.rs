//! Which binary cache a command reads from, and how.
//!
//! Leaves to others: reading it (`firn-client`).

use clap::Args;
use clap::builder::RangedI64ValueParser;
use firn_client::{AwsEnvironment, S3Options, SOURCE_CONNECTIONS_MAX, Source, SourceOptions};
use firn_transport::Environment;

use crate::command_error::CommandError;

/// Flags of commands that read a binary cache.
#[derive(Debug, Args)]
pub(crate) struct SourceFlags {
    /// A binary cache: a directory, file://…, http(s)://… or s3://BUCKET[/PREFIX]. S3 takes Nix's own parameters:
    /// ?region=REGION&endpoint=URL&scheme=http&profile=NAME&addressing-style=path; it is asked with the profile's keys in
    /// ~/.aws/credentials, else with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, else with the default
    /// profile's, else (or with public=true) without any
    source: String,
    /// The source lies in a private network although it has a name. Without it a name leads to public addresses only,
    /// however it resolves; a source that is given by its address is read from there and nowhere else
    #[arg(long, env = "FIRN_PRIVATE_SOURCE")]
    private_source: bool,
    /// Connections to a source behind a URL, at most: 1 to 256
    #[arg(long, value_name = "N", default_value = "16", env = "FIRN_SOURCE_CONNECTIONS", value_parser = connections())]
    source_connections: u16,
    /// The reader of this s3:// bucket pays for requests and traffic, and that is you
    #[arg(long, env = "FIRN_REQUESTER_PAYS")]
    requester_pays: bool,
}

impl SourceFlags {
    /// Opens the source. Blocks for as long as a directory or a file of credentials takes.
    ///
    /// # Errors
    ///
    /// There is no such source.
    pub(crate) fn open(&self) -> Result<Source, CommandError> {
        Source::open_with(&self.source, &self.options())
            .map_err(|error| CommandError::Failed(error.to_string()))
    }

    /// How servers are spoken to.
    pub(crate) fn options(&self) -> SourceOptions {
        SourceOptions {
            private: self.private_source,
            connections: self.source_connections.into(),
            seed: Environment::real().random_u64(),
            s3: S3Options {
                requester_pays: self.requester_pays,
                environment: AwsEnvironment::read(|name| std::env::var_os(name)),
            },
        }
    }
}

fn connections() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=SOURCE_CONNECTIONS_MAX as i64)
}
