//! Lists of store paths in files.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use crate::command_error::CommandError;
use crate::store_path_argument::StorePathArgument;

/// The lines of `file` that hold something; `-` is standard input. Blocks.
pub(crate) fn read_lines(file: &Path) -> Result<Vec<String>, CommandError> {
    let failed = |source| CommandError::file("read", file, source);
    let reader: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(std::fs::File::open(file).map_err(failed)?))
    };
    let mut lines = Vec::new();
    for line in reader.lines() {
        let line = line.map_err(failed)?;
        if !line.trim().is_empty() {
            lines.push(line.trim().to_owned());
        }
    }
    Ok(lines)
}

/// The store paths that `file` names, one to a line. Blocks.
pub(crate) fn read_paths(file: &Path) -> Result<Vec<StorePathArgument>, CommandError> {
    let parse = |line: String| {
        line.parse().map_err(|error| CommandError::Usage(format!("--paths: `{line}`: {error}")))
    };
    read_lines(file)?.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_lines_that_hold_something() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("paths");
        std::fs::write(&file, "/nix/store/a\n\n  /nix/store/b \n").unwrap();
        assert_eq!(read_lines(&file).unwrap(), ["/nix/store/a", "/nix/store/b"]);
        let missing = read_lines(&place.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot read "), "{missing}");
    }

    #[test]
    fn a_line_that_is_no_store_path_is_wrong_usage() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("paths");
        std::fs::write(&file, "4d20g8srpvv02vkiwrmz28g62m15n56b\n").unwrap();
        assert_eq!(read_paths(&file).unwrap().len(), 1);
        std::fs::write(&file, "4d20g8srpvv02vkiwrmz28g62m15n56b\nhello\n").unwrap();
        let wrong = read_paths(&file).unwrap_err();
        assert!(matches!(&wrong, CommandError::Usage(text) if text.contains("`hello`")), "{wrong}");
    }
}
