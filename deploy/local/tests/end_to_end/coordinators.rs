//! Coordinators are added, replaced and removed by hand, as separate processes, while writes go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::support::fleet::{COORDINATORS, Fleet, text};
use crate::support::{Running, command, demo_cache, finish, run, udp_ports, wait_for};
use serde_json::Value;

/// A coordinator that was not there at the founding.
struct Newcomer {
    id: String,
    member: String,
    program: Running,
}

/// Whoever adds an uploader every now and then, by any of the founders' sockets that answers.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(fleet: &Fleet) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let home = fleet.home().to_owned();
        let directories: Vec<PathBuf> = (0..COORDINATORS).map(|number| fleet.coordinator(number)).collect();
        let task = std::thread::spawn(move || {
            let mut attempt = 0;
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let directory = &directories[attempt % directories.len()];
                let mut program = command("firn-coordinator", &home);
                program.args(["uploader", "add", &uploader(number), "--name", "load"]);
                match finish(program.arg("--data-dir").arg(directory)).code {
                    Some(0) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    _ => attempt += 1,
                }
            }
        });
        Self { stop, written, task }
    }

    fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        wait_for("writes go on", || (self.written.load(Ordering::Relaxed) > before + 2).then_some(()));
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join().unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

fn uploader(number: usize) -> String {
    format!("{number:064x}")
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn start_newcomer(fleet: &Fleet, name: &str, port: u16) -> Newcomer {
    let directory = fleet.home().join(name);
    let id = run(fleet.home(), "firn-coordinator", ["id", "--data-dir", text(&directory)]).success();
    let id = id.trim().to_owned();
    let address = format!("127.0.0.1:{port}");
    let mut program = command("firn-coordinator", fleet.home());
    program.arg("--data-dir").arg(&directory).args(["--listen", &address]);
    for peer in 0..COORDINATORS {
        program.args(["--peer", &format!("{}@{}", fleet.ids[peer], fleet.address(peer))]);
    }
    let program = Running::start(&mut program, &fleet.home().join(format!("{name}.log")));
    let member = format!("{id}@{address}");
    // It says what the operator has to do.
    program.says(&format!("firn-coordinator member add {member}"));
    Newcomer { id, member, program }
}

fn members(fleet: &Fleet, by: usize) -> Vec<Value> {
    wait_for("a leader lists the members", || {
        let listed = fleet.administer(by, &["member", "list", "--json"]);
        let members = json_lines(&listed.stdout);
        (listed.code == Some(0) && members.iter().any(|member| member["role"] == "leader")).then_some(members)
    })
}

fn member(fleet: &Fleet, by: usize, id: &str) -> Value {
    members(fleet, by).into_iter().find(|member| member["id"] == id).unwrap_or_default()
}

/// The term in which the coordinators have their leader.
fn term(fleet: &Fleet, by: usize) -> u64 {
    let members = members(fleet, by);
    let printed = fleet.administer(by, &["member", "list"]).success();
    let term = members[0]["term"].as_u64().unwrap();
    assert!(members.iter().all(|member| member["term"] == term) && printed.starts_with("term "), "{printed}");
    term
}

fn until_caught_up(fleet: &Fleet, by: usize, id: &str) {
    wait_for("a learner catches up", || {
        let learner = member(fleet, by, id);
        (learner["online"] == true && learner["lag"].as_u64().is_some_and(|lag| lag < 100)).then_some(())
    });
}

/// Signs away from the coordinators, as a key that is kept offline does.
fn sign_offline(fleet: &Fleet, by: usize) {
    let (draft, signed) = (fleet.home().join("draft"), fleet.home().join("signed"));
    std::fs::write(&draft, fleet.administer(by, &["roster", "draft"]).success()).unwrap();
    let key = fleet.coordinator(0).join("archive.key");
    let sign = ["roster", "sign", "--archive-key", text(&key), text(&draft)];
    let printed = run(fleet.home(), "firn-coordinator", sign);
    assert!(printed.stderr.contains("signing roster generation"), "{}", printed.stderr);
    std::fs::write(&signed, printed.success()).unwrap();
    let adopted = fleet.administer(by, &["roster", "adopt", text(&signed)]).success();
    assert!(adopted.contains("is in force"), "{adopted}");
    let list = fleet.administer(by, &["member", "list"]).success();
    assert!(list.contains("names the members in force"), "{list}");
}

#[test]
fn coordinators_come_and_go_while_writes_go_on() {
    let mut fleet = Fleet::new();
    fleet.publish();
    let first = fleet.home().join("first.firn");
    std::fs::copy(fleet.coordinator(0).join("archive.firn"), &first).unwrap();
    // Chosen while the founders have theirs: a dead one comes back to its own.
    let ports = udp_ports(2);
    let writer = Writer::start(&fleet);

    // From three to four.
    let fourth = start_newcomer(&fleet, "coordinator-4", ports[0]);
    let added = fleet.administer(0, &["member", "add", &fourth.member]).success();
    assert!(added.contains("has no vote yet") && added.contains("roster generation 1 lacks"), "{added}");
    until_caught_up(&fleet, 0, &fourth.id);
    assert_eq!(member(&fleet, 0, &fourth.id)["role"], "learner");
    let refused = fleet.administer(0, &["member", "promote", &fourth.id]).failure(1);
    assert!(refused.contains("the roster in force does not name"), "{refused}");
    let status = fleet.firn(&["status"]).success();
    assert!(status.contains("attention    roster generation 1 lacks"), "{status}");
    let key = fleet.coordinator(0).join("archive.key");
    let signed = fleet.administer(1, &["roster", "sign", "--archive-key", text(&key)]).success();
    assert!(signed.contains("roster generation 2 is in force"), "{signed}");
    fleet.administer(2, &["member", "promote", &fourth.id]).success();
    assert_ne!(member(&fleet, 0, &fourth.id)["role"], "learner");
    writer.goes_on();

    // A dead one is replaced.
    let leader = fleet.leader();
    let dead = (leader + 1) % COORDINATORS;
    fleet.coordinators[dead].take().unwrap().kill();
    let fifth = start_newcomer(&fleet, "coordinator-5", ports[1]);
    let replace = ["member", "replace", &fleet.ids[dead], &fifth.member];
    let added = fleet.administer(leader, &replace).success();
    assert!(added.contains("call this again"), "{added}");
    until_caught_up(&fleet, leader, &fifth.id);
    sign_offline(&fleet, leader);
    let replaced = fleet.administer(leader, &replace).success();
    assert!(replaced.contains("has the vote of the one it replaces"), "{replaced}");
    sign_offline(&fleet, leader);
    writer.goes_on();
    // It wakes up and says why it goes, each time.
    for _ in 0..2 {
        let late = fleet.start_coordinator(dead, false);
        let log = fleet.home().join(format!("coordinator-{dead}.log"));
        let mut late = late;
        let status = wait_for("a removed coordinator ends", || late.ended());
        assert_eq!(status.code(), Some(1));
        let messages = std::fs::read_to_string(log).unwrap();
        let last = messages.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains("was removed from its archive"), "{last}");
    }

    // The leader is removed. What is left are one founder and the two that came.
    let leader = wait_for("one leads", || {
        let members = members(&fleet, leader);
        let leader = members.iter().find(|member| member["role"] == "leader")?["id"].clone();
        Some(leader.as_str().unwrap().to_owned())
    });
    let founders: Vec<usize> = (0..COORDINATORS).filter(|number| *number != dead).collect();
    let (leaving, stays) = match founders.iter().find(|number| fleet.ids[**number] == leader) {
        Some(leading) => (*leading, *founders.iter().find(|number| *number != leading).unwrap()),
        None => (founders[0], founders[1]),
    };
    let before = term(&fleet, stays);
    let was_leading = fleet.ids[leaving] == leader;
    let removed = fleet.administer(stays, &["member", "remove", &fleet.ids[leaving]]).success();
    assert!(removed.contains("takes part no more"), "{removed}");
    let sentence = fleet.coordinators[leaving].take().unwrap().failure(1);
    assert!(sentence.contains("was removed from its archive"), "{sentence}");
    let now = term(&fleet, stays);
    assert!(if was_leading { now > before } else { now >= before }, "{now} behind {before}");
    sign_offline(&fleet, stays);
    writer.goes_on();
    let written = writer.stop();

    // Nothing that was acknowledged is lost, on any of the three.
    let members = members(&fleet, stays);
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member["votes"] == true && member["in_roster"] == true));
    for directory in
        [fleet.coordinator(stays), fleet.home().join("coordinator-4"), fleet.home().join("coordinator-5")]
    {
        wait_for("all writes are on every coordinator", || {
            let list = ["uploader", "list", "--data-dir", text(&directory)];
            let listed = run(fleet.home(), "firn-coordinator", list).success();
            (0..written).all(|number| listed.contains(&uploader(number))).then_some(())
        });
    }

    // Nodes have learnt of the roster and of nobody else's word; clients of the first roster find their way.
    let generation = members[0]["roster_generation"].clone();
    for number in 0..fleet.nodes.len() {
        let directory = fleet.node(number);
        wait_for("a node knows the roster in force", || {
            let status =
                run(fleet.home(), "firn-storage-node", ["status", "--json", "--data-dir", text(&directory)]);
            let status: Value = serde_json::from_str(&status.success()).unwrap();
            (status["generation"] == generation).then_some(())
        });
    }
    let mut old = command("firn", fleet.home());
    let status = finish(old.args(["status", "--json", "--archive", text(&first)])).success();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["generation"], &status["roster"]), (&generation, &Value::Null));
    let archive = fleet.home().join("coordinator-5/archive.firn");
    let cache = demo_cache().join("cache");
    let key = fleet.uploader_key();
    let publish = ["publish", text(&cache), "--uploader-key", text(&key), "--archive", text(&archive)];
    run(fleet.home(), "firn", publish).success();
    run(fleet.home(), "firn", ["verify", "--all", "--archive", text(&archive)]).success();
    for mut newcomer in [fourth, fifth] {
        newcomer.program.assert_alive();
        assert_eq!(newcomer.program.terminate(), Some(0));
    }
}
