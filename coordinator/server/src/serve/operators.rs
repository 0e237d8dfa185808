//! Operators at the door: who asks, and whether the role allows it.
//!
//! Always holds: an operator is known by the key of its own connection to this coordinator, never by another's word; what
//! a role does not allow is in the log, and in the ledger. Leaves to others: which role is needed (`rights` of the
//! coordinators' logic), the ledger's word when the act is applied (`apply`).

use firn_base::PublicKey;
use firn_coordinator_logic::role_for_request;
use firn_wire::{
    Actor, AdminRequest, Command, LedgerAct, MemberChange, OperatorRole, RefusalKind, RefusedRequest,
};

use crate::deed::describe_request;
use crate::shared::{Shared, not_allowed};

/// Who `client` is, if it may ask for `request`.
pub(super) async fn admit(
    shared: &Shared,
    client: PublicKey,
    request: &AdminRequest,
) -> Result<Actor, RefusedRequest> {
    if shared.is_coordinator(client) {
        return Ok(match request {
            // It speaks for itself, not for somebody at its socket.
            AdminRequest::ChangeMember(MemberChange::Readmit { .. }) => Actor::Coordinators,
            _ => Actor::Socket { coordinator: client.into() },
        });
    }
    admit_operator(shared, client, role_for_request(request), || describe_request(request)).await
}

/// The operator with the key `client`, if its role includes `needed`.
pub(super) async fn admit_operator(
    shared: &Shared,
    client: PublicKey,
    needed: OperatorRole,
    what: impl Fn() -> String,
) -> Result<Actor, RefusedRequest> {
    let governance = shared.governance(&shared.facts()?)?;
    let Some(operator) = governance.operator(client) else {
        if shared.is_rebuilding()? {
            return Err(not_allowed(
                "the archive is being rebuilt, and who its operators are is not restored yet: use --data-dir on a \
                 coordinator's machine until then",
            ));
        }
        return Err(not_allowed(format!(
            "{client} is no operator of this archive: add it on a coordinator's machine with `firn-coordinator operator \
             add {client} --name NAME --role {needed} --data-dir DIR`"
        )));
    };
    let name = operator.name.clone();
    if operator.role.includes(needed) {
        return Ok(Actor::Operator { key: client, name });
    }
    let what = what();
    tracing::warn!(operator = %client, name, role = %operator.role, %needed, what, "an operator was refused");
    let now = shared.environment.now();
    let times = shared.soft().refusals.count(client, now);
    if let Some(times) = times {
        let act = LedgerAct::Refuse { operator: client, name: name.clone(), what, needed, times };
        // Whether it can be entered or not, it is refused.
        if let Err(error) = shared.carry_out(Command::Govern(act), RefusalKind::Malformed).await {
            tracing::warn!(%error, "a refusal was not entered in the ledger");
        }
    }
    Err(not_allowed(format!(
        "operator {name} has the role `{}`, and this needs `{needed}` or `admin`: an admin changes roles with \
         `firn-coordinator operator add {client} --name {name} --role ROLE`",
        operator.role
    )))
}
