//! What a store path's name says: the package, and which version of it.
//!
//! Always holds: the split and the order are Nix's own (`builtins.parseDrvName`, `builtins.compareVersions`).
//! Leaves to others: what follows from it.

use std::cmp::Ordering;

/// Package and version of a store path's name: the version begins behind the first dash that no letter follows.
pub fn package_and_version(name: &str) -> (&str, &str) {
    let bytes = name.as_bytes();
    let dash = bytes.windows(2).position(|pair| pair[0] == b'-' && !pair[1].is_ascii_alphabetic());
    dash.map_or((name, ""), |dash| (&name[..dash], &name[dash + 1..]))
}

/// A version without what names an output or a variant of it (`-dev`, `-man`): all outputs of a version are as new.
pub(crate) fn release_of(version: &str) -> &str {
    let bytes = version.as_bytes();
    let dash = bytes.windows(2).position(|pair| pair[0] == b'-' && pair[1].is_ascii_alphabetic());
    dash.map_or(version, |dash| &version[..dash])
}

/// Which of two versions is newer, as Nix sees it.
pub(crate) fn compare_versions(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    while !(one.is_empty() && other.is_empty()) {
        let order = compare_components(next_component(&mut one), next_component(&mut other));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes a run of digits or of anything else off the front; dots and dashes only separate.
fn next_component<'a>(rest: &mut &'a str) -> &'a str {
    *rest = rest.trim_start_matches(['.', '-']);
    let digits = rest.starts_with(|first: char| first.is_ascii_digit());
    let ends = |next: char| {
        if digits { !next.is_ascii_digit() } else { next.is_ascii_digit() || matches!(next, '.' | '-') }
    };
    let (component, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    *rest = behind;
    component
}

/// Words sort before numbers, `pre` before everything, nothing before numbers and words but `pre`.
fn compare_components(one: &str, other: &str) -> Ordering {
    let rank = |component: &str| match component {
        "pre" => 0,
        "" => 1,
        word if !word.starts_with(|first: char| first.is_ascii_digit()) => 2,
        _ => 3,
    };
    let number = |component: &str| component.trim_start_matches('0').len();
    rank(one).cmp(&rank(other)).then_with(|| match rank(one) {
        // Numbers of any length: the longer one is larger.
        3 => number(one)
            .cmp(&number(other))
            .then_with(|| one.trim_start_matches('0').cmp(other.trim_start_matches('0'))),
        _ => one.cmp(other),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_split_as_nix_splits_them() {
        for (name, package, version) in [
            ("hello-2.12.1", "hello", "2.12.1"),
            ("python3.12-foo-bar-1.0-dev", "python3.12-foo-bar", "1.0-dev"),
            ("nix-0.12pre12876", "nix", "0.12pre12876"),
            ("source", "source", ""),
            ("linux-headers", "linux-headers", ""),
            ("a--b", "a", "-b"),
            ("x-", "x-", ""),
        ] {
            assert_eq!(package_and_version(name), (package, version));
        }
    }

    #[test]
    fn versions_are_ordered_as_in_the_manual_of_nix() {
        for (older, newer) in [
            ("1.0", "2.3"),
            ("2.1", "2.3"),
            ("2.3", "2.3.1"),
            ("2.3.1", "2.3a"),
            ("2.3pre1", "2.3"),
            ("2.3pre3", "2.3pre12"),
            ("2.3a", "2.3c"),
            ("2.3pre1", "2.3c"),
            ("2.3pre1", "2.3q"),
            ("9", "10"),
            ("99999999999999999999998", "99999999999999999999999"),
        ] {
            let expected =
                if (older, newer) == ("2.3.1", "2.3a") { Ordering::Greater } else { Ordering::Less };
            assert_eq!(compare_versions(older, newer), expected, "{older} {newer}");
        }
        assert_eq!(compare_versions("2.03", "2.3"), Ordering::Equal);
    }

    #[test]
    fn outputs_of_a_version_are_as_new_as_it_is() {
        for (version, release) in [("1.2-dev", "1.2"), ("1.2", "1.2"), ("2024-01-02", "2024-01-02"), ("", "")]
        {
            assert_eq!(release_of(version), release);
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(versions in prop::collection::vec("[0-3a-c.pre-]{0,8}", 3)) {
            let [a, b, c] = &versions[..] else { unreachable!() };
            prop_assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse());
            if compare_versions(a, b).is_le() && compare_versions(b, c).is_le() {
                prop_assert!(compare_versions(a, c).is_le());
            }
        }
    }
}
