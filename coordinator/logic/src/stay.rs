//! Whether a bundle is there to stay.
//!
//! Always holds: one that something has taken the place of is replaced, be it erased or not, and nothing may come to use its
//! chunks. Leaves to others: when it is erased (`purging`).

use firn_base::{BundleId, BundleNumber};

use crate::facts::Facts;

/// How a bundle stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// The archive does not know it.
    Unknown,
    /// Something has taken its place.
    Replaced,
    /// It is there, and nothing else stands for it.
    Stays,
}

/// How `bundle` stands.
pub(crate) fn stay_of<F: Facts>(facts: &F, bundle: BundleId) -> Result<Stay, F::Error> {
    let Some(number) = facts.bundle_number(bundle)? else { return Ok(Stay::Unknown) };
    Ok(if is_replaced(facts, number)? { Stay::Replaced } else { Stay::Stays })
}

/// Whether something has taken the place of the bundle of this number.
pub(crate) fn is_replaced<F: Facts>(facts: &F, bundle: BundleNumber) -> Result<bool, F::Error> {
    Ok(facts.erasure(bundle)?.is_some())
}

/// Whether chunks of all of these may be used by one more bundle.
pub(crate) fn all_stay<F: Facts>(facts: &F, bundles: &[BundleId]) -> Result<bool, F::Error> {
    for bundle in bundles {
        if stay_of(facts, *bundle)? != Stay::Stays {
            return Ok(false);
        }
    }
    Ok(true)
}
