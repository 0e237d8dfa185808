//! A data directory as a text: what a golden file of it holds.
//!
//! Always holds: the text says every byte of every file. Texts stand in it as they are; of other files rows of zeros, which shards
//! mostly are, are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const ROW_BYTES: usize = 32;

/// Files by their paths.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What lies in `directory`.
pub(crate) fn read_files(directory: &Path) -> Files {
    let mut files = Files::new();
    read_below(directory, "", &mut files);
    files
}

fn read_below(directory: &Path, before: &str, files: &mut Files) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{before}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_below(&entry.path(), &format!("{path}/"), files);
        } else {
            files.insert(path, std::fs::read(entry.path()).unwrap());
        }
    }
}

/// Lays `files` out in `directory`.
pub(crate) fn lay_out(files: &Files, directory: &Path) {
    for (path, bytes) in files {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// `files` as a text.
pub(crate) fn to_text(files: &Files) -> String {
    let mut text = String::new();
    for (path, bytes) in files {
        match std::str::from_utf8(bytes).ok().filter(|content| is_plain(content)) {
            Some(content) => {
                writeln!(text, "text {path}").unwrap();
                content.lines().for_each(|line| writeln!(text, "| {line}").unwrap());
            }
            None => {
                writeln!(text, "bytes {path} {}", bytes.len()).unwrap();
                for (row, bytes) in bytes.chunks(ROW_BYTES).enumerate() {
                    if bytes.iter().any(|byte| *byte != 0) {
                        writeln!(text, "{:06x} {}", row * ROW_BYTES, hex(bytes)).unwrap();
                    }
                }
            }
        }
    }
    text
}

/// The files that `text` is of.
pub(crate) fn from_text(text: &str) -> Files {
    let mut files = Files::new();
    let mut path = String::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "text" => path = rest.to_owned(),
            "bytes" => {
                let (named, count) = rest.split_once(' ').unwrap();
                path = named.to_owned();
                files.insert(path.clone(), vec![0; count.parse().unwrap()]);
            }
            "|" => files.entry(path.clone()).or_default().extend(format!("{rest}\n").bytes()),
            offset => {
                let offset = usize::from_str_radix(offset, 16).unwrap();
                let row = unhex(rest);
                files.get_mut(&path).unwrap()[offset..offset + row.len()].copy_from_slice(&row);
            }
        }
    }
    files
}

/// Whether its lines say all of it.
fn is_plain(content: &str) -> bool {
    content.ends_with('\n') && content.chars().all(|char| char == '\n' || !char.is_control())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
