//! Every file of a test program is part of it: what no `mod` names is never compiled, and nobody misses its tests.

use std::fs;
use std::path::{Path, PathBuf};

/// The directories in `directory`, but for hidden ones and what is built.
fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    let name =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    paths.filter(|path| !name(path).starts_with('.') && name(path) != "target").collect()
}

/// The files beside a `main.rs` that it does not name.
fn left_out(program: &Path) -> Vec<PathBuf> {
    let main = fs::read_to_string(program.join("main.rs")).expect("it can be read");
    let files = fs::read_dir(program).expect("it can be read").flatten().map(|entry| entry.path());
    let modules = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let is_named = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        stem == "main" || main.lines().any(|line| line.trim_start_matches("pub ") == format!("mod {stem};"))
    };
    modules.filter(|path| !is_named(path)).collect()
}

#[test]
fn every_file_of_a_test_program_is_part_of_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // `benches`, and crates in folders.
    let groups = directories(&root);
    let crates = groups.iter().cloned().chain(groups.iter().flat_map(|group| directories(group)));
    let programs: Vec<PathBuf> = crates
        .flat_map(|package| directories(&package.join("tests")))
        .filter(|program| program.join("main.rs").exists())
        .collect();
    assert!(programs.len() >= 8, "{programs:?}");
    let left_out: Vec<PathBuf> = programs.iter().flat_map(|program| left_out(program)).collect();
    assert!(left_out.is_empty(), "add them to their main.rs: {left_out:?}");
}
