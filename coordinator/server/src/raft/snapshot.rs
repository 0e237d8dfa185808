//! A snapshot: the whole state on its way to a replica that lags too far behind for the log.
//!
//! The state is kept on disk by itself, so building one flushes the state, and sending one gives away the files of
//! a checkpoint (`storage::Image`). Always holds: a state that did not arrive whole, that is of another format or
//! that does not stand where its sender says is never installed.

use std::sync::Arc;

use super::keys;
use super::state_machine::{check_format, read_position};
use super::types::{LogId, SnapshotMeta, StoredMembership};
use crate::storage::{Batch, KeyValue, Read, Stage, StorageError, Table, copy_image};

/// A state to be sent or installed.
#[derive(Debug)]
pub(crate) enum StateImage {
    /// The state of this replica, read when it is sent.
    Here(Arc<dyn KeyValue>),
    /// A state that arrived whole and was checked.
    Arrived(Box<dyn Stage>),
}

/// The name of the snapshot up to `log_id`: the same on every replica.
pub(super) fn snapshot_id(log_id: Option<LogId>) -> String {
    log_id.map_or_else(|| "empty".to_owned(), |id| format!("{}-{}", id.leader_id.term, id.index))
}

/// The description of a state at a position.
pub(super) fn meta(applied: Option<LogId>, membership: StoredMembership) -> SnapshotMeta {
    SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id: snapshot_id(applied) }
}

/// Refuses a state that this program cannot read, or that stands elsewhere than `meta` says.
pub(super) fn check(state: &dyn Read, meta: &SnapshotMeta) -> Result<(), StorageError> {
    match state.get(Table::Meta, keys::FORMAT)? {
        Some(format) => check_format(&format)?,
        None => return Err(StorageError::corrupted("a state that arrived has no format")),
    }
    let position = read_position(state)?;
    if position.applied == meta.last_log_id && position.membership == meta.last_membership {
        Ok(())
    } else {
        Err(StorageError::corrupted("a state that arrived does not stand where its sender says"))
    }
}

/// Puts `image` in place of the state in `store`, with the position that `meta` says. May take long.
pub(super) fn install(store: &dyn KeyValue, image: StateImage, position: Batch) -> Result<(), StorageError> {
    let mut stage = match image {
        StateImage::Arrived(stage) => stage,
        StateImage::Here(other) => {
            let image = other.image()?;
            let mut intake = store.intake(image.files().to_vec())?;
            copy_image(&*image, &mut *intake)?;
            if !intake.verify()? {
                return Err(StorageError::corrupted("a state that was to be copied"));
            }
            intake.open()?
        }
    };
    stage.write(position)?;
    stage.install()
}
