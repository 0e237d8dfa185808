//! Which paths of a source one uploader takes.
//!
//! Owns: patterns of what is left out, and the division of an import among uploaders. Always holds: of `of` shares each
//! path is in exactly one, whoever asks and whatever else is published; all versions and outputs of a package are in one,
//! so that they can share chunks.
//! Leaves to others: reading names (the client library).

use std::fmt;
use std::str::FromStr;

use crate::package_name::package_and_version;

/// One of several equal parts of an import, as in `3/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    // From 0 on.
    index: u32,
    of: u32,
}

/// A share is written otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no share: write N/OF, from 1/16 to 16/16 for sixteen uploaders")]
pub struct ParseShareError(String);

/// What one uploader takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Patterns of names that are left out: `*` is any text, `?` any character.
    pub exclude: Vec<String>,
    /// The part that is taken; all if none is given.
    pub share: Option<Share>,
}

impl FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(number, of)| {
            let (number, of): (u32, u32) = (number.parse().ok()?, of.parse().ok()?);
            Some(Self { index: number.checked_sub(1).filter(|index| *index < of)?, of })
        });
        parsed.ok_or_else(|| ParseShareError(text.to_owned()))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index + 1, self.of)
    }
}

impl Share {
    /// Whether it has what is called so.
    fn holds(&self, name: &str) -> bool {
        // A number below `of`, in proportion to the hash.
        let part = (u128::from(hash_of(name)) * u128::from(self.of)) >> 64;
        part == u128::from(self.index)
    }
}

impl Selection {
    /// Whether the path with this base name (hash, dash, name) is taken. Patterns are compared with the name behind the hash
    /// and with the base name.
    pub fn takes_path(&self, base_name: &str) -> bool {
        let name = base_name.split_once('-').map_or(base_name, |(_, name)| name);
        let excluded = self.exclude.iter().any(|pattern| fits(pattern, name) || fits(pattern, base_name));
        !excluded && self.share.is_none_or(|share| share.holds(package_and_version(name).0))
    }

    /// Whether a file that belongs to no path is taken, by its URL.
    pub fn takes_file(&self, url: &str) -> bool {
        self.share.is_none_or(|share| share.holds(url))
    }
}

/// FNV-1a, its bits mixed: every uploader must divide alike, for as long as an import takes, so it is pinned by tests.
fn hash_of(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    crate::retry_schedule::mixed(fnv, 0)
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
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "4d20g8srpvv02vkiwrmz28g62m15n56b";

    fn share(text: &str) -> Selection {
        Selection { share: Some(text.parse().unwrap()), ..Selection::default() }
    }

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
    fn what_fits_a_pattern_is_left_out_by_name_or_by_base_name() {
        let without = |pattern: &str| Selection { exclude: vec![pattern.to_owned()], share: None };
        let base_name = format!("{HASH}-tree-doc");
        assert!(!without("*-doc").takes_path(&base_name) && !without("tree*").takes_path(&base_name));
        assert!(!without(&format!("{HASH}*")).takes_path(&base_name));
        assert!(without("*-man").takes_path(&base_name));
        assert!(without("*").takes_file("realisations/x.doi"), "patterns are for paths");
    }

    #[test]
    fn shares_are_counted_from_one() {
        assert_eq!("3/16".parse::<Share>().unwrap().to_string(), "3/16");
        assert!("16/16".parse::<Share>().is_ok());
        for text in ["0/16", "17/16", "1/0", "1", "a/b", "-1/2", ""] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_division_is_pinned_because_uploaders_of_other_versions_take_part() {
        let of = |name: &str| {
            let takes = |number: &u32| share(&format!("{number}/16")).takes_path(&format!("{HASH}-{name}"));
            (1..=16).find(takes).unwrap()
        };
        assert_eq!(["hello-2.12", "gcc-13.2.0-lib", "source", "linux-6.6"].map(of), [15, 12, 3, 13]);
    }

    #[test]
    fn shares_are_about_equal() {
        let takes = |number: &usize| share("5/16").takes_path(&format!("{HASH}-package{number}x-1.0"));
        let taken = (0..16_000).filter(takes).count();
        assert!((900..1100).contains(&taken), "{taken} of 16,000 in a share of 16");
    }

    proptest! {
        #[test]
        fn each_path_is_in_exactly_one_share(of in 1u32..40, name in "[a-z0-9.+-]{1,30}") {
            let shares = (1..=of).map(|number| share(&format!("{number}/{of}")));
            let base_name = format!("{HASH}-{name}");
            prop_assert_eq!(shares.clone().filter(|share| share.takes_path(&base_name)).count(), 1);
            prop_assert_eq!(shares.filter(|share| share.takes_file(&name)).count(), 1);
        }

        #[test]
        fn versions_and_outputs_of_a_package_stay_together(
            package in "[a-z]{1,10}(-[a-z]{1,5})?", one in "[0-9][a-z0-9.-]{0,8}", other in "[0-9][a-z0-9.-]{0,8}",
        ) {
            for number in 1..=7 {
                let share = share(&format!("{number}/7"));
                let takes = |version: &str| share.takes_path(&format!("{HASH}-{package}-{version}"));
                prop_assert_eq!(takes(&one), takes(&other));
            }
        }
    }
}
