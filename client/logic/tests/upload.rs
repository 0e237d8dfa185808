//! The upload as a protocol: what it asks for, in which order, and what it makes of every answer.

use std::time::Duration;

use firn_base::{ArchiveId, CodingId, NodeId, ReservationId, Scheme, ShardIndex, ShardRoot, Timestamp};
use firn_client_logic::{
    SendFailure, ShardSend, Upload, UploadError, UploadOutcome, UploadPolicy, UploadStep, UploadedPart,
};
use firn_wire::{
    Identity, NodeAddress, OrderRank, Receipt, RefusalKind, RefusedRequest, ReservationGrant, Signed, Ticket,
};

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);
const RANK: OrderRank = OrderRank { generation: 1, epoch: 1 };

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn reservation(number: u8) -> ReservationId {
    ReservationId::from_bytes([number; 32])
}

fn grant(number: u8, k: u8, n: u8) -> ReservationGrant {
    let key = Identity::from_seed(&[9; 32]);
    let targets = (0..n).map(|index| {
        let node = NodeId::from_bytes([index; 32]);
        let ticket = Ticket {
            node,
            bearer: key.public(),
            reservation: reservation(number),
            coding: CodingId::from_bytes([3; 32]),
            index: ShardIndex(index),
            shard_bytes: 65_536,
            root: ShardRoot::from_bytes([4; 32]),
            expires: at(1000),
            rank: RANK,
        };
        let address = NodeAddress { node, address: format!("node-{index}:1"), online: true };
        (address, Signed::seal(&key, ARCHIVE, &ticket))
    });
    let scheme = Scheme::new(k, n).expect("a scheme of the ladder");
    ReservationGrant {
        reservation: reservation(number),
        scheme,
        expires: at(1000),
        targets: targets.collect(),
    }
}

fn receipt(send: &ShardSend) -> Signed<Receipt> {
    let receipt = Receipt {
        node: send.target.node,
        reservation: send.reservation,
        coding: CodingId::from_bytes([3; 32]),
        index: send.index,
        root: ShardRoot::from_bytes([4; 32]),
        rank: RANK,
    };
    Signed::seal(&Identity::from_seed(&[8; 32]), ARCHIVE, &receipt)
}

fn failure(retry: bool) -> SendFailure {
    SendFailure { retry, sentence: "the node is away".into() }
}

fn refused(kind: RefusalKind) -> RefusedRequest {
    RefusedRequest::new(kind, "a sentence")
}

fn sends(upload: &mut Upload, now: Timestamp) -> Vec<ShardSend> {
    let mut sends = Vec::new();
    while let UploadStep::Send(send) = upload.next_step(now) {
        sends.push(*send);
    }
    sends
}

/// Six nodes, four data shards: five receipts are needed.
fn reserved_upload(policy: UploadPolicy) -> Upload {
    let mut upload = Upload::new(1, 4, policy, at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Wait(None));
    upload.handle_reserved(0, grant(1, 4, 6), at(0));
    upload
}

fn commit_of(step: UploadStep) -> Vec<UploadedPart> {
    match step {
        UploadStep::Commit(parts) => parts,
        other => panic!("a commit was expected, not {other:?}"),
    }
}

#[test]
fn all_shards_are_sent_and_committed_at_once_when_every_node_answers() {
    let mut upload = reserved_upload(UploadPolicy::default());
    for send in sends(&mut upload, at(0)) {
        upload.handle_stored(&send, receipt(&send), at(1));
    }
    let parts = commit_of(upload.next_step(at(1)));
    assert_eq!((parts.len(), parts[0].receipts.len(), parts[0].reservation), (1, 6, reservation(1)));
    upload.handle_committed(3, Vec::new(), at(2));
    let outcome = UploadOutcome::Committed { visible: 3, held: Vec::new(), shards: 6 };
    assert_eq!(upload.next_step(at(2)), UploadStep::Done(Ok(outcome)));
}

#[test]
fn no_more_shards_are_on_their_way_than_the_policy_allows() {
    let policy = UploadPolicy { sends_in_flight_max: 2, ..UploadPolicy::default() };
    let mut upload = reserved_upload(policy);
    let first = sends(&mut upload, at(0));
    assert_eq!(first.len(), 2);
    upload.handle_stored(&first[0], receipt(&first[0]), at(0));
    assert_eq!(sends(&mut upload, at(0)).len(), 1);
}

#[test]
fn a_slow_node_is_waited_for_only_so_long_and_its_receipt_comes_late() {
    let mut upload = reserved_upload(UploadPolicy::default());
    let all = sends(&mut upload, at(0));
    for send in &all[..5] {
        upload.handle_stored(send, receipt(send), at(1));
    }
    assert_eq!(upload.next_step(at(1)), UploadStep::Wait(Some(at(6))), "five seconds of grace");
    assert_eq!(commit_of(upload.next_step(at(6)))[0].receipts.len(), 5);
    upload.handle_committed(1, Vec::new(), at(7));
    assert_eq!(upload.next_step(at(7)), UploadStep::Wait(None), "shards go on to n behind the commit");
    upload.handle_stored(&all[5], receipt(&all[5]), at(8));
    assert_eq!(upload.next_step(at(8)), UploadStep::ReportLate(vec![receipt(&all[5])]));
    upload.handle_late_receipts(true);
    assert!(matches!(
        upload.next_step(at(8)),
        UploadStep::Done(Ok(UploadOutcome::Committed { shards: 6, .. }))
    ));
}

#[test]
fn late_receipts_that_nobody_takes_do_not_hold_up_the_upload_for_ever() {
    let mut upload = reserved_upload(UploadPolicy::default());
    let all = sends(&mut upload, at(0));
    for send in &all[..5] {
        upload.handle_stored(send, receipt(send), at(0));
    }
    commit_of(upload.next_step(at(10)));
    upload.handle_committed(1, Vec::new(), at(10));
    upload.handle_stored(&all[5], receipt(&all[5]), at(10));
    for _ in 0..3 {
        assert!(matches!(upload.next_step(at(10)), UploadStep::ReportLate(_)));
        upload.handle_late_receipts(false);
    }
    assert!(matches!(upload.next_step(at(10)), UploadStep::Done(Ok(_))));
}

#[test]
fn a_commit_waits_for_the_threshold_and_a_failed_shard_is_offered_again() {
    let mut upload = reserved_upload(UploadPolicy::default());
    let all = sends(&mut upload, at(0));
    for send in &all[..4] {
        upload.handle_stored(send, receipt(send), at(0));
    }
    upload.handle_send_failed(&all[4], failure(true), at(0));
    upload.handle_send_failed(&all[5], failure(false), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Wait(Some(Timestamp::from_millis(500))));
    let again = sends(&mut upload, at(1));
    assert_eq!(again, [all[4].clone()]);
    upload.handle_stored(&again[0], receipt(&again[0]), at(2));
    assert_eq!(commit_of(upload.next_step(at(2)))[0].receipts.len(), 5);
}

#[test]
fn too_few_shards_get_new_nodes_and_at_last_a_reason() {
    let policy = UploadPolicy { reservations_max: 2, ..UploadPolicy::default() };
    let mut upload = reserved_upload(policy);
    for send in sends(&mut upload, at(0)) {
        upload.handle_send_failed(&send, failure(false), at(0));
    }
    assert_eq!(upload.next_step(at(0)), UploadStep::Wait(Some(Timestamp::from_millis(500))));
    assert_eq!(upload.next_step(at(1)), UploadStep::Reserve(0));
    upload.handle_reserved(0, grant(2, 4, 6), at(1));
    for send in sends(&mut upload, at(1)) {
        assert_eq!(send.reservation, reservation(2));
        upload.handle_send_failed(&send, failure(false), at(1));
    }
    let error = UploadError::TooFewShards { stored: 0, needed: 5, reasons: "the node is away".into() };
    assert!(error.stops_publishing());
    assert_eq!(upload.next_step(at(1)), UploadStep::Done(Err(error)));
}

#[test]
fn answers_to_an_earlier_reservation_do_not_count() {
    let mut upload = reserved_upload(UploadPolicy::default());
    let all = sends(&mut upload, at(0));
    for send in &all[..5] {
        upload.handle_stored(send, receipt(send), at(0));
    }
    commit_of(upload.next_step(at(5)));
    upload.handle_commit_refused(refused(RefusalKind::Expired), at(6));
    assert_eq!(upload.next_step(at(7)), UploadStep::Reserve(0));
    upload.handle_reserved(0, grant(2, 4, 6), at(7));
    upload.handle_stored(&all[5], receipt(&all[5]), at(7));
    let again = sends(&mut upload, at(7));
    assert_eq!(again.len(), 6, "every shard goes to its new node");
    for send in &again[..4] {
        upload.handle_stored(send, receipt(send), at(7));
    }
    assert_eq!(upload.next_step(at(100)), UploadStep::Wait(None), "four of the new reservation are too few");
}

#[test]
fn a_changed_scheme_means_coding_anew_and_starting_over() {
    let mut upload = Upload::new(2, 4, UploadPolicy::default(), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
    upload.handle_reserve_refused(0, refused(RefusalKind::SchemeChanged), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Recode);
    assert_eq!(upload.next_step(at(0)), UploadStep::Wait(None), "it is asked for once");
    upload.handle_recoded(8, at(1));
    assert_eq!(upload.next_step(at(1)), UploadStep::Reserve(0));
    assert_eq!(upload.next_step(at(1)), UploadStep::Reserve(1));
    upload.handle_reserved(0, grant(3, 4, 6), at(1));
    assert_eq!(upload.next_step(at(1)), UploadStep::Recode, "a grant for another k is a changed scheme too");
}

#[test]
fn a_bundle_that_exists_is_left_out_of_the_commit() {
    let mut upload = Upload::new(2, 4, UploadPolicy::default(), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(1));
    upload.handle_reserve_refused(0, refused(RefusalKind::AlreadyDone), at(0));
    upload.handle_reserved(1, grant(1, 4, 6), at(0));
    for send in sends(&mut upload, at(0)) {
        upload.handle_stored(&send, receipt(&send), at(0));
    }
    let parts = commit_of(upload.next_step(at(0)));
    assert_eq!(parts.iter().map(|part| part.bundle).collect::<Vec<_>>(), [1]);
}

#[test]
fn an_upload_whose_bundles_all_exist_is_done() {
    let mut upload = Upload::new(1, 4, UploadPolicy::default(), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
    upload.handle_reserve_refused(0, refused(RefusalKind::AlreadyDone), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Done(Ok(UploadOutcome::AlreadyArchived)));
}

#[test]
fn a_commit_whose_answer_was_lost_is_found_done() {
    let mut upload = reserved_upload(UploadPolicy::default());
    for send in sends(&mut upload, at(0)) {
        upload.handle_stored(&send, receipt(&send), at(0));
    }
    commit_of(upload.next_step(at(0)));
    upload.handle_commit_refused(refused(RefusalKind::Unavailable), at(1));
    assert_eq!(upload.next_step(at(1)), UploadStep::Wait(Some(Timestamp::from_millis(1500))));
    commit_of(upload.next_step(at(2)));
    upload.handle_commit_refused(refused(RefusalKind::AlreadyDone), at(2));
    assert_eq!(upload.next_step(at(2)), UploadStep::Done(Ok(UploadOutcome::AlreadyArchived)));
}

#[test]
fn what_builds_upon_a_replaced_bundle_is_not_sent_again_and_the_next_upload_goes_on() {
    let mut upload = reserved_upload(UploadPolicy::default());
    for send in sends(&mut upload, at(0)) {
        upload.handle_stored(&send, receipt(&send), at(0));
    }
    commit_of(upload.next_step(at(0)));
    upload.handle_commit_refused(refused(RefusalKind::Malformed), at(1));
    let step = upload.next_step(at(1));
    let UploadStep::Done(Err(error)) = step else { panic!("{step:?}") };
    assert!(!error.stops_publishing(), "{error}");
}

#[test]
fn an_archive_that_does_not_answer_is_given_up_after_a_time() {
    let policy = UploadPolicy { give_up_after: Duration::from_secs(30), ..UploadPolicy::default() };
    let mut upload = Upload::new(1, 4, policy, at(0));
    let mut now = at(0);
    for _ in 0..100 {
        match upload.next_step(now) {
            UploadStep::Reserve(bundle) => {
                upload.handle_reserve_refused(bundle, refused(RefusalKind::Unavailable), now);
            }
            UploadStep::Wait(Some(until)) => now = until,
            UploadStep::Done(Err(error)) => {
                assert_eq!(error, UploadError::Unavailable("a sentence".into()));
                assert!(now >= at(30) && now < at(50), "{now}");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the upload never ends");
}

#[test]
fn refusals_that_asking_again_cannot_cure_end_the_upload() {
    for (kind, stops) in [
        (RefusalKind::NotAllowed, true),
        (RefusalKind::Full, true),
        (RefusalKind::Malformed, false),
        (RefusalKind::NotFound, false),
    ] {
        let mut upload = Upload::new(1, 4, UploadPolicy::default(), at(0));
        assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
        upload.handle_reserve_refused(0, refused(kind), at(0));
        match upload.next_step(at(0)) {
            UploadStep::Done(Err(error)) => assert_eq!(error.stops_publishing(), stops, "{kind:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn few_bundles_of_a_large_object_are_open_at_once() {
    let mut upload = Upload::new(5, 4, UploadPolicy::default(), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(1));
    assert_eq!(upload.next_step(at(0)), UploadStep::Wait(None));
    for bundle in 0..5 {
        upload.handle_reserved(bundle, grant(u8::try_from(bundle).unwrap() + 1, 4, 6), at(0));
        for send in sends(&mut upload, at(0)) {
            upload.handle_stored(&send, receipt(&send), at(0));
        }
        if bundle < 3 {
            assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(bundle + 2));
        }
    }
    assert_eq!(commit_of(upload.next_step(at(0))).len(), 5);
}

#[test]
fn a_grant_without_a_ticket_for_enough_shards_is_not_used() {
    let mut upload = Upload::new(1, 4, UploadPolicy::default(), at(0));
    assert_eq!(upload.next_step(at(0)), UploadStep::Reserve(0));
    let mut grant = grant(1, 4, 6);
    grant.targets.truncate(4);
    upload.handle_reserved(0, grant, at(0));
    assert_eq!(upload.next_step(at(1)), UploadStep::Reserve(0));
}
