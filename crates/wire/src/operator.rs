//! Who administers an archive: operators with their roles, and who did what.
//!
//! Always holds: roles are few and have plain names; each but `admin` is a part of what `admin` may. Leaves to others:
//! which role an act needs (`coordinator/logic`), keeping to it (the coordinators, and `apply`).

use std::fmt;
use std::str::FromStr;

use firn_base::{NodeId, PublicKey};
use serde::{Deserialize, Serialize};

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OperatorRole {
    /// Looks at everything and changes nothing.
    Observer,
    /// Lets nodes in, and moves them on: tokens, suspend, resume, drain, remove.
    Nodes,
    /// Decides what is archived: publishers, uploaders, withdrawals, purges, packing anew.
    Content,
    /// Everything: operators, coordinators and policy as well.
    Admin,
}

impl OperatorRole {
    /// All roles, the smallest first.
    pub const ALL: [Self; 4] = [Self::Observer, Self::Nodes, Self::Content, Self::Admin];

    /// Whether who has this role may do what `needed` is needed for.
    pub const fn includes(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Admin, _)
            | (_, Self::Observer)
            | (Self::Nodes, Self::Nodes)
            | (Self::Content, Self::Content) => true,
            (Self::Observer, Self::Nodes | Self::Content | Self::Admin)
            | (Self::Nodes, Self::Content | Self::Admin)
            | (Self::Content, Self::Nodes | Self::Admin) => false,
        }
    }

    /// Its name, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Nodes => "nodes",
            Self::Content => "content",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such role: it is one of observer, nodes, content, admin")]
pub struct ParseRoleError;

impl FromStr for OperatorRole {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(ParseRoleError)
    }
}

/// An operator, by what the ledger says of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorEntry {
    /// Whose key it is.
    pub name: String,
    /// What it may do.
    pub role: OperatorRole,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// The coordinators themselves: what follows from an act, or from a node that joins.
    Coordinators,
    /// Whoever reached the control socket of a coordinator: the owner of its machine.
    Socket {
        /// Which one.
        coordinator: NodeId,
    },
    /// An operator, with the key that its connection to the leader was made with.
    Operator {
        /// The key.
        key: PublicKey,
        /// Whose it was then.
        name: String,
    },
}

impl fmt::Display for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinators => formatter.write_str("automatic"),
            Self::Socket { coordinator } => write!(formatter, "socket of {}", coordinator.short()),
            Self::Operator { key, name } => write!(formatter, "{name} ({})", key.short()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in OperatorRole::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!("root".parse::<OperatorRole>(), Err(ParseRoleError));
    }

    #[test]
    fn only_admin_may_do_everything_and_everybody_may_look() {
        for role in OperatorRole::ALL {
            let included = OperatorRole::ALL.iter().filter(|needed| role.includes(**needed));
            let expected: &[OperatorRole] = match role {
                OperatorRole::Observer => &[OperatorRole::Observer],
                OperatorRole::Nodes => &[OperatorRole::Observer, OperatorRole::Nodes],
                OperatorRole::Content => &[OperatorRole::Observer, OperatorRole::Content],
                OperatorRole::Admin => &OperatorRole::ALL,
            };
            assert!(included.eq(expected), "{role}");
        }
    }
}
