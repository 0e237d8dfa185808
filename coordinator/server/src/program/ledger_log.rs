//! `log`: the ledger, for people and for programs.
//!
//! Always holds: entries come in their order, a page at a time; a reader that stops reading ends it without an error.

use std::io::{self, Write};

use firn_coordinator::{act_name, act_subject, describe_act};
use firn_wire::{Actor, AdminReply, AdminRequest, LedgerEntry};

use super::Failure;
use super::desk::{Desk, misfit};
use super::since::Since;

/// Prints the entries from `since` on, at most `limit`.
pub(super) async fn print(
    desk: &Desk,
    since: Option<Since>,
    limit: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let mut from = match since {
        None => 0,
        Some(Since::Position(position)) => position,
        Some(Since::Time(since)) => match desk.ask(AdminRequest::LedgerPosition { since }).await? {
            AdminReply::LedgerPosition(position) => position,
            _ => return Err(misfit()),
        },
    };
    let mut left = limit.unwrap_or(u64::MAX);
    let mut output = io::stdout().lock();
    while left > 0 {
        let page = desk.ledger_page(from).await?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.position.saturating_add(1);
        for entry in page.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            let line = if json { json_line(entry) } else { text_line(entry) };
            match writeln!(output, "{line}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
            left -= 1;
        }
    }
    Ok(())
}

fn text_line(entry: &LedgerEntry) -> String {
    let LedgerEntry { position, at, by, act, .. } = entry;
    let reason = act.reason().map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("{position:>6}  {at}  {:<24}  {}{reason}", by.to_string(), describe_act(act))
}

/// Who did something, for programs.
pub(super) fn actor_json(by: &Actor) -> serde_json::Value {
    match by {
        Actor::Coordinators => serde_json::json!({ "kind": "automatic" }),
        Actor::Socket { coordinator } => {
            serde_json::json!({ "kind": "socket", "coordinator": coordinator.to_string() })
        }
        Actor::Operator { key, name } => {
            serde_json::json!({ "kind": "operator", "key": key.to_string(), "name": name })
        }
    }
}

fn json_line(entry: &LedgerEntry) -> String {
    serde_json::json!({
        "position": entry.position,
        "at": entry.at.to_string(),
        "at_millis": entry.at.as_millis(),
        "by": actor_json(&entry.by),
        "act": act_name(&entry.act),
        "subject": act_subject(&entry.act),
        "summary": describe_act(&entry.act),
        "reason": entry.act.reason(),
        "digest": entry.digest().to_string(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use firn_base::{Digest, ObjectKey, PublicKey, Timestamp};
    use firn_wire::LedgerAct;

    use super::*;

    fn entry() -> LedgerEntry {
        LedgerEntry {
            position: 7,
            previous: Digest::from_bytes([0; 32]),
            at: Timestamp::from_millis(1_795_383_909_000),
            by: Actor::Operator { key: PublicKey::from_bytes([0xab; 32]), name: "ada".into() },
            act: LedgerAct::Withdraw { key: ObjectKey::store_path([0; 20]), reason: "licence".into() },
        }
    }

    #[test]
    fn a_line_says_when_who_what_and_why() {
        let line = text_line(&entry());
        let path = "0".repeat(32);
        for part in ["     7  ", "2026-11-22T21:45:09Z", "ada (abab", &path, "withdrawn (licence)"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn a_program_finds_the_same_in_json() {
        let line: serde_json::Value = serde_json::from_str(&json_line(&entry())).unwrap();
        assert_eq!(line["position"], 7);
        assert_eq!(line["by"]["name"], "ada");
        assert_eq!((&line["act"], &line["reason"]), (&"withdraw".into(), &"licence".into()));
        assert_eq!(line["subject"], ObjectKey::store_path([0; 20]).to_string());
        assert_eq!(line["digest"], entry().digest().to_string());
    }
}
