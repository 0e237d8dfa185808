//! `firn-local up`: everything started in order, then watched until the process is asked to stop.
//!
//! Always holds: the file `ready` is there from the moment when the archive is up until the process ends; whatever
//! was started is ended, also when the start is broken off. Leaves to others: the steps themselves (`archive`).

use std::time::Duration;

use firn_nix_format::PublisherKey;
use firn_program::stop_signal;
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};

use crate::archive::LocalArchive;
use crate::cli::UpOptions;
use crate::control;
use crate::coordinator_role::Tuning;
use crate::failure::{Failure, failure};
use crate::governance::PUBLIC_CACHE_KEY;
use crate::place::Place;
use crate::readiness::{Watcher, answered};
use crate::role::Role;
use crate::settings::Wanted;

// An election takes two seconds on a busy machine; RocksDB may have to read a log first.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
const REMIND_EVERY: Duration = Duration::from_secs(15);

/// Runs the archive until SIGTERM or SIGINT.
pub(crate) async fn run(options: UpOptions) -> Result<(), Failure> {
    // From the first moment, so that an early signal ends it in order too.
    let stop = stop_signal();
    tokio::pin!(stop);
    let wanted = Wanted {
        coordinators: options.coordinators,
        storage_nodes: options.storage_nodes,
        gateway: options.gateway,
        quota: options.quota,
        repair_at: options.repair_at,
        count_lost_after: options.count_lost_after,
        max_upload: options.max_upload,
    };
    let tuning = Tuning {
        recode_after: options.recode_after,
        erase_after: options.erase_after,
        filter_unit: options.filter_unit,
    };
    let place = Place::open(&options.dir)?;
    place.not_ready()?;
    let (mut archive, remarks) = LocalArchive::open(place, &wanted, tuning)?;
    remarks.iter().for_each(|remark| say(remark));
    let directory = archive.place().path().to_owned();
    let listener = control::listen(&directory).map_err(|error| {
        failure(format!("cannot open a control socket in {}: {error}", directory.display()))
    })?;
    let ended = tokio::select! {
        ended = begin(&mut archive, &options.publisher) => ended.map(Some),
        () = &mut stop => Ok(None),
    };
    let result = match ended {
        Ok(Some(watcher)) => tokio::select! {
            result = live(&mut archive, &listener, &watcher) => result,
            () = &mut stop => Ok(()),
        },
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if result.is_ok() {
        say("stopping");
    }
    control::close(&directory, listener);
    archive.place().not_ready()?;
    archive.shutdown().await;
    result
}

/// Starts everything, in the order in which one needs the other.
async fn begin(archive: &mut LocalArchive, publishers: &[PublisherKey]) -> Result<Watcher, Failure> {
    let (coordinators, nodes) = archive.sizes();
    archive.start_all(|role| matches!(role, Role::Coordinator(_))).await?;
    say(&format!("{coordinators} coordinators of archive {} run", archive.descriptor().archive.short()));
    let watcher = Watcher::new(archive.descriptor()).await?;
    let ids = archive.coordinator_ids()?;
    let led = timeout(LEADER_WITHIN, watcher.led(&ids)).await;
    let leader =
        led.map_err(|_| failure("the coordinators have not found a leader: see their log with -v"))?;
    let leader = ids.iter().position(|id| *id == leader).map_or(0, |position| position + 1);
    say(&format!("coordinator-{leader} leads"));
    let public = [PUBLIC_CACHE_KEY.parse()?];
    let is_new = !archive.is_founded();
    archive.settle(if is_new && publishers.is_empty() { &public } else { publishers }).await?;
    if is_new {
        say("the archive is founded");
    }
    archive.start_all(|role| matches!(role, Role::StorageNode(_))).await?;
    say(&format!("{nodes} storage nodes run"));
    archive.start_all(|role| role == Role::Gateway).await?;
    say(&format!("the gateway runs on http://{}", archive.gateway()));
    Ok(watcher)
}

/// Says when the archive is up, and carries out what is asked of it meanwhile and later.
async fn live(archive: &mut LocalArchive, listener: &UnixListener, watcher: &Watcher) -> Result<(), Failure> {
    let (nodes, gateway) = (archive.node_ids()?, archive.gateway());
    let up = async {
        watcher.proved(&nodes).await;
        answered(gateway).await;
        watcher.close().await;
    };
    let remind = async {
        loop {
            sleep(REMIND_EVERY).await;
            say("not ready yet: waiting until every storage node is heard and the gateway answers");
        }
    };
    tokio::pin!(up);
    tokio::pin!(remind);
    let mut ready = false;
    loop {
        let (stream, request) = tokio::select! {
            () = &mut up, if !ready => {
                ready = true;
                archive.place().say_ready(gateway)?;
                say(&format!("ready: `export FIRN_CONFIG={}` is all that firn needs", archive.place().config().display()));
                continue;
            }
            () = &mut remind, if !ready => continue,
            accepted = control::accept(listener) => accepted?,
        };
        control::answer(stream, request, archive).await;
    }
}

fn say(sentence: &str) {
    eprintln!("{sentence}");
}
