//! Reports of an archive in which something of everything is to be said.

use firn_base::{ArchiveId, ByteCount, NodeId, Timestamp};
use firn_wire::{
    BreachCount, ClockDifference, CoordinatorStatus, RepairWaitReason, RestCause, RosterGap, StateDifference,
};

use super::text::spare_of_the_weakest;
use super::*;

pub(crate) fn status() -> ArchiveStatus {
    let coordinator = |id, leader, online| CoordinatorStatus {
        id: NodeId::from_bytes([id; 32]),
        address: format!("127.0.0.1:{id}"),
        online,
        leader,
        votes: true,
        lag: Some(if leader { 0 } else { 2 }),
    };
    ArchiveStatus {
        archive: ArchiveId::from_bytes([0xab; 32]),
        at: Timestamp::from_millis(1_795_383_909_000),
        generation: 1,
        term: 2,
        applied: 30,
        coordinators: vec![coordinator(1, true, true), coordinator(2, false, false)],
        roster_gap: RosterGap { generation: 1, ..RosterGap::default() },
        nodes: vec![(NodeState::Active, 16, 15), (NodeState::Draining, 1, 1)],
        nodes_refusing_deletions: 0,
        scheme: Scheme::new(4, 12).ok(),
        visible_keys: 57,
        held_keys: 1,
        external_references: 2,
        bundles: 3,
        payload: ByteCount(1_000_000),
        stored: ByteCount(3_000_000),
        capacity: ByteCount(800_000_000_000),
        free: ByteCount(799_000_000_000),
        reserve: Some(ReserveRoom {
            capacity: ByteCount(800_000_000_000),
            free: ByteCount(799_000_000_000),
            kept: ByteCount(100_000_000_000),
            awaited: ByteCount(0),
            domains: 2,
            missing: ByteCount(0),
            level: ReserveLevel::Enough,
        }),
        health: Some(BundleHealthCounts { full: 2, degraded: 1, ..BundleHealthCounts::default() }),
        by_spare: Some(vec![SpareCount { spare: 7, bundles: 1 }, SpareCount { spare: 8, bundles: 2 }]),
        repair_backlog: Some(4),
        move_backlog: Some(1),
        drain_backlog: Some(DrainBacklog { to_move: 1, without_home: 0, home_unavailable: 1 }),
        repair_wait: None,
        repair_traffic: Some(ByteCount(12_000)),
        recoding: Some(RecodeProgress { older: 2, under_way: 1 }),
        caps: Some(CapsStatus {
            public: false,
            per_network: None,
            networks: 0,
            countries: 0,
            unknown: 0,
            width: 16,
            breaches: BreachCount::default(),
            at_risk_by: Vec::new(),
        }),
        feed_head: 60,
        differing: Vec::new(),
        clocks_apart: Vec::new(),
        purges: PurgeSummary::default(),
        fill: BundleFill {
            bundles: 3,
            payload: ByteCount(1_000_000),
            small_bundles: 2,
            small_payload: ByteCount(51_999),
        },
    }
}

const WAIT: RepairWait =
    RepairWait { reason: RepairWaitReason::FleetVanished, until: Timestamp::from_millis(1_795_387_509_001) };

#[test]
fn people_see_the_archive_at_a_glance() {
    let expected = format!(
        "archive      {}\n\
         coordinator  address      state\n\
         0101010101   127.0.0.1:1  leads\n\
         0202020202   127.0.0.1:2  away, 2 commands behind\n\
         \n\
         nodes        16 active (15 online), 1 draining (1 online)\n\
         scheme       any 4 of 12 shards restore a bundle\n\
         objects      57 readable, 1 waiting for a reference; 2 external references\n\
         bundles      3: 2 full, 1 degraded, 0 urgent, 0 lost; 0 unreadable now, 0 at risk\n\
         to spare     1 bundle can lose 7 more shards, 2 bundles can lose 8 more shards\n\
         small        2 of 3 bundles under a quarter full, with 5.1 % of the payload: see `firn compact`\n\
         bytes        1.0 MB of payload, 3.0 MB stored (3.00x); 799.0 GB free of 800.0 GB\n\
         reserve      100.0 GB of what is free is kept for repairs\n\
         repair       4 shards to make, 1 shard to move; 12.0 kB read and sent so far\n\
         re-coding    2 bundles in a smaller k than the fleet allows, 1 under way\n\
         drain        1 shard to move; it has no other home now, because the nodes that could be it are offline \
         or full: start them, or add a node in another failure domain",
        "ab".repeat(32)
    );
    assert_eq!(StatusReport::from(&status()).to_string(), expected);
}

#[test]
fn a_roster_that_lacks_a_coordinator_is_a_sentence_and_learners_are_told_apart() {
    let mut status = status();
    status.coordinators[1].online = true;
    status.coordinators[1].votes = false;
    status.roster_gap.lacks.push(status.coordinators[1].id);
    let report = StatusReport::from(&status).to_string();
    assert!(report.contains("learns, 2 commands behind"), "{report}");
    let sentence = "\nattention    roster generation 1 lacks 0202020202: sign the next with `firn-coordinator roster sign`\n";
    assert!(report.contains(sentence), "{report}");
}

#[test]
fn of_many_spares_the_smallest_are_told_and_the_others_summed() {
    let by_spare: Vec<_> = (1..8).map(|spare| SpareCount { spare, bundles: 10 }).collect();
    let said = spare_of_the_weakest(&by_spare);
    assert!(said.starts_with("10 bundles can lose 1 more shard, ") && said.ends_with("30 bundles even more"));
}

#[test]
fn nothing_is_said_of_drains_while_no_node_drains() {
    let mut status = ArchiveStatus { drain_backlog: Some(DrainBacklog::default()), ..status() };
    assert!(StatusReport::from(&status).to_string().ends_with("\ndrain        no shard left to move"));
    status.nodes.retain(|(state, _, _)| *state != NodeState::Draining);
    assert!(!StatusReport::from(&status).to_string().contains("\ndrain "));
}

#[test]
fn purges_under_way_are_a_line_and_done_ones_are_none() {
    let say = |purges| StatusReport::from(&ArchiveStatus { purges, ..status() }).to_string();
    assert!(!say(PurgeSummary { under_way: 0, to_repack: 0, holders: 40, waiting: 0 }).contains("purges"));
    let line = |purges| say(purges).lines().find(|line| line.starts_with("purges ")).unwrap().to_owned();
    assert_eq!(
        line(PurgeSummary { under_way: 2, to_repack: 0, holders: 40, waiting: 1 }),
        "purges       2 under way: gone from 39 of 40 holders; more by `firn-coordinator path purges`"
    );
    assert!(
        line(PurgeSummary { under_way: 1, to_repack: 1, ..PurgeSummary::default() })
            .contains("1 under way: 1 bundle to be packed anew by `firn repack`;")
    );
    let json = serde_json::to_value(StatusReport::from(&status())).unwrap();
    assert_eq!(json["purges"]["under_way"], 0);
}

#[test]
fn what_lies_in_small_bundles_is_a_line_and_worth_a_hint_beyond_five_per_cent() {
    let say = |small_bundles, bytes| {
        let small_payload = ByteCount(bytes);
        let fill = BundleFill { small_bundles, small_payload, ..status().fill };
        let text = StatusReport::from(&ArchiveStatus { fill, ..status() }).to_string();
        text.lines().find(|line| line.starts_with("small ")).unwrap().to_owned()
    };
    assert_eq!(say(2, 50_000), "small        2 of 3 bundles under a quarter full, with 5.0 % of the payload");
    assert!(say(2, 50_001).ends_with("with 5.0 % of the payload: see `firn compact`"));
    assert!(say(1, 999_999).ends_with("with 99.9 % of the payload"), "one alone has no other to go to");
    let none = ArchiveStatus { fill: BundleFill::default(), ..status() };
    assert!(!StatusReport::from(&none).to_string().contains("small "));
}

#[test]
fn nodes_that_refuse_to_delete_are_a_sentence() {
    let say = |nodes| {
        StatusReport::from(&ArchiveStatus { nodes_refusing_deletions: nodes, ..status() }).to_string()
    };
    assert!(!say(0).contains("attention"));
    assert!(say(1).contains("\nattention    1 node was ordered to delete more"));
    assert!(say(2).contains("\nattention    2 nodes were ordered to delete more"));
}

#[test]
fn a_reserve_that_runs_out_is_a_sentence_for_people_and_programs() {
    let full = ReserveRoom {
        free: ByteCount(70_000_000_000),
        missing: ByteCount(30_000_000_000),
        level: ReserveLevel::Exhausted,
        ..status().reserve.unwrap()
    };
    let report = StatusReport::from(&ArchiveStatus { reserve: Some(full), ..status() });
    let sentence = "publishing has stopped: the archive has 70.0 GB of space free and keeps 100.0 GB for repairs, \
                    in case its two largest failure domains vanish: add at least 30.0 GB of quota on storage nodes \
                    in other failure domains";
    assert!(report.to_string().contains(&format!("\nreserve      {sentence}\n")), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&json["reserve"]["level"], &json["reserve"]["warning"]),
        (&"exhausted".into(), &sentence.into())
    );
}

#[test]
fn a_wait_of_repair_is_a_line_of_its_own() {
    let status = ArchiveStatus { repair_wait: Some(WAIT), ..status() };
    let report = StatusReport::from(&status).to_string();
    assert!(report.contains(&format!("so far\nwait         {}\n", WAIT.sentence(status.at))), "{report}");
}

#[test]
fn a_coordinator_whose_state_differs_asks_for_attention() {
    let difference = StateDifference {
        coordinator: NodeId::from_bytes([2; 32]),
        applied: 29,
        content: true,
        governance: false,
        rest: true,
    };
    let report = StatusReport::from(&ArchiveStatus { differing: vec![difference], ..status() });
    let sentence = "attention    coordinator 0202020202 and the one that answers have different states (content, \
                    the rest at entry 29): one of them errs";
    assert!(report.to_string().contains(sentence), "{report}");
    assert!(!StatusReport::from(&status()).to_string().contains("attention"));
}

#[test]
fn a_coordinator_whose_clock_is_wrong_asks_for_attention() {
    let difference =
        ClockDifference { coordinator: NodeId::from_bytes([2; 32]), ahead_millis: 31_536_000_000 };
    let report = StatusReport::from(&ArchiveStatus { clocks_apart: vec![difference], ..status() });
    let sentence = "attention    the clock of coordinator 0202020202 is 365.0 days ahead of the others: set it right, \
                    until then it does not lead";
    assert!(report.to_string().contains(sentence), "{report}");
}

#[test]
fn the_fields_of_the_json_are_pinned() {
    let expected = format!(
        concat!(
            r#"{{"archive":"{archive}","at":1795383909000,"generation":1,"term":2,"applied":30,"#,
            r#""coordinators":[{{"id":"{one}","address":"127.0.0.1:1","online":true,"leader":true,"votes":true,"lag":0}},"#,
            r#"{{"id":"{two}","address":"127.0.0.1:2","online":false,"leader":false,"votes":true,"lag":2}}],"roster":null,"#,
            r#""nodes":{{"active":{{"all":16,"online":15}},"draining":{{"all":1,"online":1}},"#,
            r#""gone":{{"all":0,"online":0}},"lost":{{"all":0,"online":0}},"suspended":{{"all":0,"online":0}}}},"nodes_refusing_deletions":0,"#,
            r#""scheme":{{"k":4,"n":12}},"visible_keys":57,"held_keys":1,"external_references":2,"bundles":3,"#,
            r#""payload":1000000,"stored":3000000,"capacity":800000000000,"free":799000000000,"#,
            r#""reserve":{{"capacity":800000000000,"free":799000000000,"kept":100000000000,"awaited":0,"#,
            r#""domains":2,"missing":0,"level":"enough","warning":null}},"#,
            r#""health":{{"full":2,"degraded":1,"urgent":0,"lost":0,"unreadable":0,"at_risk":0}},"#,
            r#""by_spare":[{{"spare":7,"bundles":1}},{{"spare":8,"bundles":2}}],"#,
            r#""repair_backlog":4,"move_backlog":1,"#,
            r#""drain_backlog":{{"to_move":1,"without_home":0,"home_unavailable":1}},"#,
            r#""repair_wait":{{"reason":"fleet_vanished","until":1795387509001,"sentence":"{sentence}"}},"#,
            r#""repair_traffic":12000,"recoding":{{"older":2,"under_way":1}},"#,
            r#""caps":{{"public":false,"per_network":null,"networks":0,"countries":0,"unknown":0,"width":16,"#,
            r#""breaches":{{"bundles":0,"due":0,"next_due":null}},"at_risk_by":[]}},"feed_head":60,"differing":[],"clocks_apart":[],"#,
            r#""purges":{{"under_way":0,"to_repack":0,"holders":0,"waiting":0}},"#,
            r#""fill":{{"bundles":3,"payload":1000000,"small_bundles":2,"small_payload":51999}},"resting":null}}"#
        ),
        archive = "ab".repeat(32),
        one = "01".repeat(32),
        two = "02".repeat(32),
        sentence = WAIT.sentence(status().at),
    );
    let status = ArchiveStatus { repair_wait: Some(WAIT), ..status() };
    assert_eq!(serde_json::to_string(&StatusReport::from(&status)).unwrap(), expected);
}

#[test]
fn nodes_that_rest_are_counted_by_the_reason_and_nothing_is_said_of_none() {
    let resting = |cause| RestingNode { node: NodeId::from_bytes([1; 32]), cause, until: None };
    let report = |nodes| StatusReport::from(&status()).with_resting(nodes);
    let nodes = [RestCause::Paused, RestCause::Absent, RestCause::Paused].map(resting);
    let text = report(Some(&nodes[..])).to_string();
    assert!(text.contains("\nrest         1 declared away, 2 paused\n"), "{text}");
    assert_eq!(serde_json::to_value(report(Some(&nodes))).unwrap()["resting"]["paused"], 2);
    for none in [None, Some(&[][..])] {
        assert!(!report(none).to_string().contains("\nrest "));
    }
}

#[test]
fn a_follower_leaves_open_what_it_does_not_know() {
    let from_follower = ArchiveStatus { health: None, repair_backlog: None, scheme: None, ..status() };
    let report = StatusReport::from(&from_follower);
    assert!(report.to_string().contains("the leader does not answer"));
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["health"].is_null() && json["repair_backlog"].is_null() && json["scheme"].is_null());
}
