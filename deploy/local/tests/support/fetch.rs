//! Reading a binary cache by HTTP as Nix does, and checking every byte against what was signed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use firn_nix_format::{PathInfo, PublisherKey, Sha256, accepted_by, decoder};

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// GET. An error of the connection is a failed test.
#[track_caller]
pub fn get(url: &str) -> Answer {
    try_get(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// GET, or why there was no answer.
pub fn try_get(url: &str) -> Result<Answer, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(40)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec();
    Ok(Answer { status, body: body.map_err(|error| error.to_string())? })
}

/// The path infos of a cache directory, by hash part.
pub fn path_infos(cache: &Path) -> BTreeMap<String, PathInfo> {
    let entries = std::fs::read_dir(cache).unwrap_or_else(|error| panic!("{}: {error}", cache.display()));
    let mut infos = BTreeMap::new();
    for entry in entries {
        let path = entry.expect("the directory can be read").path();
        if path.extension().is_some_and(|extension| extension == "narinfo") {
            let info = PathInfo::parse(&std::fs::read(&path).expect("the file can be read"));
            let info = info.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            infos.insert(info.store_path.hash_part().to_owned(), info);
        }
    }
    infos
}

/// Fetches every path of `wanted` from the gateway at `url`: the narinfo must say what was published and bear a
/// signature by `key`, the NAR must be the one that was signed.
#[track_caller]
pub fn assert_served(url: &str, wanted: &BTreeMap<String, PathInfo>, key: &str) {
    let key: PublisherKey = key.trim().parse().expect("the key is one");
    for (hash_part, published) in wanted {
        let answer = get(&format!("{url}/{hash_part}.narinfo"));
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{hash_part}: {text}");
        let served =
            PathInfo::parse(&answer.body).unwrap_or_else(|error| panic!("{hash_part}: {error}: {text}"));
        assert_eq!(served.fingerprint(), published.fingerprint());
        assert!(accepted_by(&served, std::slice::from_ref(&key)).is_some(), "{text}");
        let nar = get(&format!("{url}/{}", served.url));
        assert_eq!(nar.status, 200, "{}: {}", served.url, String::from_utf8_lossy(&nar.body));
        assert_eq!(served.compression.name(), "none");
        assert_eq!(Sha256::of(&nar.body), published.nar_hash, "{hash_part}");
        assert_eq!(u64::try_from(nar.body.len()).ok(), Some(published.nar_size));
    }
}

/// Compares a cache directory that was recovered with the paths that were published.
#[track_caller]
pub fn assert_recovered(recovered: &Path, wanted: &BTreeMap<String, PathInfo>) {
    let found = path_infos(recovered);
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (hash_part, info) in &found {
        let file =
            File::open(recovered.join(&info.url)).unwrap_or_else(|error| panic!("{}: {error}", info.url));
        let mut nar = Vec::new();
        let mut reader = decoder(info.compression, std::io::BufReader::new(file)).expect("it can be decoded");
        reader.read_to_end(&mut nar).expect("it can be decoded");
        assert_eq!(Sha256::of(&nar), wanted[hash_part].nar_hash, "{hash_part}");
        assert_eq!(info.fingerprint(), wanted[hash_part].fingerprint());
    }
}
