//! The coordinators of an archive as processes, each on a host and a disk of its own.
//!
//! Always holds: a coordinator that ends by itself fails the test. Leaves to others: when it is killed, stopped or started
//! (`script`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use firn_coordinator::{ask_control, ask_ledger};
use firn_wire::{AdminReply, AdminRequest};

use crate::clock::{self, Clocks};
use crate::disk::Disk;
use crate::network::{Network, address};
use crate::support::{Running, quietly, run, signal_process, wait_for};
use crate::{OUTSIDE, outside};

const PORT: u16 = 4433;
const CLOCK: &str = "clock";

/// Coordinators, founded once and begun anew in each run.
pub(crate) struct Founded<'a> {
    place: PathBuf,
    ids: Vec<String>,
    clocks: &'a Clocks,
    /// The data directories of its storage nodes.
    nodes: Vec<PathBuf>,
}

/// The coordinators of one run.
pub(crate) struct Members<'a> {
    founded: &'a Founded<'a>,
    network: &'a mut Network,
    disks: &'a mut [Disk],
    run: String,
    running: Vec<Option<Running>>,
    paused: BTreeSet<usize>,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

impl<'a> Founded<'a> {
    /// Founds an archive of `count` coordinators, and lets them end.
    pub(crate) fn new(place: &Path, network: &Network, clocks: &'a Clocks, count: usize) -> Self {
        Self::found(place, network, clocks, count, |_| Vec::new())
    }

    /// The same with storage nodes, an uploader and a publisher.
    pub(crate) fn with_nodes(place: &Path, network: &Network, clocks: &'a Clocks, count: usize) -> Self {
        let outside = network.host(OUTSIDE);
        Self::found(place, network, clocks, count, |founded| outside::admit(founded, &outside))
    }

    fn found(
        place: &Path,
        network: &Network,
        clocks: &'a Clocks,
        count: usize,
        admit: impl FnOnce(&Self) -> Vec<PathBuf>,
    ) -> Self {
        let place = place.join(format!("founded-{count}"));
        std::fs::create_dir(&place).unwrap();
        let mut founded = Self { place, ids: Vec::new(), clocks, nodes: Vec::new() };
        for number in 0..count {
            let directory = founded.directory(number);
            let id =
                run(&founded.place, "firn-coordinator", ["id", "--data-dir", text(&directory)]).success();
            founded.ids.push(id.trim().to_owned());
        }
        let start = |number| founded.start(network, number, &founded.directory(number), &founded.place);
        let programs: Vec<Running> = (0..count).map(start).collect();
        for number in 0..count {
            wait_for("the founders know their policy", || {
                (ledger_entries(&founded.directory(number)) == Some(1)).then_some(())
            });
        }
        founded.nodes = admit(&founded);
        wait_for("the founders have the same ledger", || {
            let entries = (0..count).map(|number| ledger_entries(&founded.directory(number)));
            let entries: Vec<usize> = entries.collect::<Option<_>>()?;
            entries.iter().all(|other| *other == entries[0]).then_some(())
        });
        for program in programs {
            assert_eq!(program.terminate(), Some(0));
        }
        founded
    }

    /// Where its programs keep what is theirs.
    pub(crate) fn home(&self) -> &Path {
        &self.place
    }

    /// By which others find it.
    pub(crate) fn descriptor(&self) -> PathBuf {
        self.directory(0).join("archive.firn")
    }

    /// The data directories of its storage nodes, as they are at the founding.
    pub(crate) fn nodes(&self) -> &[PathBuf] {
        &self.nodes
    }

    /// Does what an administrator does, by the first coordinator's socket.
    pub(crate) fn administer(&self, words: &[&str]) -> String {
        let directory = self.directory(0);
        let words = words.iter().copied().chain(["--data-dir", text(&directory)]);
        run(&self.place, "firn-coordinator", words).success()
    }

    fn directory(&self, number: usize) -> PathBuf {
        self.place.join(format!("c{number}"))
    }

    fn start(&self, network: &Network, number: usize, directory: &Path, logs: &Path) -> Running {
        let listens = |number: usize| format!("{}:{PORT}", address(number));
        let mut program = network.command(number, "firn-coordinator", &self.place);
        program.arg("--data-dir").arg(directory).args(["--listen", &listens(number)]);
        for peer in (0..self.ids.len()).filter(|peer| *peer != number) {
            program.args(["--peer", &format!("{}@{}", self.ids[peer], listens(peer))]);
        }
        if number == 0 {
            program.arg("--bootstrap");
        }
        self.clocks.apply(&mut program, &logs.join(CLOCK));
        Running::start(&mut program, &logs.join(format!("c{number}.log")))
    }
}

/// How many entries of the ledger the coordinator in `directory` has; none while it does not answer.
fn ledger_entries(directory: &Path) -> Option<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let asked = ask_ledger(directory);
        tokio::time::timeout(std::time::Duration::from_secs(1), asked).await.ok()?.ok().map(|all| all.len())
    })
}

impl<'a> Members<'a> {
    /// Starts all coordinators on copies of what they founded.
    pub(crate) fn start(
        founded: &'a Founded<'a>,
        network: &'a mut Network,
        disks: &'a mut [Disk],
        run: &str,
    ) -> Self {
        network.cut_exactly(&BTreeSet::new());
        let running = founded.ids.iter().map(|_| None).collect();
        let mut members =
            Self { founded, network, disks, run: run.to_owned(), running, paused: BTreeSet::new() };
        for number in 0..members.count() {
            std::fs::create_dir(members.logs(number)).unwrap();
            let (from, to) = (members.founded.directory(number), members.directory(number));
            assert!(quietly("cp", &["--recursive".as_ref(), &from, &to]));
            members.begin(number);
        }
        members
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.founded.ids.len()
    }

    fn logs(&self, number: usize) -> PathBuf {
        self.disks[number].path().join(&self.run)
    }

    /// The data directory of one.
    pub(crate) fn directory(&self, number: usize) -> PathBuf {
        self.logs(number).join("data")
    }

    /// Starts one that does not run.
    pub(crate) fn begin(&mut self, number: usize) {
        if self.running[number].is_none() {
            let logs = self.logs(number);
            let started = self.founded.start(self.network, number, &self.directory(number), &logs);
            self.running[number] = Some(started);
        }
    }

    /// kill -9. A disk that stalls would keep the process in the kernel.
    pub(crate) fn kill(&mut self, number: usize) {
        self.disks[number].go_on();
        self.paused.remove(&number);
        if let Some(program) = self.running[number].take() {
            program.kill();
        }
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self, number: usize) {
        self.disks[number].go_on();
        self.resume(number);
        if let Some(program) = self.running[number].take() {
            let messages = program.messages();
            let code = program.terminate();
            // One that has only just been started knows of no signal yet, and ends as any process does.
            assert!(matches!(code, Some(0) | None), "coordinator {number} ended with {code:?}:\n{messages}");
        }
    }

    /// Lets one do nothing until it is resumed, as a machine that is overloaded or asleep.
    pub(crate) fn pause(&mut self, number: usize) {
        if let Some(program) = &self.running[number]
            && self.paused.insert(number)
        {
            signal_process(program.id(), "-STOP");
        }
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self, number: usize) {
        if let Some(program) = &self.running[number]
            && self.paused.remove(&number)
        {
            signal_process(program.id(), "-CONT");
        }
    }

    /// Puts its time of day off by so many seconds.
    pub(crate) fn set_clock(&mut self, number: usize, seconds: i64) {
        // On a disk that stalls it could not be written.
        self.disks[number].go_on();
        clock::set(&self.logs(number).join(CLOCK), seconds);
    }

    /// Its disk.
    pub(crate) fn disk(&mut self, number: usize) -> &mut Disk {
        &mut self.disks[number]
    }

    /// The ways between them.
    pub(crate) fn network(&mut self) -> &mut Network {
        self.network
    }

    /// Ends all that hinders any of them, and starts those that do not run.
    pub(crate) fn heal(&mut self) {
        self.network.cut_exactly(&BTreeSet::new());
        for number in 0..self.count() {
            self.disks[number].go_on();
            self.set_clock(number, 0);
            self.resume(number);
            self.begin(number);
        }
    }

    /// Fails if one has ended by itself, or if anything in it broke.
    pub(crate) fn assert_alive(&mut self) {
        for program in self.running.iter_mut().flatten() {
            program.assert_alive();
        }
    }

    /// Who leads, as the first of those says that answers.
    pub(crate) fn leader(&self) -> Option<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for number in (0..self.count()).filter(|number| !self.paused.contains(number)) {
                let directory = self.directory(number);
                let asked = ask_control(&directory, &AdminRequest::Members);
                let answer = tokio::time::timeout(std::time::Duration::from_millis(150), asked).await;
                if let Ok(Ok(AdminReply::Members(list))) = answer
                    && let Some(leader) = list.members.iter().find(|member| member.leader)
                {
                    return self.founded.ids.iter().position(|id| *id == leader.id.to_string());
                }
            }
            None
        })
    }

    /// Waits until one has ended by itself because it cannot go on, and gives its last sentence.
    pub(crate) fn ends_by_itself(&mut self, number: usize) -> String {
        let mut program = self.running[number].take().expect("it was started");
        let status = wait_for("a coordinator ends by itself", || program.ended());
        let messages = program.messages();
        assert_eq!(status.code(), Some(1), "{status:?}: {messages}");
        let last = messages.lines().last().unwrap_or_default();
        last.strip_prefix("error: ")
            .unwrap_or_else(|| panic!("one sentence is expected:\n{messages}"))
            .to_owned()
    }

    /// Has one that does not run rebuilt from the others at its next start.
    pub(crate) fn resync(&self, number: usize) -> String {
        let directory = self.directory(number);
        run(&self.founded.place, "firn-coordinator", ["resync", "--data-dir", text(&directory)]).success()
    }

    /// Whether one has a vote, as another one says.
    pub(crate) fn votes(&self, number: usize) -> bool {
        let directory = self.directory((number + 1) % self.count());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = runtime.block_on(ask_control(&directory, &AdminRequest::Members));
        let Ok(AdminReply::Members(list)) = asked else { return false };
        list.members.iter().any(|member| member.id.to_string() == self.founded.ids[number] && member.votes)
    }

    /// Lets all end, and gives the directories that they leave.
    pub(crate) fn end(mut self) -> Vec<PathBuf> {
        (0..self.count()).for_each(|number| self.terminate(number));
        (0..self.count()).map(|number| self.logs(number)).collect()
    }
}

impl Drop for Members<'_> {
    fn drop(&mut self) {
        // A process that waits for its disk cannot be killed.
        self.disks.iter_mut().for_each(Disk::go_on);
    }
}
