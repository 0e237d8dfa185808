//! Percent-encoding, undone where a name may come encoded: browsers and proxies write `!`, `:`, `+` and `/` so.
//!
//! Always holds: what was decoded is text, and was decoded once. Leaves to others: what the text means.

/// `text` decoded; none if an escape is broken, or what comes of it is no UTF-8. In forms a plus is a space.
pub(crate) fn decoded(text: &str, is_form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'+' if is_form => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The value of the field `name` in a query, decoded. The first one counts.
pub(crate) fn field(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
    decoded(value, true)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(decoded("sha256%3a0%21out", false).as_deref(), Some("sha256:0!out"));
        assert_eq!(decoded("a+b%2Bc", false).as_deref(), Some("a+b+c"));
        assert_eq!(decoded("a+b%2Bc", true).as_deref(), Some("a b+c"));
        assert_eq!(decoded("%252F", false).as_deref(), Some("%2F"));
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in ["%", "%2", "%zz", "%+1", "%ff", "x%c3"] {
            assert_eq!(decoded(text, false), None, "{text}");
        }
    }

    #[test]
    fn a_field_of_a_query_is_found_by_its_whole_name() {
        assert_eq!(field("xpath=1&path=%2Fnix&path=2", "path").as_deref(), Some("/nix"));
        assert_eq!(field("paths=1&path", "path"), None);
    }
}
