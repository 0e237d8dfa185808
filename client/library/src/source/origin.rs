//! Where a source behind a URL lies, and what belongs to it.
//!
//! Always holds: whatever a server says, no request goes to another scheme, host or port than the user named, but for the
//! same host with TLS.
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

    /// The URL that `location` means in an answer to a request for `url`; none if that lies elsewhere.
    pub(super) fn redirected(&self, url: &str, location: &str) -> Option<String> {
        let below = |path: &str| format!("{}://{}{path}", self.scheme, self.authority);
        if location.starts_with("//") {
            return self.redirected(url, &format!("{}:{location}", self.scheme));
        }
        if location.starts_with('/') {
            return Some(below(location));
        }
        if !location.contains("://") {
            let own: Uri = url.parse().ok()?;
            let (folder, _) = own.path().rsplit_once('/')?;
            return Some(below(&format!("{folder}/{location}")));
        }
        let uri: Uri = location.parse().ok()?;
        let (scheme, host, port) = place_of(&uri)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if host != self.host {
            None
        } else if (&scheme, port) == (&self.scheme, self.port) {
            Some(below(path))
        } else if (self.scheme.as_str(), self.port, scheme.as_str(), port) == ("http", 80, "https", 443) {
            let authority = self.authority.strip_suffix(":80").unwrap_or(&self.authority);
            Some(format!("https://{authority}{path}"))
        } else {
            None
        }
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
    let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
    Some((scheme, host, uri.port_u16().unwrap_or(usual)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(base: &str, location: &str) -> Option<String> {
        let origin = Origin::parse(base).unwrap();
        origin.redirected(&origin.url("nar/x"), location)
    }

    #[test]
    fn redirects_stay_at_the_source() {
        let to = |location| redirected("https://Cache.example/c/", location).unwrap();
        assert_eq!(to("/y"), "https://Cache.example/y");
        assert_eq!(to("y?z=1"), "https://Cache.example/c/nar/y?z=1");
        assert_eq!(to("https://cache.EXAMPLE:443/y?z"), "https://Cache.example/y?z");
        assert_eq!(to("//cache.example/y"), "https://Cache.example/y");
        for elsewhere in [
            "https://other.example/y",
            "https://cache.example:8443/y",
            "http://cache.example/y",
            "//other.example/y",
            "https://cache.example@other.example/y",
            "https://cache.example.other/y",
            "file:///etc/passwd",
            "ftp://cache.example/y",
        ] {
            assert_eq!(redirected("https://cache.example/c", elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn the_same_host_may_ask_for_tls() {
        let to = |base| redirected(base, "https://a.example/y");
        assert_eq!(to("http://a.example").as_deref(), Some("https://a.example/y"));
        assert_eq!(to("http://a.example:80").as_deref(), Some("https://a.example/y"));
        assert_eq!(to("http://a.example:8080"), None);
    }

    #[test]
    fn a_password_is_used_and_not_shown() {
        let origin = Origin::parse("https://me:secret@a.example/c/").unwrap();
        assert_eq!(origin.url("x"), "https://me:secret@a.example/c/x");
        assert_eq!(origin.redirected("", "https://a.example/y").unwrap(), "https://me:secret@a.example/y");
        assert_eq!((origin.to_string().as_str(), origin.host()), ("https://a.example/c", "a.example"));
    }

    #[test]
    fn what_has_no_host_is_no_origin() {
        for text in ["https://", "https:///x", "x", "https://a/?q=1", "http://a b/"] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }
}
