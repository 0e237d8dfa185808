//! What is published first.
//!
//! Always holds: the order says what comes before what and leaves nothing out; it rests on names and references alone, so
//! that it is the same at every run.
//! Leaves to others: keeping closures together within it (`packing`).

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use firn_base::ObjectKey;

use crate::package_name::{compare_versions, package_and_version, release_of};

/// A kind of paths that may come before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrderClass {
    /// What was fetched to be built from: it vanishes from where it came from, and nobody can build it again.
    Sources,
    /// What the user lists as released, with all that it needs.
    Releases,
    /// The newest version of each package, with all that it needs: what is asked for most.
    Recent,
    /// Everything else.
    Rest,
}

/// It names no kind of paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of sources, releases, recent, rest")]
pub struct ParseOrderClassError(String);

/// What a path is judged by.
#[derive(Debug, Clone, Copy)]
pub struct OrderFacts<'a> {
    /// The path.
    pub key: ObjectKey,
    /// Its name behind the hash.
    pub name: &'a str,
    /// Whether it refers to others.
    pub has_references: bool,
    /// Its content address, if it has one.
    pub content_address: Option<&'a str>,
}

/// What comes first, and what is a release.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishOrder {
    /// The kinds, the first one first. A path that is of several is of the first of them; one that is of none comes last.
    pub classes: Vec<OrderClass>,
    /// The paths of [`OrderClass::Releases`].
    pub releases: BTreeSet<ObjectKey>,
}

/// The newest release of one package, of the versions that were seen; none as long as nothing had a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewestRelease(Option<String>);

// Files that others were built from, by how they are called.
const SOURCE_SUFFIXES: [&str; 17] = [
    ".tar", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".tar.lz", ".tgz", ".tbz2", ".txz", ".zip",
    ".crate", ".gem", ".whl", ".deb", ".patch", ".diff", "-source",
];

impl FromStr for OrderClass {
    type Err = ParseOrderClassError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sources" => Ok(Self::Sources),
            "releases" => Ok(Self::Releases),
            "recent" => Ok(Self::Recent),
            "rest" => Ok(Self::Rest),
            other => Err(ParseOrderClassError(other.to_owned())),
        }
    }
}

impl NewestRelease {
    /// There is this version too.
    pub fn see(&mut self, version: &str) {
        let release = release_of(version);
        let newer = |known: &String| compare_versions(release, known).is_gt();
        if !release.is_empty() && self.0.as_ref().is_none_or(newer) {
            self.0 = Some(release.to_owned());
        }
    }

    fn is_of(&self, version: &str) -> bool {
        self.0.as_ref().is_some_and(|newest| compare_versions(release_of(version), newest).is_eq())
    }
}

impl PublishOrder {
    /// The place of each path's class, 0 for the first.
    pub fn ranks(&self, paths: &[OrderFacts<'_>]) -> Vec<u32> {
        let mut newest: BTreeMap<&str, NewestRelease> = BTreeMap::new();
        if self.classes.contains(&OrderClass::Recent) {
            for path in paths {
                let (package, version) = package_and_version(path.name);
                newest.entry(package).or_default().see(version);
            }
        }
        let none = NewestRelease::default();
        let rank = |path: &OrderFacts<'_>| {
            self.rank(path, newest.get(package_and_version(path.name).0).unwrap_or(&none))
        };
        paths.iter().map(rank).collect()
    }

    /// The place of one path's class, 0 for the first, where `newest` is the newest release of its package.
    pub fn rank(&self, path: &OrderFacts<'_>, newest: &NewestRelease) -> u32 {
        let is = |class: &OrderClass| match class {
            OrderClass::Sources => is_source(path),
            OrderClass::Releases => self.releases.contains(&path.key),
            OrderClass::Recent => newest.is_of(package_and_version(path.name).1),
            OrderClass::Rest => true,
        };
        let place = self.classes.iter().position(is).unwrap_or(self.classes.len());
        u32::try_from(place).unwrap_or(u32::MAX)
    }
}

/// Without references, and either fetched by its hash or called as archives of sources are.
fn is_source(path: &OrderFacts<'_>) -> bool {
    let fixed = path.content_address.is_some_and(|address| address.starts_with("fixed:"));
    let called = path.name == "source" || SOURCE_SUFFIXES.iter().any(|suffix| path.name.ends_with(suffix));
    !path.has_references && (fixed || called)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u8, name: &str) -> OrderFacts<'_> {
        OrderFacts {
            key: ObjectKey::store_path([number; 20]),
            name,
            has_references: true,
            content_address: None,
        }
    }

    fn order(classes: &str) -> PublishOrder {
        PublishOrder {
            classes: classes.split(',').map(|class| class.parse().unwrap()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn sources_are_what_was_fetched_and_refers_to_nothing() {
        let bare = |name| OrderFacts { has_references: false, ..path(1, name) };
        let fetched = OrderFacts { content_address: Some("fixed:r:sha256:x"), ..bare("hello") };
        let text = OrderFacts { content_address: Some("text:sha256:x"), ..bare("hello") };
        let paths =
            [bare("hello-1.0.tar.gz"), bare("source"), fetched, text, bare("hello-1.0"), path(1, "x.tar.gz")];
        assert_eq!(order("sources,rest").ranks(&paths), [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn recent_are_all_outputs_of_the_newest_version() {
        let names = ["hello-1.9", "hello-1.10", "hello-1.10-man", "hello-1.9-man", "other-1", "unversioned"];
        let paths = names.map(|name| path(1, name));
        assert_eq!(order("recent").ranks(&paths), [1, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn a_path_alone_is_judged_as_among_all_of_its_package() {
        let names = ["hello-1.9", "hello-1.10", "hello-1.10-man", "hello"];
        let paths = names.map(|name| path(1, name));
        let mut newest = NewestRelease::default();
        for version in ["1.9", "1.10-man", "1.10", ""] {
            newest.see(version);
        }
        let order = order("recent");
        assert_eq!(paths.map(|path| order.rank(&path, &newest)), [1, 0, 0, 1]);
        assert_eq!(order.rank(&path(1, "hello"), &NewestRelease::default()), 1);
    }

    #[test]
    fn a_path_of_several_kinds_is_of_the_first_and_one_of_none_comes_last() {
        let paths = [path(1, "a-1"), path(2, "a-2"), path(3, "a-1")];
        let mut releases_first = order("releases,recent");
        releases_first.releases.extend([paths[1].key, paths[2].key]);
        assert_eq!(releases_first.ranks(&paths), [2, 0, 0]);
        let mut recent_first = PublishOrder { releases: releases_first.releases, ..order("recent,releases") };
        assert_eq!(recent_first.ranks(&paths), [2, 0, 1]);
        recent_first.classes.clear();
        assert_eq!(recent_first.ranks(&paths), [0, 0, 0]);
    }

    #[test]
    fn rest_may_come_before_others() {
        let source = OrderFacts { has_references: false, ..path(1, "x.patch") };
        assert_eq!(order("rest,sources").ranks(&[source]), [0], "everything is rest as well");
        assert_eq!(
            "all".parse::<OrderClass>().unwrap_err().to_string(),
            "`all` is none of sources, releases, recent, rest"
        );
    }
}
