//! `firn-storage-node inspect FILE`: what a shard file holds, whether it is whole, and which packages, as far as it says.
//!
//! Always holds: nothing is asked of anybody. Leaves to others: what a slice says (`bundle`).

use std::io;
use std::path::Path;

use firn_base::ByteCount;
use firn_bundle::{MENTIONS_MAX, ReadAt, ShardFileHeader, SliceContents, read_slice};
use firn_storage_node::{Disk, DiskFile, FileDisk, verify_file};
use serde_json::{Value, json};

/// The shard in its file.
struct ShardOf<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
}

impl ReadAt for ShardOf<'_> {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(self.offset.saturating_add(position), buffer)
    }
}

/// Checks the whole file and prints what its headers say, and its slice.
pub(crate) fn inspect(path: &Path, as_json: bool) -> Result<(), String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| format!("{} is not the path of a file", path.display()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = FileDisk::new(directory)
        .open(name)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let header = verify_file(file.as_ref()).map_err(|error| format!("{}: {error}", path.display()))?;
    let shard = ShardOf { file: file.as_ref(), offset: header.layout().shard_offset };
    // A file that is whole may be of somebody who packed nonsense: that is said, and is no damage of this disk.
    let contents = read_slice(&header, &shard).map_err(|error| error.to_string());
    if as_json {
        print_json(&header, &contents);
    } else {
        print_text(&header);
        print_contents(&header, &contents);
    }
    Ok(())
}

fn print_contents(header: &ShardFileHeader, contents: &Result<SliceContents, String>) {
    let list = |names: &[String]| {
        for name in names {
            println!("  {name}");
        }
    };
    match contents {
        Ok(SliceContents::Parity) => println!(
            "packages     none can be named: this is a parity shard, a sum over the {0} slices of its bundle; any {0} shards of the bundle together give every package back",
            header.coding().k()
        ),
        Ok(SliceContents::Whole { here, elsewhere }) => {
            println!("packages     {} lie in this slice, wholly or in part", here.len());
            list(here);
            if !elsewhere.is_empty() {
                println!("the bundle's others, in other slices: {}", elsewhere.len());
                list(elsewhere);
            }
        }
        Ok(SliceContents::Beginning { names, records }) => {
            println!(
                "packages     {} of the {records} of the bundle are named in this slice, which has the beginning of the list of its contents; which of them lie in it the end of that list says, in the next slice",
                names.len()
            );
            list(names);
        }
        Ok(SliceContents::Frames { manifest_in, mentioned }) => {
            let what = match header.index() == *manifest_in {
                true => "its names lie in this and the next slice, and cannot be read from either alone"
                    .to_owned(),
                false => format!(
                    "the list of the bundle's contents begins in its shard {manifest_in}, which lies on another node"
                ),
            };
            println!("packages     this is a plain slice: {what}");
            let most = if mentioned.len() >= MENTIONS_MAX { "at least " } else { "" };
            println!("mentioned    {most}{} packages, as contents or as references", mentioned.len());
            list(mentioned);
        }
        Err(sentence) => println!("packages     none can be named: {sentence}"),
    }
}

fn contents_json(contents: &Result<SliceContents, String>) -> Value {
    match contents {
        Ok(SliceContents::Parity) => json!({ "kind": "parity" }),
        Ok(SliceContents::Whole { here, elsewhere }) => {
            json!({ "kind": "slice", "packages": here, "other_packages": elsewhere })
        }
        Ok(SliceContents::Beginning { names, records }) => {
            json!({ "kind": "slice", "named_packages": names, "records": records })
        }
        Ok(SliceContents::Frames { manifest_in, mentioned }) => {
            json!({ "kind": "slice", "manifest_in": manifest_in.0, "mentioned": mentioned })
        }
        Err(sentence) => json!({ "kind": "unreadable", "reason": sentence }),
    }
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

fn print_json(header: &ShardFileHeader, contents: &Result<SliceContents, String>) {
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
            "contents": contents_json(contents),
        })
    );
}
