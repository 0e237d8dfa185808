//! Reading the table of addresses that an operator gives.
//!
//! Always holds: no more of a file is read than a table may have. Leaves to others: its format (`coordinator-logic`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use firn_coordinator_logic::{AddressTable, AddressTableError, TABLE_BYTES_MAX};

/// Why a file gives no table.
#[derive(Debug, thiserror::Error)]
pub enum AddressFileError {
    /// It cannot be read.
    #[error("cannot read the address table {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no table.
    #[error("{} is no address table: {error}", file.display())]
    NoTable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: AddressTableError,
    },
}

/// Reads a table of addresses, in the format of iptoasn.com, unpacked.
pub fn read_address_table(file: &Path) -> Result<AddressTable, AddressFileError> {
    let unreadable = |error| AddressFileError::Unreadable { file: file.to_owned(), error };
    let mut text = String::new();
    // One byte more than it may have shows that it is longer.
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(TABLE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    let table = AddressTable::parse(&text)
        .map_err(|error| AddressFileError::NoTable { file: file.to_owned(), error })?;
    tracing::info!(file = %file.display(), ranges = table.len(), "networks and countries of addresses are known");
    Ok(table)
}
