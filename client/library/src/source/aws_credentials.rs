//! Whose requests to S3 are: the environment's and the credentials file's word, as Amazon's own programs read them.
//!
//! Always holds: a profile that was named and cannot be had, or a key without its secret, is an error, never an
//! anonymous request; no secret is shown.
//! Leaves to others: signing (`s3_bucket`), reading the environment (the program).

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use configparser::ini::Ini;
use rusty_s3::Credentials;

/// What the environment says of Amazon's credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AwsEnvironment {
    credentials: Option<Credentials>,
    // Of key and secret the one that is not set, where only the other one is.
    lacks: Option<&'static str>,
    profile: Option<String>,
    file: Option<PathBuf>,
}

/// Why there are no credentials although some were named.
#[derive(Debug, thiserror::Error)]
pub enum AwsCredentialsError {
    /// Half of them is in the environment.
    #[error(
        "{0} is not set, and without it the other half of the credentials in the environment is of no use: set both, or none"
    )]
    Half(&'static str),
    /// Nobody knows where they would be.
    #[error("there is no file of credentials: HOME and AWS_SHARED_CREDENTIALS_FILE are not set")]
    NoFile,
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is none of credentials.
    #[error("{} is no file of credentials: it has to be text of at most 1 MiB with lines like `[profile]` and `key = value`", .0.display())]
    Unreadable(PathBuf),
    /// The file lacks the profile, or the profile its keys.
    #[error(
        "{} has no profile `{profile}` with aws_access_key_id and aws_secret_access_key (profiles that have these made \
         elsewhere, by SSO or a role, are not read: put them into the environment)",
        path.display()
    )]
    NoProfile {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        profile: String,
    },
}

const KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";

// Where Amazon's programs look if no profile is named.
const DEFAULT_PROFILE: &str = "default";

// A profile has some 200 bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl AwsEnvironment {
    /// By the variables that Amazon's own programs know.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let (credentials, lacks) = match (text(KEY), text(SECRET)) {
            (Some(key), Some(secret)) => (Some(credentials(key, secret, text("AWS_SESSION_TOKEN"))), None),
            (Some(_), None) => (None, Some(SECRET)),
            (None, Some(_)) => (None, Some(KEY)),
            (None, None) => (None, None),
        };
        let at_home = || set("HOME").map(|home| Path::new(&home).join(".aws/credentials"));
        let file = set("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(at_home);
        Self { credentials, lacks, profile: text("AWS_PROFILE"), file }
    }

    /// The credentials of `profile`; else the environment's own; else those of its profile, or of the default one, if
    /// there is one. None: requests are anonymous. Blocks.
    ///
    /// # Errors
    /// A profile that was named cannot be had, or the environment has half of what it takes.
    pub(super) fn find(&self, profile: Option<&str>) -> Result<Option<Credentials>, AwsCredentialsError> {
        if let (None, Some(own)) = (profile, &self.credentials) {
            return Ok(Some(own.clone()));
        }
        if let (None, Some(lacks)) = (profile, self.lacks) {
            return Err(AwsCredentialsError::Half(lacks));
        }
        if let Some(named) = profile.or(self.profile.as_deref()) {
            let path = self.file.as_deref().ok_or(AwsCredentialsError::NoFile)?;
            let no_profile =
                || AwsCredentialsError::NoProfile { path: path.to_owned(), profile: named.to_owned() };
            return profile_in(path, named)?.ok_or_else(no_profile).map(Some);
        }
        match self.file.as_deref().map(|path| profile_in(path, DEFAULT_PROFILE)) {
            Some(Err(AwsCredentialsError::Read { source, .. })) if is_absent(&source) => Ok(None),
            Some(found) => found,
            None => Ok(None),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn profile_in(path: &Path, profile: &str) -> Result<Option<Credentials>, AwsCredentialsError> {
    let unreadable = || AwsCredentialsError::Unreadable(path.to_owned());
    let read = |source| AwsCredentialsError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(read)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable());
    }
    let text = String::from_utf8(text).map_err(|_| unreadable())?;
    // The names of profiles are what they are, also in capitals; what stands before the first one belongs to none.
    let mut ini = Ini::new_cs();
    ini.set_default_section("");
    ini.set_inline_comment_symbols(Some(&[]));
    ini.read(text).map_err(|_| unreadable())?;
    let value = |name| ini.get(profile, name).filter(|value| !value.is_empty());
    Ok(match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(key), Some(secret)) => Some(credentials(key, secret, value("aws_session_token"))),
        _ => None,
    })
}

fn credentials(key: String, secret: String, token: Option<String>) -> Credentials {
    match token {
        Some(token) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[default]\naws_access_key_id = AKID\naws_secret_access_key = a/b+c=\n\n\
                        [Team]\naws_access_key_id=TEAM\naws_secret_access_key=x#y;z\naws_session_token = t==\n\
                        [sso]\nsso_session = me\n";

    fn environment(file: Option<&Path>, variables: &[(&str, &str)]) -> AwsEnvironment {
        AwsEnvironment::read(|name| match name {
            "AWS_SHARED_CREDENTIALS_FILE" => file.map(|file| file.as_os_str().to_owned()),
            name => variables.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value)),
        })
    }

    fn with_file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(&path, FILE).unwrap();
        (dir, path)
    }

    fn parts(credentials: Option<Credentials>) -> Option<(String, String, Option<String>)> {
        let parts = |own: Credentials| {
            (own.key().to_owned(), own.secret().to_owned(), own.token().map(str::to_owned))
        };
        credentials.map(parts)
    }

    #[test]
    fn a_named_profile_comes_before_the_environment_and_that_before_the_file() {
        let (_dir, path) = with_file();
        let own = [("AWS_ACCESS_KEY_ID", "OWN"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
        let key = |variables: &[(&str, &str)], profile| {
            parts(environment(Some(&path), variables).find(profile).unwrap()).unwrap().0
        };
        assert_eq!(key(&own, None), "OWN");
        assert_eq!(key(&own, Some("Team")), "TEAM");
        assert_eq!(key(&[], None), "AKID");
        assert_eq!(key(&[("AWS_PROFILE", "Team")], None), "TEAM");
    }

    #[test]
    fn secrets_are_read_whole_and_not_shown() {
        let (_dir, path) = with_file();
        let environment =
            environment(Some(&path), &[("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "hush")]);
        let team = parts(environment.find(Some("Team")).unwrap()).unwrap();
        assert_eq!(team, ("TEAM".to_owned(), "x#y;z".to_owned(), Some("t==".to_owned())));
        assert_eq!(parts(environment.find(Some("default")).unwrap()).unwrap().1, "a/b+c=");
        assert!(!format!("{environment:?}").contains("hush"));
    }

    #[test]
    fn a_profile_that_was_named_and_is_not_there_is_never_an_anonymous_request() {
        let (dir, path) = with_file();
        let error = |file: Option<&Path>, profile| {
            environment(file, &[]).find(Some(profile)).unwrap_err().to_string()
        };
        assert!(error(Some(&path), "team").contains("no profile `team`"), "names keep their case");
        assert!(error(Some(&path), "sso").contains("put them into the environment"));
        assert!(error(Some(&dir.path().join("none")), "x").contains("cannot be read"));
        assert!(error(None, "x").contains("HOME"));
    }

    #[test]
    fn half_of_what_the_environment_has_to_say_is_an_error_that_names_the_other_half() {
        let (_dir, path) = with_file();
        for (set, lacks) in [(KEY, SECRET), (SECRET, KEY)] {
            let half = environment(Some(&path), &[(set, "x"), (lacks, "")]);
            let error = half.find(None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{lacks} is not set")), "{error}");
            assert!(half.find(Some("Team")).unwrap().is_some(), "a profile that is named needs neither");
        }
    }

    #[test]
    fn without_any_word_of_credentials_requests_are_anonymous() {
        let (dir, path) = with_file();
        let find = |file: Option<&Path>| environment(file, &[]).find(None);
        assert!(find(None).unwrap().is_none());
        assert!(find(Some(&dir.path().join("none"))).unwrap().is_none());
        std::fs::write(&path, "aws_access_key_id = A\naws_secret_access_key = b\n").unwrap();
        assert!(find(Some(&path)).unwrap().is_none(), "what stands before any profile belongs to none");
        std::fs::write(&path, [0xff; 4]).unwrap();
        assert!(find(Some(&path)).is_err(), "a file that cannot be understood is not passed over");
    }
}
