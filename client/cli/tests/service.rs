//! The gateway as a service: systemd units, example settings, and the NixOS module, by the programs that read them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../deploy/nixos/test/service.rs"]
mod service;

use serde_json::{Value, json};

use service::{assert_unit_says, assert_units_are_right, deployed, run, told};

const PROGRAM: &str = env!("CARGO_BIN_EXE_firn");

/// The configuration that the module makes of what a user sets.
fn evaluate(settings: &str) -> Option<Value> {
    Some(service::evaluate("gateway", settings)?["config"].take())
}

/// How the gateway ends with these settings and an archive that is not there.
fn start_with(settings: &str) -> (Option<i32>, String) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("gateway.toml");
    let archive = format!("archive = {:?}", place.path().join("nowhere.firn"));
    let settings = settings.replace("archive = \"https://cache.example.org/archive.firn\"", &archive);
    std::fs::write(&file, settings).unwrap();
    let options = ["gateway", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()];
    let output = run(PROGRAM, &options).unwrap();
    (output.status.code(), told(&output))
}

#[test]
fn the_systemd_units_are_right_and_expose_little_of_the_system() {
    assert_units_are_right(&["firn-gateway.service", "firn-gateway.socket"], "/usr/bin/firn");
}

#[test]
fn the_example_settings_are_good_and_a_wrong_key_is_refused() {
    let example = std::fs::read_to_string(deployed("systemd/gateway.toml")).unwrap();
    let (code, told) = start_with(&example);
    assert!(code == Some(1) && told.contains("nowhere.firn"), "{told}");
    let settings: Vec<&str> = example.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    let with_all = settings
        .iter()
        .filter(|line| line.contains(" = "))
        .fold(example.clone(), |all, line| all + line + "\n");
    let (code, told) = start_with(&with_all);
    assert!(code == Some(2) && told.contains("cannot read /etc/firn/tls/fullchain.pem"), "{told}");
    let (code, told) = start_with(&format!("{example}memroy-cache = \"1GB\"\n"));
    assert!(code == Some(2) && told.contains("`memroy-cache`"), "{told}");
}

#[test]
fn the_nixos_module_makes_the_port_and_the_service() {
    let Some(config) = evaluate("enable = true; settings.archive = \"a.firn\";") else { return };
    let port = &config["systemd"]["sockets"]["firn-gateway"];
    assert_eq!(port["socketConfig"]["ListenStream"], "127.0.0.1:8080");
    assert_eq!(port["wantedBy"], json!(["sockets.target"]));
    let service = &config["systemd"]["services"]["firn-gateway"];
    assert_eq!(service["requires"], json!(["firn-gateway.socket"]));
    assert_eq!(service["serviceConfig"]["Type"], "notify");
    let start = service["serviceConfig"]["ExecStart"].as_str().unwrap();
    let program =
        concat!("/firn-", env!("CARGO_PKG_VERSION"), "/bin/firn gateway --config archive = \"a.firn\"");
    assert!(start.starts_with(program), "{start}");
    assert_eq!(config["networking"]["firewall"]["allowedTCPPorts"], json!({}));

    let set = "enable = true; openFirewall = true; listen = \"0.0.0.0:443\"; settings.archive = \"a.firn\";";
    let config = evaluate(set).unwrap();
    assert_eq!(config["networking"]["firewall"]["allowedTCPPorts"], json!([443]));
    assert_eq!(config["systemd"]["sockets"]["firn-gateway"]["socketConfig"]["ListenStream"], "0.0.0.0:443");
    assert_eq!(evaluate("enable = false;").unwrap(), json!({}));
}

#[test]
fn a_gateway_whose_owner_names_no_archive_serves_the_public_one_once_there_is_one() {
    service::assert_the_archive_has_a_default("gateway");
}

#[test]
fn unit_and_module_say_the_same_of_the_service() {
    let Some(config) = evaluate("enable = true; settings.archive = \"a.firn\";") else { return };
    assert_unit_says("firn-gateway.service", &config["systemd"]["services"]["firn-gateway"]);
}
