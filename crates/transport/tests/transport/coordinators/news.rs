//! News of the feed: which coordinators are waited for, and which are asked for the feed instead.

use std::sync::atomic::Ordering;
use std::time::Duration;

use firn_wire::{
    CoordinatorReply, CoordinatorRequest, FeedBatch, FeedEvent, RefusalKind, RefusedRequest, Signed,
};
use tokio::time::sleep;

use super::{Answer, Fleet, archive, fleet, key, refuses};
use crate::world::identity;

/// News of the coordinator `signer`: a feed of so many events, which ends where it is asked from.
pub(super) fn news(signer: u8, head: u64, stale_millis: Option<u64>) -> Answer {
    Box::new(move |_, request| {
        let CoordinatorRequest::News { from, .. } = request else { return None };
        let events = if *from < head { vec![FeedEvent::Visible(key(1))] } else { Vec::new() };
        let batch = Signed::seal(&identity(signer), archive(), &FeedBatch { first: *from, events, head });
        Some(CoordinatorReply::News { batch, stale_millis })
    })
}

#[tokio::test]
async fn that_nothing_is_newer_is_taken_from_one_that_hears_a_majority_if_there_is_one() {
    let fleet = fleet(vec![news(1, 9, Some(60_000)), news(2, 9, Some(40_000)), news(3, 9, None)]).await;
    let told = fleet.client.news(9, Duration::ZERO).await.unwrap();
    assert_eq!((told.batch.head, told.stale), (9, None));
    // The least stale of those that are cut off, if all are; nobody waits for one that hangs.
    *fleet.fakes[2].answer.lock().unwrap() = news(3, 9, Some(50_000));
    assert_eq!(fleet.client.news(9, Duration::ZERO).await.unwrap().stale, Some(Duration::from_secs(40)));
    fleet.fakes[2].hangs.store(true, Ordering::SeqCst);
    assert_eq!(fleet.client.news(9, Duration::ZERO).await.unwrap().stale, Some(Duration::from_secs(40)));
    // Events are true whoever tells them.
    let told = fleet.client.news(8, Duration::ZERO).await.unwrap();
    assert_eq!(told.batch.events.len(), 1);
}

#[tokio::test]
async fn whoever_waits_for_news_is_told_at_once_that_nobody_is_heard_and_asks_another_one_next() {
    let fleet = fleet(vec![news(1, 9, Some(60_000)), news(2, 9, None)]).await;
    let wait = Duration::from_secs(20);
    assert_eq!(fleet.client.news(9, wait).await.unwrap().stale, Some(Duration::from_secs(60)));
    assert_eq!(fleet.client.news(9, wait).await.unwrap().stale, None);
}

#[tokio::test]
async fn a_coordinator_that_does_not_know_the_question_is_asked_for_the_feed() {
    let fleet = fleet(vec![Box::new(|_, request| {
        let CoordinatorRequest::Feed { from: 9, .. } = request else {
            let refused = RefusedRequest::new(RefusalKind::Malformed, "the message is malformed");
            return Some(CoordinatorReply::Refused(refused));
        };
        let batch = FeedBatch { first: 9, events: Vec::new(), head: 9 };
        Some(CoordinatorReply::Feed(Signed::seal(&identity(1), archive(), &batch)))
    })])
    .await;
    let told = fleet.client.news(9, Duration::ZERO).await.unwrap();
    assert_eq!((told.batch.head, told.stale), (9, None));
}

/// One of a version before news were asked for.
fn old(signer: u8) -> Answer {
    Box::new(move |_, request| {
        let CoordinatorRequest::Feed { from, .. } = request else {
            let refused = RefusedRequest::new(RefusalKind::Malformed, "the message is malformed");
            return Some(CoordinatorReply::Refused(refused));
        };
        let batch = FeedBatch { first: *from, events: Vec::new(), head: 9 };
        Some(CoordinatorReply::Feed(Signed::seal(&identity(signer), archive(), &batch)))
    })
}

#[tokio::test]
async fn that_a_coordinator_is_cut_off_is_not_forgotten_for_one_that_does_not_know_the_question() {
    let cut_off = || news(1, 9, Some(60_000));
    // Either may be asked first.
    for answers in [vec![cut_off(), old(2)], vec![old(1), news(2, 9, Some(60_000))]] {
        let fleet = fleet(answers).await;
        for _ in 0..3 {
            let told = fleet.client.news(9, Duration::ZERO).await.unwrap();
            assert_eq!((told.batch.head, told.stale), (9, Some(Duration::from_secs(60))));
        }
    }
}

#[tokio::test]
async fn a_coordinator_that_does_not_know_the_question_is_no_reason_to_give_up_those_that_do() {
    let fleet = fleet(vec![old(1), refuses(RefusalKind::Unavailable)]).await;
    let client = fleet.client.clone();
    let told = tokio::spawn(async move { client.news(9, Duration::ZERO).await });
    // Until it has been asked and could not answer.
    while fleet.fakes[1].asked.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    *fleet.fakes[1].answer.lock().unwrap() = news(2, 9, Some(60_000));
    assert_eq!(told.await.unwrap().unwrap().stale, Some(Duration::from_secs(60)));
}

#[tokio::test]
async fn a_dead_one_beside_those_that_do_not_know_the_question_costs_no_question_its_whole_time() {
    let hanging = fleet(vec![old(1), old(2), old(3)]).await;
    hanging.fakes[2].hangs.store(true, Ordering::SeqCst);
    let unable = fleet(vec![old(1), old(2), refuses(RefusalKind::Unavailable)]).await;
    let (of_hanging, of_unable) = tokio::join!(
        hanging.client.news(9, Duration::ZERO),
        // Whoever waits for news would ask for 35 seconds else, about once in each.
        unable.client.news(9, Duration::from_secs(20)),
    );
    for told in [of_hanging, of_unable] {
        let told = told.unwrap();
        assert_eq!((told.batch.head, told.stale), (9, None));
    }
    let asked = |fleet: &Fleet, number: usize| fleet.fakes[number].asked.load(Ordering::SeqCst);
    // For news once each, for the feed once at most: there is no second round.
    let first_two = asked(&hanging, 0) + asked(&hanging, 1);
    assert!(first_two <= 4, "{first_two} questions");
    let third = asked(&unable, 2);
    assert!((2..10).contains(&third), "{third} questions");
}

#[tokio::test]
async fn a_coordinator_that_is_far_is_waited_for_if_the_near_one_is_cut_off() {
    let hears_others = news(2, 9, None);
    let far: Answer = Box::new(move |connection, request| match request {
        CoordinatorRequest::Nodes => Some(CoordinatorReply::Nodes(Vec::new())),
        request => hears_others(connection, request),
    });
    let fleet = fleet(vec![news(1, 9, Some(60_000)), far]).await;
    *fleet.fakes[1].takes.lock().unwrap() = Duration::from_secs(2);
    // Nothing is known of it at first.
    for _ in 0..3 {
        assert_eq!(fleet.client.news(9, Duration::ZERO).await.unwrap().stale, None);
    }
    // Nor is that it is near if it answered something before, which the other one did not.
    fleet.client.nodes().await.unwrap();
    assert_eq!(fleet.client.news(9, Duration::ZERO).await.unwrap().stale, None);
}

#[tokio::test]
async fn a_coordinator_that_took_long_for_a_list_is_not_taken_for_a_far_one() {
    let hears_others = news(2, 9, None);
    let lists: Answer = Box::new(move |connection, request| match request {
        CoordinatorRequest::Nodes => Some(CoordinatorReply::Nodes(Vec::new())),
        request => hears_others(connection, request),
    });
    let fleet = fleet(vec![news(1, 9, Some(60_000)), lists]).await;
    // Both are near: at the second time neither is dialled.
    for _ in 0..2 {
        assert_eq!(fleet.client.news(9, Duration::ZERO).await.unwrap().stale, None);
    }
    *fleet.fakes[1].takes.lock().unwrap() = Duration::from_secs(4);
    let (coordinator, within) = (identity(2).node_id(), Duration::from_secs(60));
    fleet.client.ask_coordinator(coordinator, &CoordinatorRequest::Nodes, within).await.unwrap();
    // It is not waited for as one that may be as late again.
    assert_eq!(fleet.client.news(9, Duration::ZERO).await.unwrap().stale, Some(Duration::from_secs(60)));
}
