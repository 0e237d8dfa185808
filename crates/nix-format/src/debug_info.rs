//! Debuginfo links: in which NAR the debug information of a build id lies, and where in it.
//!
//! Always holds: the URLs of a build id are those that Nix writes and debuggers ask for.
//! Leaves to others: whether the NAR has such a member.

use std::fmt;

use serde_json::{Value, json};

use crate::{StorePath, preview};

/// The largest file of a link. Real ones have some 200 bytes.
pub const DEBUG_INFO_BYTES_MAX: usize = 64 << 10;

const FOLDER: &str = "debuginfo/";
const SUFFIX: &str = ".debug";
const DIGITS: usize = 40;

/// The build id of a program, as its linker chose it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BuildId(
    /// Its bytes: those of a SHA-1.
    pub [u8; 20],
);

/// A text names no debuginfo link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no debuginfo link: that is debuginfo/<40 hexadecimal digits>, or with .debug")]
pub struct ParseDebugInfoUrlError(String);

/// What a link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugInfoLink {
    /// The URL of the NAR's file, relative to the link's own.
    pub archive: String,
    /// The file within the NAR.
    pub member: String,
    /// The store path whose NAR it is; said by links that Firn archives, not by those that Nix writes.
    pub store_path: Option<StorePath>,
}

/// A file is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no JSON object with the texts `archive` and `member`, of 64 KiB at most")]
pub struct ParseDebugInfoLinkError;

impl BuildId {
    /// Reads the URL of a link, relative to its cache: `debuginfo/<build id>`, or what Nix writes,
    /// `debuginfo/<build id>.debug`.
    pub fn from_url(url: &str) -> Result<Self, ParseDebugInfoUrlError> {
        let refused = || ParseDebugInfoUrlError(preview(url));
        let name = url.strip_prefix(FOLDER).ok_or_else(refused)?;
        let digits = name.strip_suffix(SUFFIX).unwrap_or(name);
        if digits.len() != DIGITS {
            return Err(refused());
        }
        let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).map_err(|_| refused())?;
        bytes.try_into().map(Self).map_err(|_| refused())
    }

    /// The two URLs that its link may have, that which Nix writes first.
    pub fn urls(&self) -> [String; 2] {
        [format!("{FOLDER}{self}{SUFFIX}"), format!("{FOLDER}{self}")]
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl DebugInfoLink {
    /// Reads a link's file.
    pub fn parse(contents: &[u8]) -> Result<Self, ParseDebugInfoLinkError> {
        if contents.len() > DEBUG_INFO_BYTES_MAX {
            return Err(ParseDebugInfoLinkError);
        }
        let value: Value = serde_json::from_slice(contents).map_err(|_| ParseDebugInfoLinkError)?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let (Some(archive), Some(member)) = (text("archive"), text("member")) else {
            return Err(ParseDebugInfoLinkError);
        };
        let store_path = text("storePath").map(StorePath::from_base_name).transpose();
        let store_path = store_path.map_err(|_| ParseDebugInfoLinkError)?;
        Ok(Self { archive: archive.to_owned(), member: member.to_owned(), store_path })
    }

    /// The URL of the NAR's file relative to the cache, if it lies there at all.
    pub fn archive_url(&self) -> Option<&str> {
        self.archive.strip_prefix("../")
    }

    /// The link as a file.
    pub fn to_json(&self) -> String {
        let mut link = json!({ "archive": self.archive, "member": self.member });
        if let Some(store_path) = &self.store_path {
            link["storePath"] = store_path.base_name().into();
        }
        link.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_urls_of_a_link_name_its_build_id() {
        let id = BuildId([0xab; 20]);
        assert_eq!(id.urls(), [format!("debuginfo/{0}.debug", "ab".repeat(20)), format!("debuginfo/{id}")]);
        assert!(id.urls().iter().all(|url| BuildId::from_url(url) == Ok(id)));
        for url in ["debuginfo/", "debuginfo/ab", "debuginfo/../x", "log/x"] {
            assert!(BuildId::from_url(url).is_err(), "{url}");
        }
        assert!(BuildId::from_url(&format!("debuginfo/{}", "AB".repeat(20))).is_err());
    }

    #[test]
    fn a_link_is_read_and_written_the_same() {
        let text = r#"{"archive":"../nar/x.nar.xz","member":"lib/debug/a.debug"}"#;
        let mut link = DebugInfoLink::parse(text.as_bytes()).unwrap();
        assert_eq!((link.archive_url(), link.to_json().as_str()), (Some("nar/x.nar.xz"), text));
        link.store_path = Some(StorePath::from_parts([1; 20], "x-debug").unwrap());
        assert_eq!(DebugInfoLink::parse(link.to_json().as_bytes()), Ok(link));
    }

    #[test]
    fn what_is_no_link_is_refused() {
        for text in ["", "[]", r#"{"archive":"x"}"#, r#"{"archive":1,"member":"x"}"#] {
            assert!(DebugInfoLink::parse(text.as_bytes()).is_err(), "{text}");
        }
        let hostile = r#"{"archive":"x","member":"y","storePath":"../../etc"}"#;
        assert!(DebugInfoLink::parse(hostile.as_bytes()).is_err());
        let large = format!(r#"{{"archive":"x","member":"{}"}}"#, "y".repeat(DEBUG_INFO_BYTES_MAX));
        assert!(DebugInfoLink::parse(large.as_bytes()).is_err());
    }
}
