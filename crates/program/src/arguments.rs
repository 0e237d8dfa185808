//! Where the value of an option comes from: the command line, then `FIRN_…`, then the configuration file.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command, CommandFactory, FromArgMatches};
use toml::{Table, Value};

/// Why the configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("the configuration file {} is not TOML: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// No command of the program has an option of this name.
    #[error("`{key}` in {} is no option of this program: look for a typing error", path.display())]
    Unknown {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A value has a form that no option has.
    #[error("`{key}` in {} is neither text, number, truth value nor a list of them", path.display())]
    Value {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
    },
}

/// Parses this process's arguments as `P`, filled up from the environment and the configuration file. Ends the
/// process with code 2 and a sentence if they are wrong, with code 0 after help or version.
///
/// A key of the file that the chosen command does not know is left alone if another command does: one file
/// serves them all. A key that none knows is refused, unless `FIRN_CONFIG` names the file: that one speaks to
/// every program of a shell.
pub fn parse<P: CommandFactory + FromArgMatches>() -> P {
    let given: Vec<OsString> = std::env::args_os().collect();
    let filled = fill(P::command(), &given, std::env::var_os("FIRN_CONFIG")).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        std::process::exit(2)
    });
    let matches = P::command().get_matches_from(filled);
    P::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// `given` with what the configuration file says of options that neither it nor the environment set.
fn fill(
    command: Command,
    given: &[OsString],
    environment: Option<OsString>,
) -> Result<Vec<OsString>, ConfigError> {
    let named = config_path(given);
    let is_shared = named.is_none();
    let Some(path) = named.or(environment.filter(|path| !path.is_empty()).map(PathBuf::from)) else {
        return Ok(given.to_vec());
    };
    let text =
        std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let table: Table =
        text.parse().map_err(|source| ConfigError::Parse { path: path.clone(), source: Box::new(source) })?;
    if let Some(key) = table.keys().find(|key| !is_shared && !knows(&command, key)) {
        return Err(ConfigError::Unknown { key: key.clone(), path });
    }
    // Each level's options go right behind the word that chose it: only there do they belong to it.
    let mut levels = vec![(&command, 1)];
    for (position, word) in given.iter().enumerate().skip(1).take_while(|(_, word)| *word != "--") {
        let (level, _) = levels[levels.len() - 1];
        if let Some(chosen) = word.to_str().and_then(|word| level.find_subcommand(word)) {
            levels.push((chosen, position + 1));
        }
    }
    let mut filled = given.to_vec();
    for (level, position) in levels.into_iter().rev() {
        let mut added = Vec::new();
        for argument in level.get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            let Some(value) = table.get(long) else { continue };
            let set_by_environment = argument.get_env().is_some_and(|name| std::env::var_os(name).is_some());
            if is_given(given, long) || set_by_environment {
                continue;
            }
            let is_flag = matches!(argument.get_action(), ArgAction::SetTrue | ArgAction::Count);
            let texts =
                texts(value).ok_or_else(|| ConfigError::Value { key: long.into(), path: path.clone() })?;
            added.extend(texts.iter().filter_map(|text| match (is_flag, text.as_str()) {
                (true, "false") => None,
                (true, _) => Some(OsString::from(format!("--{long}"))),
                (false, text) => Some(format!("--{long}={text}").into()),
            }));
        }
        filled.splice(position..position, added);
    }
    Ok(filled)
}

fn knows(command: &Command, key: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(key))
        || command.get_subcommands().any(|below| knows(below, key))
}

/// The file that the command line names.
fn config_path(given: &[OsString]) -> Option<PathBuf> {
    let mut words = given.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(Path::new(path).to_owned());
        }
    }
    None
}

fn is_given(given: &[OsString], long: &str) -> bool {
    let option = format!("--{long}");
    let with_value = format!("{option}=");
    given
        .iter()
        .take_while(|word| *word != OsStr::new("--"))
        .any(|word| word.to_str().is_some_and(|word| word == option || word.starts_with(&with_value)))
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long)]
        data_dir: Option<String>,
        #[command(subcommand)]
        action: Option<Action>,
    }

    #[derive(clap::Subcommand)]
    enum Action {
        Serve {
            #[arg(long)]
            listen: Option<String>,
            #[arg(long)]
            fast: bool,
            #[arg(long)]
            peer: Vec<String>,
        },
    }

    fn parse_with(text: &str, words: &[&str]) -> Result<Program, ConfigError> {
        let place = tempfile();
        std::fs::write(&place, text).unwrap();
        let mut given: Vec<OsString> = vec!["program".into(), "--config".into(), place.clone().into()];
        given.extend(words.iter().map(OsString::from));
        let filled = fill(Program::command(), &given, None);
        std::fs::remove_file(place).unwrap();
        Ok(Program::parse_from(filled?))
    }

    fn parse_in_environment(text: &str) -> Result<Program, ConfigError> {
        let place = tempfile();
        std::fs::write(&place, text).unwrap();
        let filled = fill(Program::command(), &["program".into()], Some(place.clone().into()));
        std::fs::remove_file(place).unwrap();
        Ok(Program::parse_from(filled?))
    }

    fn tempfile() -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("firn-arguments-{}-{number}", std::process::id()))
    }

    #[test]
    fn the_file_fills_what_the_command_line_leaves_open() {
        let text = "data-dir = \"a\"\nlisten = \"b\"\nfast = true\npeer = [\"x\", \"y\"]\n";
        let program = parse_with(text, &["serve", "--listen", "c"]).unwrap();
        assert_eq!(program.data_dir.as_deref(), Some("a"));
        let Some(Action::Serve { listen, fast, peer }) = program.action else { panic!("serve was chosen") };
        assert_eq!((listen.as_deref(), fast, peer), (Some("c"), true, vec!["x".into(), "y".into()]));
    }

    #[test]
    fn a_flag_that_the_file_denies_stays_off() {
        let program = parse_with("fast = false\n", &["serve"]).unwrap();
        assert!(matches!(program.action, Some(Action::Serve { fast: false, .. })));
    }

    #[test]
    fn a_key_that_no_command_knows_is_refused() {
        let error = parse_with("listne = \"a\"\n", &[]).err().unwrap().to_string();
        assert!(error.starts_with("`listne` in "), "{error}");
        assert!(parse_with("listen = \"a\"\n", &[]).is_ok());
    }

    #[test]
    fn the_file_of_the_environment_may_speak_to_other_programs_too() {
        let program = parse_in_environment("data-dir = \"a\"\nuploader-key = \"b\"\n").unwrap();
        assert_eq!(program.data_dir.as_deref(), Some("a"));
    }

    #[test]
    fn a_file_that_is_no_toml_is_named() {
        let error = parse_with("data-dir = [", &[]).err().unwrap().to_string();
        assert!(error.contains("is not TOML"), "{error}");
    }
}
