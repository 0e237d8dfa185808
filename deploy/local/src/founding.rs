//! Founding an archive on one machine: identities, the archive key, the descriptor, keys for its owner.
//!
//! Always holds: each step is done once, and a founding that was cut short goes on where it was. Leaves to
//! others: what goes into the ledger (`governance`).

use std::io;

use firn_coordinator::{Home, Peer, found_archive};
use firn_transport::{Environment, load_or_create_identity, write_synced};
use firn_wire::Descriptor;

use crate::failure::{Failure, failure};
use crate::place::Place;
use crate::role::Role;
use crate::settings::Settings;

// In the data directory of the first coordinator, where `firn-coordinator --bootstrap` writes it too.
const ARCHIVE_KEY: &str = "archive.key";

/// The descriptor of the archive in `place`; the archive is founded if there is none. Blocks.
pub(crate) fn descriptor(
    place: &Place,
    settings: &Settings,
    environment: &Environment,
) -> Result<Descriptor, Failure> {
    load_or_create_identity(&place.uploader_key(), environment)?;
    load_or_create_identity(&place.operator_key(), environment)?;
    let path = place.descriptor();
    match std::fs::read_to_string(&path) {
        Ok(text) => text.parse().map_err(|error| failure(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => found(place, settings, environment),
        Err(error) => Err(failure(format!("cannot read {}: {error}", path.display()))),
    }
}

fn found(place: &Place, settings: &Settings, environment: &Environment) -> Result<Descriptor, Failure> {
    let mut homes = Vec::new();
    let mut peers = Vec::new();
    // In the order of their numbers: coordinator-N is number N of the consensus group.
    for number in settings.coordinators.keys() {
        let role = Role::Coordinator(*number);
        let home = Home::open(&place.role(role), environment)?;
        let address = settings.address(role).map(|address| address.to_string()).unwrap_or_default();
        peers.push(Peer { id: home.identity().node_id(), address });
        homes.push(home);
    }
    let (Some(first), Some((own, others))) = (homes.first(), peers.split_first()) else {
        return Err(failure("an archive has at least one coordinator"));
    };
    let descriptor = match first.descriptor()? {
        Some(descriptor) => descriptor,
        None => {
            let key = load_or_create_identity(&first.join(ARCHIVE_KEY), environment)?;
            found_archive(&key, own.clone(), others, environment.now())
        }
    };
    for home in &homes {
        home.keep_descriptor(&descriptor)?;
    }
    write_synced(place.path(), "archive.firn", descriptor.to_string().as_bytes(), 0o644)
        .map_err(|error| failure(format!("cannot write {}: {error}", place.descriptor().display())))?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Wanted;

    #[test]
    fn an_archive_is_founded_once_with_coordinators_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::open(&directory.path().join("archive")).unwrap();
        let wanted = Wanted {
            coordinators: Some(3),
            storage_nodes: Some(1),
            gateway: None,
            quota: None,
            repair_at: None,
            count_lost_after: None,
            max_upload: None,
        };
        let settings = Settings::new(&wanted).unwrap();
        let environment = Environment::real();
        let founded = descriptor(&place, &settings, &environment).unwrap();
        let roster = founded.verify().unwrap();
        for (entry, number) in roster.roster().coordinators.iter().zip(1..) {
            let role = Role::Coordinator(number);
            let home = Home::open(&place.role(role), &environment).unwrap();
            assert_eq!((entry.id, entry.raft_id), (home.identity().node_id(), u64::from(number)));
            assert_eq!(entry.address, settings.address(role).unwrap().to_string());
            assert_eq!(home.descriptor().unwrap().as_ref(), Some(&founded));
        }
        assert_eq!(descriptor(&place, &settings, &environment).unwrap(), founded);
        // Cut short before the descriptor was written beside the roles.
        std::fs::remove_file(place.descriptor()).unwrap();
        assert_eq!(descriptor(&place, &settings, &environment).unwrap(), founded);
    }
}
