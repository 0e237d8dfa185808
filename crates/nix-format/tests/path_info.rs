//! Path infos and signatures: the sentences for what is wrong, the real Nix's signature, another parser.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use firn_nix_format::{
    Compression, NamedSignature, ParsePathInfoError, PathInfo, PublisherKey, PublisherSecretKey, Sha256,
    StorePath, accepted_by,
};
use proptest::prelude::*;

const PATH: &str = "/nix/store/4d20g8srpvv02vkiwrmz28g62m15n56b-tree";
const HASH: &str = "0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3";

/// A minimal record, with lines replaced (by name), taken out (an empty line) or added.
fn record(changes: &[&str]) -> String {
    let mut lines = vec![
        format!("StorePath: {PATH}"),
        format!("URL: nar/{HASH}.nar"),
        "Compression: none".to_owned(),
        format!("NarHash: sha256:{HASH}"),
        "NarSize: 1424".to_owned(),
        "References: ".to_owned(),
    ];
    for change in changes {
        let (name, value) = change.split_once(':').unwrap();
        match (lines.iter().position(|line| line.starts_with(&format!("{name}:"))), value) {
            (Some(index), "") => drop(lines.remove(index)),
            (Some(index), _) => lines[index] = (*change).to_owned(),
            (None, _) => lines.push((*change).to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

fn parse(text: &str) -> Result<PathInfo, ParsePathInfoError> {
    PathInfo::parse(text.as_bytes())
}

fn refusal(changes: &[&str]) -> String {
    parse(&record(changes)).unwrap_err().to_string()
}

fn secret_key(name: &str, seed: u8) -> PublisherSecretKey {
    PublisherSecretKey::from_seed(name, &[seed; 32]).unwrap()
}

#[test]
fn a_record_without_references_compression_or_file_is_read() {
    let info = parse(&record(&["References:", "Compression:"])).unwrap();
    assert_eq!((info.compression, info.references.as_slice()), (Compression::Bzip2, &[][..]));
    assert_eq!((info.file_hash, info.file_size, info.ca, info.deriver), (None, None, None, None));
}

#[test]
fn hexadecimal_hashes_are_printed_as_base32() {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let info = parse(&record(&[&format!("FileHash: sha256:{hex}"), "FileSize: 0"])).unwrap();
    assert_eq!((info.file_hash, info.file_size), (Some(Sha256::of(b"")), None));
    assert!(
        info.to_string().contains("FileHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73")
    );
}

#[test]
fn an_unknown_deriver_and_a_sig_that_is_none_stay_and_count_for_nothing() {
    let text = record(&["Deriver: unknown-deriver", "Sig: key:tooshort"]);
    let info = parse(&text).unwrap();
    assert_eq!((info.deriver.as_ref(), info.signatures.len()), (None, 0));
    let printed = info.to_narinfo("nar/x.nar", "none", None);
    assert!(printed.contains("\nDeriver: unknown-deriver\n") && printed.contains("\nSig: key:tooshort\n"));
    assert_eq!(parse(&info.to_string()), Ok(info));
}

#[test]
fn missing_and_repeated_fields_are_named() {
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        assert_eq!(refusal(&[&format!("{field}:")]), format!("the narinfo has no {field}"));
        assert_eq!(refusal(&[&format!("{field}: ")]), format!("the narinfo has no {field}"));
    }
    let twice = record(&[]) + "NarSize: 1\n";
    assert_eq!(parse(&twice).unwrap_err().to_string(), "the narinfo has more than one NarSize");
}

#[test]
fn what_is_wrong_with_a_record_is_said_in_a_sentence() {
    assert_eq!(
        refusal(&["Compression: foo"]),
        "the compression `foo` is unknown; none, xz, bzip2 and zstd can be read"
    );
    assert!(
        refusal(&["URL: ../../etc/passwd"]).starts_with("the URL `../../etc/passwd` leads out of the cache")
    );
    assert!(refusal(&["URL: https://example.org/x.nar"]).contains("leads out of the cache"));
    assert_eq!(
        refusal(&["StorePath: ../../etc/passwd"]),
        "StorePath is wrong: `../../etc/passwd` does not lie in /nix/store"
    );
    assert!(refusal(&["References: /nix/store/a"]).starts_with("References is wrong: `/nix/store/a`"));
    assert!(refusal(&["Deriver: x.drv"]).starts_with("Deriver is wrong"));
    assert!(refusal(&["NarHash: sha256:x"]).starts_with("NarHash is wrong: `sha256:x` is not a SHA-256"));
    assert!(refusal(&["FileHash: md5:x"]).starts_with("FileHash is wrong"));
    for size in ["-1", "+1", "x", "1 2", "18446744073709551616", "0x10"] {
        let sentence = format!("NarSize is wrong: `{size}` is not a number of bytes");
        assert_eq!(refusal(&[&format!("NarSize: {size}")]), sentence);
    }
    assert_eq!(refusal(&["NarSize: 0"]), "NarSize is wrong: a NAR is never empty");
    assert_eq!(parse("nonsense\n").unwrap_err().to_string(), "line 1 of the narinfo is not `Name: value`");
    assert_eq!(parse("A: b\r\n"), Err(ParsePathInfoError::NotText));
    assert_eq!(PathInfo::parse(&[0xff]), Err(ParsePathInfoError::NotText));
}

#[test]
fn text_signatures_and_unknown_fields_are_bounded() {
    let long = record(&[&format!("X: {}", "x".repeat(1 << 20))]);
    assert!(parse(&long).unwrap_err().to_string().contains("at most 1048576"));
    let signature = secret_key("key-1", 1).sign(&parse(&record(&[])).unwrap());
    let many = record(&[]) + &format!("Sig: {signature}\n").repeat(129);
    assert_eq!(parse(&many).unwrap_err().to_string(), "the narinfo has more than 128 signatures");
    let many = record(&[]) + &"X: y\n".repeat(129);
    assert_eq!(parse(&many).unwrap_err().to_string(), "the narinfo has more than 128 unknown fields");
}

#[test]
fn a_signature_is_the_one_that_nix_makes() {
    // By Nix 2.8: `nix store sign` with the key of 32 bytes of 7, for the path of the sample NAR.
    let by_nix = "firn-test-1:GaEZxd9XlOH6hT3s6ynKS3TpBjErnspa0cTwOiddQ1e+m3H7VSjl3eW3y2CczcDq1ALKE3pbavlYYc1B7d25AQ==";
    let key = secret_key("firn-test-1", 7);
    assert_eq!(
        key.to_secret_text(),
        "firn-test-1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfqSmxj4pxSCr71UHsTLsX5lUd2rr6+e5JCHuppFEbSLA=="
    );
    let info = parse(&record(&[])).unwrap();
    assert_eq!(key.sign(&info).to_string(), by_nix);

    let signed = parse(&record(&[&format!("Sig: {by_nix}")])).unwrap();
    assert!(key.public_key().verify(&signed));
}

#[test]
fn a_key_verifies_only_what_it_signed_under_its_own_name() {
    let key = secret_key("key-1", 1);
    let mut info = parse(&record(&[])).unwrap();
    assert!(!key.public_key().verify(&info));
    info.signatures.push(key.sign(&info));
    assert!(key.public_key().verify(&info));
    assert!(!secret_key("key-1", 2).public_key().verify(&info), "another key of that name");
    assert!(!secret_key("key-2", 1).public_key().verify(&info), "that key under another name");

    let mut moved = info.clone();
    moved.url = "nar/elsewhere.nar".to_owned();
    moved.compression = Compression::Zstd;
    assert!(key.public_key().verify(&moved), "where the NAR lies is not signed");

    let reference = StorePath::from_parts([3; 20], "new").unwrap();
    let changes: [fn(&mut PathInfo, StorePath); 4] = [
        |info, _| info.nar_size += 1,
        |info, _| info.nar_hash = Sha256::of(b""),
        |info, reference| info.references.push(reference),
        |info, reference| info.store_path = reference,
    ];
    for change in changes {
        let mut changed = info.clone();
        change(&mut changed, reference.clone());
        assert!(!key.public_key().verify(&changed));
    }
}

#[test]
fn the_first_key_in_rank_with_a_right_signature_accepts() {
    let secret: Vec<PublisherSecretKey> =
        (1..=3).map(|number| secret_key(&format!("key-{number}"), number)).collect();
    let keys: Vec<PublisherKey> = secret.iter().map(PublisherSecretKey::public_key).collect();
    let mut info = parse(&record(&[])).unwrap();
    assert_eq!(accepted_by(&info, &keys), None);
    info.signatures.push(secret[2].sign(&info));
    info.signatures.push(NamedSignature { key_name: "key-1".to_owned(), bytes: [1; 64] });
    assert_eq!(accepted_by(&info, &keys), Some(&keys[2]), "a false signature counts for nothing");
    info.signatures.push(secret[1].sign(&info));
    assert_eq!(accepted_by(&info, &keys), Some(&keys[1]));
    assert_eq!(accepted_by(&info, &[]), None);
}

#[test]
fn keys_parse_from_what_they_print() {
    let text = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let key: PublisherKey = text.parse().unwrap();
    assert_eq!((key.name(), key.to_string().as_str()), ("cache.nixos.org-1", text));
    assert_eq!(PublisherKey::from_parts(key.name(), key.as_bytes()), Ok(key));

    let secret = secret_key("key-1", 9);
    let again: PublisherSecretKey = secret.to_secret_text().parse().unwrap();
    assert_eq!(again.public_key(), secret.public_key());
    assert_eq!(format!("{secret:?}"), "PublisherSecretKey(key-1)");

    for text in ["", "key", "key:", ":6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", "a b:AAAA"] {
        assert!(text.parse::<PublisherKey>().is_err() && text.parse::<PublisherSecretKey>().is_err());
    }
    let weak = format!("key:{}=", "A".repeat(43));
    assert!(weak.parse::<PublisherKey>().is_err(), "a key of small order");
    let unmatched = secret.to_secret_text().replace(&secret.to_secret_text()[80..84], "AAAA");
    assert!(unmatched.parse::<PublisherSecretKey>().is_err(), "halves that do not belong together");
}

fn store_paths() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-z0-9][a-z0-9._+?=-]{0,30}")
        .prop_map(|(hash, name)| StorePath::from_parts(hash, &name).unwrap())
}

fn path_infos() -> impl Strategy<Value = PathInfo> {
    let file = (proptest::option::of(any::<[u8; 32]>()), proptest::option::of(1..u64::MAX));
    let signature = ("[a-z0-9.-]{1,20}", any::<[u8; 64]>())
        .prop_map(|(key_name, bytes)| NamedSignature { key_name, bytes });
    (
        (store_paths(), "nar/[a-z0-9]{1,60}\\.nar", proptest::sample::select(&Compression::ALL[..]), file),
        (any::<[u8; 32]>(), 1..u64::MAX, proptest::collection::vec(store_paths(), 0..8)),
        (proptest::option::of(store_paths()), proptest::collection::vec(signature, 0..4)),
        (
            proptest::option::of("text:sha256:[a-z0-9]{52}"),
            proptest::collection::vec(("X-[a-z]{1,9}", "[a-z]{0,9}"), 0..3),
        ),
    )
        .prop_map(|((store_path, url, compression, file), nar, (deriver, signatures), (ca, extra))| {
            PathInfo {
                store_path,
                url,
                compression,
                file_hash: file.0.map(Sha256::from_bytes),
                file_size: file.1,
                nar_hash: Sha256::from_bytes(nar.0),
                nar_size: nar.1,
                references: nar.2,
                deriver,
                signatures,
                ca,
                extra,
            }
        })
}

proptest! {
    #[test]
    fn every_record_parses_from_what_it_prints(info in path_infos()) {
        prop_assert_eq!(parse(&info.to_string()), Ok(info));
    }

    #[test]
    fn another_parser_reads_the_same_fingerprint(mut info in path_infos()) {
        info.ca = None;
        let text = info.to_string();
        let other: nix_narinfo::NarInfo = text.parse().unwrap();
        prop_assert_eq!(other.fingerprint(other.store_dir()), info.fingerprint());
    }

    #[test]
    fn another_verifier_accepts_our_signature(mut info in path_infos()) {
        let key = secret_key("key-1", 5);
        info.ca = None;
        info.signatures.push(key.sign(&info));
        let other: nix_narinfo::NarInfo = info.to_string().parse().unwrap();
        let theirs = nix_narinfo::TrustedPublicKey::parse(&key.public_key().to_string()).unwrap();
        prop_assert!(other.has_valid_signature(other.store_dir(), &[theirs]));
    }

    #[test]
    fn a_damaged_record_never_makes_the_parser_panic(
        info in path_infos(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut text = info.to_string().into_bytes();
        for (place, byte) in damage {
            let place = place.index(text.len());
            text[place] = byte;
        }
        if let Ok(info) = PathInfo::parse(&text) {
            prop_assert_eq!(PathInfo::parse(info.to_string().as_bytes()), Ok(info));
        }
        let _ = PathInfo::parse(&text[..cut.index(text.len())]);
    }

    #[test]
    fn arbitrary_text_never_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&record(&[&format!("X: {text}")]));
    }
}
