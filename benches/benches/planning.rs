//! The leader's planners over large archives of 16/40, in memory: whole passes, and what one node's event costs.
//!
//! `cargo bench -p firn-benches --bench planning`; a filter such as `-- 300k` takes a part. The larger archive takes
//! about 1 GB of memory.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter, Result};
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use firn_base::{
    AddressHistory, AddressPrefix, AsNumber, Availability, BundleId, BundleNumber, ByteCount, CodingId,
    Country, NodeId, Origin, PublicKey, Scheme, ShardIndex, Timestamp,
};
use firn_coordinator_logic::{
    Absence, BrakeState, BundleRecord, Catalogue, Change, CodingRecord, FleetView, FleetWatch, HealthIndex,
    MemoryState, NodeNumber, NodeRecord, NodeSite, Orders, PlanningBudget, PlanningView, default_policy,
    plan_moves, plan_repairs, plan_tidying,
};
use firn_wire::{DeletionRoom, DomainRule, NodeState, NodeStatus, Policy};

// As the leader plans.
const BUDGET: PlanningBudget =
    PlanningBudget { builds_max: 32, away_builds_max: 6, builds_per_worker_max: 2 };
const TIDYING_LIMIT: usize = 256;

const SHARDS: u32 = 40;

// From one node to the next to which something happens: comes by all of them.
const NODE_STEP: u32 = 1237;

// Nodes of one network in a public archive.
const NETWORK: u32 = 6;
const FILE_BYTES: u64 = 16 << 20;
const NOW: Timestamp = Timestamp::from_millis(1_000_000);

// What the planners' budget of 5 seconds was set for, a fifth of it, and a twentieth.
const SIZES: [(&str, u32, u32); 3] =
    [("75k", 75_000, 250), ("300k", 300_000, 1000), ("1500k", 1_500_000, 5000)];

/// How full the nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// All half full.
    Even,
    /// All half full, and a tenth as many joined empty.
    Joined,
    /// All half full, in a `public` archive: networks of six nodes, 40 countries.
    Public,
    /// Twenty large nodes hold a shard of every bundle and are nearly empty; caps leave no move.
    Blocked,
}

impl Display for Fill {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        formatter.write_str(match self {
            Self::Even => "even",
            Self::Joined => "joined",
            Self::Public => "public",
            Self::Blocked => "blocked",
        })
    }
}

fn planning(criterion: &mut Criterion) {
    for (size, bundles, nodes) in SIZES {
        for fill in [Fill::Even, Fill::Joined, Fill::Public, Fill::Blocked] {
            let mut group = criterion.benchmark_group(format!("{size}/{fill}"));
            group.sample_size(10).warm_up_time(Duration::from_millis(500));
            // Made when a benchmark of it is run, for a filter may leave it out.
            let mut archive = None;
            let mut measure = |name: &str, work: &mut dyn FnMut(&mut Archive)| {
                group.bench_function(name, |bencher| {
                    let archive = archive.get_or_insert_with(|| Archive::new(bundles, nodes, fill));
                    bencher.iter(|| work(archive));
                });
            };
            measure("judgement", &mut |archive| {
                archive.health = HealthIndex::new();
                archive.judge();
            });
            measure("repairs", &mut |archive| {
                archive.plan(|view| drop(black_box(plan_repairs(view, &BUDGET, [7; 32]))))
            });
            measure("moves", &mut |archive| {
                archive.plan(|view| drop(black_box(plan_moves(view, &BUDGET, [7; 32]))))
            });
            measure("tidying", &mut |archive| {
                archive.plan(|view| drop(black_box(plan_tidying(view, TIDYING_LIMIT))))
            });
            // What one node's event costs, another node each time, so that nothing of its bundles is in a cache: the bundles
            // judged, and whatever there is to do planned.
            for event in Event::ALL.into_iter().filter(|event| fill == Fill::Public || *event != Event::Place)
            {
                let mut number = 0;
                group.bench_function(event.to_string(), |bencher| {
                    let archive = archive.get_or_insert_with(|| Archive::new(bundles, nodes, fill));
                    bencher.iter_custom(|events| {
                        let timed = (0..events).map(|_| {
                            number = (number + NODE_STEP) % nodes;
                            archive.befall(NodeNumber(number), nodes, event)
                        });
                        timed.sum()
                    });
                });
            }
            group.finish();
        }
    }
}

/// What befalls a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Its shards are online no more.
    Offline,
    /// It is to be emptied.
    Draining,
    /// It is declared lost.
    Lost,
    /// One that was lost is active again.
    Returned,
    /// It turns out to be in another network, so that many bundles have too much there.
    Place,
}

impl Event {
    const ALL: [Self; 5] = [Self::Offline, Self::Draining, Self::Lost, Self::Returned, Self::Place];
}

impl Display for Event {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        formatter.write_str(match self {
            Self::Offline => "offline",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Returned => "returned",
            Self::Place => "place",
        })
    }
}

/// An archive as its leader sees it.
struct Archive {
    catalogue: Catalogue,
    watch: FleetWatch,
    orders: Orders,
    health: HealthIndex,
}

impl Archive {
    fn new(bundles: u32, nodes: u32, fill: Fill) -> Self {
        let (catalogue, watch) = archive_of(bundles, nodes, fill);
        let mut archive = Self { catalogue, watch, orders: Orders::new(), health: HealthIndex::new() };
        archive.judge();
        archive
    }

    fn fleet(&self) -> FleetView {
        FleetView::new(&self.catalogue, &self.watch, &self.orders, NOW)
    }

    /// Brings the index up to date; gives how many bundles were judged for it.
    fn judge(&mut self) -> usize {
        let fleet = self.fleet();
        self.health.update(&self.catalogue, &fleet, &BTreeSet::new(), NOW)
    }

    /// The time in which the leader has followed an event; afterwards all is as before.
    fn befall(&mut self, node: NodeNumber, nodes: u32, event: Event) -> Duration {
        let before = self.catalogue.node(node).expect("it joined").clone();
        let mut after = before.clone();
        match event {
            Event::Offline => self.turn(node, false),
            Event::Draining => after.state = NodeState::Draining,
            Event::Lost => after.state = NodeState::Lost,
            Event::Place => after.site = site(node.0 / 2),
            Event::Returned => {
                after.state = NodeState::Active;
                // The next one is lost already, so that what the loss brought into caches is not of use for this one.
                self.put_state(node, NodeState::Lost);
                self.put_state(NodeNumber((node.0 + NODE_STEP) % nodes), NodeState::Lost);
            }
        }
        let begun = Instant::now();
        self.catalogue.absorb(&[Change::PutNode(after)], NOW);
        assert!(self.judge() > 0, "the node holds shards");
        self.plan(|view| {
            black_box(plan_repairs(view, &BUDGET, [7; 32]));
            black_box(plan_tidying(view, TIDYING_LIMIT));
        });
        let passed = begun.elapsed();
        if event == Event::Offline {
            self.turn(node, true);
        }
        if event != Event::Returned {
            self.catalogue.absorb(&[Change::PutNode(before)], NOW);
            self.judge();
        }
        passed
    }

    fn put_state(&mut self, node: NodeNumber, state: NodeState) {
        let record = self.catalogue.node(node).expect("it joined").clone();
        self.catalogue.absorb(&[Change::PutNode(NodeRecord { state, ..record })], NOW);
        self.judge();
    }

    fn turn(&mut self, node: NodeNumber, proved: bool) {
        self.watch.want_inventory(node, NOW);
        if proved {
            self.watch.inventory_page(node, Vec::new(), false);
            self.watch.prove(node);
        }
    }

    fn plan(&self, work: impl FnOnce(&PlanningView<'_>)) {
        work(black_box(&PlanningView {
            catalogue: &self.catalogue,
            fleet: &self.fleet(),
            health: &self.health,
            orders: &self.orders,
            brake: BrakeState::Free,
            now: NOW,
        }));
    }
}

fn archive_of(bundles: u32, nodes: u32, fill: Fill) -> (Catalogue, FleetWatch) {
    let Ok(mut catalogue) = Catalogue::load(&MemoryState::new());
    let large = if fill == Fill::Blocked { SHARDS / 2 } else { 0 };
    let mut shards = vec![0_u64; usize::try_from(nodes).expect("32 bits fit")];
    for number in 0..bundles {
        let placements = placements(number, nodes, large, fill);
        for (_, node) in &placements {
            shards[usize::try_from(node.0).expect("32 bits fit")] += 1;
        }
        catalogue.absorb(&[Change::PutBundle(bundle(number, placements))], NOW);
    }
    if fill == Fill::Public {
        let policy = Policy { domains: DomainRule::Public, ..default_policy() };
        catalogue.absorb(&[Change::PutPolicy(policy)], NOW);
    }
    let mut watch = FleetWatch::new(NOW);
    let mean = u64::from(bundles) * u64::from(SHARDS - large) / u64::from(nodes - large);
    for (number, shards) in (0..).zip(&shards) {
        let room = if number < large { shards * 10 } else { mean * 2 };
        join(&mut catalogue, &mut watch, number, *shards, room);
    }
    if fill == Fill::Joined {
        (nodes..nodes + nodes / 10).for_each(|number| join(&mut catalogue, &mut watch, number, 0, mean * 2));
    }
    (catalogue, watch)
}

/// The `large` first nodes hold one shard each, others are spread over the rest.
fn placements(bundle: u32, nodes: u32, large: u32, fill: Fill) -> Vec<(ShardIndex, NodeNumber)> {
    let rest = nodes - large;
    let mixed = bundle.wrapping_mul(0x9e37_79b9);
    // A stride below the fleet's fortieth part never comes round to the same node.
    let stride = 1 + (mixed >> 16) % (rest / SHARDS);
    let (start, stride) = (mixed % rest, if fill == Fill::Public { stride.max(NETWORK) } else { stride });
    let holders = (0..large).chain((0..SHARDS - large).map(|step| large + (start + step * stride) % rest));
    (0..).map(ShardIndex).zip(holders.map(NodeNumber)).collect()
}

/// A prefix of a node's own; its network is that of its neighbours, its country drawn by lot.
fn site(node: u32) -> NodeSite {
    let [_, a, b, c] = node.to_be_bytes();
    let hash = blake3::hash(&node.to_be_bytes());
    let (draw, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    let country = u16::from_be_bytes(*draw) % 40;
    let letters =
        [b'A' + u8::try_from(country / 26).unwrap_or(0), b'A' + u8::try_from(country % 26).unwrap_or(0)];
    let origin = Origin { asn: Some(AsNumber(1 + node / NETWORK)), country: Country::try_from(letters).ok() };
    let addresses = AddressHistory::first_seen_at(AddressPrefix::V4([a.wrapping_add(10), b, c]));
    NodeSite { addresses, origin: Some(origin), since: NOW }
}

fn bundle(number: u32, placements: Vec<(ShardIndex, NodeNumber)>) -> BundleRecord {
    let id = *blake3::hash(&number.to_le_bytes()).as_bytes();
    let coding = CodingRecord {
        id: CodingId::from_bytes(id),
        header: Vec::new(),
        scheme: Scheme::new(16, 40).expect("of the ladder"),
        shard_bytes: FILE_BYTES,
        file_bytes: FILE_BYTES,
        placements,
    };
    BundleRecord {
        number: BundleNumber(number),
        id: BundleId::from_bytes(id),
        content_header: Vec::new(),
        payload_bytes: 16 * FILE_BYTES,
        codings: vec![coding],
        recoding: None,
        keys: 0,
        uploader: PublicKey::from_bytes([0; 32]),
        committed_at: NOW,
        ledger_entries: 0,
        externals: Vec::new(),
    }
}

fn join(catalogue: &mut Catalogue, watch: &mut FleetWatch, number: u32, shards: u64, room: u64) {
    let record = NodeRecord {
        number: NodeNumber(number),
        id: NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        operator: format!("operator-{number}"),
        failure_domain: format!("domain-{number}"),
        address: String::new(),
        quota_bytes: room * FILE_BYTES,
        assigned_bytes: shards * FILE_BYTES,
        shards,
        state: NodeState::Active,
        joined_at: NOW,
        last_seen: NOW,
        availability: Availability::UNKNOWN,
        absence: Absence::default(),
        suspension: None,
        vouched: false,
        declared_since: NOW,
        site: site(number),
    };
    let status = NodeStatus {
        address: String::new(),
        quota: ByteCount(record.quota_bytes),
        young_trash: ByteCount(0),
        deletion_room: DeletionRoom::default(),
        refused_deletions: 0,
        used: ByteCount(record.assigned_bytes),
        shards,
        max_upload: None,
        rest: None,
        leaving: false,
        run: 1,
        erased_through: 0,
    };
    watch.heard(record.number, status, NOW);
    watch.inventory_page(record.number, Vec::new(), false);
    watch.prove(record.number);
    catalogue.absorb(&[Change::PutNode(record)], NOW);
}

criterion_group!(benches, planning);
criterion_main!(benches);
