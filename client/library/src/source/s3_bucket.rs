//! A cache's folder in a bucket of S3: signed requests for its files, and what its refusals mean.
//!
//! Always holds: each request is signed for its own moment, so that no try and no rest of a body comes with a signature
//! that ran out, and no longer by credentials of a file than that has them; only objects of the folder are asked for,
//! and only by GET, since answers to HEAD do not say why they refuse.
//! Leaves to others: sending (`http`), the signature itself (`rusty_s3`), what a refusal means (`firn-client-logic`).

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use firn_client_logic::{S3Address, S3AddressError, S3Asked, S3Refusal, S3Style};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rusty_s3::actions::S3Action as _;
use rusty_s3::{Bucket, Credentials, UrlStyle};
use ureq::http::Response;

use super::aws_credentials::{AwsCredentialsError, AwsEnvironment};
use super::http::header;

// S3 refuses clocks that differ by more, so that nothing is gained by a longer or shorter one.
const SIGNATURE_HOLDS: Duration = Duration::from_secs(15 * 60);

// Who sends it is billed. It is part of what is signed.
const PAYER: (&str, &str) = ("x-amz-request-payer", "requester");

/// How S3 is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The user pays for what is read.
    pub requester_pays: bool,
    /// Where credentials come from.
    pub environment: AwsEnvironment,
}

/// Why an `s3://` source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum S3SourceError {
    /// Its URL says nothing that can be understood.
    #[error(transparent)]
    Address(#[from] S3AddressError),
    /// The credentials that it names cannot be had.
    #[error(transparent)]
    Credentials(#[from] AwsCredentialsError),
    /// No URL can be made of it.
    #[error(
        "no URL can be made of the bucket `{bucket}` and its endpoint: {reason}; say addressing-style=path"
    )]
    Bucket {
        /// The bucket.
        bucket: String,
        /// What is wrong.
        reason: rusty_s3::BucketError,
    },
}

// Credentials in a file that are made anew every hour or so are there some minutes before the old ones run out.
const READ_AGAIN_SECONDS: i64 = 60;

pub(super) struct S3Bucket {
    address: S3Address,
    bucket: Bucket,
    environment: AwsEnvironment,
    signer: Option<Mutex<Signer>>,
    asked: S3Asked,
    now: fn() -> Timestamp,
}

/// Whose requests these are.
struct Signer {
    credentials: Credentials,
    // Since when that is known; none before the first request.
    read_at: Option<Timestamp>,
}

impl S3Bucket {
    /// The bucket that `text` names. Blocks for as long as a file of credentials takes.
    pub(super) fn open(text: &str, options: &S3Options) -> Result<Self, S3SourceError> {
        Self::with(text, options, Timestamp::now)
    }

    /// As [`Self::open`], with a clock.
    pub(super) fn with(
        text: &str,
        options: &S3Options,
        now: fn() -> Timestamp,
    ) -> Result<Self, S3SourceError> {
        let address = S3Address::parse(text)?;
        let profile = address.profile.as_deref();
        let credentials = if address.anonymous { None } else { options.environment.find(profile)? };
        let signer = credentials.map(|credentials| Mutex::new(Signer { credentials, read_at: None }));
        let style = match address.style {
            S3Style::Path => UrlStyle::Path,
            S3Style::Virtual => UrlStyle::VirtualHost,
        };
        let (name, region) = (address.bucket.clone(), address.region.clone());
        let refused = |reason| S3SourceError::Bucket { bucket: address.bucket.clone(), reason };
        let bucket = Bucket::new(address.endpoint.clone(), style, name, region).map_err(refused)?;
        let asked = S3Asked {
            region: address.region.clone(),
            signed: signer.is_some(),
            pays: options.requester_pays,
        };
        Ok(Self { address, bucket, environment: options.environment.clone(), signer, asked, now })
    }

    /// The credentials of the moment `now`; those of before where no others can be had, which is said each time. Where
    /// there were none at the beginning none are looked for.
    fn credentials(&self, now: Timestamp) -> Option<Credentials> {
        let mut signer = self.signer.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let read_at = *signer.read_at.get_or_insert(now);
        if now.as_second().saturating_sub(read_at.as_second()) >= READ_AGAIN_SECONDS {
            signer.read_at = Some(now);
            match self.environment.find(self.address.profile.as_deref()) {
                Ok(Some(credentials)) => signer.credentials = credentials,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the credentials of before are used on"),
            }
        }
        Some(signer.credentials.clone())
    }

    /// Whom requests go to.
    pub(super) fn host(&self) -> &str {
        self.bucket.base_url().host_str().unwrap_or_default()
    }

    /// The URL of a file of the cache, signed for a request of this moment. It is a secret for as long as it holds.
    pub(super) fn signed_url(&self, name: &str) -> String {
        let key = self.address.key(name);
        let now = (self.now)();
        let credentials = self.credentials(now);
        let mut action = self.bucket.get_object(credentials.as_ref(), &key);
        for (name, value) in self.headers() {
            action.headers_mut().insert(name, value);
        }
        action.sign_with_time(SIGNATURE_HOLDS, &now).into()
    }

    /// What goes with each request.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        self.asked.pays.then_some(PAYER).into_iter()
    }

    /// What an answer without an object says; `body`: the beginning of its body.
    pub(super) fn refusal<B>(&self, answer: &Response<B>, body: &[u8]) -> S3Refusal {
        let date =
            header(answer, "date").and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        let ahead_seconds = date.map(|date| (self.now)().as_second().saturating_sub(date.as_second()));
        let region = header(answer, "x-amz-bucket-region");
        S3Refusal::read(answer.status().as_u16(), body, region, ahead_seconds, &self.asked)
    }
}

impl fmt::Display for S3Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}
