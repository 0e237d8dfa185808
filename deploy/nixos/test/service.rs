//! A program as a service: its systemd units and its NixOS module, by the programs that read them. What a machine lacks is
//! skipped, and said.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A file that is deployed.
pub(crate) fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// Runs a tool; none if this machine lacks it.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {tool} cannot be run: {error}");
            None
        }
    }
}

/// What a program said of what is wrong.
pub(crate) fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What Nix says of `what` of the stub with these arguments.
fn evaluated(what: &str, arguments: &str) -> Option<Output> {
    let stub = deployed("nixos/test/stub.nix").canonicalize().unwrap();
    let expression = format!("(import {}).{what} {{ {arguments} }}", stub.display());
    let options = ["--eval", "--strict", "--json", "--store", "dummy://", "--expr", &expression];
    run("nix-instantiate", &options)
}

/// The system that `module` makes of what a user sets: its `config`, and the program's `settings` as text.
pub(crate) fn evaluate(module: &str, settings: &str) -> Option<Value> {
    let output = evaluated(module, settings)?;
    assert!(output.status.success(), "{}", told(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Whoever names no archive is told to, while there is no public one, and takes part in that once there is.
pub(crate) fn assert_the_archive_has_a_default(module: &str) {
    let Some(output) = evaluated(module, "enable = true;") else { return };
    let sentence = format!(
        "services.firn.{module}.settings.archive is not set, and there is no public archive yet: set it to the descriptor of \
         your archive, a file or a URL"
    );
    assert!(!output.status.success() && told(&output).contains(&sentence), "{}", told(&output));
    let public = "https://public.example.org/archive.firn";
    let arguments = format!("service = \"{module}\"; publicArchive = \"{public}\";");
    assert_eq!(evaluate("publicArchive", &arguments).unwrap(), public);
}

/// systemd finds nothing wrong with these units, the first of which is a service that exposes little of the system. Where
/// the tests run, `program` is not installed.
pub(crate) fn assert_units_are_right(units: &[&str], program: &str) {
    let units: Vec<String> =
        units.iter().map(|unit| deployed("systemd").join(unit).to_str().unwrap().to_owned()).collect();
    let units: Vec<&str> = units.iter().map(String::as_str).collect();
    // In tenths: 2.0 of 10 is what a service that needs no rights is below.
    let security = ["security", "--offline=true", "--threshold=20", "--no-pager", units[0]];
    let Some(judged) = run("systemd-analyze", &security) else { return };
    let text = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && text.contains("Overall exposure level"), "{text}");
    let verified = told(&run("systemd-analyze", &[&["verify"], &units[..]].concat()).unwrap());
    let wrong = verified.lines().find(|line| !line.contains(&format!("{program} is not executable")));
    assert_eq!(wrong, None, "{verified}");
}

/// The unit says of the service what `service`, an attribute set of a module, says, but for what is started, where other
/// programs lie, and the environment.
pub(crate) fn assert_unit_says(unit: &str, service: &Value) {
    let unit = std::fs::read_to_string(deployed("systemd").join(unit)).unwrap();
    let in_module: Vec<String> = service["serviceConfig"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(key, value)| texts(value).into_iter().map(move |text| format!("{key}={text}")))
        .collect();
    let section = unit.split("\n[Service]\n").nth(1).unwrap().split("[Install]").next().unwrap();
    let section = section.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let kept = |line: &&str| !line.starts_with("ExecStart") && !line.starts_with("Environment=");
    let mut in_unit: Vec<String> = section.filter(kept).map(without_directory).collect();
    let in_module = in_module.iter().map(String::as_str).filter(kept);
    let mut in_module: Vec<String> = in_module.map(without_directory).collect();
    in_unit.sort_unstable();
    in_module.sort_unstable();
    assert_eq!(in_unit, in_module);
}

/// A line without the directory of the program that it runs, if it runs one.
fn without_directory(line: &str) -> String {
    let Some((key, command)) = line.split_once('=').filter(|(key, _)| key.starts_with("Exec")) else {
        return line.to_owned();
    };
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("{key}={name} {arguments}")
}

/// How a unit says what a module says.
fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    match value {
        Value::Bool(truth) => vec![if *truth { "yes" } else { "no" }.to_owned()],
        Value::String(text) => vec![text.clone()],
        // What is taken away again stands in a line of its own.
        Value::Array(values) if values.iter().any(|value| text(value).starts_with('~')) => {
            values.iter().map(text).collect()
        }
        Value::Array(values) => vec![values.iter().map(text).collect::<Vec<_>>().join(" ")],
        value => vec![value.to_string()],
    }
}
