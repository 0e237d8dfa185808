//! Space for uploads: which scheme, which nodes, which tickets.

use std::time::Duration;

use firn_base::{PublicKey, ReservationId, Scheme};
use firn_coordinator_logic::{
    CodedBundle, Facts, NodeRecord, PlacementError, PlacementRequest, ReservationRecord, choose_scheme,
    plan_placement,
};
use firn_wire::{
    Command, CoordinatorReply, NodeAddress, OperatorRole, RefusalKind, RefusedRequest, ReservationGrant,
    ReserveRequest, Signed, Ticket,
};

use crate::raft::StateFacts;
use crate::shared::{Shared, disk, malformed, not_allowed};

type Reply = Result<CoordinatorReply, RefusedRequest>;

/// Time for an upload: a bundle of 256 MiB at 4/12 is 768 MiB, which a line of 10 Mbit/s carries in 11 minutes, and
/// a head waits for all its parts.
const RESERVATION_VALID: Duration = Duration::from_secs(2 * 3600);

pub(super) fn scheme(shared: &Shared) -> Reply {
    Ok(CoordinatorReply::Scheme(scheme_now(shared)?))
}

fn scheme_now(shared: &Shared) -> Result<Scheme, RefusedRequest> {
    if shared.is_still_hearing()? {
        // The scheme stays with a bundle: it must not be chosen from the few nodes that were heard so far.
        return Err(not_measured());
    }
    let width = shared.soft().width.clone();
    shared.with_view(|view| choose_scheme(view.fleet, &width))?.ok_or_else(|| {
        RefusedRequest::new(
            RefusalKind::Unavailable,
            "no storage node can take a shard now: start nodes, or wait for them",
        )
    })
}

fn not_measured() -> RefusedRequest {
    RefusedRequest::new(
        RefusalKind::Unavailable,
        "the coordinators have a new leader, which has not heard all nodes yet: try again in a few seconds",
    )
}

pub(super) async fn reserve(shared: &Shared, uploader: PublicKey, request: ReserveRequest) -> Reply {
    let facts = shared.facts()?;
    let governance = shared.governance(&facts)?;
    // Operators pack anew what is archived.
    let may_repack = governance.operator_may(uploader, OperatorRole::Content);
    if !governance.uploaders.contains_key(&uploader) && !may_repack {
        return Err(not_allowed(format!(
            "{uploader} is no uploader of this archive: an operator can add it with `firn-coordinator uploader add`"
        )));
    }
    let scheme = scheme_now(shared)?;
    let coded =
        CodedBundle::read(&request.content_header, &request.coding_header, scheme.n()).map_err(|error| {
            match error {
                firn_coordinator_logic::CodedBundleError::Scheme(_) => RefusedRequest::new(
                    RefusalKind::SchemeChanged,
                    format!("new bundles are coded {scheme} now: code this one again"),
                ),
                error => malformed(error.to_string()),
            }
        })?;
    if coded.scheme.k() != scheme.k() {
        return Err(RefusedRequest::new(
            RefusalKind::SchemeChanged,
            format!("new bundles are coded {scheme} now: code this one again"),
        ));
    }
    if facts.bundle_number(coded.bundle).map_err(|error| disk(&error))?.is_some() {
        return Err(RefusedRequest::new(RefusalKind::AlreadyDone, "the bundle is in the archive already"));
    }
    // An upload that was broken off and begun again goes on with what it had.
    for id in facts.reservations_of(coded.coding).map_err(|error| disk(&error))? {
        if let Some(record) = facts.reservation(id).map_err(|error| disk(&error))?
            && record.uploader == uploader
            && record.expires > shared.environment.now().after(RESERVATION_VALID / 2)
        {
            return grant(shared, &facts, &record, &coded);
        }
    }
    // Several reservations that are judged before the first of them is committed may together take a little of what
    // is kept: the next one sees it.
    let reserve = shared.reserve()?.ok_or_else(not_measured)?;
    reserve
        .check(scheme, coded.file_bytes)
        .map_err(|error| RefusedRequest::new(RefusalKind::Full, error.to_string()))?;
    let seed = shared.environment.seed();
    let planned = shared.with_view(|view| {
        let avoid = view.orders.trashing_of(coded.coding);
        let wanted = PlacementRequest { scheme, file_bytes: coded.file_bytes, avoid: &avoid };
        plan_placement(view.fleet, &wanted, seed)
    })?;
    let assignments = planned.map_err(|error| {
        let kind = match error {
            // They work again by themselves.
            PlacementError::Resting { .. } => RefusalKind::Unavailable,
            PlacementError::TooFewDomains { .. } | PlacementError::Full { .. } => RefusalKind::Full,
        };
        RefusedRequest::new(kind, error.to_string())
    })?;
    let reservation = ReservationId::from_bytes(shared.environment.seed());
    let command = Command::Reserve {
        reservation,
        uploader,
        content_header: request.content_header,
        coding_header: request.coding_header,
        n: scheme.n(),
        assignments,
        expires: shared.environment.now().after(RESERVATION_VALID),
    };
    shared.carry_out(command, RefusalKind::Unavailable).await?;
    let facts = shared.facts()?;
    let record = facts.reservation(reservation).map_err(|error| disk(&error))?.ok_or_else(|| {
        RefusedRequest::new(
            RefusalKind::Unavailable,
            "the reservation ended before it was granted: try again",
        )
    })?;
    grant(shared, &facts, &record, &coded)
}

/// Tickets for every shard of a reservation that has no receipt yet.
fn grant(shared: &Shared, facts: &StateFacts, record: &ReservationRecord, coded: &CodedBundle) -> Reply {
    let now = shared.environment.now();
    let rank = shared.rank();
    let mut targets = Vec::with_capacity(record.assignments.len());
    for (index, number) in &record.assignments {
        let node = facts.node(*number).map_err(|error| disk(&error))?;
        let (Some(node), Some(root)) =
            (node.filter(NodeRecord::is_member), coded.roots.get(index.position()))
        else {
            continue;
        };
        let ticket = Ticket {
            node: node.id,
            bearer: record.uploader,
            reservation: record.id,
            coding: coded.coding,
            index: *index,
            shard_bytes: coded.shard_bytes,
            root: *root,
            expires: record.expires,
            rank,
        };
        let online = shared.soft().fleet.is_online(node.number, now);
        let address = NodeAddress { node: node.id, address: node.address, online };
        targets.push((address, Signed::seal(&shared.identity, shared.archive, &ticket)));
    }
    Ok(CoordinatorReply::Reserved(ReservationGrant {
        reservation: record.id,
        scheme: record.scheme,
        expires: record.expires,
        targets,
    }))
}
