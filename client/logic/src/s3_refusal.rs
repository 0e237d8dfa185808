//! What S3 says when it gives no object, and what the user can do about it.
//!
//! Always holds: an object counts as missing only where S3 says so; what is shown of an answer is its code and its message,
//! both short: the rest may repeat a signature.
//! Leaves to others: whether a bucket hides what it lacks behind 403 (`server_state`), when to try again (`fetch_failure`).

use std::fmt;

use crate::fetch_failure::FetchFailure;

/// How the object was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Asked {
    /// The region that is asked.
    pub region: String,
    /// With credentials.
    pub signed: bool,
    /// With the word that the reader pays.
    pub pays: bool,
}

/// An answer of S3 without an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Refusal {
    status: u16,
    // Empty where the answer says none.
    code: String,
    message: String,
    cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    NoObject,
    NoBucket,
    /// The bucket lies there, if that is said.
    Elsewhere(Option<String>),
    /// Our clock is ahead of the server's by so many seconds.
    Clock(i64),
    Credentials,
    /// Nobody in particular asked, or somebody who may not read it, or who has to pay first.
    Denied(S3Asked),
    Other,
}

/// Signatures hold for 15 minutes: whoever is nearer than this was refused for something else.
const CLOCK_OFF_SECONDS_MAX: u64 = 10 * 60;

const SHOWN_LETTERS: usize = 200;

impl S3Refusal {
    /// By an answer's status, the beginning of its body, its header `x-amz-bucket-region`, and by how many seconds our clock
    /// is ahead of its `Date`.
    pub fn read(
        status: u16,
        body: &[u8],
        region: Option<&str>,
        ahead_seconds: Option<i64>,
        asked: &S3Asked,
    ) -> Self {
        let said = Said::parse(body);
        let right = region.map(shown).or(said.region).filter(|right| *right != asked.region);
        let clock =
            ahead_seconds.filter(|ahead| ahead.unsigned_abs() > CLOCK_OFF_SECONDS_MAX && asked.signed);
        let cause = match (status, said.code.as_str()) {
            (_, "NoSuchBucket") => Cause::NoBucket,
            (404, "NoSuchKey") => Cause::NoObject,
            (301 | 302 | 303 | 307 | 308, _) => Cause::Elsewhere(right),
            // Others say where they are in every answer, also to whoever asked no region.
            (400 | 403, code) if right.is_some() && code.starts_with("Authorization") => {
                Cause::Elsewhere(right)
            }
            (_, "RequestTimeTooSkewed") => Cause::Clock(ahead_seconds.unwrap_or(0)),
            (400 | 403, _) if clock.is_some() => Cause::Clock(clock.unwrap_or(0)),
            (
                _,
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "InvalidToken"
                | "ExpiredToken"
                | "InvalidTokenId"
                | "TokenRefreshRequired",
            ) => Cause::Credentials,
            (403, "AccessDenied" | "") => Cause::Denied(asked.clone()),
            _ => Cause::Other,
        };
        Self { status, code: said.code, message: said.message, cause }
    }

    /// Whether the bucket says that it lacks the object.
    pub fn lacks(&self) -> bool {
        self.cause == Cause::NoObject
    }

    /// Whether that is how a bucket answers which may not be listed, when it lacks the object. An answer without a code is
    /// somebody else's, or did not arrive as a whole.
    pub fn may_hide(&self) -> bool {
        matches!(self.cause, Cause::Denied(_)) && !self.code.is_empty()
    }

    /// What kind of failure it is.
    pub fn failure(&self) -> FetchFailure {
        match &self.cause {
            Cause::NoBucket | Cause::Elsewhere(_) | Cause::Clock(_) | Cause::Credentials => {
                FetchFailure::Refused
            }
            // S3 limits rates by 503: its 403 does not pass. Whoever else answers 403 gives no code.
            Cause::Denied(_) | Cause::Other if self.status == 403 && !self.code.is_empty() => {
                FetchFailure::Unusable
            }
            Cause::Denied(_) | Cause::NoObject | Cause::Other => FetchFailure::Status(self.status),
        }
    }
}

impl fmt::Display for S3Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "S3 answers {}", self.status)?;
        if !self.code.is_empty() {
            write!(formatter, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(formatter, " ({})", self.message.trim_end_matches('.'))?;
        }
        match &self.cause {
            Cause::NoBucket => formatter.write_str(": there is no such bucket at this endpoint"),
            Cause::Elsewhere(Some(right)) => {
                write!(formatter, ": the bucket lies in {right}: say region={right} in the source's URL")
            }
            Cause::Elsewhere(None) => formatter.write_str(
                ": the bucket lies elsewhere: say its region=… and endpoint=… in the source's URL",
            ),
            Cause::Clock(ahead) => {
                let (minutes, side) = (ahead.unsigned_abs() / 60, if *ahead < 0 { "behind" } else { "ahead of" });
                write!(formatter, ": this machine's clock is {minutes} minutes {side} the server's: set it")
            }
            Cause::Credentials => formatter
                .write_str(": the access key, its secret or the session token is not, or no longer, valid"),
            Cause::Denied(S3Asked { signed: false, pays: false, .. }) => formatter.write_str(
                ": it was asked without credentials, which this bucket does not permit: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws/credentials by profile=NAME in the source's URL",
            ),
            Cause::Denied(S3Asked { signed: false, pays: true, .. }) => {
                formatter.write_str(": who pays has to be known: --requester-pays needs credentials")
            }
            Cause::Denied(S3Asked { pays: false, .. }) => formatter.write_str(
                ": these credentials may not read it, or whoever reads this bucket pays: then say --requester-pays",
            ),
            Cause::Denied(_) => formatter.write_str(": these credentials may not read it"),
            Cause::NoObject | Cause::Other => Ok(()),
        }
    }
}

/// What the body of such an answer says.
#[derive(Debug, Default)]
struct Said {
    code: String,
    message: String,
    region: Option<String>,
}

impl Said {
    fn parse(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let Ok(document) = roxmltree::Document::parse(text) else { return Self::default() };
        let root = document.root_element();
        if root.tag_name().name() != "Error" {
            return Self::default();
        }
        let child = |name| {
            let node = root.children().find(|node| node.tag_name().name() == name)?;
            node.text().map(shown).filter(|text| !text.is_empty())
        };
        Self {
            code: child("Code").unwrap_or_default(),
            message: child("Message").unwrap_or_default(),
            region: child("Region"),
        }
    }
}

/// The beginning of what a server says, in one line.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|letter| !letter.is_control()).take(SHOWN_LETTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch_failure::FetchVerdict;

    fn asked(signed: bool, pays: bool) -> S3Asked {
        S3Asked { region: "us-east-1".to_owned(), signed, pays }
    }

    fn body(code: &str, more: &str) -> Vec<u8> {
        let head = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
        format!("{head}\n<Error><Code>{code}</Code><Message>Why.</Message>{more}</Error>").into_bytes()
    }

    fn refusal(status: u16, code: &str) -> S3Refusal {
        S3Refusal::read(status, &body(code, ""), None, Some(0), &asked(true, false))
    }

    fn is_of_all(refusal: &S3Refusal) -> bool {
        refusal.failure().verdict(true) == FetchVerdict::ServerFails
    }

    #[test]
    fn the_right_region_is_named_from_the_header_or_the_body() {
        let by_header = S3Refusal::read(
            301,
            &body("PermanentRedirect", ""),
            Some("eu-west-1"),
            None,
            &asked(true, false),
        );
        let more = "<Region>eu-west-1</Region>";
        let by_body = S3Refusal::read(
            400,
            &body("AuthorizationQueryParametersError", more),
            None,
            None,
            &asked(true, false),
        );
        for refusal in [by_header, by_body] {
            assert!(refusal.to_string().contains("say region=eu-west-1"), "{refusal}");
            assert!(is_of_all(&refusal));
        }
        let same =
            S3Refusal::read(403, &body("AccessDenied", ""), Some("us-east-1"), None, &asked(true, false));
        assert!(same.may_hide(), "{same}");
        let elsewhere =
            S3Refusal::read(403, &body("AccessDenied", ""), Some("site-1"), None, &asked(false, false));
        assert!(elsewhere.may_hide(), "{elsewhere}");
        assert!(
            S3Refusal::read(307, b"", None, None, &asked(true, false)).to_string().contains("lies elsewhere")
        );
    }

    #[test]
    fn access_denied_says_what_the_user_can_do() {
        let denied = |signed, pays| {
            let refusal =
                S3Refusal::read(403, &body("AccessDenied", ""), None, Some(2), &asked(signed, pays));
            assert_eq!(refusal.failure().verdict(true), FetchVerdict::FileFails, "{refusal}");
            refusal.to_string()
        };
        assert!(denied(false, false).contains("asked without credentials"));
        assert!(denied(true, false).contains("--requester-pays"));
        assert!(denied(false, true).contains("--requester-pays needs credentials"));
        assert!(
            denied(true, true)
                .ends_with("S3 answers 403 AccessDenied (Why): these credentials may not read it")
        );
    }

    #[test]
    fn what_refuses_every_request_is_never_an_absence() {
        for (status, code) in [
            (403, "InvalidAccessKeyId"),
            (403, "SignatureDoesNotMatch"),
            (400, "ExpiredToken"),
            (404, "NoSuchBucket"),
            (403, "RequestTimeTooSkewed"),
        ] {
            let refusal = refusal(status, code);
            assert!(is_of_all(&refusal) && !refusal.lacks() && !refusal.may_hide(), "{refusal}");
        }
        assert!(refusal(404, "NoSuchKey").lacks());
        // A body that did not arrive, and a page of a server that is no S3.
        for body in [&b""[..], b"<html>no</html>"] {
            let cut = |status| S3Refusal::read(status, body, None, None, &asked(true, false));
            assert!(!cut(404).lacks() && !cut(403).may_hide());
            assert_eq!(cut(404).failure().verdict(true), FetchVerdict::FileFails);
            assert_eq!(cut(403).failure().verdict(true), FetchVerdict::Passes);
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_named_whatever_the_code_is() {
        let late = S3Refusal::read(403, &body("AccessDenied", ""), None, Some(-3600), &asked(true, false));
        assert!(late.to_string().contains("60 minutes behind"), "{late}");
        assert!(is_of_all(&late) && !late.may_hide());
        let unsigned =
            S3Refusal::read(403, &body("AccessDenied", ""), None, Some(-3600), &asked(false, false));
        assert!(unsigned.may_hide(), "nobody looked at a date");
    }

    #[test]
    fn what_passes_is_told_by_the_status() {
        assert_eq!(refusal(503, "SlowDown").failure().verdict(true), FetchVerdict::Passes);
        assert_eq!(refusal(500, "InternalError").failure().verdict(true), FetchVerdict::Passes);
        assert_eq!(refusal(400, "InvalidRequest").failure().verdict(true), FetchVerdict::FileFails);
        assert_eq!(refusal(403, "InvalidObjectState").failure().verdict(true), FetchVerdict::FileFails);
    }

    #[test]
    fn answers_of_anybody_else_show_nothing_and_break_nothing() {
        let long = format!("<Error><Code>{}</Code><StringToSign>x</StringToSign></Error>", "y".repeat(5000));
        for body in
            [&b"\xff\xfe"[..], b"<html>no</html>", b"<Error>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><Error/>"]
        {
            let refusal = S3Refusal::read(403, body, None, None, &asked(true, true));
            assert_eq!(refusal.to_string(), "S3 answers 403: these credentials may not read it");
            assert_eq!(refusal.failure(), FetchFailure::Status(403));
        }
        let refusal = S3Refusal::read(400, long.as_bytes(), None, None, &asked(true, true));
        assert_eq!(refusal.to_string().len(), "S3 answers 400 ".len() + SHOWN_LETTERS);
    }
}
