//! Bad input: each refused with its reason, and the rest of the cache published.

use std::sync::Arc;
use std::time::Duration;

use firn_base::Timestamp;
use firn_client_logic::{Following, RoundOutcome, Selection};
use firn_nix_format::{Compression, PublisherSecretKey, Sha256, StorePath};

use super::archive::TestArchive;
use super::cache::{Cache, Entry, compress, nar_of, noise, store_path};
use super::pipeline::{assert_restores, publish, publish_with};
use crate::publish_options::PublishOptions;

/// Publishes a sound cache with one bad entry, and gives the reason of its refusal.
async fn refusal(spoil: impl FnOnce(&mut Cache)) -> String {
    let (mut cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    spoil(&mut cache);
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 1), "{summary}");
    assert_restores(&archive, &cache);
    assert_eq!(archive.keys().len(), 6);
    let [refused] = &summary.refused[..] else { panic!("{summary}") };
    assert!(refused.name.contains("bad-1") || refused.name.ends_with(".narinfo"), "{}", refused.name);
    refused.reason.clone()
}

fn bad(cache: &Cache) -> Entry {
    cache.entry("bad-1", &noise(20_000, 99), Compression::Xz, &[])
}

#[tokio::test]
async fn a_narinfo_without_signature_is_refused() {
    let reason = refusal(|cache| cache.write(&bad(cache))).await;
    assert_eq!(reason, "it carries no signature");
}

#[tokio::test]
async fn a_signature_of_a_stranger_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        let stranger = PublisherSecretKey::from_seed("stranger-1", &[9; 32]).unwrap();
        entry.info.signatures.push(stranger.sign(&entry.info));
        cache.write(&entry);
    });
    assert_eq!(reason.await, "it is signed by stranger-1, whom the archive does not accept");
}

#[tokio::test]
async fn a_signature_that_does_not_hold_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        let liar = PublisherSecretKey::from_seed("test-1", &[9; 32]).unwrap();
        entry.info.signatures.push(liar.sign(&entry.info));
        cache.write(&entry);
    });
    assert_eq!(reason.await, "its signature by test-1 does not hold");
}

#[tokio::test]
async fn a_wrong_nar_hash_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        entry.info.nar_hash = Sha256::of(b"something else");
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.starts_with("the NAR has the hash"), "{reason}");
}

#[tokio::test]
async fn a_truncated_nar_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = cache.entry("bad-1", &noise(20_000, 99), Compression::None, &[]);
        entry.info.file_hash = None;
        entry.info.file_size = None;
        entry.file.truncate(10_000);
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.contains("ends after 10000 of the"), "{reason}");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    for compression in [Compression::Xz, Compression::Bzip2, Compression::Zstd] {
        let reason = refusal(|cache| {
            let mut entry = cache.entry("bad-1", &noise(20_000, 99), compression, &[]);
            entry.file.truncate(10_000);
            cache.add(entry);
        });
        let reason = reason.await;
        assert!(reason.contains("cannot be read") || reason.contains("ends after"), "{reason}");
    }
}

#[tokio::test]
async fn an_over_long_nar_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        let longer = [nar_of(&noise(20_000, 99)), vec![0; 100]].concat();
        entry.file = compress(Compression::Xz, &longer);
        entry.info.file_hash = None;
        entry.info.file_size = None;
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.contains("longer than its NarSize"), "{reason}");
}

#[tokio::test]
async fn an_xz_bomb_is_refused_without_being_unpacked() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        entry.file = compress(Compression::Xz, &vec![0; 64 << 20]);
        entry.info.file_hash = None;
        entry.info.file_size = None;
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.contains("not a NAR") || reason.contains("longer than"), "{reason}");
}

#[tokio::test]
async fn a_file_longer_than_stated_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        entry.info.file_size = Some(100);
        cache.add(entry);
    });
    assert_eq!(reason.await, "the file is longer than the 100 bytes that it may have");
}

#[tokio::test]
async fn a_wrong_file_hash_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        entry.info.file_hash = Some(Sha256::of(b"something else"));
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.contains("not its FileHash"), "{reason}");
}

#[tokio::test]
async fn a_malformed_nar_is_refused() {
    let reason = refusal(|cache| {
        let mut entry = bad(cache);
        let junk = noise(20_000, 98);
        entry.info.nar_hash = Sha256::of(&junk);
        entry.info.nar_size = junk.len() as u64;
        entry.file = compress(Compression::Xz, &junk);
        entry.info.file_hash = None;
        entry.info.file_size = None;
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.contains("NAR"), "{reason}");
}

#[tokio::test]
async fn a_hostile_nar_is_refused() {
    let reason = refusal(|cache| {
        // A directory whose entry is called `..`.
        let mut nar = Vec::new();
        let words: [&[u8]; 17] = [
            b"nix-archive-1",
            b"(",
            b"type",
            b"directory",
            b"entry",
            b"(",
            b"name",
            b"..",
            b"node",
            b"(",
            b"type",
            b"regular",
            b"contents",
            b"evil",
            b")",
            b")",
            b")",
        ];
        for word in words {
            nar.extend_from_slice(&(word.len() as u64).to_le_bytes());
            nar.extend_from_slice(word);
            nar.resize(nar.len().next_multiple_of(8), 0);
        }
        let mut entry = bad(cache);
        entry.info.nar_hash = Sha256::of(&nar);
        entry.info.nar_size = nar.len() as u64;
        entry.file = compress(Compression::Xz, &nar);
        entry.info.file_hash = None;
        entry.info.file_size = None;
        cache.add(entry);
    });
    let reason = reason.await;
    assert!(reason.contains("`..`"), "{reason}");
}

#[tokio::test]
async fn a_url_that_leads_out_of_the_cache_is_refused() {
    let reason = refusal(|cache| {
        let entry = bad(cache);
        let hash_part = entry.info.store_path.hash_part().to_owned();
        let url = entry.info.url.clone();
        cache.add(entry);
        let text = String::from_utf8(cache.source().narinfo(&hash_part).unwrap().unwrap()).unwrap();
        cache.write_narinfo(&hash_part, &text.replace(&url, "../../etc/passwd"));
    });
    let reason = reason.await;
    assert!(reason.contains("../../etc/passwd") && reason.contains("leads out of the cache"), "{reason}");
}

#[tokio::test]
async fn a_symlink_that_leads_out_of_the_cache_is_refused() {
    let reason = refusal(|cache| {
        let entry = bad(cache);
        let file = cache.file(&entry.info.url);
        cache.add(entry);
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    });
    let reason = reason.await;
    assert!(reason.contains("symlink that leads out of the cache"), "{reason}");
}

#[tokio::test]
async fn an_unknown_compression_is_refused() {
    let reason = refusal(|cache| {
        let entry = bad(cache);
        let hash_part = entry.info.store_path.hash_part().to_owned();
        cache.add(entry);
        let text = String::from_utf8(cache.source().narinfo(&hash_part).unwrap().unwrap()).unwrap();
        cache.write_narinfo(&hash_part, &text.replace("Compression: xz", "Compression: rot13"));
    });
    let reason = reason.await;
    assert!(reason.contains("`rot13` is unknown"), "{reason}");
}

#[tokio::test]
async fn a_missing_nar_is_refused() {
    let reason = refusal(|cache| {
        let entry = bad(cache);
        let file = cache.file(&entry.info.url);
        cache.add(entry);
        std::fs::remove_file(file).unwrap();
    });
    let reason = reason.await;
    assert!(reason.starts_with("the file `nar/") && reason.ends_with("is missing"), "{reason}");
}

#[tokio::test]
async fn a_narinfo_of_another_path_is_refused() {
    let reason = refusal(|cache| {
        let text = cache.source().narinfo(store_path("data-1").hash_part()).unwrap().unwrap();
        cache.write_narinfo(store_path("bad-1").hash_part(), std::str::from_utf8(&text).unwrap());
    });
    let reason = reason.await;
    assert!(reason.contains("describes another path"), "{reason}");
}

#[tokio::test]
async fn garbage_in_place_of_a_narinfo_is_refused() {
    let reason = refusal(|cache| cache.write_narinfo("garbage", "\0\u{1}\u{2}"));
    assert_eq!(reason.await, "the narinfo is not plain text");
}

#[tokio::test]
async fn a_path_above_a_refused_one_is_committed_waits_and_is_listed() {
    let (mut cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let mut entry = bad(&cache);
    entry.info.nar_hash = Sha256::of(b"something else");
    cache.add(entry);
    cache.add_path("above-1", b"above", Compression::None, &["bad-1", "libc-2.40"]);
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.paths_published, summary.exit_code(), summary.refused.len()), (7, 1, 1), "{summary}");
    assert_eq!(summary.externals, Vec::<String>::new(), "the source has it, so it is not external");
    let [waiting] = &summary.waiting[..] else { panic!("{summary}") };
    let base = |name: &str| StorePath::base_name(&store_path(name)).to_owned();
    assert_eq!((&waiting.name, &waiting.waiting_for), (&base("above-1"), &vec![base("bad-1")]));
}

#[tokio::test]
async fn a_path_that_waits_is_listed_again_until_it_can_be_read_also_when_nothing_else_is_new() {
    let (mut cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let sound = bad(&cache);
    let mut entry = bad(&cache);
    entry.info.nar_hash = Sha256::of(b"something else");
    cache.add(entry);
    cache.add_path("above-1", b"above", Compression::None, &["bad-1", "libc-2.40"]);
    let mut following = Following::new(Duration::from_secs(600), Timestamp::from_millis(0));
    let first = round(&mut following, &archive, &cache).await;
    assert_eq!(first, (RoundOutcome::Incomplete, 7, 1));
    assert_eq!(round(&mut following, &archive, &cache).await, (RoundOutcome::Incomplete, 0, 1));
    // Alone, as a list may name it: it is archived, and nothing is refused.
    let paths = Some(vec![store_path("above-1").to_string()].into());
    let options = PublishOptions { paths, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_skipped, summary.refused.len(), summary.exit_code()), (1, 0, 1), "{summary}");
    assert_eq!(summary.waiting[0].waiting_for, [store_path("bad-1").base_name()]);

    cache.add(sound);
    assert_eq!(round(&mut following, &archive, &cache).await, (RoundOutcome::Complete, 1, 0));
    assert_eq!(round(&mut following, &archive, &cache).await, (RoundOutcome::Complete, 0, 0));
}

/// A round over all narinfos of the cache: how it ended, how many paths it published, how many wait.
async fn round(
    following: &mut Following,
    archive: &Arc<TestArchive>,
    cache: &Cache,
) -> (RoundOutcome, u64, usize) {
    let names = following.begin(Timestamp::from_millis(0), cache.source().list().unwrap());
    let options = PublishOptions { paths: Some(names.clone().into()), ..PublishOptions::new(cache.source()) };
    let summary = publish_with(archive, cache, options).await.unwrap();
    (following.end(&names, &summary), summary.paths_published, summary.waiting.len())
}

#[tokio::test]
async fn a_path_that_is_left_out_is_not_refused_for_its_signature() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    cache.write(&bad(&cache));
    let selection = Selection { exclude: vec!["bad-*".to_owned()], share: None };
    let options = PublishOptions { selection, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 0), "{summary}");
}

#[tokio::test]
async fn nothing_is_planned_once_a_publish_is_asked_to_stop() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let options = PublishOptions::new(cache.source());
    options.stop.ask();
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_read, summary.paths_published, archive.keys().len()), (0, 0, 0));
}
