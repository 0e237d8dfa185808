//! A coordinator whose state is not what its log makes of it is found out.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{PublicKey, Timestamp};
use firn_coordinator::storage::{Batch, Durability, KeyValue, Memory, Read, StoreKind, Table};
use firn_coordinator::{
    Coordinator, CoordinatorOptions, ERASE_AFTER, FilterOptions, Peer, RECODE_AFTER, Timing, found_archive,
};
use firn_coordinator_logic::{Comparison, Facts, compare_states};
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::{
    AdminReply, AdminRequest, ArchiveStatus, DomainRule, FEATURE_LEVEL, Identity, LedgerAct, Policy,
};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(180);

struct Member {
    state: Memory,
    coordinator: Coordinator,
}

async fn start(count: u8) -> Vec<Member> {
    let environment = Environment::real();
    let mut bound = Vec::new();
    for number in 1..=count {
        let identity = Identity::from_seed(&[number; 32]);
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let options = EndpointOptions::default();
        bound.push((Endpoint::bind(&environment, &identity, address, options).await.unwrap(), identity));
    }
    let mut peers: Vec<_> = bound
        .iter()
        .map(|(endpoint, identity)| Peer {
            id: identity.node_id(),
            address: endpoint.local_address().to_string(),
        })
        .collect();
    let own = peers.remove(0);
    let descriptor = found_archive(&Identity::from_seed(&[99; 32]), own, &peers, Timestamp::from_millis(1));
    let policy = Policy {
        domains: DomainRule::Named,
        repair_at: None,
        repair_at_full: false,
        count_lost_after_millis: 1000,
        brake: false,
        trust_declared_domains: false,
    };
    let mut members = Vec::new();
    for (number, (endpoint, identity)) in bound.into_iter().enumerate() {
        let state = Memory::new(StoreKind::State);
        let options = CoordinatorOptions {
            identity,
            descriptor: descriptor.clone(),
            named_since: None,
            endpoint,
            log: Arc::new(Memory::new(StoreKind::Log)),
            state: Arc::new(state.clone()),
            founding: (number == 0).then(|| policy.clone()),
            timing: Timing::default(),
            recode_after: RECODE_AFTER,
            erase_after: ERASE_AFTER,
            disk_windows: None,
            address_table: None,
            filters: FilterOptions::in_memory(),
            rebuild: firn_coordinator::RebuildOptions::default(),
            environment: environment.clone(),
        };
        members.push(Member { state, coordinator: Coordinator::start(options).await.unwrap() });
    }
    members
}

/// Has a command applied everywhere.
async fn write(members: &[Member], number: u8) {
    let act = LedgerAct::AddUploader { key: PublicKey::from_bytes([number; 32]), name: "uploader".into() };
    let written = async {
        while members[0].coordinator.administration().administer(AdminRequest::Govern(act.clone())).await
            != Ok(AdminReply::Done)
        {
            sleep(Duration::from_millis(50)).await;
        }
        let leader = members.iter().find(|member| member.coordinator.consensus().is_leader()).unwrap();
        let applied = leader.coordinator.consensus().ensure_linearizable().await.unwrap();
        for member in members {
            member.coordinator.consensus().wait_applied(applied, PATIENCE).await.unwrap();
        }
    };
    timeout(PATIENCE, written).await.expect("a majority takes the command");
}

async fn status(member: &Member) -> ArchiveStatus {
    let asked = async {
        loop {
            if let Ok(status) = member.coordinator.administration().status().await {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("the leader answers")
}

/// Adds one to the count of payload bytes in the counters of a running member.
fn plant(state: &Memory) {
    let mut counters = state.get(Table::Meta, b"counters").unwrap().expect("something was applied");
    const PAYLOAD_BYTES_AT: usize = 81;
    counters[PAYLOAD_BYTES_AT] += 1;
    let mut batch = Batch::new();
    batch.put(Table::Meta, b"counters", counters);
    state.write(batch, Durability::Synced).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_difference_in_one_state_raises_an_alarm_and_equal_states_raise_none() {
    let members = start(3).await;
    write(&members, 1).await;
    let leader = members.iter().find(|member| member.coordinator.consensus().is_leader()).unwrap();
    let odd = members.iter().find(|member| !member.coordinator.consensus().is_leader()).unwrap();
    let compared = || {
        let of = |member: &Member| member.coordinator.consensus().late_digests();
        compare_states(&of(leader), odd.coordinator.id(), &of(odd))
    };
    assert_eq!(compared(), Comparison::Equal);
    assert_eq!(status(leader).await.differing, []);

    plant(&odd.state);
    write(&members, 2).await;
    assert!(matches!(compared(), Comparison::Differs(_)), "{:?}", compared());

    let noticed = async {
        loop {
            let differing = status(leader).await.differing;
            if !differing.is_empty() {
                return differing;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let differing = timeout(PATIENCE, noticed).await.expect("the leader compares states");
    let parts: Vec<_> = differing
        .iter()
        .map(|difference| {
            (difference.coordinator, difference.content, difference.governance, difference.rest)
        })
        .collect();
    assert_eq!(
        parts,
        [(odd.coordinator.id(), false, false, true)],
        "only the odd one, only where it differs"
    );
    // They say to each other as well which commands they know, and the leader has the level raised.
    let raised = async {
        while odd.coordinator.consensus().facts().counters().unwrap().feature_level < FEATURE_LEVEL {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, raised).await.expect("the level is raised");
    for member in members {
        member.coordinator.shutdown().await;
    }
}
