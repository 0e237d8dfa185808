//! Whether an act of governance that somebody asks for makes sense.
//!
//! Always holds: what is refused here would have changed nothing that counts, or is not to be done by hand; names are
//! bounded and on one line. Leaves to others: who may ask for it (`rights`), what only `apply` can know.

use firn_wire::{LedgerAct, LedgerState, NAME_BYTES_MAX};

/// Why an act is not taken on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActRefusal {
    /// Empty, too long, or of several lines.
    #[error("the {0} must be a name of 1 to {NAME_BYTES_MAX} bytes on one line")]
    BadName(&'static str),
    /// It follows from something else.
    #[error("{0}, not by hand")]
    NotByHand(&'static str),
    /// Nobody of that name or key.
    #[error("no {what} is called {name}: see `firn-coordinator {what} list`")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// Its name or key.
        name: String,
    },
}

/// Checks a name that a person gives.
pub fn check_name(what: &'static str, name: &str) -> Result<(), ActRefusal> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(ActRefusal::BadName(what));
    }
    Ok(())
}

/// Checks an act that somebody asks for, by the ledger as it is.
pub fn check_act(ledger: &LedgerState, act: &LedgerAct) -> Result<(), ActRefusal> {
    let known = |what, is_known: bool, name: String| match is_known {
        true => Ok(()),
        false => Err(ActRefusal::Unknown { what, name }),
    };
    match act {
        LedgerAct::AddPublisher(entry) => check_name("publisher", &entry.name),
        LedgerAct::AddUploader { name, .. } => check_name("uploader", name),
        LedgerAct::AddOperator { name, .. } => check_name("operator", name),
        LedgerAct::RemovePublisher { name } => {
            check_name("publisher", name)?;
            known("publisher", ledger.publishers.contains_key(name), name.clone())
        }
        LedgerAct::RemoveUploader { key } => {
            known("uploader", ledger.uploaders.contains_key(key), key.to_string())
        }
        LedgerAct::RemoveOperator { key } => {
            known("operator", ledger.operator(*key).is_some(), key.to_string())
        }
        LedgerAct::Withdraw { reason, .. }
        | LedgerAct::Reinstate { reason, .. }
        | LedgerAct::Purge { reason, .. } => check_name("reason", reason),
        LedgerAct::SetPolicy(_) => Ok(()),
        LedgerAct::Erase { .. } => Err(ActRefusal::NotByHand("bundles are erased by purges")),
        LedgerAct::UseToken { .. } => Err(ActRefusal::NotByHand("tokens are used up by nodes that join")),
        LedgerAct::CreateToken { .. }
        | LedgerAct::SetNodeState { .. }
        | LedgerAct::ChangeMember(_)
        | LedgerAct::AdoptRoster { .. }
        | LedgerAct::Repack { .. }
        | LedgerAct::Refuse { .. } => {
            Err(ActRefusal::NotByHand("what was done is entered by those who do it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, PublicKey};
    use firn_wire::{OperatorRole, PublisherEntry};

    use super::*;

    #[test]
    fn only_who_is_there_is_removed() {
        let (key, name) = (PublicKey::from_bytes([1; 32]), "ada".to_owned());
        let mut ledger = LedgerState::default();
        let removals = [
            LedgerAct::RemovePublisher { name: name.clone() },
            LedgerAct::RemoveUploader { key },
            LedgerAct::RemoveOperator { key },
        ];
        for act in &removals {
            assert!(matches!(check_act(&ledger, act), Err(ActRefusal::Unknown { .. })), "{act:?}");
        }
        let additions = [
            LedgerAct::AddPublisher(PublisherEntry { name: name.clone(), key, rank: 1 }),
            LedgerAct::AddUploader { key, name: name.clone() },
            LedgerAct::AddOperator { key, name, role: OperatorRole::Nodes },
        ];
        for act in &additions {
            assert_eq!(check_act(&ledger, act), Ok(()));
            ledger.apply(act);
        }
        for act in &removals {
            assert_eq!(check_act(&ledger, act), Ok(()), "{act:?}");
        }
    }

    #[test]
    fn names_are_bounded_and_on_one_line_and_what_follows_is_not_done_by_hand() {
        let refused = |act| check_act(&LedgerState::default(), &act).unwrap_err();
        for name in [String::new(), "a\nb".to_owned(), "x".repeat(NAME_BYTES_MAX + 1)] {
            let act = LedgerAct::AddUploader { key: PublicKey::from_bytes([1; 32]), name };
            assert_eq!(refused(act), ActRefusal::BadName("uploader"));
        }
        let erase = LedgerAct::Erase { bundle: BundleId::from_bytes([1; 32]) };
        assert!(matches!(refused(erase), ActRefusal::NotByHand(_)));
        assert!(matches!(refused(LedgerAct::AdoptRoster { generation: 1 }), ActRefusal::NotByHand(_)));
    }
}
