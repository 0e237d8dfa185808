//! `firn-storage-node inspect FILE`: what a shard file holds and whether it is whole.

use std::path::Path;

use firn_base::ByteCount;
use firn_bundle::ShardFileHeader;
use firn_storage_node::{Disk, FileDisk, verify_file};
use serde_json::json;

/// Checks the whole file and prints what its headers say.
pub(crate) fn inspect(path: &Path, as_json: bool) -> Result<(), String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| format!("{} is not the path of a file", path.display()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = FileDisk::new(directory)
        .open(name)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let header = verify_file(file.as_ref()).map_err(|error| format!("{}: {error}", path.display()))?;
    if as_json {
        print_json(&header)
    } else {
        print_text(&header)
    }
    Ok(())
}

fn print_text(header: &ShardFileHeader) {
    let (content, coding) = (header.content(), header.coding());
    println!("bundle       {}", content.bundle_id());
    println!("coding       {}", coding.coding_id());
    println!(
        "shard        {} of {} (any {} restore the bundle)",
        header.index(),
        coding.roots().len(),
        coding.k()
    );
    println!("shard bytes  {}", ByteCount(coding.shard_bytes()));
    println!("shard root   {}", header.root());
    println!("payload      {}", ByteCount(content.payload_bytes()));
    for dependency in content.dependencies() {
        println!("depends on   {dependency}");
    }
    println!("the file is whole");
}

fn print_json(header: &ShardFileHeader) {
    let (content, coding) = (header.content(), header.coding());
    let dependencies: Vec<String> = content.dependencies().iter().map(ToString::to_string).collect();
    println!(
        "{}",
        json!({
            "bundle": content.bundle_id().to_string(),
            "coding": coding.coding_id().to_string(),
            "index": header.index().0,
            "k": coding.k(),
            "roots": coding.roots().len(),
            "shard_bytes": coding.shard_bytes(),
            "shard_root": header.root().to_string(),
            "payload_bytes": content.payload_bytes(),
            "dependencies": dependencies,
            "whole": true,
        })
    );
}
