//! The `firn-storage-node` program: reads its flags, runs, and gives an exit code.

mod config;
mod inspect;
mod running;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use firn_base::{BitRate, Timestamp, parse_duration};
use firn_storage_node::{
    ControlError, ControlReply, ControlRequest, DataDirectory, NodeReport, ask_control, has_left,
};

use config::{Arguments, Command};

/// Why the program ends with an error.
enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
    /// Exit code 1 too: everything is said, and the owner has to see to something.
    Attention,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

const LEAVE_LOOK_EVERY: Duration = Duration::from_secs(1);

// What hangs on a disk for longer would keep the program from ending; for the disk that is a kill.
const DISK_AWAITED_AT_END: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(firn_program::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(sentence)) => {
            eprintln!("error: {sentence}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(Failure::Failed(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
        Err(Failure::Attention) => ExitCode::FAILURE,
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = arguments.settings;
    arguments.log.begin(arguments.command.is_some());
    if let Some(Command::Inspect { file, json }) = &arguments.command {
        return inspect::inspect(file, *json).map_err(Failure::Failed);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    match arguments.command {
        None => {
            let config = settings.check(&host_name()).map_err(Failure::Usage)?;
            let served = runtime.block_on(running::serve(config));
            runtime.shutdown_timeout(DISK_AWAITED_AT_END);
            served
        }
        Some(Command::Inspect { .. }) => Ok(()),
        Some(Command::Check) => {
            settings.check(&host_name()).map_err(Failure::Usage)?;
            println!("the settings are good");
            Ok(())
        }
        Some(Command::Id) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            println!("{}", DataDirectory::read_identity(&path).map_err(failed)?.node_id());
            Ok(())
        }
        Some(Command::Status { json }) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            runtime.block_on(status(&path, json))
        }
        Some(Command::Scrub) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            match runtime.block_on(ask_control(&path, ControlRequest::Scrub)).map_err(failed)? {
                ControlReply::Scrubbing { shards } => {
                    println!("{shards} shards are being read again; `status` counts them");
                    Ok(())
                }
                _ => Err(failed(ControlError::NoAnswer)),
            }
        }
        Some(Command::Pause { duration }) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            let duration = parse_duration(&duration).map_err(|error| Failure::Usage(error.to_string()))?;
            runtime.block_on(pause(&path, ControlRequest::Pause { seconds: duration.as_secs() }))
        }
        Some(Command::Resume) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            runtime.block_on(pause(&path, ControlRequest::Resume))
        }
        Some(Command::Absent { duration }) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            let duration = parse_duration(&duration).map_err(|error| Failure::Usage(error.to_string()))?;
            runtime.block_on(pause(&path, ControlRequest::Absent { seconds: duration.as_secs() }))
        }
        Some(Command::Leave { dry_run, wait }) => {
            let path = settings.data_dir().map_err(Failure::Usage)?;
            runtime.block_on(leave(&path, dry_run, wait))
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn status(path: &Path, json: bool) -> Result<(), Failure> {
    let ControlReply::Status(report) = ask_control(path, ControlRequest::Status).await.map_err(failed)?
    else {
        return Err(failed("the node gives no usable answer: is it of the same version?"));
    };
    if json {
        println!("{}", serde_json::to_string(&report).map_err(failed)?);
    } else {
        print_report(&report);
    }
    if report.needs_attention().is_empty() { Ok(()) } else { Err(Failure::Attention) }
}

fn print_report(report: &NodeReport) {
    let bytes = |bytes: u64| firn_base::ByteCount(bytes).to_string();
    println!("{}", report.sentence());
    println!("node        {}", report.node);
    println!("archive     {}", report.archive);
    println!("address     {}", report.address);
    println!("domain      {}", report.failure_domain);
    println!("state       {}{}", report.state_in_words(), if report.leaving { ", leaving" } else { "" });
    println!("shards      {}", report.shards);
    println!(
        "space       {} of {} used, {} of it trash; the disk has {} free",
        bytes(report.used_bytes),
        bytes(report.quota_bytes),
        bytes(report.trash_bytes),
        bytes(report.disk_free_bytes)
    );
    let rate = |bytes_per_second: Option<u64>| match bytes_per_second {
        Some(bytes_per_second) => format!("at most {}", BitRate { bytes_per_second }),
        None => "as fast as it can".to_owned(),
    };
    println!(
        "upload      {}; {} since the start",
        rate(report.max_upload_now_bytes_per_second),
        bytes(report.uploaded_bytes)
    );
    println!(
        "download    {}; {} since the start",
        rate(report.max_download_bytes_per_second),
        bytes(report.downloaded_bytes)
    );
    let limit = report.monthly_traffic_bytes.map(|limit| format!(" of {}", bytes(limit)));
    println!(
        "traffic     {} today, {}{} this month",
        bytes(report.traffic_today_bytes),
        bytes(report.traffic_month_bytes),
        limit.unwrap_or_default()
    );
    if let Some(leave) = report.leave {
        println!("leaving     {}", leave.sentence());
    }
    if let Some(millis) = report.absent_until_millis {
        println!(
            "absent      declared until {}: given nothing new; `resume` ends it",
            Timestamp::from_millis(millis)
        );
    }
    if let Some(hours) = &report.active_hours {
        println!("hours       {hours}");
    }
    if let Some(rest) = &report.rest {
        let until =
            report.rest_until_millis.map(|millis| format!(" until {}", Timestamp::from_millis(millis)));
        println!("rests       {rest}{}", until.unwrap_or_default());
    }
    println!(
        "deleted     {} within a day; {} more would be, {} of that if nothing else may hold it",
        bytes(report.deleted_bytes),
        bytes(report.deletion_room_bytes),
        bytes(report.deletion_room_unique_bytes)
    );
    for sentence in report.needs_attention() {
        println!("attention   {sentence}");
    }
    if report.damaged > 0 {
        println!("damaged     {} shards since the start", report.damaged);
    }
    println!("scrubbed    {} shards since the start; {}", report.scrubbed, last_scrub(report));
    println!("served      {} in {} ranges", bytes(report.done.bytes_served), report.done.ranges_served);
    println!("stored      {} in {} shards", bytes(report.done.bytes_stored), report.done.shards_stored);
    for link in &report.coordinators {
        let link_state = match (link.connected, link.heard_seconds_ago, &link.trouble) {
            (true, Some(seconds), _) => format!("connected, heard {seconds} s ago"),
            (true, None, _) => "connected, not heard yet".to_owned(),
            (false, _, Some(trouble)) => format!("not connected: {trouble}"),
            (false, _, None) => "not connected yet".to_owned(),
        };
        println!("coordinator {} at {}: {link_state}", link.id.get(..10).unwrap_or(&link.id), link.address);
    }
}

fn last_scrub(report: &NodeReport) -> String {
    let Some(ended) = report.scrub_ended_millis else { return "not yet all of them once".to_owned() };
    let now = firn_transport::Environment::real().now();
    let days = now.since(firn_base::Timestamp::from_millis(ended)).as_secs() / 86_400;
    match days {
        0 => "all of them today".to_owned(),
        1 => "all of them yesterday".to_owned(),
        days => format!("all of them {days} days ago"),
    }
}

async fn leave(path: &Path, dry_run: bool, wait: bool) -> Result<(), Failure> {
    let request = if dry_run { ControlRequest::Status } else { ControlRequest::Leave };
    match ask_control(path, request).await.map_err(failed)? {
        ControlReply::Status(report) => {
            println!("{} shards would be given other homes, then the node would end", report.shards);
            Ok(())
        }
        ControlReply::Leaving { shards } => {
            println!(
                "the node leaves: {shards} shards are given other homes, as fast as its line may go; it ends when each has one, and deletes nothing: {} is then yours to delete. `status` says how it gets on",
                path.display()
            );
            if wait { until_left(path).await } else { Ok(()) }
        }
        ControlReply::Failed(sentence) => Err(Failure::Failed(sentence)),
        _ => Err(failed(ControlError::NoAnswer)),
    }
}

/// Says how a node gets on that leaves, until it has ended.
async fn until_left(path: &Path) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        match ask_control(path, ControlRequest::Status).await {
            Ok(ControlReply::Status(report)) => {
                let sentence = report.leave.map(|leave| leave.sentence());
                let sentence = sentence.unwrap_or_else(|| "waiting for the coordinators to begin".to_owned());
                if told != sentence {
                    println!("{sentence}");
                    told = sentence;
                }
            }
            Ok(_) => return Err(failed(ControlError::NoAnswer)),
            Err(_) if has_left(path) => {
                println!("the node has left: {} is yours to delete", path.display());
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        }
        tokio::time::sleep(LEAVE_LOOK_EVERY).await;
    }
}

async fn pause(path: &Path, request: ControlRequest) -> Result<(), Failure> {
    match ask_control(path, request).await.map_err(failed)? {
        ControlReply::Paused { until_millis } => {
            let until = Timestamp::from_millis(until_millis);
            println!(
                "the node is paused until {until}, or until `resume`; it stays in touch and its shards go on to count, so let it run"
            );
            Ok(())
        }
        ControlReply::Absent { until_millis, left_millis } => {
            let until = Timestamp::from_millis(until_millis);
            let hours = left_millis / 3_600_000;
            println!(
                "the node may be away until {until}: switch it off, and have it back by then, for what it holds counts as lost after that. It is given nothing new until `resume`. Beyond that it may declare {} d {} h now",
                hours / 24,
                hours % 24
            );
            Ok(())
        }
        ControlReply::Resumed => {
            println!("the node is not paused, and expected to be here");
            Ok(())
        }
        ControlReply::Failed(sentence) => Err(Failure::Failed(sentence)),
        _ => Err(failed(ControlError::NoAnswer)),
    }
}
