//! The ledger: the numbered record of governance and of all other administration, chained by digest.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, Digest, NodeId, ObjectKey, PublicKey, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

use crate::{Actor, MemberChange, NodeState, OperatorEntry, OperatorRole, Signed, Statement, encode};

/// One act of governance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LedgerAct {
    /// Accept a Nix signing key, `name:base64`, with a rank: smaller is served first.
    AddPublisher(PublisherEntry),
    /// Accept no more paths signed by this key.
    RemovePublisher {
        /// The key's name.
        name: String,
    },
    /// Allow an identity to reserve and commit.
    AddUploader {
        /// The identity.
        key: PublicKey,
        /// Whose it is.
        name: String,
    },
    /// Allow it no more.
    RemoveUploader {
        /// The identity.
        key: PublicKey,
    },
    /// Allow an identity to administer the archive from afar, or give an operator another name or role.
    AddOperator {
        /// The identity.
        key: PublicKey,
        /// Whose it is.
        name: String,
        /// What it may do.
        role: OperatorRole,
    },
    /// Allow it no more.
    RemoveOperator {
        /// The identity.
        key: PublicKey,
    },
    /// A join token was used up.
    UseToken {
        /// The token.
        token: TokenId,
        /// The node that used it.
        node: PublicKey,
        /// Whose node the token says it is.
        operator: String,
        /// The failure domain that the token vouches for, if it vouches for one.
        failure_domain: Option<String>,
    },
    /// A key is served no more.
    Withdraw {
        /// The key.
        key: ObjectKey,
        /// Why, for those who ask.
        reason: String,
    },
    /// The archive's policy from here on.
    SetPolicy(Policy),
    /// A key that was withdrawn is served again.
    Reinstate {
        /// The key.
        key: ObjectKey,
        /// Why, for those who ask.
        reason: String,
    },
    /// A withdrawn key is to be gone from every disk.
    Purge {
        /// The key.
        key: ObjectKey,
        /// Why, for those who ask.
        reason: String,
    },
    /// A bundle is needed no more, for others took its place: nodes remove every shard of it, from trash too, and take none of it
    /// again. Apply alone makes this act.
    Erase {
        /// The bundle.
        bundle: BundleId,
    },
    /// A join token was made.
    CreateToken {
        /// The token.
        token: TokenId,
        /// Whose node it is for.
        operator: String,
        /// The failure domain that it vouches for, if it vouches for one.
        failure_domain: Option<String>,
        /// When it ends.
        expires: Timestamp,
    },
    /// A node was moved to another state.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Its state from here on.
        state: NodeState,
    },
    /// A change of the coordinators was begun: entered before it is made, for a leader may go with it.
    ChangeMember(MemberChange),
    /// A roster that the archive key has signed was brought to the leader.
    AdoptRoster {
        /// Its generation.
        generation: u64,
    },
    /// Others took the place of a bundle: because of purges, or because it was small.
    Repack {
        /// The bundle.
        bundle: BundleId,
    },
    /// An operator asked for what its role does not allow, and was refused.
    Refuse {
        /// Its key.
        operator: PublicKey,
        /// Whose it is.
        name: String,
        /// What was asked for last.
        what: String,
        /// The role that it needs.
        needed: OperatorRole,
        /// How often since this was last recorded.
        times: u32,
    },
}

impl LedgerAct {
    /// Why, in the words of whoever did it; none where no reason is asked for.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Withdraw { reason, .. } | Self::Reinstate { reason, .. } | Self::Purge { reason, .. } => {
                Some(reason)
            }
            _ => None,
        }
    }
}

/// A Nix signing key whose signatures the archive accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublisherEntry {
    /// The key's name, as in `cache.nixos.org-1`.
    pub name: String,
    /// The ed25519 key.
    pub key: PublicKey,
    /// Smaller is preferred where two publishers signed different contents for one path.
    pub rank: u32,
}

/// What separates failure domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DomainRule {
    /// The name that a node's owner gives it.
    Named,
    /// Operator, address prefix, AS and country; and the name, where it joins nodes.
    Public,
}

/// The archive's settings, decided at bootstrap and changed through the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What separates failure domains.
    pub domains: DomainRule,
    /// Repair at this many durable shards or fewer; none: the scheme's own threshold.
    pub repair_at: Option<u8>,
    /// Repair whenever a shard is missing, whatever the scheme.
    pub repair_at_full: bool,
    /// A node offline for longer counts as lost.
    pub count_lost_after_millis: u64,
    /// Whether repair waits when much of the fleet vanishes at once.
    pub brake: bool,
    /// Whether in a `public` archive the failure domain that a node declares keeps it apart from others of its network
    /// and address prefix, as one does that a token gave it.
    pub trust_declared_domains: bool,
}

/// One entry: its place, the digest of the entry before, when, who, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Counts from zero.
    pub position: u64,
    /// Digest of the entry before; zeros for the first.
    pub previous: Digest,
    /// The archive's time of the act.
    pub at: Timestamp,
    /// Who did it.
    pub by: Actor,
    /// What was decided.
    pub act: LedgerAct,
}

impl LedgerEntry {
    /// BLAKE3 of the entry's encoding: what the next entry names as its predecessor.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(*blake3::hash(&encode(self)).as_bytes())
    }
}

/// The ledger up to a position, as a coordinator signs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Entries in the ledger.
    pub entries: u64,
    /// Digest of the last; zeros for an empty ledger.
    pub digest: Digest,
}

impl Statement for LedgerHead {
    const KIND: &'static str = "ledger";
}

/// A page of the ledger with one coordinator's signature over the whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// Entries from the position asked for.
    pub entries: Vec<LedgerEntry>,
    /// Its signature over the head.
    pub signed_head: Signed<LedgerHead>,
}

/// What the ledger says when read from its beginning: who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerState {
    /// Accepted publishers by name.
    pub publishers: BTreeMap<String, PublisherEntry>,
    /// Uploaders with their names.
    pub uploaders: BTreeMap<PublicKey, String>,
    /// Operators with their names and roles.
    pub operators: BTreeMap<PublicKey, OperatorEntry>,
    /// Tokens that were used up.
    pub used_tokens: BTreeSet<TokenId>,
    /// Keys that are served no more, and why.
    pub withdrawn: BTreeMap<ObjectKey, String>,
    /// Of these, keys that are to be gone from every disk, and why.
    pub purged: BTreeMap<ObjectKey, String>,
    /// Bundles that were erased.
    pub erased: BTreeSet<BundleId>,
    /// Publishers that were accepted once and are no more, in the order in which they went.
    pub former_publishers: Vec<PublisherEntry>,
    /// The policy in force; none before bootstrap.
    pub policy: Option<Policy>,
}

impl LedgerState {
    /// What `entries`, from the first on, come to.
    pub fn read(entries: &[LedgerEntry]) -> Self {
        let mut state = Self::default();
        entries.iter().for_each(|entry| state.apply(&entry.act));
        state
    }

    /// Takes one more act into account.
    pub fn apply(&mut self, act: &LedgerAct) {
        match act {
            LedgerAct::AddPublisher(entry) => {
                self.publishers.insert(entry.name.clone(), entry.clone());
            }
            LedgerAct::RemovePublisher { name } => {
                self.former_publishers.extend(self.publishers.remove(name));
            }
            LedgerAct::AddUploader { key, name } => {
                self.uploaders.insert(*key, name.clone());
            }
            LedgerAct::RemoveUploader { key } => {
                self.uploaders.remove(key);
            }
            LedgerAct::AddOperator { key, name, role } => {
                self.operators.insert(*key, OperatorEntry { name: name.clone(), role: *role });
            }
            LedgerAct::RemoveOperator { key } => {
                self.operators.remove(key);
            }
            LedgerAct::UseToken { token, .. } => {
                self.used_tokens.insert(*token);
            }
            LedgerAct::Withdraw { key, reason } => {
                self.withdrawn.insert(*key, reason.clone());
            }
            LedgerAct::Reinstate { key, .. } => {
                self.withdrawn.remove(key);
                self.purged.remove(key);
            }
            LedgerAct::Purge { key, reason } => {
                self.purged.insert(*key, reason.clone());
            }
            LedgerAct::Erase { bundle } => {
                self.erased.insert(*bundle);
            }
            LedgerAct::SetPolicy(policy) => self.policy = Some(policy.clone()),
            // What was done, for those who ask; what came of it is elsewhere.
            LedgerAct::CreateToken { .. }
            | LedgerAct::SetNodeState { .. }
            | LedgerAct::ChangeMember(_)
            | LedgerAct::AdoptRoster { .. }
            | LedgerAct::Repack { .. }
            | LedgerAct::Refuse { .. } => {}
        }
    }

    /// The name and role of an operator, if `key` is one.
    pub fn operator(&self, key: PublicKey) -> Option<&OperatorEntry> {
        self.operators.get(&key)
    }

    /// Whether `key` is an operator whose role includes `needed`.
    pub fn operator_may(&self, key: PublicKey, needed: OperatorRole) -> bool {
        self.operator(key).is_some_and(|operator| operator.role.includes(needed))
    }

    /// Publishers, the most preferred first.
    pub fn publishers_by_rank(&self) -> Vec<&PublisherEntry> {
        let mut publishers: Vec<_> = self.publishers.values().collect();
        publishers.sort_by_key(|entry| entry.rank);
        publishers
    }
}
