//! A digest of a set that members are added to and removed from in any order: LtHash.
//!
//! Each member is stretched to 1,024 numbers of 16 bits by BLAKE3's extendable output; the sums of these numbers, modulo
//! 2^16 each, are the digest. Whoever may choose members must not be able to choose a set with the sum of another one:
//! uploaders choose keys as they like, so a sum of 256 bits would not do (AdHash: among some 2^16 candidates in each of
//! 2^15 lists, Wagner's generalised birthday finds a zero in about 2^31 steps). For these 1,024 lanes that is a short
//! vector problem in a lattice with more than 200 bits of security (Lewi, Kim, Maykov, Weis: Securing Update Propagation
//! with Homomorphic Hashing, 2019). A product of group elements (MuHash, elliptic curves) would be as sound and shorter,
//! at many times the cost for each member.
//!
//! Not defended against: a coordinator that lies about its own digest. It would only hide its own differences.

use firn_base::Digest;

const LANES: usize = 1024;
/// Bytes of a sum, and of a stretched member.
pub const SUM_BYTES: usize = 2 * LANES;

/// The sum of a set's members.
#[derive(Clone, PartialEq, Eq)]
pub struct SetSum {
    lanes: Box<[u16; LANES]>,
}

/// A member, stretched.
pub(super) type Stretched = [u8; SUM_BYTES];

impl SetSum {
    pub(super) fn add(&mut self, member: &Stretched) {
        self.fold(member, u16::wrapping_add);
    }

    pub(super) fn remove(&mut self, member: &Stretched) {
        self.fold(member, u16::wrapping_sub);
    }

    fn fold(&mut self, member: &Stretched, operation: impl Fn(u16, u16) -> u16) {
        for (lane, bytes) in self.lanes.iter_mut().zip(member.as_chunks().0) {
            *lane = operation(*lane, u16::from_le_bytes(*bytes));
        }
    }

    /// Its lanes, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lanes.iter().flat_map(|lane| lane.to_le_bytes()).collect()
    }

    /// Reads what [`Self::to_bytes`] wrote; none if there are more or fewer bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut sum = Self::default();
        // A sum is a member added to nothing.
        sum.add(bytes.try_into().ok()?);
        Some(sum)
    }

    /// BLAKE3 of its bytes.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(*blake3::hash(&self.to_bytes()).as_bytes())
    }
}

impl Default for SetSum {
    /// Of the empty set.
    fn default() -> Self {
        Self { lanes: Box::new([0; LANES]) }
    }
}

impl std::fmt::Debug for SetSum {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SetSum({})", self.digest())
    }
}
