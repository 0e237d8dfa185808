//! The ledger of an archive of which one coordinator is left.

use std::net::Ipv4Addr;

use crate::archive::{Archive, PATIENCE, add_uploader, endpoint, until, uploader};
use firn_coordinator::Joined;
use firn_transport::{ConnectionPool, CoordinatorClient};
use firn_wire::{AdminRequest, CoordinatorReply, CoordinatorRequest, Identity};

async fn client(archive: &Archive) -> CoordinatorClient {
    let bound = endpoint(&Identity::from_seed(&[50; 32]), (Ipv4Addr::LOCALHOST, 0).into()).await;
    CoordinatorClient::new(ConnectionPool::new(bound), archive.descriptor.verify().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_coordinator_shows_the_ledger_that_a_majority_signed_also_after_a_loss_of_power() {
    let mut archive = Archive::found(3).await;
    for number in 0..3 {
        archive.ask(AdminRequest::Govern(add_uploader(number))).await.unwrap();
    }
    let all = client(&archive).await.ledger().await.unwrap();
    assert!((0..3).all(|number| all.state.uploaders.contains_key(&uploader(number))));
    let (asking, third) = (client(&archive).await, archive.id(3));
    let heads = async || {
        let asked = asking.ask_coordinator(third, &CoordinatorRequest::GetLedgerHeads, PATIENCE).await;
        let CoordinatorReply::LedgerHeads(heads) = asked.ok()? else { panic!("other than heads") };
        let whole = heads.iter().filter(|head| head.peek().unwrap().entries >= all.entries.len() as u64);
        (whole.count() == 3).then_some(())
    };
    until("the third has heard what the others signed", heads).await;
    for number in 1..=3 {
        archive.kill(number);
    }
    let joined = Joined { descriptor: archive.descriptor.clone(), named_since: None };
    archive.start(3, joined, false).await.unwrap();
    let alone = client(&archive).await.ledger_signed_before().await.unwrap();
    assert!(
        alone.entries.starts_with(&all.entries),
        "{} entries of {}",
        alone.entries.len(),
        all.entries.len()
    );
    assert!(alone.heads.len() > 1, "as many as a majority");
}
