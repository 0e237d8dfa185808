//! What programs log, for programs that read it.

use crate::support::fleet::text;
use crate::support::{Running, command, udp_ports, wait_for};
use serde_json::Value;

#[test]
fn every_line_that_a_coordinator_logs_as_json_is_json_with_its_time_level_and_message() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("coordinator");
    let mut program = command("firn-coordinator", place.path());
    program.args(["--log-format", "json", "--bootstrap", "--data-dir", text(&directory)]);
    program.args(["--listen", &format!("127.0.0.1:{}", udp_ports(1)[0])]);
    let coordinator = Running::start(&mut program, &place.path().join("log"));
    wait_for("it runs and has said so", || {
        let members = command("firn-coordinator", place.path())
            .args(["member", "list", "--data-dir", text(&directory)])
            .output()
            .ok()?;
        (members.status.success() && !coordinator.messages().is_empty()).then_some(())
    });
    let log = place.path().join("log");
    assert_eq!(coordinator.terminate(), Some(0));
    let messages = std::fs::read_to_string(log).unwrap();
    for line in messages.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(said["timestamp"].is_string() && said["level"].is_string(), "{line}");
        assert!(said["fields"]["message"].is_string() && said["target"].is_string(), "{line}");
    }
}
