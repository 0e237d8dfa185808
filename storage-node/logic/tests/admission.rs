//! Who is admitted and who is not, with real signatures.

use firn_base::{ArchiveId, CodingId, NodeId, PublicKey, ReservationId, ShardIndex, ShardRoot, Timestamp};
use firn_storage_node_logic::{AdmissionError, Grounds, OrderGate, OrderRefused, ReadRight};
use firn_wire::{
    BuildOrder, BuildTarget, CoordinatorEntry, DeleteOrder, DeleteReason, Descriptor, Identity, OrderRank,
    Pass, PassPurpose, RefusalKind, RefusedRequest, Roster, Signed, Ticket, VerifiedRoster,
};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const LATER: Timestamp = Timestamp::from_millis(1_000_001);
const RANK: OrderRank = OrderRank { generation: 1, epoch: 7 };
const NONE: OrderRank = OrderRank { generation: 0, epoch: 0 };
const CODING: CodingId = CodingId::from_bytes([5; 32]);

struct World {
    archive: ArchiveId,
    roster: VerifiedRoster,
    coordinator: Identity,
    node: Identity,
    client: Identity,
}

fn world() -> World {
    let [key, coordinator, node, client] = [1, 2, 3, 4].map(|seed| Identity::from_seed(&[seed; 32]));
    let archive = ArchiveId::from(key.public());
    let entry =
        CoordinatorEntry { id: coordinator.node_id(), raft_id: 1, address: "192.0.2.1:4433".to_owned() };
    let roster = Roster { archive, generation: 1, issued: NOW, coordinators: vec![entry], retired: vec![] };
    let roster = Descriptor { archive, roster: Signed::seal(&key, archive, &roster) }.verify();
    let roster = roster.expect("the archive key signed it");
    World { archive, roster, coordinator, node, client }
}

impl World {
    fn grounds(&self) -> Grounds<'_> {
        Grounds { node: self.node.node_id(), roster: &self.roster, now: NOW }
    }

    fn ticket(&self) -> Ticket {
        Ticket {
            node: self.node.node_id(),
            bearer: self.client.public(),
            reservation: ReservationId::from_bytes([8; 32]),
            coding: CODING,
            index: ShardIndex(0),
            shard_bytes: 65_536,
            root: ShardRoot::from_bytes([9; 32]),
            expires: LATER,
            rank: RANK,
        }
    }

    fn judge(&self, ticket: &Ticket) -> Result<Ticket, AdmissionError> {
        let signed = Signed::seal(&self.coordinator, self.archive, ticket);
        self.grounds().check_ticket(&signed, self.client.public(), &mut OrderGate::new(RANK))
    }
}

#[test]
fn a_ticket_is_good_for_its_node_bearer_and_time_only() {
    let world = world();
    let good = world.ticket();
    assert_eq!(world.judge(&good), Ok(good.clone()));
    let elsewhere = Ticket { node: NodeId::from_bytes([7; 32]), ..good.clone() };
    assert!(matches!(world.judge(&elsewhere), Err(AdmissionError::WrongNode { .. })));
    let of_another = Ticket { bearer: PublicKey::from_bytes([7; 32]), ..good.clone() };
    assert!(matches!(world.judge(&of_another), Err(AdmissionError::WrongBearer { .. })));
    let expired = Ticket { expires: NOW, ..good.clone() };
    assert!(matches!(world.judge(&expired), Err(AdmissionError::Expired { .. })));
    let old = Ticket { rank: OrderRank { epoch: 6, ..RANK }, ..good.clone() };
    assert!(matches!(world.judge(&old), Err(AdmissionError::Order(OrderRefused::Superseded { .. }))));
    let unheard_of = Ticket { rank: OrderRank { generation: 2, epoch: 0 }, ..good };
    let refused = world.judge(&unheard_of).unwrap_err();
    assert_eq!(RefusedRequest::from(refused).kind, RefusalKind::Unavailable);
}

#[test]
fn a_ticket_that_no_coordinator_signed_is_refused_and_does_not_move_the_gate() {
    let world = world();
    let mut gate = OrderGate::new(NONE);
    let signed = Signed::seal(&world.client, world.archive, &world.ticket());
    let refused = world.grounds().check_ticket(&signed, world.client.public(), &mut gate);
    assert!(matches!(refused, Err(AdmissionError::NotACoordinator { .. })));
    let foreign = Signed::seal(&world.coordinator, ArchiveId::from_bytes([6; 32]), &world.ticket());
    let refused = world.grounds().check_ticket(&foreign, world.client.public(), &mut gate);
    assert!(matches!(refused, Err(AdmissionError::Forged { .. })));
    let late = Ticket { expires: NOW, ..world.ticket() };
    let late = Signed::seal(&world.coordinator, world.archive, &late);
    assert!(world.grounds().check_ticket(&late, world.client.public(), &mut gate).is_err());
    assert_eq!(gate.highest(), NONE);
}

#[test]
fn a_pass_is_good_for_its_reader_and_coordinators_need_none() {
    let world = world();
    let reader = world.client.public();
    let seal = |pass| Signed::seal(&world.coordinator, world.archive, &pass);
    let grounds = world.grounds();
    let good = seal(Pass { reader, expires: LATER, purpose: PassPurpose::Building });
    assert_eq!(
        grounds.check_pass(Some(&good), reader),
        Ok(ReadRight { expires: LATER, purpose: PassPurpose::Building })
    );
    assert!(grounds.check_pass(None, world.coordinator.public()).is_ok());
    assert_eq!(grounds.check_pass(None, reader), Err(AdmissionError::NoPass));
    let stolen = grounds.check_pass(Some(&good), world.node.public());
    assert!(matches!(stolen, Err(AdmissionError::WrongBearer { .. })));
    let expired = seal(Pass { reader, expires: NOW, purpose: PassPurpose::Reading });
    let refused = grounds.check_pass(Some(&expired), reader).unwrap_err();
    assert_eq!(RefusedRequest::from(refused).kind, RefusalKind::Expired);
}

#[test]
fn only_a_coordinator_brings_a_delete_order() {
    let world = world();
    let order = DeleteOrder {
        node: world.node.node_id(),
        coding: CODING,
        index: ShardIndex(1),
        reason: DeleteReason::Surplus,
        expires: LATER,
        rank: RANK,
    };
    let signed = Signed::seal(&world.coordinator, world.archive, &order);
    let mut gate = OrderGate::new(RANK);
    let grounds = world.grounds();
    assert_eq!(grounds.check_delete(&signed, world.coordinator.public(), &mut gate), Ok(order));
    let refused = grounds.check_delete(&signed, world.client.public(), &mut gate);
    assert!(matches!(refused, Err(AdmissionError::PeerNotACoordinator { .. })));
    gate.hear(OrderRank { epoch: 8, ..RANK }, 1);
    let stale = grounds.check_delete(&signed, world.coordinator.public(), &mut gate);
    assert!(matches!(stale, Err(AdmissionError::Order(_))));
}

#[test]
fn only_the_leader_last_heard_has_bundles_read() {
    let world = world();
    let (grounds, mut gate) = (world.grounds(), OrderGate::new(RANK));
    assert_eq!(grounds.check_reading(RANK, world.coordinator.public(), &mut gate), Ok(()));
    let stranger = grounds.check_reading(RANK, world.client.public(), &mut gate);
    assert!(matches!(stranger, Err(AdmissionError::PeerNotACoordinator { .. })));
    gate.hear(OrderRank { epoch: 8, ..RANK }, 1);
    let stale = grounds.check_reading(RANK, world.coordinator.public(), &mut gate);
    assert!(matches!(stale, Err(AdmissionError::Order(_))));
}

#[test]
fn a_build_order_carries_tickets_for_its_builder_and_its_coding() {
    let world = world();
    let builder = world.node.public();
    let order = |ticket: Ticket| BuildOrder {
        reservation: ReservationId::from_bytes([8; 32]),
        content_header: Vec::new(),
        coding_header: Vec::new(),
        sources: Vec::new(),
        targets: vec![BuildTarget {
            address: "192.0.2.9:1".to_owned(),
            ticket: Signed::seal(&world.coordinator, world.archive, &ticket),
        }],
        pass: Signed::seal(
            &world.coordinator,
            world.archive,
            &Pass { reader: builder, expires: LATER, purpose: PassPurpose::Building },
        ),
        rank: RANK,
        source_coding_header: None,
    };
    let judge = |ticket: Ticket| {
        let mut gate = OrderGate::new(RANK);
        world.grounds().check_build(&order(ticket), CODING, world.coordinator.public(), &mut gate)
    };
    let good = Ticket { bearer: builder, node: NodeId::from_bytes([7; 32]), ..world.ticket() };
    assert_eq!(judge(good.clone()), Ok(vec![good.clone()]));
    assert!(judge(world.ticket()).is_err());
    assert!(judge(Ticket { coding: CodingId::from_bytes([1; 32]), ..good.clone() }).is_err());
    assert!(judge(Ticket { reservation: ReservationId::from_bytes([1; 32]), ..good }).is_err());
}
