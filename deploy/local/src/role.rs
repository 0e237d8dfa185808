//! The roles of an archive, by the names under which they are stopped and started.

use std::fmt;
use std::str::FromStr;

/// One role. Numbers count from 1 and are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// `coordinator-N`; N is its number in the consensus group.
    Coordinator(u16),
    /// `storage-node-N`.
    StorageNode(u16),
    /// `gateway`.
    Gateway,
}

/// A text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a role: write coordinator-N, storage-node-N or gateway")]
pub(crate) struct ParseRoleError {
    text: String,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(number) => write!(formatter, "coordinator-{number}"),
            Self::StorageNode(number) => write!(formatter, "storage-node-{number}"),
            Self::Gateway => formatter.write_str("gateway"),
        }
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbered = |prefix| {
            let digits = text.strip_prefix(prefix)?;
            digits.parse().ok().filter(|number: &u16| *number > 0 && number.to_string() == digits)
        };
        if let Some(number) = numbered("coordinator-") {
            return Ok(Self::Coordinator(number));
        }
        if let Some(number) = numbered("storage-node-") {
            return Ok(Self::StorageNode(number));
        }
        match text {
            "gateway" => Ok(Self::Gateway),
            other => Err(ParseRoleError { text: other.chars().take(80).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_as_it_is_written() {
        for role in [Role::Coordinator(1), Role::StorageNode(16), Role::StorageNode(400), Role::Gateway] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_sentence() {
        for text in
            ["", "coordinator", "coordinator-0", "coordinator-01", "storage-node--1", "gateway-1", "x"]
        {
            let error = text.parse::<Role>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is not a role")), "{error}");
        }
    }
}
