//! Who the coordinators are, for those who speak to them and listen to them.
//!
//! Owns: what the roster in force says, beside the membership of the log. Always holds: where both know a member,
//! its address is the roster's, which can be changed while no majority is there; nobody is listened to whom neither
//! names, or whom the roster has retired. Leaves to others: which roster is in force (`standing`), changing the
//! membership (`consensus`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use firn_base::NodeId;
use tokio::sync::watch;

use super::types::{Member, Metrics};

/// The book. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct MemberBook {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    named: RwLock<Arc<NamedMembers>>,
    metrics: OnceLock<watch::Receiver<Metrics>>,
    removed: AtomicBool,
}

/// What a roster says.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedMembers {
    /// Its coordinators by number.
    pub(crate) members: BTreeMap<u64, Member>,
    /// Those that are coordinators no more.
    pub(crate) retired: BTreeSet<NodeId>,
}

/// A member of the log's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedMember {
    pub(crate) number: u64,
    pub(crate) member: Member,
    pub(crate) votes: bool,
}

impl MemberBook {
    /// A book of those that the roster names.
    pub(crate) fn new(named: NamedMembers) -> Self {
        let inner = Inner {
            named: RwLock::new(Arc::new(named)),
            metrics: OnceLock::new(),
            removed: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Begins to look at the membership of the log.
    pub(crate) fn open(&self, metrics: watch::Receiver<Metrics>) {
        // Only the first opener counts, and there is only one.
        let _ = self.inner.metrics.set(metrics);
    }

    /// Another roster is in force.
    pub(crate) fn rename(&self, named: NamedMembers) {
        *self.inner.named.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(named);
    }

    /// Member `number`, wherever it is known from.
    pub(crate) fn get(&self, number: u64) -> Option<Member> {
        let named = self.named().members.get(&number).cloned();
        named.or_else(|| self.with_log(|membership| membership.get_node(&number).cloned())?)
    }

    /// Whether `id` may speak as member `number`.
    pub(crate) fn speaks(&self, id: NodeId, number: u64) -> bool {
        !self.named().retired.contains(&id) && self.get(number).is_some_and(|member| member.id == id)
    }

    /// Whether `id` is a coordinator: of the roster or of the log's membership.
    pub(crate) fn contains(&self, id: NodeId) -> bool {
        let named = self.named();
        let in_log = |membership: &openraft::Membership<u64, Member>| {
            membership.nodes().any(|(_, member)| member.id == id)
        };
        !named.retired.contains(&id)
            && (named.members.values().any(|member| member.id == id)
                || self.with_log(in_log).unwrap_or(false))
    }

    /// The members of the log's membership, the last one, whether it is committed or not; those of the roster while
    /// the log has none.
    pub(crate) fn listed(&self) -> Vec<ListedMember> {
        let named = self.named();
        let from_log = self.with_log(|membership| {
            let voters: BTreeSet<_> = membership.voter_ids().collect();
            let listed = membership.nodes().map(|(number, member)| ListedMember {
                number: *number,
                member: named.members.get(number).unwrap_or(member).clone(),
                votes: voters.contains(number),
            });
            listed.collect::<Vec<_>>()
        });
        from_log.filter(|listed| !listed.is_empty()).unwrap_or_else(|| {
            let all = named.members.iter();
            all.map(|(number, member)| ListedMember { number: *number, member: member.clone(), votes: true })
                .collect()
        })
    }

    /// Everybody that the roster or the log knows.
    pub(crate) fn all(&self) -> BTreeMap<u64, Member> {
        let listed = self.listed().into_iter().map(|listed| (listed.number, listed.member));
        listed.chain(self.named().members.clone()).collect()
    }

    /// This coordinator takes part no more.
    pub(crate) fn note_removed(&self) {
        self.inner.removed.store(true, Ordering::Release);
    }

    /// Whether this coordinator takes part no more.
    pub(crate) fn is_removed(&self) -> bool {
        self.inner.removed.load(Ordering::Acquire)
    }

    fn named(&self) -> Arc<NamedMembers> {
        Arc::clone(&self.inner.named.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_log<T>(&self, look: impl FnOnce(&openraft::Membership<u64, Member>) -> T) -> Option<T> {
        let metrics = self.inner.metrics.get()?;
        let membership = Arc::clone(&metrics.borrow().membership_config);
        Some(look(membership.membership()))
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};

    use super::*;

    fn member(number: u8, address: &str) -> Member {
        Member { id: NodeId::from_bytes([number; 32]), address: address.into() }
    }

    fn book() -> MemberBook {
        let members = [(1, member(1, "roster:1")), (2, member(2, "roster:2"))].into();
        let book = MemberBook::new(NamedMembers { members, retired: [NodeId::from_bytes([4; 32])].into() });
        let mut metrics = Metrics::new_initial(1);
        let nodes: BTreeMap<_, _> =
            [(1, member(1, "log:1")), (3, member(3, "log:3")), (4, member(4, "log:4"))].into();
        let membership = Membership::new(vec![[1, 4].into()], nodes);
        let at = LogId::new(CommittedLeaderId::new(1, 1), 7);
        metrics.membership_config = Arc::new(StoredMembership::new(Some(at), membership));
        let (_, receiver) = watch::channel(metrics);
        book.open(receiver);
        book
    }

    #[test]
    fn roster_and_log_together_say_who_may_speak_and_the_roster_where_they_listen() {
        let book = book();
        let id = |number| NodeId::from_bytes([number; 32]);
        assert_eq!(book.get(1).unwrap().address, "roster:1");
        assert_eq!(book.get(3).unwrap().address, "log:3");
        assert!(book.speaks(id(1), 1) && book.speaks(id(2), 2) && book.speaks(id(3), 3));
        assert!(!book.speaks(id(1), 3) && !book.speaks(id(5), 5));
        assert!(!book.speaks(id(4), 4) && !book.contains(id(4)), "it has retired");
        assert!(book.contains(id(2)) && book.contains(id(3)) && !book.contains(id(5)));
        let listed: Vec<_> = book.listed().into_iter().map(|listed| (listed.number, listed.votes)).collect();
        assert_eq!(listed, [(1, true), (3, false), (4, true)]);
        assert_eq!(book.all().into_keys().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn another_roster_moves_members() {
        let book = book();
        let members = [(3, member(3, "moved:3"))].into();
        book.rename(NamedMembers { members, retired: BTreeSet::new() });
        assert_eq!(book.get(3).unwrap().address, "moved:3");
        assert_eq!(book.get(1).unwrap().address, "log:1");
        assert_eq!(book.get(2), None);
    }
}
