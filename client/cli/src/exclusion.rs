//! Store paths that shall not be published, by patterns.
//!
//! Always holds: without patterns nothing is read; a narinfo that cannot be read is not excluded, so that it is
//! refused with its reason.
//! Leaves to others: what is published (`firn-client`).

use firn_client::Source;
use firn_nix_format::PathInfo;

use crate::command_error::CommandError;
use crate::store_path_argument::StorePathArgument;

/// Patterns of what is left out.
#[derive(Debug, Clone)]
pub(crate) struct Exclusion {
    patterns: Vec<String>,
}

impl Exclusion {
    /// Leaves out what fits any of `patterns`, where `*` is any text and `?` any character. A pattern is compared
    /// with the name behind the hash and with the base name.
    pub(crate) fn new(patterns: &[String]) -> Self {
        Self { patterns: patterns.to_vec() }
    }

    /// The paths to publish: of `paths`, or of everything in `source` if none are given. Blocks.
    pub(crate) fn apply(
        &self,
        source: &Source,
        paths: Option<Vec<String>>,
    ) -> Result<Option<Vec<String>>, CommandError> {
        if self.patterns.is_empty() {
            return Ok(paths);
        }
        let failed = |error: firn_client::SourceError| CommandError::Failed(error.to_string());
        let mut names = match paths {
            Some(paths) => paths,
            None => {
                let mut names = source.list().map_err(failed)?;
                names.extend(source.list_blobs().map_err(failed)?);
                names
            }
        };
        names.retain(|name| !self.base_name(source, name).is_some_and(|base| self.excludes(&base)));
        Ok(Some(names))
    }

    /// The base name of the store path that was named, by its own name or by its narinfo.
    fn base_name(&self, source: &Source, name: &str) -> Option<String> {
        match name.parse::<StorePathArgument>().ok()? {
            StorePathArgument::Path(path) => Some(path.base_name().to_owned()),
            argument @ StorePathArgument::Hash(_) => {
                let text = source.narinfo(&argument.to_string()).ok()??;
                Some(PathInfo::parse(&text).ok()?.store_path.base_name().to_owned())
            }
        }
    }

    fn excludes(&self, base_name: &str) -> bool {
        let name = base_name.split_once('-').map_or(base_name, |(_, name)| name);
        self.patterns.iter().any(|pattern| fits(pattern, name) || fits(pattern, base_name))
    }
}

/// Whether `text` fits `pattern`. Takes time in proportion to both lengths' product at most.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut position) = (0, 0);
    // Where the last star stands, and how much of the text it took.
    let mut star: Option<(usize, usize)> = None;
    while position < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(own) if *own == '?' || *own == text[position] => {
                at += 1;
                position += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                position = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|own| *own == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_fit_as_in_a_shell() {
        for (pattern, text) in [
            ("*-doc", "x-doc"),
            ("*", ""),
            ("a?c*", "abc"),
            ("*b*b", "abab"),
            ("a*b*c", "a1b2b3c"),
            ("x", "x"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("*-doc", "doc"), ("a?c", "ac"), ("", "a"), ("*b", "abc"), ("x", "xx")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn what_fits_is_left_out_whether_named_or_listed() {
        let place = tempfile::tempdir().unwrap();
        let hash = "4d20g8srpvv02vkiwrmz28g62m15n56b";
        let narinfo = format!(
            "StorePath: /nix/store/{hash}-tree-doc\nURL: nar/x.nar\nCompression: none\n\
             NarHash: sha256:0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3\nNarSize: 1424\nReferences: \n"
        );
        std::fs::write(place.path().join(format!("{hash}.narinfo")), narinfo).unwrap();
        std::fs::write(place.path().join("broken.narinfo"), "what?").unwrap();
        let source = Source::open(place.path().to_str().unwrap()).unwrap();
        let left = |patterns: &[&str], paths: Option<&[&str]>| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            let paths = paths.map(|paths| paths.iter().map(ToString::to_string).collect());
            Exclusion::new(&patterns).apply(&source, paths).unwrap()
        };
        assert_eq!(left(&[], None), None);
        assert_eq!(left(&["*-doc"], None).unwrap(), ["broken"]);
        assert_eq!(left(&["*-man"], None).unwrap(), [hash, "broken"]);
        let named = format!("/nix/store/{hash}-tree");
        assert_eq!(left(&["tree"], Some(&[&named])).unwrap(), Vec::<String>::new());
        assert_eq!(left(&[&format!("{hash}*")], Some(&[hash])).unwrap(), Vec::<String>::new());
    }
}
