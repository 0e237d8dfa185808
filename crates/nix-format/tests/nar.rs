//! NARs: against the real Nix's bytes, against another decoder, and against damage.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use firn_nix_format::nar::{DEPTH_MAX, encode, encode_file, inspect};
use firn_nix_format::{Listing, ListingNode, NarError, NarInspector, NarNode, Sha256};
use nix_archive::nar::decode_events;
use proptest::prelude::*;

fn file(contents: &[u8]) -> NarNode {
    NarNode::Regular { contents: contents.to_vec(), executable: false }
}

fn script(contents: &[u8]) -> NarNode {
    NarNode::Regular { contents: contents.to_vec(), executable: true }
}

fn link(target: &[u8]) -> NarNode {
    NarNode::Symlink { target: target.to_vec() }
}

fn directory<const N: usize>(entries: [(&str, NarNode); N]) -> NarNode {
    NarNode::Directory(entries.into_iter().map(|(name, node)| (name.into(), node)).collect())
}

/// A tree that was added to a store by Nix 2.8, whose NarHash and `.ls` stand below.
fn sample() -> NarNode {
    directory([
        ("a", file(b"hello")),
        ("link", link(b"a")),
        ("nothing", file(b"")),
        ("run", script(b"#!/bin/sh\n")),
        ("sub", directory([("empty", directory([])), ("é", file(b"x"))])),
    ])
}

/// The words of a NAR, as length, bytes and padding.
fn words(words: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    for word in words {
        nar.extend((word.len() as u64).to_le_bytes());
        nar.extend_from_slice(word);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

const SYMLINK: [&[u8]; 5] = [b"type", b"symlink", b"target", b"x", b")"];

fn directory_of(names: &[&[u8]]) -> Vec<u8> {
    let mut nar: Vec<&[u8]> = vec![b"nix-archive-1", b"(", b"type", b"directory"];
    for name in names {
        nar.extend([&b"entry"[..], b"(", b"name", name, b"node", b"("]);
        nar.extend(SYMLINK);
        nar.push(b")");
    }
    nar.push(b")");
    words(&nar)
}

fn refusal(nar: &[u8]) -> String {
    inspect(nar).unwrap_err().to_string()
}

#[test]
fn the_sample_has_the_hash_and_the_listing_that_nix_gives_it() {
    let nar = encode(&sample()).unwrap();
    assert_eq!(nar.len(), 1424);
    assert_eq!(Sha256::of(&nar).to_base32(), "0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3");
    let json = inspect(&nar).unwrap().to_json().unwrap();
    assert_eq!(
        String::from_utf8(json).unwrap(),
        concat!(
            r#"{"version":1,"root":{"type":"directory","entries":{"#,
            r#""a":{"type":"regular","size":5,"narOffset":232},"#,
            r#""link":{"type":"symlink","target":"a"},"#,
            r#""nothing":{"type":"regular","size":0,"narOffset":616},"#,
            r#""run":{"type":"regular","size":10,"executable":true,"narOffset":832},"#,
            r#""sub":{"type":"directory","entries":{"empty":{"type":"directory","entries":{}},"#,
            r#""é":{"type":"regular","size":1,"narOffset":1336}}}}}}"#,
        )
    );
}

#[test]
fn files_are_found_by_their_path() {
    let listing = inspect(&encode(&sample()).unwrap()).unwrap();
    let found = listing.find("sub/é".as_bytes());
    assert!(matches!(found, Some(ListingNode::Regular { nar_offset: 1336, .. })));
    assert_eq!(listing.find(b""), Some(&listing.root));
    assert_eq!(listing.find(b"a/b"), None);
    assert_eq!(listing.find(b"b"), None);
}

#[test]
fn a_listing_of_names_that_are_no_text_cannot_be_written() {
    let tree = NarNode::Directory(BTreeMap::from([(vec![0xff], file(b""))]));
    assert!(inspect(&encode(&tree).unwrap()).unwrap().to_json().is_err());
    assert!(inspect(&encode(&link(&[0xff])).unwrap()).unwrap().to_json().is_err());
}

#[test]
fn a_file_is_encoded_while_it_is_read() {
    let mut nar = Vec::new();
    encode_file(&mut nar, &mut &b"contents and more"[..], 8, true).unwrap();
    assert_eq!(nar, encode(&script(b"contents")).unwrap());
    assert!(encode_file(Vec::new(), &mut &b"short"[..], 8, true).is_err());
}

#[test]
fn names_that_leave_their_directory_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"../../etc/passwd", b"a\0"] {
        assert!(refusal(&directory_of(&[name])).contains("which no file can have"), "{name:?}");
    }
    assert!(inspect(&directory_of(&[&b"n".repeat(255)])).is_ok());
    assert!(refusal(&directory_of(&[&b"n".repeat(256)])).contains("a name of 256 bytes; at most 255"));
    assert!(inspect(&directory_of(&[b"..."])).is_ok());
}

#[test]
fn names_out_of_order_or_twice_are_refused() {
    assert!(inspect(&directory_of(&[b"a", b"b"])).is_ok());
    assert!(refusal(&directory_of(&[b"b", b"a"])).contains("`a` after `b`"));
    assert!(refusal(&directory_of(&[b"a", b"a"])).contains("sorted and unique"));
    assert!(refusal(&directory_of(&[&[0xff], b"a"])).contains("`a` after `\\xff`"), "bytes are unsigned");
}

#[test]
fn nesting_is_limited_and_does_not_recurse() {
    let nested = |depth: usize| {
        let mut nar: Vec<&[u8]> = vec![b"nix-archive-1", b"("];
        for _ in 1..depth {
            nar.extend([&b"type"[..], b"directory", b"entry", b"(", b"name", b"n", b"node", b"("]);
        }
        nar.extend(SYMLINK);
        for _ in 1..depth {
            nar.extend([&b")"[..], b")"]);
        }
        words(&nar)
    };
    assert!(inspect(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(inspect(&nested(DEPTH_MAX + 1)), Err(NarError::TooDeep));
    assert_eq!(inspect(&nested(1_000_000)), Err(NarError::TooDeep));
}

#[test]
fn a_length_that_claims_more_than_the_nar_has_is_refused_before_the_bytes_come() {
    let mut nar = words(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
    nar.extend(u64::MAX.to_le_bytes());
    let mut inspector = NarInspector::new(1 << 30);
    let error = inspector.push(&nar).unwrap_err();
    assert!(matches!(error, NarError::TooLong { offset: 88, length: u64::MAX, .. }), "{error}");
    assert_eq!(inspector.push(b"more"), Err(error.clone()), "the error stays");
    assert_eq!(inspector.finish(), Err(error));
}

#[test]
fn symlink_targets_are_limited() {
    let of = |target: &[u8]| words(&[b"nix-archive-1", b"(", b"type", b"symlink", b"target", target, b")"]);
    assert!(inspect(&of(&b"t".repeat(4095))).is_ok());
    assert!(refusal(&of(&b"t".repeat(4096))).contains("a symlink target of 4096 bytes"));
    assert!(refusal(&of(b"")).contains("no symlink can have"));
    assert!(refusal(&of(b"a\0b")).contains("no symlink can have"));
}

#[test]
fn padding_trailing_bytes_and_lengths_are_checked() {
    let nar = encode(&file(b"hello")).unwrap();
    let mut padded = nar.clone();
    padded[8 + 13] = 1;
    assert_eq!(inspect(&padded), Err(NarError::Padding { offset: 21 }));

    let longer = [nar.as_slice(), &[0; 8]].concat();
    assert_eq!(refusal(&longer), format!("the NAR ends at byte {}, but more bytes follow", nar.len()));

    let mut short = NarInspector::new(nar.len() as u64 + 1);
    short.push(&nar).unwrap();
    assert!(short.finish().unwrap_err().to_string().contains("of its NarSize"));

    let mut long = NarInspector::new(nar.len() as u64 - 1);
    let size = nar.len() as u64 - 1;
    assert_eq!(long.push(&nar), Err(NarError::BeyondNarSize { nar_size: size }));
}

#[test]
fn other_words_are_refused_where_they_stand() {
    assert_eq!(inspect(b"\x7fELF\x02\x01\x01\x00and so on"), Err(NarError::NotANar));
    assert_eq!(inspect(&words(&[b"nix-archive-2"])), Err(NarError::NotANar));
    assert_eq!(inspect(b""), Err(NarError::Truncated { offset: 0 }));
    let refused = |after: &[&[u8]]| {
        let mut all: Vec<&[u8]> = vec![b"nix-archive-1", b"(", b"type"];
        all.extend(after);
        refusal(&words(&all))
    };
    assert!(refused(&[b"fifo"]).contains("`regular`, `directory` or `symlink` is expected"));
    assert!(refused(&[b"regular", b"executable", b"x"]).contains("an empty mark"));
    assert!(refused(&[b"regular", b")"]).contains("`executable` or `contents`"));
    assert!(refused(&[b"directory", b"name"]).contains("`entry` or `)`"));
    assert!(refused(&[b"a word that is far too long for a word"]).contains("is expected"));
}

/// Pushes `nar` in pieces of the given sizes, over and over.
fn inspect_in_pieces(nar: &[u8], sizes: &[usize]) -> Result<Listing, NarError> {
    let mut inspector = NarInspector::new(nar.len() as u64);
    let mut rest = nar;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(rest.len().min(*size));
        inspector.push(piece)?;
        rest = after;
    }
    inspector.finish()
}

/// Reads the tree back by the offsets of the listing.
fn tree_of(nar: &[u8], node: &ListingNode) -> NarNode {
    match node {
        ListingNode::Regular { size, executable, nar_offset } => {
            let [start, size] = [nar_offset, size].map(|number| usize::try_from(*number).unwrap());
            NarNode::Regular { contents: nar[start..start + size].to_vec(), executable: *executable }
        }
        ListingNode::Symlink { target } => NarNode::Symlink { target: target.to_vec() },
        ListingNode::Directory { entries } => NarNode::Directory(
            entries.iter().map(|(name, node)| (name.to_vec(), tree_of(nar, node))).collect(),
        ),
    }
}

fn trees() -> impl Strategy<Value = NarNode> {
    let name = prop_oneof![
        "[a-zA-Z0-9._+-]{3,20}".prop_map(String::into_bytes),
        proptest::collection::vec(prop_oneof![1..=46_u8, 48..=255_u8], 3..12),
    ];
    let leaf = prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..100), any::<bool>())
            .prop_map(|(contents, executable)| NarNode::Regular { contents, executable }),
        proptest::collection::vec(1..=255_u8, 1..40).prop_map(|target| NarNode::Symlink { target }),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        proptest::collection::btree_map(name.clone(), inner, 0..6).prop_map(NarNode::Directory)
    })
}

/// Where the contents of files of at least `bytes_min` bytes begin, by a listing.
fn files_of(node: &ListingNode, bytes_min: u64) -> Vec<u64> {
    match node {
        ListingNode::Regular { size, nar_offset, .. } if *size >= bytes_min => vec![*nar_offset],
        ListingNode::Directory { entries } => {
            entries.iter().flat_map(|(_, node)| files_of(node, bytes_min)).collect()
        }
        ListingNode::Regular { .. } | ListingNode::Symlink { .. } => Vec::new(),
    }
}

proptest! {
    #[test]
    fn where_files_begin_is_told_whatever_the_pieces(
        tree in trees(), bytes_min in 1..80_u64, sizes in proptest::collection::vec(1..200_usize, 1..8),
    ) {
        let nar = encode(&tree).unwrap();
        let mut inspector = NarInspector::new(nar.len() as u64);
        let (mut offset, mut found) = (0, Vec::new());
        for size in sizes.iter().cycle() {
            let mut piece = &nar[offset..nar.len().min(offset + size)];
            if piece.is_empty() {
                break;
            }
            offset += piece.len();
            while let Some(taken) = inspector.push_to_file(piece, bytes_min).unwrap() {
                piece = &piece[taken..];
                found.push((offset - piece.len()) as u64);
            }
        }
        let listing = inspector.finish().unwrap();
        prop_assert_eq!(found, files_of(&listing.root, bytes_min));
        prop_assert_eq!(listing, inspect(&nar).unwrap());
    }

    #[test]
    fn a_tree_comes_back_from_its_nar_in_pieces_of_any_size(
        tree in trees(),
        sizes in proptest::collection::vec(1..40_usize, 1..8),
    ) {
        let nar = encode(&tree).unwrap();
        let listing = inspect_in_pieces(&nar, &sizes).unwrap();
        prop_assert_eq!(tree_of(&nar, &listing.root), tree);
    }

    #[test]
    fn a_nar_cut_short_is_never_accepted(tree in trees(), cut in any::<prop::sample::Index>()) {
        let nar = encode(&tree).unwrap();
        prop_assert!(inspect(&nar[..cut.index(nar.len())]).is_err());
    }

    #[test]
    fn damage_is_refused_or_makes_another_canonical_nar(
        tree in trees(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut nar = encode(&tree).unwrap();
        for (place, byte) in damage {
            let place = place.index(nar.len());
            nar[place] = byte;
        }
        if let Ok(listing) = inspect(&nar) {
            prop_assert_eq!(&encode(&tree_of(&nar, &listing.root)).unwrap(), &nar);
            prop_assert!(decode_events(&nar, |_| Ok(())).is_ok(), "another decoder accepts it too");
        }
    }

    #[test]
    fn words_in_any_order_never_make_it_panic(
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let vocabulary: [&[u8]; 13] = [
            b"(", b")", b"type", b"regular", b"symlink", b"directory", b"entry", b"name", b"node",
            b"target", b"contents", b"executable", b"",
        ];
        let mut all: Vec<&[u8]> = vec![b"nix-archive-1"];
        all.extend(picks.iter().map(|pick| vocabulary[pick.index(vocabulary.len())]));
        let nar = words(&all);
        if let Ok(listing) = inspect(&nar) {
            prop_assert_eq!(encode(&tree_of(&nar, &listing.root)).unwrap(), nar);
        }
    }

    #[test]
    fn arbitrary_bytes_never_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = inspect(&bytes);
        let _ = inspect(&[words(&[b"nix-archive-1", b"(", b"type"]), bytes].concat());
    }
}
