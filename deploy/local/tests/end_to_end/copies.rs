//! The data directory of a storage node is copied: the copy does not run beside it, and goes on in its place.

use crate::support::fetch::path_infos;
use crate::support::fleet::{COORDINATORS, Fleet, NODES, text};
use crate::support::{Running, command, demo_cache, finish, quietly, run, wait_for};

#[test]
fn a_copy_of_a_node_is_refused_beside_it_and_goes_on_in_its_place() {
    let mut fleet = Fleet::new();
    let published = path_infos(&demo_cache().join("cache"));
    assert_eq!(fleet.publish()["paths_published"], published.len());
    let copy = fleet.home().join("copy");
    assert!(quietly("cp", &["-a".as_ref(), &fleet.node(0), &copy]));
    // Elsewhere: at another port.
    let mut program = {
        let mut program = command("firn-storage-node", fleet.home());
        program.arg("--data-dir").arg(&copy).args(["--listen", "127.0.0.1:0", "--quota", "1GB"]);
        program.args(["--failure-domain", "shelf-0"]);
        program
    };
    // Both at once.
    let told = finish(&mut program).failure(1);
    let id = run(fleet.home(), "firn-storage-node", ["id", "--data-dir", text(&copy)]);
    assert!(
        told.contains(&format!("another process runs as this node, at {}", fleet.address(COORDINATORS))),
        "{told}"
    );
    assert!(
        told.contains(&format!("the data directory of node {} must not run at once", id.success().trim())),
        "{told}"
    );
    // Nor does it start again by itself, whoever would be heard now.
    let told = finish(&mut program).failure(1);
    assert!(told.contains("delete the file `copied`"), "{told}");
    fleet.nodes[0].as_mut().unwrap().assert_alive();
    let nodes = NODES.to_string();
    fleet.firn(&["status", "--until-nodes", &nodes]).success();
    // Killed, so that nobody is told: its forerunner is awaited.
    fleet.nodes[0].take().unwrap().kill();
    std::fs::remove_file(copy.join("copied")).unwrap();
    let moved = Running::start(&mut program, &fleet.home().join("moved.log"));
    fleet.nodes[0] = Some(moved);
    wait_for("a coordinator hears the node where it is now", || {
        let status = run(fleet.home(), "firn-storage-node", ["status", "--data-dir", text(&copy)]);
        status.stdout.contains("state       active").then_some(())
    });
    fleet.firn(&["status", "--until-nodes", &nodes]).success();
    fleet.firn(&["status", "--until", "full"]).success();
    fleet.firn(&["verify", "--all"]).success();
    for node in &mut fleet.nodes {
        node.as_mut().unwrap().assert_alive();
    }
}
