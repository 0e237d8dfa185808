//! Realisations: which store path an output of a content-addressed derivation became.
//!
//! Always holds: a [`RealisationUrl`] is one of the two forms that Nix asks for, so it stays within its cache.
//! Leaves to others: their signatures, which Nix checks when it reads them.

use std::fmt;

use serde_json::Value;

use crate::{StorePath, preview};

/// The largest file of a realisation. Real ones have some hundred bytes, and 150 more for each dependency.
pub const REALISATION_BYTES_MAX: usize = 1 << 20;

const BY_HASH: &str = "realisations/";
const BY_NAME: &str = "build-trace-v2/";
const SUFFIX: &str = ".doi";

// Of the hash of a derivation, in base 16.
const HASH_DIGITS: usize = 64;
const OUTPUT_BYTES_MAX: usize = 211;

/// Where a binary cache keeps a realisation: `realisations/sha256:<hash>!<output>.doi`, or, since Nix 2.35,
/// `build-trace-v2/<derivation>/<output>.doi`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealisationUrl(Box<str>);

/// A text names no realisation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no realisation: that is realisations/sha256:<64 digits>!<output>.doi or build-trace-v2/<derivation>/<output>.doi"
)]
pub struct ParseRealisationUrlError(String);

/// Why a file is not the realisation that its URL names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RealisationError {
    /// It is larger than any real one.
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// It is no JSON object.
    #[error("it is no JSON object")]
    NotJson,
    /// It names no store path.
    #[error("its outPath is no base name of a store path")]
    NoOutPath,
    /// It is the realisation of something else.
    #[error("it has the id of another realisation")]
    OtherId,
}

impl RealisationUrl {
    /// Reads a URL relative to its cache.
    pub fn parse(url: &str) -> Result<Self, ParseRealisationUrlError> {
        let named = url.strip_suffix(SUFFIX).is_some_and(|name| {
            name.strip_prefix(BY_HASH).is_some_and(is_id) || name.strip_prefix(BY_NAME).is_some_and(is_trace)
        });
        if named { Ok(Self(url.into())) } else { Err(ParseRealisationUrlError(preview(url))) }
    }

    /// The URL, relative to its cache.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that `contents` is the realisation that is named.
    pub fn check(&self, contents: &[u8]) -> Result<(), RealisationError> {
        if contents.len() > REALISATION_BYTES_MAX {
            return Err(RealisationError::TooLarge);
        }
        let value: Value = serde_json::from_slice(contents).map_err(|_| RealisationError::NotJson)?;
        let fields = value.as_object().ok_or(RealisationError::NotJson)?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if text("outPath").is_none_or(|path| StorePath::from_base_name(path).is_err()) {
            return Err(RealisationError::NoOutPath);
        }
        // The newer form says what it is in its URL alone.
        match self.0.strip_prefix(BY_HASH).and_then(|name| name.strip_suffix(SUFFIX)) {
            Some(id) if text("id") != Some(id) => Err(RealisationError::OtherId),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for RealisationUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn is_id(id: &str) -> bool {
    let is_hash = |hash: &str| {
        hash.len() == HASH_DIGITS && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    id.strip_prefix("sha256:")
        .and_then(|rest| rest.split_once('!'))
        .is_some_and(|(hash, output)| is_hash(hash) && is_output(output))
}

fn is_trace(name: &str) -> bool {
    name.split_once('/').is_some_and(|(derivation, output)| {
        derivation.ends_with(".drv") && StorePath::from_base_name(derivation).is_ok() && is_output(output)
    })
}

/// Names of outputs follow the rules of names of store paths.
fn is_output(name: &str) -> bool {
    name.len() <= OUTPUT_BYTES_MAX && StorePath::from_parts([0; 20], name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_hash() -> String {
        format!("realisations/sha256:{}!out.doi", "0a".repeat(32))
    }

    const BY_TRACE: &str = "build-trace-v2/4d20g8srpvv02vkiwrmz28g62m15n56b-tree.drv/out.doi";

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        for url in [by_hash().as_str(), BY_TRACE, &by_hash().replace("out", "dev-1.0+x")] {
            assert_eq!(RealisationUrl::parse(url).unwrap().as_str(), url);
        }
        for url in [
            "realisations/sha256:0a!out.doi".to_owned(),
            by_hash().replace("0a", "0A"),
            by_hash().replace("!out", ""),
            by_hash().replace("out", "../out"),
            by_hash().replace("out", ""),
            by_hash().replace(".doi", ""),
            by_hash().replace("sha256", "md5"),
            by_hash().replace("out", &"o".repeat(212)),
            BY_TRACE.replace(".drv", ""),
            BY_TRACE.replace("4d", "ed"),
            BY_TRACE.replace("/out", "/a/out"),
            BY_TRACE.replace("/out", "/.."),
            "log/x.doi".to_owned(),
        ] {
            assert!(RealisationUrl::parse(&url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_file_is_checked_against_its_url() {
        let url = RealisationUrl::parse(&by_hash()).unwrap();
        let id = format!("sha256:{}!out", "0a".repeat(32));
        let out = "4d20g8srpvv02vkiwrmz28g62m15n56b-tree";
        let file = |id: &str, out: &str| format!(r#"{{"id":"{id}","outPath":"{out}","signatures":[]}}"#);
        assert_eq!(url.check(file(&id, out).as_bytes()), Ok(()));
        let trace = RealisationUrl::parse(BY_TRACE).unwrap();
        assert_eq!(trace.check(format!(r#"{{"outPath":"{out}"}}"#).as_bytes()), Ok(()));

        assert_eq!(url.check(file("sha256:0b!out", out).as_bytes()), Err(RealisationError::OtherId));
        assert_eq!(url.check(file(&id, "/etc/passwd").as_bytes()), Err(RealisationError::NoOutPath));
        for text in ["", "[]", "{", "\"x\""] {
            assert_eq!(url.check(text.as_bytes()), Err(RealisationError::NotJson), "{text}");
        }
        assert_eq!(url.check(&vec![b' '; REALISATION_BYTES_MAX + 1]), Err(RealisationError::TooLarge));
    }
}
