//! Where a source behind a URL lies, and what belongs to it.
//!
//! Always holds: whatever a server says, no request goes to another scheme, host, port or folder than the user named, but
//! for the same host with TLS: what lies beside the source on its server may be meant for the user only, and what a publish
//! reads it publishes.
//! Leaves to others: which addresses the host may have (`guarded_resolver`), and what below it may be opened (the source).

use std::fmt;

use ureq::http::Uri;

/// A source's scheme, host, port and folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    // As the user wrote it, a password perhaps included.
    authority: String,
    // In lower case.
    host: String,
    port: u16,
    // With a slash at its front and none at its end; or empty.
    folder: String,
}

impl Origin {
    /// None if `text` is no http(s) URL with a host, or has a query.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (scheme, host, port) = place_of(&uri)?;
        if uri.query().is_some() {
            return None;
        }
        let authority = uri.authority()?.as_str().to_owned();
        Some(Self { scheme, authority, host, port, folder: uri.path().trim_end_matches('/').to_owned() })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The URL of a file below the folder.
    pub(super) fn url(&self, name: &str) -> String {
        format!("{}://{}{}/{name}", self.scheme, self.authority, self.folder)
    }

    /// The URL that `location` means in an answer to a request for `url`, which is one of this source; none if that lies
    /// elsewhere.
    pub(super) fn redirected(&self, url: &str, location: &str) -> Option<String> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, _) = rest.split_once('/')?;
        let target: Uri = if location.starts_with("//") {
            format!("{scheme}:{location}").parse().ok()?
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}").parse().ok()?
        } else if has_scheme(location) {
            location.parse().ok()?
        } else {
            let path = url.split('?').next()?;
            format!("{}/{location}", path.rsplit_once('/')?.0).parse().ok()?
        };
        let (scheme, host, port) = place_of(&target)?;
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        if host != self.host || !self.is_below(target.path()) {
            return None;
        }
        // With the authority of our own: nobody else's user name and password.
        if (&scheme, port) == (&self.scheme, self.port) {
            Some(format!("{}://{}{path}", self.scheme, self.authority))
        } else if (self.scheme.as_str(), self.port, scheme.as_str(), port) == ("http", 80, "https", 443) {
            let authority = self.authority.strip_suffix(":80").unwrap_or(&self.authority);
            Some(format!("https://{authority}{path}"))
        } else {
            None
        }
    }

    /// Whether a path lies below the folder, however its server resolves dots.
    fn is_below(&self, path: &str) -> bool {
        let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
        let climbs = plain.split(['/', '\\']).any(|segment| matches!(segment, "." | ".."));
        !climbs && path.strip_prefix(&self.folder).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Origin {
    /// Without the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.authority.rsplit_once('@').map_or(self.authority.as_str(), |(_, host)| host);
        write!(formatter, "{}://{authority}{}", self.scheme, self.folder)
    }
}

/// Scheme, host and port.
fn place_of(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = uri.host()?.to_ascii_lowercase();
    // The name with a dot at its end is the same one.
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.is_empty() {
        return None;
    }
    Some((scheme, host.to_owned(), uri.port_u16().unwrap_or(usual)))
}

/// Whether `location` is a whole URL: its first colon comes before anything of a path or query.
fn has_scheme(location: &str) -> bool {
    location.find([':', '/', '?', '#']).is_some_and(|at| location[at..].starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(base: &str, location: &str) -> Option<String> {
        let origin = Origin::parse(base).unwrap();
        origin.redirected(&origin.url("nar/x"), location)
    }

    #[test]
    fn redirects_stay_below_the_source() {
        let to = |location| redirected("https://Cache.example/c/", location).unwrap();
        assert_eq!(to("/c/y"), "https://Cache.example/c/y");
        assert_eq!(to("y?z=1"), "https://Cache.example/c/nar/y?z=1");
        assert_eq!(to("y?from=http://a/b"), "https://Cache.example/c/nar/y?from=http://a/b");
        assert_eq!(to("https://cache.EXAMPLE:443/c/y?z"), "https://Cache.example/c/y?z");
        assert_eq!(to("//cache.example./c/y"), "https://Cache.example/c/y");
        for elsewhere in [
            "https://other.example/c/y",
            "https://cache.example:8443/c/y",
            "http://cache.example/c/y",
            "//other.example/c/y",
            "https://cache.example@other.example/c/y",
            "https://cache.example.other/c/y",
            "file:///c/y",
            "ftp://cache.example/c/y",
            // Beside the folder.
            "/y",
            "/",
            "/c",
            "/cc/y",
            "/C/y",
            "https://cache.example/y",
            "//cache.example/y",
            "../../y",
            "/c/../y",
            "/c/%2e%2E/y",
            "/c/.%2e/y",
            "/c/..%2fy",
            "/c/..%5Cy",
            "/c/x/./y",
        ] {
            assert_eq!(redirected("https://cache.example/c", elsewhere), None, "{elsewhere}");
        }
        assert_eq!(redirected("https://a.example", "/y").as_deref(), Some("https://a.example/y"));
    }

    #[test]
    fn the_same_host_may_ask_for_tls_and_stays_there() {
        let to = |base| redirected(base, "https://a.example/y");
        assert_eq!(to("http://a.example").as_deref(), Some("https://a.example/y"));
        assert_eq!(to("http://a.example:80").as_deref(), Some("https://a.example/y"));
        assert_eq!(to("http://a.example:8080"), None);
        let origin = Origin::parse("http://a.example/c").unwrap();
        for further in ["/c/z", "z", "//a.example/c/z"] {
            let then = origin.redirected("https://a.example/c/y", further);
            assert_eq!(then.as_deref(), Some("https://a.example/c/z"), "{further}");
        }
    }

    #[test]
    fn a_password_is_used_and_not_shown() {
        let origin = Origin::parse("https://me:secret@a.example/c/").unwrap();
        assert_eq!(origin.url("x"), "https://me:secret@a.example/c/x");
        let away = origin.redirected(&origin.url("x"), "https://you:else@a.example/c/y").unwrap();
        assert_eq!(away, "https://me:secret@a.example/c/y");
        assert_eq!((origin.to_string().as_str(), origin.host()), ("https://a.example/c", "a.example"));
    }

    #[test]
    fn what_has_no_host_is_no_origin() {
        for text in ["https://", "https:///x", "x", "https://a/?q=1", "http://a b/"] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }
}
