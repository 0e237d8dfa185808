//! What is newer, as a real coordinator tells it that can be cut off from the others.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::archive::{Archive, add_uploader, endpoint, until};
use firn_base::NodeId;
use firn_transport::{ConnectionPool, CoordinatorClient};
use firn_wire::{AdminRequest, CoordinatorReply, CoordinatorRequest, Identity};

const WAIT: Duration = Duration::from_secs(30);

/// For how long a coordinator has heard nobody, as it says to one who waits for news.
async fn wait_for_news(client: &CoordinatorClient, coordinator: NodeId) -> Duration {
    let wait_millis = u32::try_from(WAIT.as_millis()).unwrap();
    let request = CoordinatorRequest::News { from: 0, wait_millis };
    let reply = client.ask_coordinator(coordinator, &request, WAIT * 2).await.unwrap();
    let CoordinatorReply::News { batch, stale_millis: Some(stale) } = reply else { panic!("{reply:?}") };
    assert!(batch.peek().unwrap().events.is_empty());
    Duration::from_millis(stale)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_that_the_coordinator_is_cut_off_before_the_wait_is_over() {
    let mut archive = Archive::found(3).await;
    archive.ask(AdminRequest::Govern(add_uploader(1))).await.unwrap();
    let (third, consensus) = (archive.id(3), archive.coordinator(3).consensus().clone());
    until("the third hears the others", async || consensus.stale().is_none().then_some(())).await;
    let bound = endpoint(&Identity::from_seed(&[50; 32]), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let client = CoordinatorClient::new(ConnectionPool::new(bound), archive.descriptor.verify().unwrap());
    // It has to be waiting when the others go.
    client.ask_coordinator(third, &CoordinatorRequest::GetMembers, WAIT).await.unwrap();
    let cut_off = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for number in [1, 2] {
            archive.end(number).await;
        }
    };
    let (stale, ()) = tokio::join!(wait_for_news(&client, third), cut_off);
    // One that waited on would be without the others for about as long.
    assert!(stale < WAIT / 2, "{stale:?}");
    let later = wait_for_news(&client, third).await;
    assert!(later < stale + WAIT / 2, "who is cut off holds nobody back: {later:?}");
}
