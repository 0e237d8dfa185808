//! The text form of what people hand on as files: a line that says what it is, comments, one line of base64.

use std::fmt;

use data_encoding::BASE64;

/// Writes `bytes` as a text of the kind that `magic` names.
pub(crate) fn write(
    formatter: &mut fmt::Formatter<'_>,
    magic: &str,
    comments: &[String],
    bytes: &[u8],
) -> fmt::Result {
    writeln!(formatter, "{magic}")?;
    comments.iter().try_for_each(|comment| writeln!(formatter, "# {comment}"))?;
    writeln!(formatter, "{}", BASE64.encode(bytes))
}

/// The bytes of `text`; none if it is of another kind, an error if its bytes are damaged.
pub(crate) fn read(magic: &str, text: &str) -> Option<Result<Vec<u8>, String>> {
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some(magic) {
        return None;
    }
    let encoded: String = lines.filter(|line| !line.starts_with('#')).map(str::trim).collect();
    Some(BASE64.decode(encoded.as_bytes()).map_err(|error| error.to_string()))
}
