//! The page at `/`: what this is, how to use it, and where to ask for a path.
//!
//! Always holds: one answer without scripts or anything from elsewhere, which its policy forbids; every text that is not
//! from here is escaped, and a host that is not one is not repeated. Leaves to others: what is true (`gateway_core`).

use std::fmt::Write;
use std::sync::LazyLock;

use firn_nix_format::Sha256;
use hyper::header::{
    CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::uri::Authority;

use super::why::NO_SNIFFING;
use super::{Answer, Asked, NO_STORE, Router};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

// What a proxy in front of the gateway says of the client's connection.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const HOST_BYTES_MAX: usize = 260;

/// The style of the page and nothing else, from anywhere.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = data_encoding::BASE64.encode(Sha256::of(STYLE.as_bytes()).as_bytes());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("letters, digits and punctuation stand in any header")
});

impl Router {
    pub(super) fn page(&self, asked: Asked<'_>) -> Answer {
        let (is_late, health) = self.health();
        let governance = self.core.governance();
        let names: Vec<&str> = governance.publishers.iter().map(|key| key.name()).collect();
        let publishers = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        let url = asked.base_url().unwrap_or_else(|| "https://CACHE".to_owned());
        let class = if is_late { "late" } else { "" };
        let page = filled(&[
            ("style", STYLE.to_owned()),
            ("class", class.to_owned()),
            ("health", escaped(&health)),
            ("publishers", escaped(&publishers)),
            ("url", escaped(&url)),
        ]);
        let answer = Answer::whole(page.into(), HTML, NO_STORE)
            .with(CONTENT_SECURITY_POLICY, POLICY.clone())
            .with(X_CONTENT_TYPE_OPTIONS, NO_SNIFFING)
            .with(REFERRER_POLICY, NO_REFERRER);
        self.at_position(answer)
    }

    /// Whether the gateway is behind, and how it fares, in a sentence.
    fn health(&self) -> (bool, String) {
        let position = self.core.feed_position();
        match self.readiness() {
            Ok(()) => {
                (false, format!("All is well: the archive is followed, at position {position} of its feed."))
            }
            Err(sentence) if !self.core.is_usable() => {
                (true, format!("Not ready: {sentence}. No path is found here until then."))
            }
            Err(sentence) => (
                true,
                format!(
                    "Not up to date: {sentence}. What was known at position {position} is answered from."
                ),
            ),
        }
    }
}

impl Asked<'_> {
    /// The address under which the client reaches the gateway, if it says one.
    fn base_url(&self) -> Option<String> {
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        // HTTP/2 has it in the URI.
        let host = self.uri.authority().map(Authority::as_str).or_else(|| text(HOST));
        let host = host.filter(|host| is_host(host))?;
        let is_secure = self.arrival.over_tls || text(FORWARDED_PROTO) == Some("https");
        let scheme = if is_secure { "https" } else { "http" };
        Some(format!("{scheme}://{host}"))
    }
}

fn is_host(host: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(fits)
}

/// The page with `{name}` replaced, once, so that no value is looked into.
fn filled(values: &[(&str, String)]) -> String {
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + 512);
    let mut pieces = PAGE.split('{');
    page.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_once('}').unwrap_or((piece, ""));
        let value = values.iter().find(|(known, _)| *known == name);
        page.push_str(value.map_or("", |(_, value)| value));
        page.push_str(rest);
    }
    page
}

/// `text` fit for HTML, in attributes too.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => {
                write!(escaped, "&#{};", u32::from(character)).expect("a String takes every write");
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_the_page_is_filled() {
        let names: Vec<&str> =
            PAGE.split('{').skip(1).map(|piece| piece.split_once('}').unwrap().0).collect();
        for name in &names {
            assert!(["style", "class", "health", "publishers", "url"].contains(name), "{name}");
        }
        let page = filled(&[("url", "{health}<".to_owned())]);
        assert!(page.contains("--from {health}<"), "a value is not looked into");
    }

    #[test]
    fn what_means_something_in_html_is_escaped() {
        assert_eq!(escaped("<a b=\"c\">&'"), "&#60;a b=&#34;c&#34;&#62;&#38;&#39;");
    }

    #[test]
    fn a_host_that_is_none_is_not_repeated() {
        for host in ["cache.example.org", "localhost:8080", "[::1]:80"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "a b", "a\"", "a/b", "<x>", &"a".repeat(300)] {
            assert!(!is_host(host), "{host}");
        }
    }
}
