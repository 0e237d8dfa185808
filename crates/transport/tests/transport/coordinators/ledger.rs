//! The ledger as several coordinators show it: what a majority signed, and nothing besides.

use firn_base::{Digest, PublicKey, Timestamp, TokenId};
use firn_transport::{AskError, LedgerError};
use firn_wire::{
    CoordinatorReply, CoordinatorRequest, LedgerAct, LedgerEntry, LedgerHead, LedgerPage, Signed,
};

use super::{Answer, archive, fleet};
use crate::world::identity;

fn ledger(tokens: &[u8]) -> Vec<LedgerEntry> {
    let mut entries: Vec<LedgerEntry> = Vec::new();
    for (position, token) in (0..).zip(tokens) {
        entries.push(LedgerEntry {
            position,
            previous: entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest),
            at: Timestamp::from_millis(5),
            by: firn_wire::Actor::Coordinators,
            act: LedgerAct::UseToken {
                token: TokenId::from_bytes([*token; 32]),
                node: PublicKey::from_bytes([9; 32]),
                operator: "ada".into(),
                failure_domain: None,
            },
        });
    }
    entries
}

/// Serves a ledger two entries at a time, signed by `signer`.
fn serves(signer: u8, tokens: &[u8]) -> Answer {
    let entries = ledger(tokens);
    Box::new(move |_, request| {
        let CoordinatorRequest::GetLedger { from } = request else { return None };
        let head = LedgerHead {
            entries: u64::try_from(entries.len()).unwrap(),
            digest: entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest),
        };
        let from = usize::try_from(*from).unwrap();
        Some(CoordinatorReply::Ledger(LedgerPage {
            entries: entries.iter().skip(from).take(2).cloned().collect(),
            signed_head: Signed::seal(&identity(signer), archive(), &head),
        }))
    })
}

#[tokio::test]
async fn the_ledger_is_what_a_majority_vouches_for_and_grows() {
    let fleet =
        fleet(vec![serves(1, &[1, 2, 3, 4, 5]), serves(2, &[1, 2, 3]), serves(3, &[6, 6, 6, 6, 6, 6, 6])])
            .await;
    let first = fleet.client.ledger().await.unwrap();
    assert_eq!(first.entries, ledger(&[1, 2, 3]));
    assert_eq!((first.state.used_tokens.len(), first.heads.len()), (3, 2));

    *fleet.fakes[1].answer.lock().unwrap() = serves(2, &[1, 2, 3, 4]);
    let grown = fleet.client.refresh_ledger(&first).await.unwrap();
    assert_eq!(grown.entries, ledger(&[1, 2, 3, 4]));

    // A majority that has fallen back does not take away what was verified.
    *fleet.fakes[0].answer.lock().unwrap() = serves(1, &[1, 2]);
    let same = fleet.client.refresh_ledger(&grown).await.unwrap();
    assert_eq!(same.entries, ledger(&[1, 2, 3, 4]));

    for (fake, number) in fleet.fakes.iter().zip(1..) {
        *fake.answer.lock().unwrap() = serves(number, &[1, 7, 7]);
    }
    let error = fleet.client.refresh_ledger(&grown).await.unwrap_err();
    assert!(matches!(error, AskError::Ledger(LedgerError::Rewritten { position: 1 })), "{error}");
}

#[tokio::test]
async fn a_ledger_without_a_majority_is_not_believed() {
    // The second answers for the third, the third not at all.
    let fleet = fleet(vec![serves(1, &[1]), serves(3, &[1]), Box::new(|_, _| None)]).await;
    let error = fleet.client.ledger().await.unwrap_err();
    assert!(matches!(&error, AskError::Ledger(LedgerError::TooFew { found: 1, needed: 2, .. })), "{error}");
    // Of each that gave none it is told what is wrong with that one.
    assert!(!error.to_string().contains("no coordinator of archive"), "{error}");
    let single = self::fleet(vec![serves(1, &[1, 2])]).await;
    assert_eq!(single.client.ledger().await.unwrap().entries.len(), 2);
}

/// The same, and what it has heard that others signed: heads of so many entries.
fn serves_with(signer: u8, tokens: &[u8], heard: &[(u8, &[u8])]) -> Answer {
    let head = |signer: u8, tokens: &[u8]| {
        let entries = ledger(tokens);
        let digest = entries.last().unwrap().digest();
        Signed::seal(&identity(signer), archive(), &LedgerHead { entries: entries.len() as u64, digest })
    };
    let heads: Vec<_> = heard.iter().map(|(signer, tokens)| head(*signer, tokens)).collect();
    let own = serves(signer, tokens);
    Box::new(move |connection, request| match request {
        CoordinatorRequest::GetLedgerHeads => Some(CoordinatorReply::LedgerHeads(heads.clone())),
        request => own(connection, request),
    })
}

#[tokio::test]
async fn one_coordinator_alone_shows_what_a_majority_signed_before_and_adds_nothing_to_it() {
    let gone = || -> Answer { Box::new(|_, _| None) };
    let lone = async |answer: Answer| fleet(vec![answer, gone(), gone()]).await.client;
    let (all, own): (&[u8], &[u8]) = (&[1, 2, 3], &[1, 2, 3, 4]);
    let client = lone(serves_with(1, own, &[(1, own), (2, all), (3, &[1])])).await;
    let error = client.ledger().await.unwrap_err();
    assert!(matches!(&error, AskError::Ledger(LedgerError::TooFew { found: 1, needed: 2, .. })), "{error}");
    let shown = client.ledger_signed_before().await.unwrap();
    assert_eq!(shown.entries, ledger(all), "the fourth entry was signed by one");
    assert_eq!(shown.state.used_tokens.len(), 3);

    // Of another ledger, of too few, of one twice, of strangers.
    let liars: [&[(u8, &[u8])]; 4] =
        [&[(1, own), (2, &[1, 7, 3, 4])], &[(1, own)], &[(1, own), (1, all)], &[(1, own), (9, own)]];
    for heads in liars {
        let shown = lone(serves_with(1, own, heads)).await.ledger_signed_before().await;
        assert!(shown.is_none(), "{heads:?}");
    }
    // One of a version before has none.
    assert!(lone(serves(1, own)).await.ledger_signed_before().await.is_none());
}
