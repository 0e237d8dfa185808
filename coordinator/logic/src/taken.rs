//! What the holders of one bundle take: nodes, failure domains, operators, prefixes, networks, countries.
//!
//! Owns: telling in constant time whether caps leave a node, for all who choose or judge homes of shards: there is no
//! other judgement of caps. Always holds: it answers as counting all holders anew would.
//! Leaves to others: which holders stay, the numbers (`caps`).

use firn_base::Timestamp;
use firn_wire::Cap;

use crate::caps::Caps;
use crate::fleet::FleetNode;
use crate::names::NodeNames;
use crate::state::NodeNumber;

/// What is taken for the bundle that was begun last.
#[derive(Debug)]
pub(crate) struct Taken {
    caps: Caps,
    per_country: u8,
    // The bundle, counted up, for which each was last taken: forgetting them all costs nothing.
    bundle: u32,
    nodes: Vec<u32>,
    domains: Vec<Mark>,
    operators: Vec<Mark>,
    prefixes: Vec<Mark>,
    networks: Vec<Mark>,
    countries: Vec<Mark>,
}

/// How often one name is taken.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The latest of the times since when those that take it have it.
    since: Timestamp,
    bundle: u32,
    all: u8,
    /// Those of them whose failure domain does not keep them apart.
    unvouched: u8,
}

const NEVER: Mark = Mark { since: Timestamp::from_millis(0), bundle: 0, all: 0, unvouched: 0 };

impl Taken {
    /// Nothing is taken, for a bundle of n shards.
    pub(crate) const fn new(caps: Caps, n: u8) -> Self {
        Self {
            caps,
            per_country: Caps::per_country(n),
            bundle: 1,
            nodes: Vec::new(),
            domains: Vec::new(),
            operators: Vec::new(),
            prefixes: Vec::new(),
            networks: Vec::new(),
            countries: Vec::new(),
        }
    }

    /// Another bundle, of n shards: nothing is taken any more.
    pub(crate) const fn begin(&mut self, n: u8) {
        self.bundle += 1;
        self.per_country = Caps::per_country(n);
    }

    /// Nodes that do one work after the other are chosen, not homes of shards: any number may be in one country.
    pub(crate) const fn begin_workers(&mut self) {
        self.bundle += 1;
        self.per_country = u8::MAX;
    }

    /// The same for another bundle of n shards of which `holders` have one each.
    pub(crate) fn begin_with<'f>(&mut self, n: u8, holders: impl IntoIterator<Item = &'f FleetNode>) {
        self.begin(n);
        holders.into_iter().for_each(|holder| self.take(&holder.names));
    }

    /// A node of these names holds a shard that counts.
    pub(crate) fn take(&mut self, names: &NodeNames) {
        let (bundle, vouched) = (self.bundle, self.caps.is_vouched(*names));
        let (declared, seen) = (names.declared_since, names.seen_since);
        mark(&mut self.domains, names.domain, (bundle, vouched, declared));
        if self.caps.is_public() {
            mark(&mut self.operators, names.operator, (bundle, vouched, declared));
            mark(&mut self.prefixes, names.prefix, (bundle, vouched, seen));
            if let Some(origin) = self.caps.origin(*names) {
                mark(&mut self.networks, origin.network, (bundle, vouched, seen));
                mark(&mut self.countries, origin.country, (bundle, vouched, seen));
            }
        }
    }

    /// A node is no choice itself, whether its domain is taken or not.
    pub(crate) fn take_node(&mut self, node: NodeNumber) {
        if self.nodes.len() <= node.position() {
            self.nodes.resize(node.position() + 1, 0);
        }
        self.nodes[node.position()] = self.bundle;
    }

    /// Whether caps leave a node of these names.
    pub(crate) fn leaves(&self, names: &NodeNames) -> bool {
        if self.get(&self.domains, names.domain).all >= 1 {
            return false;
        }
        !self.caps.is_public() || self.exceeded(names).next().is_none()
    }

    /// Shards that a country may have beside those that are taken there.
    pub(crate) fn open_in_country(&self, country: u32) -> u32 {
        self.per_country.saturating_sub(self.get(&self.countries, country).all).into()
    }

    /// The same of a network whose nodes no failure domain parts.
    pub(crate) fn open_in_network(&self, network: u32) -> u32 {
        let most = self.caps.per_network().unwrap_or(u8::MAX);
        most.saturating_sub(self.get(&self.networks, network).all).into()
    }

    /// Whether it is a choice itself.
    pub(crate) fn leaves_node(&self, node: NodeNumber) -> bool {
        self.nodes.get(node.position()) != Some(&self.bundle)
    }

    /// Caps that keep a node of these names from taking a shard.
    pub(crate) fn kept_by(&self, names: &NodeNames) -> impl Iterator<Item = Cap> {
        self.exceeded(names).map(|(cap, _)| cap)
    }

    /// Since when a node of these names is too much beside those that took before it; none if it is not.
    pub(crate) fn too_much_since(&self, names: &NodeNames) -> Option<Timestamp> {
        self.exceeded(names).map(|(_, since)| since).min()
    }

    /// Caps that one more node of these names would break, and since when it has with the others what they have in
    /// common.
    fn exceeded(&self, names: &NodeNames) -> impl Iterator<Item = (Cap, Timestamp)> {
        let vouched = self.caps.is_vouched(*names);
        // All of them apart by right: then nothing that addresses say counts.
        let apart = |mark: Mark| vouched && mark.unvouched == 0;
        let (declared, seen) = (names.declared_since, names.seen_since);
        let domain = self.get(&self.domains, names.domain);
        let mut full = [None; 5];
        full[0] = (domain.all >= 1).then(|| (Cap::Domain, domain.since.max(declared)));
        if self.caps.is_public() {
            let operator = self.get(&self.operators, names.operator);
            full[1] = (operator.all >= 1).then(|| (Cap::Operator, operator.since.max(declared)));
            let prefix = self.get(&self.prefixes, names.prefix);
            full[2] = (prefix.all >= 1 && !apart(prefix)).then(|| (Cap::Prefix, prefix.since.max(seen)));
            if let (Some(origin), Some(most)) = (self.caps.origin(*names), self.caps.per_network()) {
                let network = self.get(&self.networks, origin.network);
                let since = network.since.max(seen).max(self.caps.per_network_since());
                full[3] = (network.all >= most && !apart(network)).then_some((Cap::Network, since));
                let country = self.get(&self.countries, origin.country);
                full[4] = (country.all >= self.per_country).then(|| (Cap::Country, country.since.max(seen)));
            }
        }
        full.into_iter().flatten()
    }

    fn get(&self, marks: &[Mark], name: u32) -> Mark {
        marks.get(usize_of(name)).copied().filter(|mark| mark.bundle == self.bundle).unwrap_or(NEVER)
    }
}

fn mark(marks: &mut Vec<Mark>, name: u32, (bundle, vouched, since): (u32, bool, Timestamp)) {
    let at = usize_of(name);
    if marks.len() <= at {
        marks.resize(at + 1, NEVER);
    }
    let mark = &mut marks[at];
    if mark.bundle != bundle {
        *mark = Mark { bundle, ..NEVER };
    }
    mark.since = mark.since.max(since);
    mark.all = mark.all.saturating_add(1);
    mark.unvouched = mark.unvouched.saturating_add(u8::from(!vouched));
}

pub(crate) fn usize_of(interned: u32) -> usize {
    usize::try_from(interned).expect("a name's number has 32 bits, and so has usize at least")
}
