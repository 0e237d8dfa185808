//! The house as ARCHITECTURE.md draws it is the house as cargo builds it.
//!
//! Owns: the layer of each crate, what a deciding crate may never see, and the comparison with the picture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that decide. None of these, nor anything they depend on, may see a runtime, a socket, a database or
/// chance.
const DECIDING: [&str; 9] = [
    "firn-base",
    "firn-erasure",
    "firn-nix-format",
    "firn-bundle",
    "firn-filter",
    "firn-wire",
    "firn-coordinator-logic",
    "firn-storage-node-logic",
    "firn-client-logic",
];
const NEVER_SEEN_BY_DECISIONS: [&str; 7] =
    ["tokio", "quinn", "quinn-proto", "rocksdb", "rand", "openraft", "mio"];

/// Arrows go from a higher number to a smaller one; the one sideways edge is bundle -> nix-format.
const LAYERS: [(&str, u8); 20] = [
    ("firn-base", 0),
    ("firn-erasure", 1),
    ("firn-bundle", 1),
    ("firn-filter", 1),
    ("firn-nix-format", 1),
    ("firn-wire", 1),
    ("firn-coordinator-logic", 2),
    ("firn-storage-node-logic", 2),
    ("firn-client-logic", 2),
    ("firn-program", 3),
    ("firn-transport", 3),
    ("firn-retrieval", 4),
    ("firn-client", 5),
    ("firn-coordinator", 6),
    ("firn-storage-node", 6),
    ("firn-gateway", 6),
    ("firn-cli", 7),
    ("firn-local", 7),
    ("firn-simulation", 8),
    ("firn-benches", 8),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What cargo knows of the packages that are built here. Those that only other platforms need may never have been
/// downloaded.
fn metadata() -> Value {
    let version = String::from_utf8(cargo(&["-vV"])).expect("cargo prints text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let metadata = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    serde_json::from_slice(&cargo(&metadata)).expect("cargo prints JSON")
}

/// Names of packages by id, and for each id the ids of what it is built from (tests' own needs left out).
fn graph(metadata: &Value) -> (BTreeMap<String, String>, BTreeMap<String, BTreeSet<String>>) {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let list = |value: &Value| value.as_array().cloned().expect("a list");
    let names = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let nodes = list(&metadata["resolve"]["nodes"]);
    let edges = nodes.iter().map(|node| {
        let normal = |dependency: &Value| {
            list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null() && kind["target"].is_null())
        };
        let needs = list(&node["deps"])
            .iter()
            .filter(|dependency| normal(dependency))
            .map(|d| text(&d["pkg"]))
            .collect();
        (text(&node["id"]), needs)
    });
    (names, edges.collect())
}

fn own_edges() -> BTreeMap<String, BTreeSet<String>> {
    let (names, edges) = graph(&metadata());
    let own = |id: &String| names.get(id).filter(|name| name.starts_with("firn-")).cloned();
    edges.iter().filter_map(|(id, needs)| Some((own(id)?, needs.iter().filter_map(own).collect()))).collect()
}

#[test]
fn deciding_crates_see_no_runtime_no_socket_no_database_and_no_chance() {
    let (names, edges) = graph(&metadata());
    for start in edges.keys().filter(|id| DECIDING.contains(&names[*id].as_str())) {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(id) = open.pop() {
            if seen.insert(id.clone()) {
                assert!(
                    !NEVER_SEEN_BY_DECISIONS.contains(&names[&id].as_str()),
                    "{} depends on {}: decisions take time, chance and facts as parameters",
                    names[start],
                    names[&id]
                );
                open.extend(edges[&id].iter().cloned());
            }
        }
    }
}

#[test]
fn arrows_go_down() {
    let layers: BTreeMap<_, _> = LAYERS.into_iter().collect();
    for (name, needs) in own_edges() {
        let layer = layers.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no layer in this test"));
        for need in needs {
            let sideways = (name.as_str(), need.as_str()) == ("firn-bundle", "firn-nix-format");
            assert!(
                layers[need.as_str()] < *layer || sideways,
                "{name} may not depend on {need}: arrows go down"
            );
        }
    }
}

#[test]
fn architecture_draws_the_dependencies_that_cargo_builds() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let drawn: BTreeMap<String, BTreeSet<String>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("    firn-"))
        .filter_map(|line| line.split_once("->"))
        .map(|(name, needs)| {
            let name = format!("firn-{}", name.trim());
            (name, needs.split_whitespace().map(|need| format!("firn-{need}")).collect())
        })
        .collect();
    let built: BTreeMap<_, _> = own_edges().into_iter().collect();
    let picture: String = built
        .iter()
        .map(|(name, needs)| {
            let needs: Vec<_> = needs.iter().map(|need| need.trim_start_matches("firn-")).collect();
            format!("    {name:<24} -> {}\n", needs.join(" "))
        })
        .collect();
    assert!(
        drawn == built,
        "ARCHITECTURE.md draws other arrows than cargo builds. The picture is:\n{picture}"
    );
}
