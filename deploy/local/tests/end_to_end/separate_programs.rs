//! The programs as separate processes on loopback ports, with the real Nix client, and kill -9.

use crate::support::fetch::{assert_served, path_infos};
use crate::support::fleet::{COORDINATORS, Fleet, NODES, text};
use crate::support::{demo_cache, demo_key, nix, wait_for};

#[test]
fn separate_programs_serve_nix_and_survive_kill_9() {
    let mut fleet = Fleet::new();
    let key = demo_key();
    let published = path_infos(&demo_cache().join("cache"));
    assert_eq!(fleet.publish()["paths_published"], published.len());

    let (gateway, url) = fleet.start_gateway("gateway-1");
    assert_served(&url, &published, &key);
    if nix::is_there() {
        let paths: Vec<String> = published.values().map(|info| info.store_path.to_string()).collect();
        nix::copy(&url, &key, &paths, &fleet.home().join("nix"));
    }

    let leader = fleet.leader();
    fleet.coordinators[leader].take().unwrap().kill();
    for node in [1, 4] {
        fleet.nodes[node].take().unwrap().kill();
    }
    assert_served(&url, &published, &key);
    assert_eq!(gateway.terminate(), Some(0));
    // Nothing in its memory: all from four nodes, found through two coordinators.
    let (_gateway, url) = fleet.start_gateway("gateway-2");
    assert_served(&url, &published, &key);

    // One coordinator alone knows what is archived, and not what is not.
    let second = (leader + 1) % COORDINATORS;
    fleet.coordinators[second].take().unwrap().kill();
    let path = published.values().next().unwrap().store_path.to_string();
    let (absent, cache) = ("00000000000000000000000000000000", fleet.home().join("cache"));
    wait_for("the last coordinator says that it hears nobody", || {
        let looked = fleet.firn(&["verify", absent]);
        (looked.stdout + &looked.stderr).contains("have heard no majority").then_some(())
    });
    let get = ["get", "--trusted-public-keys", key.trim(), "--output", text(&cache), &path];
    fleet.firn(&get).success();
    // It shows what the others signed of the ledger before they went: who the publishers are.
    fleet.firn(&["get", "--output", text(&cache), &path]).success();
    let shown = fleet.firn(&["path-info", &path]);
    assert!(shown.stderr.contains("as a majority signed it before"), "{}", shown.stderr);
    shown.success();
    let gone = fleet.firn(&[&get[..], &[absent]].concat()).failure(1);
    assert!(gone.contains("whether it is archived is not known now"), "{gone}");
    assert_served(&url, &published, &key);
    let (_lone_gateway, url) = fleet.start_gateway("gateway-3");
    assert_served(&url, &published, &key);

    fleet.coordinators[second] = Some(fleet.start_coordinator(second, false));
    fleet.coordinators[leader] = Some(fleet.start_coordinator(leader, false));
    for node in [1, 4] {
        fleet.nodes[node] = Some(fleet.start_node(node));
    }
    let nodes = NODES.to_string();
    fleet.firn(&["status", "--until-nodes", &nodes]).success();
    fleet.firn(&["status", "--until", "full"]).success();
    assert_eq!(fleet.publish()["paths_skipped"], published.len());
    fleet.firn(&["verify", "--all"]).success();

    for program in fleet.nodes.iter_mut().chain(&mut fleet.coordinators) {
        let mut program = program.take().unwrap();
        program.assert_alive();
        assert_eq!(program.terminate(), Some(0));
    }
}
