//! Caches in temporary directories, with files that are damaged, taken or wrongly named.

use std::io::Write;

use bytes::Bytes;
use firn_nix_format::{NamedSignature, StorePath};
use futures::{StreamExt, stream};

use super::*;
use crate::nar_encoder::Encoder;

fn info(seed: u8, url: &str, compression: Compression) -> PathInfo {
    PathInfo {
        compression,
        ..PathInfo::of_nar(
            StorePath::from_parts([seed; 20], "x").unwrap(),
            url.to_owned(),
            Sha256::of(&[seed]),
            1,
        )
    }
}

fn bytes(text: &'static str) -> ByteStream {
    stream::iter([Ok(Bytes::from_static(text.as_bytes()))]).boxed()
}

async fn cache() -> (tempfile::TempDir, CacheDirectory) {
    let place = tempfile::tempdir().unwrap();
    let cache = CacheDirectory::open(&Environment::real(), &place.path().join("out")).await.unwrap();
    (place, cache)
}

#[tokio::test]
async fn a_published_url_is_kept_where_it_is_free() {
    let (_place, cache) = cache().await;
    let one = info(1, "nar/a.nar.xz", Compression::Xz);
    assert_eq!(
        cache.add_published_nar(&one, NarCompression::None, bytes("one")).await.unwrap().url,
        "nar/a.nar.xz"
    );
    assert_eq!(
        cache.add_published_nar(&one, NarCompression::None, bytes("one")).await.unwrap().url,
        "nar/a.nar.xz"
    );
    let two = info(2, "nar/a.nar.xz", Compression::Xz);
    let StoredNar { url, bytes: count, .. } =
        cache.add_published_nar(&two, NarCompression::None, bytes("other")).await.unwrap();
    assert_eq!((url.as_str(), count), (own_url(&two, Compression::Xz).as_str(), 5));
    assert_eq!(fs::read_to_string(cache.root.join("nar/a.nar.xz")).unwrap(), "one");
    assert_eq!(fs::read_to_string(cache.root.join(url)).unwrap(), "other");
    assert_eq!(fs::read_dir(cache.root.join("nar")).unwrap().count(), 2, "nothing is left behind");
}

/// The path info of a NAR whose published file `xz -6` has made, and that file.
fn made(nar: &'static str, url: impl FnOnce(Sha256) -> String) -> (PathInfo, Vec<u8>) {
    let mut encoder = Encoder::new(NarCompression::XZ, Vec::new()).unwrap();
    encoder.write_all(nar.as_bytes()).unwrap();
    let file = encoder.finish().unwrap();
    let hash = Sha256::of(&file);
    let info = PathInfo {
        file_hash: Some(hash),
        file_size: Some(file.len() as u64),
        nar_hash: Sha256::of(nar.as_bytes()),
        nar_size: nar.len() as u64,
        ..info(1, &url(hash), Compression::Xz)
    };
    (info, file)
}

fn by_hash(hash: Sha256) -> String {
    format!("nar/{}.nar.xz", hash.to_base32())
}

fn narinfo(cache: &CacheDirectory, info: &PathInfo) -> String {
    fs::read_to_string(cache.narinfo_path(info)).unwrap()
}

#[tokio::test]
async fn a_file_that_is_made_again_gets_its_name_only_if_it_has_its_file_hash() {
    let (_place, cache) = cache().await;
    let (info, file) = made("the nar", by_hash);
    let lie = PathInfo { file_hash: Some(Sha256::of(b"another")), ..info.clone() };
    let error = cache.add_published_nar(&lie, NarCompression::XZ, bytes("the nar")).await.unwrap_err();
    let hashes = (info.file_hash.unwrap(), lie.file_hash.unwrap());
    assert!(
        matches!(error, WriteError::OtherFile { made, published } if (made, published) == hashes),
        "{error}"
    );
    assert_eq!(fs::read_dir(cache.root.join("nar")).unwrap().count(), 0, "nothing is left behind");
    let nar = cache.add_published_nar(&info, NarCompression::XZ, bytes("the nar")).await.unwrap();
    cache.add_narinfo(&info, &nar, NamedNar::First, None).await.unwrap();
    assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
    assert_eq!(narinfo(&cache, &info), info.to_string());
}

#[tokio::test]
async fn a_damaged_file_is_replaced_where_its_name_says_which_bytes_are_its_own() {
    let (_place, cache) = cache().await;
    let (info, file) = made("the nar", by_hash);
    let add = async |info: &PathInfo, compression, text| {
        cache.add_published_nar(info, compression, bytes(text)).await.unwrap().url
    };
    fs::create_dir_all(cache.root.join("nar")).unwrap();
    fs::write(cache.root.join(&info.url), "damaged").unwrap();
    assert_eq!(add(&info, NarCompression::XZ, "the nar").await, info.url);
    assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
    // Whoever states the hash of another file does not get its place.
    let liar = PathInfo { store_path: StorePath::from_parts([2; 20], "x").unwrap(), ..info.clone() };
    assert_eq!(add(&liar, NarCompression::None, "a lie").await, own_url(&liar, Compression::Xz));
    assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
    // A name that says nothing belongs to whoever came first.
    let (info, _) = made("the nar", |_| "nar/a.nar.xz".to_owned());
    fs::write(cache.root.join(&info.url), "of another path").unwrap();
    assert_eq!(add(&info, NarCompression::XZ, "the nar").await, own_url(&info, Compression::Xz));
    assert_eq!(fs::read_to_string(cache.root.join(&info.url)).unwrap(), "of another path");
}

#[tokio::test]
async fn no_narinfo_states_the_hash_of_a_file_that_was_replaced() {
    let (_place, cache) = cache().await;
    let (mut info, file) = made("the nar", by_hash);
    info.url = own_url(&info, Compression::Xz);
    // What another encoder made, where the published file belongs.
    let other = liblzma::encode_all(&b"the nar"[..], 1).unwrap();
    fs::create_dir_all(cache.root.join("nar")).unwrap();
    fs::write(cache.root.join(&info.url), &other).unwrap();
    let of_other = (Sha256::of(&other), other.len() as u64);
    fs::write(cache.narinfo_path(&info), info.to_narinfo(&info.url, "xz", Some(of_other))).unwrap();
    let nar = cache.add_published_nar(&info, NarCompression::XZ, bytes("the nar")).await.unwrap();
    assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
    assert!(!cache.narinfo_path(&info).exists());
    cache.add_narinfo(&info, &nar, NamedNar::Added, None).await.unwrap();
    assert_eq!(narinfo(&cache, &info), info.to_string());
}

#[tokio::test]
async fn a_narinfo_names_another_file_only_where_that_is_wanted() {
    let (_place, cache) = cache().await;
    let published = info(1, &nar_url(Sha256::of(&[1])), Compression::None);
    let first = StoredNar {
        url: published.url.clone(),
        compression: Compression::None,
        bytes: 1,
        sha256: Some(published.nar_hash),
    };
    let add = async |nar: &StoredNar, named| {
        cache.add_narinfo(&published, nar, named, None).await.unwrap();
        PathInfo::parse(narinfo(&cache, &published).as_bytes()).unwrap()
    };
    let there = add(&first, NamedNar::First).await;
    assert_eq!((there.file_hash, there.file_size), (first.sha256, Some(1)));
    for changed in [
        StoredNar { url: "nar/a.nar".to_owned(), ..first.clone() },
        StoredNar { url: "nar/a.nar.xz".to_owned(), compression: Compression::Xz, ..first.clone() },
        StoredNar { bytes: 2, ..first.clone() },
        // As it was published: without FileHash.
        StoredNar { sha256: None, ..first.clone() },
    ] {
        assert_eq!(add(&changed, NamedNar::First).await, there);
        let now = add(&changed, NamedNar::Added).await;
        let size = changed.sha256.map(|_| changed.bytes);
        assert_eq!(
            (&now.url, now.compression, now.file_hash, now.file_size),
            (&changed.url, changed.compression, changed.sha256, size)
        );
        assert_eq!(add(&first, NamedNar::Added).await, there);
    }
}

#[tokio::test]
async fn no_url_leads_out_of_the_cache_or_onto_other_files() {
    let (_place, cache) = cache().await;
    let foreign = nar_url(Sha256::of(b"another"));
    let others = own_url(&info(4, "", Compression::Xz), Compression::Xz);
    let outside = ["../secret", "/etc/passwd", "nix-cache-info", "x.narinfo", "nar/../x", "nar/.x"];
    for url in outside.into_iter().chain([foreign.as_str(), &others]) {
        let hostile = info(3, url, Compression::Xz);
        let stored = cache.add_published_nar(&hostile, NarCompression::None, bytes("x")).await.unwrap();
        assert_eq!(stored.url, own_url(&hostile, Compression::Xz));
    }
    for url in ["../log/x", "nix-cache-info", "nar/x", "log/../../x", "log"] {
        let error = cache.add_blob(KeyKind::BuildLog, url, bytes("x")).await.unwrap_err();
        assert!(matches!(&error, WriteError::Refused { url: own } if own == url), "{error}");
    }
    assert!(cache.add_blob(KeyKind::BuildLog, "log/x.drv", bytes("x")).await.unwrap());
    assert!(!cache.add_blob(KeyKind::BuildLog, "log/x.drv", bytes("y")).await.unwrap());
}

#[tokio::test]
async fn signatures_of_one_content_are_merged_and_another_content_changes_nothing() {
    let (_place, cache) = cache().await;
    let signed = |name: &str| {
        let mut info = info(1, "nar/a.nar", Compression::None);
        info.signatures = vec![NamedSignature { key_name: name.to_owned(), bytes: [1; 64] }];
        info
    };
    let add = async |info: &PathInfo| {
        let url = "nar/b.nar".to_owned();
        let nar = StoredNar { url, compression: Compression::None, bytes: 1, sha256: None };
        cache.add_narinfo(info, &nar, NamedNar::First, None).await.unwrap()
    };
    assert_eq!(add(&signed("a")).await, NarInfoOutcome::Written);
    assert_eq!(add(&signed("b")).await, NarInfoOutcome::Merged);
    assert_eq!(add(&signed("b")).await, NarInfoOutcome::Merged);
    let mut other = signed("c");
    other.nar_hash = Sha256::of(b"other");
    assert_eq!(add(&other).await, NarInfoOutcome::OtherStays);
    let path = cache.root.join(format!("{}.narinfo", other.store_path.hash_part()));
    let there = PathInfo::parse(&fs::read(path).unwrap()).unwrap();
    let names: Vec<_> = there.signatures.iter().map(|signature| signature.key_name.as_str()).collect();
    assert_eq!((there.url.as_str(), names), ("nar/b.nar", vec!["a", "b"]));
}

#[tokio::test]
async fn a_listing_is_there_before_its_narinfo_and_belongs_to_it() {
    let (_place, cache) = cache().await;
    let info = info(1, "nar/a.nar", Compression::None);
    let url = "nar/b.nar".to_owned();
    let nar = StoredNar { url, compression: Compression::None, bytes: 1, sha256: None };
    let add = async |info: &PathInfo, text: &str| {
        cache.add_narinfo(info, &nar, NamedNar::First, Some(text.as_bytes().to_vec())).await
    };
    let narinfo = cache.narinfo_path(&info);
    let listing = narinfo.with_extension("ls");
    // Where a listing cannot be written there is no narinfo, so that the next export tries again.
    fs::create_dir_all(listing.join("in the way")).unwrap();
    assert!(add(&info, "tree").await.is_err());
    assert!(!narinfo.exists());
    fs::remove_dir_all(&listing).unwrap();
    assert_eq!(add(&info, "tree").await.unwrap(), NarInfoOutcome::Written);
    assert_eq!(fs::read_to_string(&listing).unwrap(), "tree");
    for damaged in ["trxe", "", "longer than it was"] {
        fs::write(&listing, damaged).unwrap();
        assert_eq!(add(&info, "tree").await.unwrap(), NarInfoOutcome::Merged);
        assert_eq!(fs::read_to_string(&listing).unwrap(), "tree");
    }
    let other = PathInfo { nar_hash: Sha256::of(b"other"), ..info };
    assert_eq!(add(&other, "another tree").await.unwrap(), NarInfoOutcome::OtherStays);
    assert_eq!(fs::read_to_string(&listing).unwrap(), "tree");
}

#[tokio::test]
async fn a_directory_with_other_files_is_refused() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("letter.txt"), "dear").unwrap();
    let error = CacheDirectory::open(&Environment::real(), place.path()).await.unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
}

#[tokio::test]
async fn one_program_writes_at_a_time_and_tidies_up_after_one_that_was_killed() {
    let (_place, cache) = cache().await;
    let again = CacheDirectory::open(&Environment::real(), &cache.root).await.unwrap_err();
    assert!(again.to_string().contains("another program writes into"), "{again}");
    fs::create_dir_all(cache.root.join("nar")).unwrap();
    let left = ["nar/.firn-abc.partial", ".firn-def.partial"].map(|name| cache.root.join(name));
    let stays = cache.root.join("nar/x.partial");
    for path in left.iter().chain([&stays]) {
        fs::write(path, "half").unwrap();
    }
    let root = cache.root.clone();
    drop(cache);
    let _cache = CacheDirectory::open(&Environment::real(), &root).await.unwrap();
    assert_eq!((left.each_ref().map(|path| path.exists()), stays.exists()), ([false, false], true));
}
