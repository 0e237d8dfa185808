//! Coordinators that begin when all others were lost with their disks.
//!
//! Owns: waiting for the disaster, and what an operator does on their machines then: the first one makes a new log, the
//! others are told of the archive. Leaves to others: when it happens (`world`), who they are (`cast`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::storage::KeyValue;
use firn_coordinator::{
    ConsensusWatch, Coordinator, CoordinatorOptions, FilterOptions, RebuildOptions, refound,
};
use firn_transport::{Endpoint, EndpointOptions};

use crate::cast::{self, COORDINATORS, Cast};
use crate::machines::{ANY, timing};

/// Nodes are there within moments, or not at all.
const QUIET: Duration = Duration::from_secs(20);

/// Runs one of them until its host ends.
pub(crate) async fn succeed(
    cast: Rc<Cast>,
    number: usize,
    log: Arc<dyn KeyValue>,
    state: Arc<dyn KeyValue>,
    watches: Rc<RefCell<BTreeMap<usize, ConsensusWatch>>>,
) -> turmoil::Result {
    let descriptor = loop {
        match cast.succeeded() {
            Some(descriptor) => break descriptor,
            None => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    };
    let host = cast::coordinator(number);
    let (environment, identity) = (cast.environment(&host), cast.identity(&host));
    let endpoint = Endpoint::bind(&environment, &identity, ANY, EndpointOptions::default()).await?;
    if number == COORDINATORS {
        let roster = descriptor.verify()?;
        refound(&*log, &state, (identity.node_id(), roster.roster()), None, &environment)?;
    }
    let before = cast.descriptor.verify()?;
    let coordinator = Coordinator::start(CoordinatorOptions {
        identity,
        descriptor,
        named_since: None,
        endpoint,
        log,
        state,
        founding: None,
        recode_after: cast.recode_after(),
        erase_after: firn_coordinator::ERASE_AFTER,
        disk_windows: None,
        address_table: None,
        filters: FilterOptions::in_memory(),
        rebuild: RebuildOptions { rosters: vec![before], quiet: QUIET, ..RebuildOptions::default() },
        timing: timing(),
        environment,
    })
    .await?;
    watches.borrow_mut().insert(number, coordinator.consensus().watch());
    std::future::pending::<()>().await;
    drop(coordinator);
    Ok(())
}
