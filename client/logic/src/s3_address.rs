//! `s3://BUCKET[/PREFIX][?…]`: which bucket is meant and where it is asked for, as Nix's own S3 store reads it.
//!
//! Always holds: no part of the text but the endpoint, which the user wrote, decides which host is asked, but for the bucket
//! and the region as one label each; a parameter that is not known is not passed over.
//! Leaves to others: credentials, signing and asking (the client library).

use std::fmt;

use url::{Host, Url};

/// How a bucket is named in the URLs of its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Style {
    /// As the first folder.
    Path,
    /// As the first label of the host.
    Virtual,
}

/// What an `s3://` URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Address {
    /// The bucket.
    pub bucket: String,
    /// The cache's folder in it: no slash at either end; or empty.
    pub prefix: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Whom to ask, without the bucket: http or https.
    pub endpoint: Url,
    /// How its URLs name the bucket.
    pub style: S3Style,
    /// Whose credentials, if that is said.
    pub profile: Option<String>,
    /// No credentials are to be used.
    pub anonymous: bool,
}

/// Why a text is no address of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum S3AddressError {
    /// There is no bucket in it.
    #[error(
        "`{0}` names no bucket: give s3://BUCKET[/PREFIX][?region=REGION&endpoint=URL&profile=NAME]; a bucket's name has \
         letters, digits, `.`, `-` and `_`"
    )]
    NoBucket(String),
    /// Its folder climbs.
    #[error("`{0}` is no folder of a bucket: it has an empty, `.` or `..` part")]
    Prefix(String),
    /// Nix knows no such parameter.
    #[error("s3:// takes no `{0}`: known are region, endpoint, scheme, profile, addressing-style and public")]
    Parameter(String),
    /// A parameter says what it cannot.
    #[error("`{name}={value}` says nothing to s3://: give {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
}

// Nix's default, which is S3's oldest region.
const REGION: &str = "us-east-1";

// A DNS label: it becomes part of a host's name.
const REGION_BYTES_MAX: usize = 63;

// S3's bound before 2018, when names became host names of at most 63.
const BUCKET_BYTES_MAX: usize = 255;

// What Nix's URLs say to writers and to Nix itself: nothing to a reader of the files.
const SETTINGS_OF_NIX: [&str; 24] = [
    "buffer-size",
    "compression",
    "compression-level",
    "index-debug-info",
    "local-nar-cache",
    "log-compression",
    "ls-compression",
    "max-connections",
    "multipart-chunk-size",
    "multipart-threshold",
    "multipart-upload",
    "narinfo-compression",
    "parallel-compression",
    "path-info-cache-size",
    "priority",
    "secret-key",
    "secret-keys",
    "storage-class",
    "store",
    "system-features",
    "trusted",
    "want-mass-query",
    "write-debug-info",
    "write-nar-listing",
];

impl S3Address {
    /// What `text` says.
    ///
    /// # Errors
    /// It is no `s3://` URL of a bucket, or a parameter cannot be understood.
    pub fn parse(text: &str) -> Result<Self, S3AddressError> {
        let no_bucket = || S3AddressError::NoBucket(shown(text));
        let url = Url::parse(text).map_err(|_| no_bucket())?;
        let bucket = url.host_str().filter(|name| is_bucket(name)).ok_or_else(no_bucket)?.to_owned();
        let plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
        if url.scheme() != "s3" || !plain || url.fragment().is_some() {
            return Err(no_bucket());
        }
        let said = Parameters::of(&url)?;
        let endpoint = said.endpoint(&bucket)?;
        Ok(Self {
            prefix: prefix_of(&url)?,
            style: said.style(&bucket, &endpoint)?,
            region: said.region()?,
            endpoint,
            profile: said.profile.filter(|name| !name.is_empty()),
            anonymous: said.public,
            bucket,
        })
    }

    /// The key of a file of the cache.
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.prefix) }
    }
}

/// The parameters as they were written.
#[derive(Debug, Default)]
struct Parameters {
    region: Option<String>,
    endpoint: Option<String>,
    scheme: Option<String>,
    style: Option<String>,
    profile: Option<String>,
    public: bool,
}

impl Parameters {
    fn of(url: &Url) -> Result<Self, S3AddressError> {
        let mut said = Self::default();
        for (name, value) in url.query_pairs() {
            let value = value.into_owned();
            match name.as_ref() {
                "region" => said.region = Some(value),
                "endpoint" => said.endpoint = Some(value),
                "scheme" => said.scheme = Some(value),
                "addressing-style" => said.style = Some(value),
                "profile" => said.profile = Some(value),
                "public" => {
                    said.public = match value.as_str() {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(refused("public", &value, "true or false")),
                    }
                }
                other if SETTINGS_OF_NIX.contains(&other) => {}
                other => return Err(S3AddressError::Parameter(shown(other))),
            }
        }
        Ok(said)
    }

    fn region(&self) -> Result<String, S3AddressError> {
        let Some(region) = self.region.as_deref().filter(|region| !region.is_empty()) else {
            return Ok(REGION.to_owned());
        };
        let is_label = region.len() <= REGION_BYTES_MAX
            && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if is_label { Ok(region.to_owned()) } else { Err(refused("region", region, "one like eu-west-1")) }
    }

    /// Whom to ask: the endpoint with its own scheme, or with the one that is said beside it; else Amazon's for the region.
    fn endpoint(&self, bucket: &str) -> Result<Url, S3AddressError> {
        let scheme = match self.scheme.as_deref() {
            None | Some("" | "https") => "https",
            Some("http") => "http",
            Some(other) => return Err(refused("scheme", other, "https or http")),
        };
        let named = self.endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        let text = match named {
            Some(whole) if whole.contains("://") => whole.to_owned(),
            Some(host) => format!("{scheme}://{host}"),
            None => {
                let region = self.region()?;
                let country = if region.starts_with("cn-") { ".cn" } else { "" };
                format!("{scheme}://s3.{region}.amazonaws.com{country}")
            }
        };
        let no_endpoint =
            || refused("endpoint", named.unwrap_or(bucket), "HOST, HOST:PORT or http(s)://HOST:PORT");
        let url = Url::parse(&text).map_err(|_| no_endpoint())?;
        let plain = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !plain || url.query().or(url.fragment()).is_some() {
            return Err(no_endpoint());
        }
        Ok(url)
    }

    /// As Nix chooses: certificates of Amazon's hosts hold for one label before them, and other servers often know folders
    /// only.
    fn style(&self, bucket: &str, endpoint: &Url) -> Result<S3Style, S3AddressError> {
        let is_custom = self.endpoint.as_deref().is_some_and(|endpoint| !endpoint.is_empty());
        let is_label =
            bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let has_name = matches!(endpoint.host(), Some(Host::Domain(_)));
        match self.style.as_deref() {
            None | Some("" | "auto") if is_custom || !is_label => Ok(S3Style::Path),
            None | Some("" | "auto") => Ok(S3Style::Virtual),
            Some("path") => Ok(S3Style::Path),
            Some("virtual") if is_label && has_name => Ok(S3Style::Virtual),
            Some("virtual") => Err(refused(
                "addressing-style",
                "virtual",
                "path: this bucket and endpoint make no host's name",
            )),
            Some(other) => Err(refused("addressing-style", other, "auto, path or virtual")),
        }
    }
}

fn prefix_of(url: &Url) -> Result<String, S3AddressError> {
    let path = url.path().trim_matches('/');
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8();
    let decoded = decoded.map_err(|_| S3AddressError::Prefix(shown(path)))?.into_owned();
    let climbs = decoded.split('/').any(|part| matches!(part, "" | "." | ".."));
    if !decoded.is_empty() && (climbs || decoded.contains(char::is_control)) {
        return Err(S3AddressError::Prefix(shown(&decoded)));
    }
    Ok(decoded)
}

fn is_bucket(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=BUCKET_BYTES_MAX).contains(&name.len()) && name.bytes().all(known) && !matches!(name, "." | "..")
}

fn refused(name: &'static str, value: &str, expected: &'static str) -> S3AddressError {
    S3AddressError::Value { name, value: shown(value), expected }
}

/// The beginning of what somebody wrote, for a message: without what stands before an `@`, as other tools take keys there.
fn shown(text: &str) -> String {
    let text = text.rsplit('@').next().unwrap_or(text);
    text.chars().filter(|letter| !letter.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> S3Address {
        S3Address::parse(text).unwrap()
    }

    fn refusal(text: &str) -> String {
        S3Address::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_bucket_alone_lies_where_nix_looks_for_it() {
        let address = parse("s3://example-nix-cache");
        assert_eq!(address.endpoint.as_str(), "https://s3.us-east-1.amazonaws.com/");
        assert_eq!((address.bucket.as_str(), address.prefix.as_str()), ("example-nix-cache", ""));
        assert_eq!((address.region.as_str(), address.style), ("us-east-1", S3Style::Virtual));
        assert_eq!((address.profile, address.anonymous), (None, false));
    }

    #[test]
    fn parameters_are_those_of_nix() {
        let text = "s3://Cache_1/a/b%20c/?region=eu-west-1&endpoint=minio.example:9000&scheme=http&profile=me&trusted=1\
                    &compression=zstd";
        let address = parse(text);
        assert_eq!(address.endpoint.as_str(), "http://minio.example:9000/");
        assert_eq!((address.region.as_str(), address.style), ("eu-west-1", S3Style::Path));
        assert_eq!(address.profile.as_deref(), Some("me"));
        assert_eq!(address.key("x.narinfo"), "a/b c/x.narinfo");
        assert_eq!(address.to_string(), "s3://Cache_1/a/b c");
        let whole = parse("s3://c?endpoint=http%3A%2F%2F127.0.0.1%3A9000%2Fs3&scheme=https&public=true");
        assert_eq!(whole.endpoint.as_str(), "http://127.0.0.1:9000/s3");
        assert!(whole.anonymous);
    }

    #[test]
    fn a_bucket_goes_before_the_host_only_where_certificates_hold_for_it() {
        assert_eq!(parse("s3://a.b").style, S3Style::Path);
        assert_eq!(parse("s3://a?endpoint=h.example").style, S3Style::Path);
        assert_eq!(parse("s3://a?endpoint=h.example&addressing-style=virtual").style, S3Style::Virtual);
        assert_eq!(parse("s3://a?addressing-style=path").style, S3Style::Path);
        assert!(refusal("s3://a.b?addressing-style=virtual").contains("path"));
        assert!(refusal("s3://a?endpoint=10.0.0.1&addressing-style=virtual").contains("path"));
        let china = parse("s3://a?region=cn-north-1");
        assert_eq!(china.endpoint.as_str(), "https://s3.cn-north-1.amazonaws.com.cn/");
    }

    #[test]
    fn what_would_lead_to_another_host_or_out_of_the_folder_is_refused() {
        for text in [
            "s3://",
            "s3:///x",
            "s3://me:secret@bucket",
            "s3://bucket:9000",
            "s3://a#b",
            "s3://a%2eb",
            "s3://..",
        ] {
            assert!(matches!(S3Address::parse(text), Err(S3AddressError::NoBucket(_))), "{text}");
            assert!(!refusal(text).contains("secret"), "{text}");
        }
        assert!(!refusal("s3://a?endpoint=http://me:secret@h").contains("secret"));
        assert!(refusal("s3://a?public=yes").contains("true or false"));
        for text in ["s3://a/b//c", "s3://a/%2e%2e%2fb", "s3://a/b%0Ac"] {
            assert!(matches!(S3Address::parse(text), Err(S3AddressError::Prefix(_))), "{text}");
        }
        assert!(refusal("s3://a?region=evil.example/").contains("eu-west-1"));
        assert!(refusal("s3://a?regoin=eu-west-1").contains("takes no `regoin`"));
        assert!(refusal("s3://a?scheme=ftp").contains("https or http"));
        for endpoint in ["ftp://h", "http://me:x@h", "h?x", "http://"] {
            assert!(refusal(&format!("s3://a?endpoint={endpoint}")).contains("HOST:PORT"), "{endpoint}");
        }
    }
}
