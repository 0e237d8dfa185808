//! Acts of administration in words, for the ledger's readers.
//!
//! Always holds: one line each, bounded as the acts are; a store path is named by its hash as in its name.
//! Leaves to others: who, when and why (the ledger's entry).

use firn_base::{KeyKind, ObjectKey};
use firn_nix_format::nixbase32;
use firn_wire::{AdminRequest, DomainRule, LedgerAct, MemberChange, NAME_BYTES_MAX, NodeState, Policy};

/// What an act does, without the reason given for it.
pub fn describe_act(act: &LedgerAct) -> String {
    match act {
        LedgerAct::AddPublisher(entry) => format!("publisher {} added, rank {}", entry.name, entry.rank),
        LedgerAct::RemovePublisher { name } => format!("publisher {name} removed"),
        LedgerAct::AddUploader { key, name } => format!("uploader {name} ({key}) added"),
        LedgerAct::RemoveUploader { key } => format!("uploader {key} removed"),
        LedgerAct::AddOperator { key, name, role } => format!("operator {name} ({key}) has role {role}"),
        LedgerAct::RemoveOperator { key } => format!("operator {key} removed"),
        LedgerAct::UseToken { token, node, operator, failure_domain } => {
            let domain = failure_domain.as_ref().map_or_else(String::new, |name| format!(" in {name}"));
            format!("node {node} of {operator}{domain} joined with token {}", token.short())
        }
        LedgerAct::Withdraw { key, .. } => format!("{} withdrawn", name(*key)),
        LedgerAct::SetPolicy(policy) => format!("policy set: {}", describe_policy(policy)),
        LedgerAct::Reinstate { key, .. } => format!("{} reinstated", name(*key)),
        LedgerAct::Purge { key, .. } => format!("{} to be purged", name(*key)),
        LedgerAct::Erase { bundle } => format!("bundle {bundle} erased"),
        LedgerAct::CreateToken { token, operator, failure_domain, expires } => {
            let domain = failure_domain.as_ref().map_or_else(String::new, |name| format!(" in {name}"));
            format!("token {} made for a node of {operator}{domain}, good until {expires}", token.short())
        }
        LedgerAct::SetNodeState { node, state } => describe_state(&node.to_string(), *state),
        LedgerAct::ChangeMember(change) => format!("begun: {}", describe_change(change)),
        LedgerAct::AdoptRoster { generation } => format!("roster generation {generation} brought into force"),
        LedgerAct::Repack { bundle } => format!("bundle {bundle} packed anew"),
        LedgerAct::Refuse { operator, name, what, needed, times } => {
            let times = if *times > 1 { format!(", {times} times") } else { String::new() };
            format!("REFUSED to {name} ({operator}){times}: {what}; it needs role {needed}")
        }
    }
}

/// One word for the kind of an act, for programs.
pub const fn act_name(act: &LedgerAct) -> &'static str {
    match act {
        LedgerAct::AddPublisher(_) => "add-publisher",
        LedgerAct::RemovePublisher { .. } => "remove-publisher",
        LedgerAct::AddUploader { .. } => "add-uploader",
        LedgerAct::RemoveUploader { .. } => "remove-uploader",
        LedgerAct::AddOperator { .. } => "add-operator",
        LedgerAct::RemoveOperator { .. } => "remove-operator",
        LedgerAct::UseToken { .. } => "use-token",
        LedgerAct::Withdraw { .. } => "withdraw",
        LedgerAct::SetPolicy(_) => "set-policy",
        LedgerAct::Reinstate { .. } => "reinstate",
        LedgerAct::Purge { .. } => "purge",
        LedgerAct::Erase { .. } => "erase",
        LedgerAct::CreateToken { .. } => "create-token",
        LedgerAct::SetNodeState { .. } => "set-node-state",
        LedgerAct::ChangeMember(_) => "change-member",
        LedgerAct::AdoptRoster { .. } => "adopt-roster",
        LedgerAct::Repack { .. } => "repack",
        LedgerAct::Refuse { .. } => "refuse",
    }
}

/// What an act is about: an id, key or name; none where it is about the archive.
pub fn act_subject(act: &LedgerAct) -> Option<String> {
    match act {
        LedgerAct::AddPublisher(entry) => Some(entry.name.clone()),
        LedgerAct::RemovePublisher { name } => Some(name.clone()),
        LedgerAct::AddUploader { key, .. }
        | LedgerAct::RemoveUploader { key }
        | LedgerAct::AddOperator { key, .. }
        | LedgerAct::RemoveOperator { key }
        | LedgerAct::UseToken { node: key, .. }
        | LedgerAct::Refuse { operator: key, .. } => Some(key.to_string()),
        LedgerAct::Withdraw { key, .. } | LedgerAct::Reinstate { key, .. } | LedgerAct::Purge { key, .. } => {
            Some(key.to_string())
        }
        LedgerAct::Erase { bundle } | LedgerAct::Repack { bundle } => Some(bundle.to_string()),
        LedgerAct::CreateToken { token, .. } => Some(token.to_string()),
        LedgerAct::SetNodeState { node, .. } => Some(node.to_string()),
        LedgerAct::ChangeMember(change) => Some(change.subject().to_string()),
        LedgerAct::SetPolicy(_) | LedgerAct::AdoptRoster { .. } => None,
    }
}

/// What a request asks for, in at most [`NAME_BYTES_MAX`] bytes: it may stand in the ledger.
pub(crate) fn describe_request(request: &AdminRequest) -> String {
    let mut text = match request {
        AdminRequest::Govern(act) => describe_act(act),
        AdminRequest::GovernAll(acts) => match acts.as_slice() {
            [first, rest @ ..] => format!("{} and {} more acts", describe_act(first), rest.len()),
            [] => "no act".to_owned(),
        },
        AdminRequest::CreateToken { operator, .. } => format!("token for a node of {operator}"),
        AdminRequest::SetNodeState { node, state } => describe_state(&node.to_string(), *state),
        AdminRequest::AnnounceSuspension { node, .. } => format!("announce that node {node} is suspended"),
        AdminRequest::ChangeMember(change) => describe_change(change),
        AdminRequest::AdoptRoster(_) => "bring a roster".to_owned(),
        AdminRequest::FinishRebuild => "finish a rebuild".to_owned(),
        AdminRequest::ReopenRebuild => "listen once more for a rebuild".to_owned(),
        AdminRequest::Snapshot { .. } => "write a snapshot".to_owned(),
        AdminRequest::Members
        | AdminRequest::Nodes
        | AdminRequest::Ledger { .. }
        | AdminRequest::LedgerPosition { .. }
        | AdminRequest::DraftRoster
        | AdminRequest::Digests
        | AdminRequest::RebuildProgress
        | AdminRequest::Purges { .. }
        | AdminRequest::BundlesSince { .. }
        | AdminRequest::Compaction { .. }
        | AdminRequest::CompactionBehind { .. }
        | AdminRequest::ReplacedAmong(_)
        | AdminRequest::AnnouncedSuspensions => "look".to_owned(),
    };
    // Names in it are whatever the asker wrote.
    text.retain(|letter| !letter.is_control());
    let end = text.char_indices().map(|(start, letter)| start + letter.len_utf8());
    let end = end.take_while(|end| *end <= NAME_BYTES_MAX).last().unwrap_or(0);
    text.truncate(end);
    text
}

fn describe_policy(policy: &Policy) -> String {
    let Policy { domains, repair_at, repair_at_full, count_lost_after_millis, brake, trust_declared_domains } =
        policy;
    let domains = match (domains, trust_declared_domains) {
        (DomainRule::Named, _) => "named",
        (DomainRule::Public, false) => "public",
        (DomainRule::Public, true) => "public, declared ones trusted",
    };
    let repair = match (repair_at_full, repair_at) {
        (true, _) => "at any loss".to_owned(),
        (false, Some(shards)) => format!("at {shards} durable shards"),
        (false, None) => "by each scheme's rule".to_owned(),
    };
    let minutes = count_lost_after_millis / 60_000;
    let brake = if *brake { "on" } else { "off" };
    format!("domains {domains}; repair {repair}; nodes lost after {minutes} min; brake {brake}")
}

fn describe_state(node: &str, state: NodeState) -> String {
    match state {
        NodeState::Active => format!("node {node} resumed"),
        NodeState::Suspended => format!("node {node} suspended"),
        NodeState::Draining => format!("node {node} drains"),
        NodeState::Gone => format!("node {node} gone"),
        NodeState::Lost => format!("node {node} counted lost"),
    }
}

fn describe_change(change: &MemberChange) -> String {
    match change {
        MemberChange::Add { id, address } => format!("adding coordinator {id} at {address}"),
        MemberChange::Promote { id } => format!("giving coordinator {id} a vote"),
        MemberChange::Remove { id } => format!("removing coordinator {id}"),
        MemberChange::Replace { old, new, address } => {
            format!("replacing coordinator {old} by {new} at {address}")
        }
        MemberChange::Readmit { id } => format!("taking back coordinator {id}, which lost its log or state"),
    }
}

fn name(key: ObjectKey) -> String {
    match key.kind() {
        KeyKind::StorePath => format!("path {}", nixbase32::encode(key.name())),
        kind => format!("{kind:?} {key}"),
    }
}

#[cfg(test)]
mod tests {
    use firn_base::PublicKey;

    use super::*;

    #[test]
    fn what_is_asked_is_one_bounded_line_whatever_the_asker_wrote() {
        let name = "ä\n".repeat(400);
        let act = LedgerAct::AddUploader { key: PublicKey::from_bytes([1; 32]), name };
        let text = describe_request(&AdminRequest::Govern(act));
        assert!(text.len() <= NAME_BYTES_MAX && text.len() > NAME_BYTES_MAX - 4);
        assert!(!text.contains('\n'));
    }
}
