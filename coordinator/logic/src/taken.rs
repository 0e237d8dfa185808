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
    // Of holders that take nothing too.
    all_countries: Vec<Mark>,
    // Who took them: asked only since when a cap is broken, which hardly any bundle's is.
    takers: Vec<NodeNames>,
}

/// How often one name is taken: small, for five are looked at for every copy of a shard.
#[derive(Debug, Clone, Copy)]
struct Mark {
    bundle: u32,
    all: u8,
    /// Those of them whose failure domain does not keep them apart.
    unvouched: u8,
}

const NEVER: Mark = Mark { bundle: 0, all: 0, unvouched: 0 };

const CAPS: [Cap; 5] = [Cap::Domain, Cap::Operator, Cap::Prefix, Cap::Network, Cap::Country];

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
            all_countries: Vec::new(),
            takers: Vec::new(),
        }
    }

    /// Another bundle, of n shards: nothing is taken any more.
    pub(crate) fn begin(&mut self, n: u8) {
        self.forget();
        self.per_country = Caps::per_country(n);
    }

    /// Nodes that do one work after the other are chosen, not homes of shards: any number may be in one country.
    pub(crate) fn begin_workers(&mut self) {
        self.forget();
        self.per_country = u8::MAX;
    }

    fn forget(&mut self) {
        self.bundle += 1;
        self.takers.clear();
    }

    /// The same for another bundle of n shards of which `holders` have one each.
    pub(crate) fn begin_with<'f>(&mut self, n: u8, holders: impl IntoIterator<Item = &'f FleetNode>) {
        self.begin(n);
        holders.into_iter().for_each(|holder| self.take(&holder.names));
    }

    /// A node of these names holds a shard that counts.
    pub(crate) fn take(&mut self, names: &NodeNames) {
        let (bundle, vouched) = (self.bundle, self.caps.is_vouched(*names));
        mark(&mut self.domains, names.domain, bundle, vouched);
        if self.caps.is_public() {
            mark(&mut self.operators, names.operator, bundle, vouched);
            mark(&mut self.prefixes, names.prefix, bundle, vouched);
            if let Some(origin) = self.caps.origin(*names) {
                mark(&mut self.networks, origin.network, bundle, vouched);
                mark(&mut self.countries, origin.country, bundle, vouched);
            }
        }
        self.takers.push(*names);
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
        !CAPS.iter().any(|cap| self.is_reached(*cap, names))
    }

    /// How many of these lie in the country where the most do, none where countries do not count; taken or not.
    pub(crate) fn most_in_country<'n>(&mut self, holders: impl Iterator<Item = &'n NodeNames>) -> u8 {
        if self.caps.per_network().is_none() {
            return 0;
        }
        let origins = holders.filter_map(|names| self.caps.origin(*names));
        let counts = origins.map(|origin| mark(&mut self.all_countries, origin.country, self.bundle, true));
        counts.max().unwrap_or_default()
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
        CAPS.into_iter().filter(|cap| self.is_reached(*cap, names))
    }

    /// Whether as many have what the cap counts as may, so that one more of these names would break it.
    #[inline(always)]
    fn is_reached(&self, cap: Cap, names: &NodeNames) -> bool {
        if matches!(cap, Cap::Domain) {
            return self.get(&self.domains, names.domain).all >= 1;
        }
        if !self.caps.is_public() {
            return false;
        }
        // Where all of them are apart by right, nothing that addresses say counts.
        let apart = |mark: Mark| self.caps.is_vouched(*names) && mark.unvouched == 0;
        let origin = self.caps.origin(*names);
        match cap {
            Cap::Domain => unreachable!("answered above"),
            Cap::Operator => self.get(&self.operators, names.operator).all >= 1,
            Cap::Prefix => {
                let prefix = self.get(&self.prefixes, names.prefix);
                prefix.all >= 1 && !apart(prefix)
            }
            Cap::Network => origin.zip(self.caps.per_network()).is_some_and(|(origin, most)| {
                let network = self.get(&self.networks, origin.network);
                network.all >= most && !apart(network)
            }),
            Cap::Country => {
                origin.is_some_and(|origin| self.get(&self.countries, origin.country).all >= self.per_country)
            }
        }
    }

    /// Since when a node of these names is too much beside those that took before it; none if it is not.
    pub(crate) fn too_much_since(&self, names: &NodeNames) -> Option<Timestamp> {
        self.kept_by(names).map(|cap| self.in_common_since(cap, names)).min()
    }

    /// Since when a node of these names and all who took have in common what a cap counts.
    fn in_common_since(&self, cap: Cap, names: &NodeNames) -> Timestamp {
        let origin = |names: &NodeNames| self.caps.origin(*names);
        let has = |other: &NodeNames| match cap {
            Cap::Domain => other.domain == names.domain,
            Cap::Operator => other.operator == names.operator,
            Cap::Prefix => other.prefix == names.prefix,
            Cap::Network => origin(other).map(|it| it.network) == origin(names).map(|it| it.network),
            Cap::Country => origin(other).map(|it| it.country) == origin(names).map(|it| it.country),
        };
        let since = |names: &NodeNames| match cap {
            Cap::Domain | Cap::Operator => names.declared_since,
            Cap::Prefix | Cap::Network | Cap::Country => names.seen_since,
        };
        let narrowed = match cap {
            Cap::Network => self.caps.per_network_since(),
            _ => Timestamp::from_millis(0),
        };
        let others = self.takers.iter().filter(|other| has(other)).map(since);
        others.fold(narrowed.max(since(names)), Timestamp::max)
    }

    fn get(&self, marks: &[Mark], name: u32) -> Mark {
        marks.get(usize_of(name)).copied().filter(|mark| mark.bundle == self.bundle).unwrap_or(NEVER)
    }
}

/// Gives how often the name is taken now.
fn mark(marks: &mut Vec<Mark>, name: u32, bundle: u32, vouched: bool) -> u8 {
    let at = usize_of(name);
    if marks.len() <= at {
        marks.resize(at + 1, NEVER);
    }
    let mark = &mut marks[at];
    if mark.bundle != bundle {
        *mark = Mark { bundle, ..NEVER };
    }
    mark.all = mark.all.saturating_add(1);
    mark.unvouched = mark.unvouched.saturating_add(u8::from(!vouched));
    mark.all
}

pub(crate) fn usize_of(interned: u32) -> usize {
    usize::try_from(interned).expect("a name's number has 32 bits, and so has usize at least")
}
