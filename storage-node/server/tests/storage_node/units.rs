//! The node as a service: the systemd unit, its example settings, and the NixOS module, by the programs that read them.

#[path = "../../../../deploy/nixos/test/service.rs"]
mod service;

use std::process::Output;

use serde_json::Value;

use service::{
    assert_the_archive_has_a_default, assert_unit_says, assert_units_are_right, deployed, run, told,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_firn-storage-node");

fn check(settings: &str) -> Output {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("settings.toml");
    std::fs::write(&file, settings).unwrap();
    run(PROGRAM, &["check", "--data-dir", "/srv/firn", "--config", file.to_str().unwrap()]).unwrap()
}

/// The system that the module makes of what a user sets, as JSON.
fn evaluate(settings: &str) -> Option<Value> {
    service::evaluate("node", settings)
}

#[test]
fn the_systemd_unit_exposes_little_of_the_system() {
    assert_units_are_right(&["firn-storage-node.service"], "/usr/bin/firn-storage-node");
}

#[test]
fn the_example_settings_are_good_and_a_wrong_key_or_value_is_refused() {
    let example = std::fs::read_to_string(deployed("systemd/storage-node.toml")).unwrap();
    let output = check(&example);
    assert!(output.status.success(), "{}", told(&output));
    for (wrong, said) in [
        ("qouta = \"5GB\"", "`qouta`"),
        ("max-upload = \"fast\"", "--max-upload"),
        ("active-hours = \"22\"", "--active-hours"),
    ] {
        let output = check(wrong);
        assert_eq!(output.status.code(), Some(2));
        assert!(told(&output).contains(said));
    }
}

#[test]
fn the_nixos_module_makes_the_service_and_checks_its_settings_when_it_is_built() {
    let Some(system) = evaluate("enable = true; settings.archive = \"https://cache.example.org/a\";") else {
        return;
    };
    let service = &system["config"]["systemd"]["services"]["firn-storage-node"];
    assert_eq!(service["environment"], serde_json::json!({ "FIRN_DATA_DIR": "/var/lib/firn-storage-node" }));
    assert_eq!(service["serviceConfig"]["StateDirectory"], "firn-storage-node");
    assert_eq!(service["unitConfig"]["RequiresMountsFor"][0], "/var/lib/firn-storage-node");
    let start = service["serviceConfig"]["ExecStart"].as_str().unwrap();
    // Built from this checkout, as nothing else was asked for.
    let program =
        concat!("/firn-storage-node-", env!("CARGO_PKG_VERSION"), "/bin/firn-storage-node --config ");
    assert!(start.starts_with(program), "{start}");
    assert!(
        start.contains("firn-storage-node check --data-dir '/var/lib/firn-storage-node' --config"),
        "{start}"
    );
    assert_eq!(system["config"]["networking"]["firewall"]["allowedUDPPorts"], serde_json::json!({}));
    let output = check(system["settings"].as_str().unwrap());
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn what_the_service_sends_is_marked_as_background_and_it_starts_also_where_it_cannot_be_marked() {
    let rules = std::fs::read_to_string(deployed("systemd/storage-node.nft")).unwrap();
    // Loaded at each start, it takes its own place.
    let own = "table inet firn_storage_node\n";
    assert!(rules.contains(&format!("\n{own}delete {own}table inet firn_storage_node {{")), "{rules}");
    for rule in [
        "type filter hook output",
        "meta skuid \"firn-storage-node\" meta l4proto udp ip dscp set 1",
        "meta skuid \"firn-storage-node\" meta l4proto udp ip6 dscp set 1",
    ] {
        assert!(rules.contains(rule), "{rule} is not in {rules}");
    }
    // A packet without an owner passes a rule about one who is not meant.
    assert!(!rules.contains("!="), "{rules}");
    let unit = std::fs::read_to_string(deployed("systemd/firn-storage-node.service")).unwrap();
    assert!(unit.contains("\nExecStartPre=-+/usr/sbin/nft -f /etc/firn/storage-node.nft\n"));
    assert!(unit.contains("\nUser=firn-storage-node\n"));
    let Some(system) = evaluate("enable = true; settings.archive = \"a.firn\";") else { return };
    let service = &system["config"]["systemd"]["services"]["firn-storage-node"]["serviceConfig"];
    let before = service["ExecStartPre"].as_str().unwrap();
    assert!(before.starts_with("-+/nftables/bin/nft -f /"), "{before}");
    assert!(before.ends_with("storage-node.nft"), "{before}");
    assert_eq!(service["User"], "firn-storage-node");
}

#[test]
fn the_nixos_module_hands_on_what_is_set() {
    let set = r#"
        enable = true; openFirewall = true; tokenFile = "/run/secrets/token"; dataDir = "/mnt/disk/firn";
        settings = { archive = "a.firn"; listen = "0.0.0.0:5000"; quota = "500GB"; max-upload = "20Mbit/s";
            max-download = "40Mbit/s"; monthly-traffic = "2TB"; active-hours = "22:00-07:00"; };
    "#;
    let Some(system) = evaluate(set) else { return };
    let (config, settings) = (&system["config"], system["settings"].as_str().unwrap());
    let service = &config["systemd"]["services"]["firn-storage-node"];
    assert_eq!(service["serviceConfig"]["LoadCredential"], "token:/run/secrets/token");
    assert_eq!(service["environment"]["FIRN_TOKEN_FILE"], "%d/token");
    assert_eq!(service["serviceConfig"]["ReadWritePaths"][0], "/mnt/disk/firn");
    assert_eq!(config["networking"]["firewall"]["allowedUDPPorts"][0], 5000);
    assert!(settings.contains("http = \"127.0.0.1:9434\""), "{settings}");
    assert!(
        settings.contains("quota = \"500GB\"") && settings.contains("active-hours = \"22:00-07:00\""),
        "{settings}"
    );
    assert!(check(settings).status.success());
    assert_eq!(evaluate("enable = false;").unwrap()["config"], serde_json::json!({}));
}

#[test]
fn a_node_whose_owner_names_no_archive_is_of_the_public_one_once_there_is_one() {
    assert_the_archive_has_a_default("node");
    // A package of the owner's own takes the default's place.
    let Some(system) = evaluate("enable = true; package = \"/own\"; settings.archive = \"a.firn\";") else {
        return;
    };
    let start = &system["config"]["systemd"]["services"]["firn-storage-node"]["serviceConfig"]["ExecStart"];
    assert!(start.as_str().unwrap().starts_with("/own/bin/firn-storage-node "), "{start}");
}

#[test]
fn unit_and_module_say_the_same_of_the_service() {
    let Some(system) = evaluate("enable = true; settings.archive = \"a.firn\";") else { return };
    assert_unit_says(
        "firn-storage-node.service",
        &system["config"]["systemd"]["services"]["firn-storage-node"],
    );
}
