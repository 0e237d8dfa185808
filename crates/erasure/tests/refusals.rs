//! Wrong input ends in an error that leaves every buffer as it was, never in a panic.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use firn_base::ShardIndex;
use firn_erasure::{Backend, Coder, CoderError, EncodeError, RebuildError};

const A: [u8; 8] = [0xa5; 8];

fn coder() -> Coder {
    Coder::new(4).unwrap()
}

fn indexes<const N: usize>(numbers: [u8; N]) -> [ShardIndex; N] {
    numbers.map(ShardIndex)
}

/// Rebuilds shard 0 of the code of 4 from slices of the given indexes and lengths.
fn rebuild(present: &[(u8, usize)], wanted: u8, wanted_bytes: usize) -> Result<(), RebuildError> {
    let present: Vec<_> = present.iter().map(|(i, bytes)| (ShardIndex(*i), &A[..*bytes])).collect();
    let mut buffer = [7; 8];
    let result = coder().rebuild(&present, &mut [(ShardIndex(wanted), &mut buffer[..wanted_bytes])]);
    assert!(result.is_ok() || buffer == [7; 8], "a refused rebuild wrote something");
    result
}

#[test]
fn a_k_outside_the_ladder_has_no_coder() {
    for k in [0, 3, 5, 32, 255] {
        assert_eq!(Coder::new(k).unwrap_err(), CoderError::UnknownK { k });
    }
    assert_eq!(
        Coder::new(3).unwrap_err().to_string(),
        "no archive uses 3 data shards: k is 1, 2, 4, 8 or 16"
    );
}

#[test]
fn a_backend_that_the_processor_lacks_has_no_coder() {
    for backend in Backend::ALL {
        let made = Coder::with_backend(4, backend);
        assert_eq!(made.is_ok(), backend.is_available());
        if let Err(error) = made {
            assert_eq!(error, CoderError::Backend { backend });
            assert!(error.to_string().ends_with("take the backend that is detected"));
        }
    }
}

#[test]
fn encoding_wants_exactly_k_data_shards() {
    for given in [0, 3, 5] {
        let refused = coder().encode(&vec![&A[..]; given], &mut []);
        assert_eq!(refused, Err(EncodeError::DataCount { given, k: 4 }));
    }
    assert_eq!(coder().encode(&[&A[..]; 4], &mut []), Ok(()));
}

#[test]
fn encoding_has_no_more_parity_than_the_code() {
    let mut buffers = [[0; 8]; 9];
    let mut parity: Vec<_> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
    assert_eq!(
        coder().encode(&[&A[..]; 4], &mut parity),
        Err(EncodeError::ParityCount { given: 9, most: 8 })
    );
}

#[test]
fn encoding_wants_slices_of_one_length() {
    let mut parity = [7; 8];
    let refused = coder().encode(&[&A[..], &A[..], &A[..7], &A[..]], &mut [&mut parity]);
    assert_eq!(refused, Err(EncodeError::Length { index: ShardIndex(2), given: 7, first: 8 }));
    let refused = coder().encode(&[&A[..7]; 4], &mut [&mut parity]);
    assert_eq!(refused, Err(EncodeError::Length { index: ShardIndex(4), given: 8, first: 7 }));
    assert_eq!(parity, [7; 8]);
}

#[test]
fn rebuilding_wants_k_shards() {
    assert_eq!(rebuild(&[], 0, 8), Err(RebuildError::TooFew { present: 0, k: 4 }));
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8)], 0, 8), Err(RebuildError::TooFew { present: 3, k: 4 }));
}

#[test]
fn rebuilding_knows_only_the_indexes_of_its_code() {
    let unknown = |index| Err(RebuildError::UnknownIndex { index: ShardIndex(index), n_max: 12 });
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (12, 8)], 0, 8), unknown(12));
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (255, 8)], 0, 8), unknown(255));
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (4, 8)], 12, 8), unknown(12));
}

#[test]
fn the_same_shard_twice_does_not_count_as_two() {
    let repeated = RebuildError::Repeated { index: ShardIndex(3) };
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (3, 8)], 0, 8), Err(repeated.clone()));
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (4, 8), (3, 8)], 0, 8), Err(repeated));
    let twice = coder().plan_rebuild(&indexes([1, 2, 3, 4]), &indexes([0, 0])).unwrap_err();
    assert_eq!(twice, RebuildError::Repeated { index: ShardIndex(0) });
}

#[test]
fn rebuilding_wants_slices_of_one_length() {
    let wrong = |index, given| Err(RebuildError::Length { index: ShardIndex(index), given, first: 8 });
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 6), (4, 8)], 0, 8), wrong(3, 6));
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (4, 8), (5, 0)], 0, 8), wrong(5, 0));
    assert_eq!(rebuild(&[(1, 8), (2, 8), (3, 8), (4, 8)], 0, 5), wrong(0, 5));
}

#[test]
fn a_plan_takes_as_many_slices_as_it_was_made_for() {
    let plan = coder().plan_rebuild(&indexes([1, 2, 3, 4]), &indexes([0])).unwrap();
    let refused = plan.run(&[&A[..]; 3], &mut [&mut [0; 8]]);
    assert_eq!(refused, Err(RebuildError::SliceCount { given: 3, planned: 4 }));
    assert_eq!(plan.run(&[&A[..]; 4], &mut []), Err(RebuildError::SliceCount { given: 0, planned: 1 }));
}

#[test]
fn a_wanted_shard_that_is_present_is_copied() {
    let shards = [[1; 8], [2; 8], [3; 8], [4; 8], [5; 8]];
    let plan = coder().plan_rebuild(&indexes([0, 1, 2, 3, 9]), &indexes([9, 2])).unwrap();
    assert_eq!(plan.sources().collect::<Vec<_>>(), indexes([2, 9]));
    let (mut nine, mut two) = ([0; 8], [0; 8]);
    plan.run(&shards.each_ref().map(|shard| &shard[..]), &mut [&mut nine, &mut two]).unwrap();
    assert_eq!((nine, two), ([5; 8], [3; 8]));
}

#[test]
fn a_plan_reads_the_first_k_shards_that_are_present() {
    let plan = coder().plan_rebuild(&indexes([6, 1, 2, 3, 9]), &indexes([0])).unwrap();
    assert_eq!(plan.sources().collect::<Vec<_>>(), indexes([6, 1, 2, 3]));
}

#[test]
fn comparing_shards_has_the_same_bounds() {
    let given = |numbers: &[u8]| {
        let shards: Vec<_> = numbers.iter().map(|i| (ShardIndex(*i), &A[..])).collect();
        coder().verify(&shards)
    };
    assert_eq!(given(&[0, 1, 2]), Err(RebuildError::TooFew { present: 3, k: 4 }));
    assert_eq!(given(&[0, 1, 2, 3, 3]), Err(RebuildError::Repeated { index: ShardIndex(3) }));
    assert_eq!(given(&[0, 1, 2, 3]), Ok(true));
}
