//! A gateway over an archive in memory: to measure the HTTP side alone, or to try a client on it.
//!
//! `serve_memory ADDRESS [DIRECTORY]` packs the binary cache in DIRECTORY (made by `nix copy --to file://…`), or
//! 1,000 made-up paths and one NAR of 64 MiB, and serves them until it is killed. It prints URLs to measure.

#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::fs;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use firn_gateway::{BoundPort, NarCompression, ServerOptions, WhenUnreadable, nar_url};
use firn_nix_format::{Compression, PathInfo, StorePath, decoder};
use support::{ArchiveMaker, nar_of, path_info, router};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = arguments.first().ok_or("usage: serve_memory ADDRESS [DIRECTORY]")?.parse()?;
    let mut maker = ArchiveMaker::default();
    match arguments.get(1) {
        Some(directory) => pack(&mut maker, Path::new(directory))?,
        None => make_up(&mut maker)?,
    }
    maker.seal();
    let archive = Arc::new(maker.finish());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = BoundPort::bind(address)?
            .serve(router(&archive, WhenUnreadable::Retry), ServerOptions::default())?;
        println!("serving on http://{}/", server.address());
        std::future::pending::<Result<(), Box<dyn Error>>>().await
    })
}

fn make_up(maker: &mut ArchiveMaker) -> Result<(), Box<dyn Error>> {
    let nar = nar_of(500);
    for number in 0..1000u32 {
        let mut info = path_info(1, &nar);
        let mut hash = [1; 20];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        info.store_path = StorePath::from_parts(hash, "made-up")?;
        maker.path(&info, &nar);
        println!("/{}.narinfo", info.store_path.hash_part());
    }
    maker.seal();
    let large = nar_of(64 << 20);
    let info = path_info(9, &large);
    maker.path(&info, &large);
    println!("/{}", nar_url(info.store_path.hash_part(), info.nar_hash, NarCompression::None));
    Ok(())
}

fn pack(maker: &mut ArchiveMaker, directory: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "narinfo") {
            let info = PathInfo::parse(&fs::read(&path)?)?;
            let file = BufReader::new(fs::File::open(directory.join(&info.url))?);
            let mut nar = Vec::new();
            decoder(info.compression, file)?.read_to_end(&mut nar)?;
            println!("/{}", nar_url(info.store_path.hash_part(), info.nar_hash, NarCompression::None));
            maker.path(&info, &nar);
        }
    }
    let logs = directory.join("log");
    if logs.is_dir() {
        for entry in fs::read_dir(logs)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).ok_or("a log's name is not text")?;
            let log = fs::read(&path)?;
            maker.log(*StorePath::from_base_name(name)?.hash(), &log, Compression::None, &log);
        }
    }
    Ok(())
}
