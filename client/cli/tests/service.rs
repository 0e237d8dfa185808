//! The gateway as a service: systemd units, example settings, and the NixOS module, by the programs that read them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_firn");

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// Runs a tool; none if this machine lacks it.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {tool} cannot be run: {error}");
            None
        }
    }
}

/// The configuration that the module makes of what a user sets.
fn evaluate(settings: &str) -> Option<Value> {
    let stub = deployed("nixos/test/stub.nix").canonicalize().unwrap();
    let expression = format!("(import {}).gateway {{ {settings} }}", stub.display());
    let options = ["--eval", "--strict", "--json", "--store", "dummy://", "--expr", &expression];
    let output = run("nix-instantiate", &options)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice::<Value>(&output.stdout).unwrap()["config"].take())
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
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_systemd_units_are_right_and_expose_little_of_the_system() {
    let [service, port] = ["service", "socket"].map(|kind| deployed(&format!("systemd/firn-gateway.{kind}")));
    let [service, port] = [service, port].map(|unit| unit.to_str().unwrap().to_owned());
    // In tenths: 2.0 of 10 is what a service that needs no rights is below.
    let security = ["security", "--offline=true", "--threshold=20", "--no-pager", &service];
    let Some(judged) = run("systemd-analyze", &security) else { return };
    let text = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && text.contains("Overall exposure level"), "{text}");
    let verified = run("systemd-analyze", &["verify", &service, &port]).unwrap();
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    // The program is not installed where the tests run.
    let wrong = told.lines().find(|line| !line.contains("/usr/bin/firn is not executable"));
    assert_eq!(wrong, None, "{told}");
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
    assert!(start.starts_with("/firn/bin/firn gateway --config archive = \"a.firn\""), "{start}");
    assert_eq!(config["networking"]["firewall"]["allowedTCPPorts"], json!({}));

    let set = "enable = true; openFirewall = true; listen = \"0.0.0.0:443\"; settings.archive = \"a.firn\";";
    let config = evaluate(set).unwrap();
    assert_eq!(config["networking"]["firewall"]["allowedTCPPorts"], json!([443]));
    assert_eq!(config["systemd"]["sockets"]["firn-gateway"]["socketConfig"]["ListenStream"], "0.0.0.0:443");
    assert_eq!(evaluate("enable = false;").unwrap(), json!({}));
}

#[test]
fn unit_and_module_protect_the_system_alike() {
    let Some(config) = evaluate("enable = true; settings.archive = \"a.firn\";") else { return };
    let module = config["systemd"]["services"]["firn-gateway"]["serviceConfig"].as_object().unwrap();
    let unit = std::fs::read_to_string(deployed("systemd/firn-gateway.service")).unwrap();
    let section = unit.split("\n[Service]\n").nth(1).unwrap().split("[Install]").next().unwrap();
    let mut keys: Vec<&str> = section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, _)| key)
        .filter(|key| *key != "Environment")
        .collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, module.keys().map(String::as_str).collect::<Vec<_>>());
    for (key, value) in module.iter().filter(|(_, value)| value.is_boolean()) {
        let line = format!("\n{key}={}\n", if value == &json!(true) { "yes" } else { "no" });
        assert!(section.contains(&line), "{key} is {value} in the module");
    }
}
