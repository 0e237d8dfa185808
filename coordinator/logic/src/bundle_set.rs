//! Sets of bundles, small where there are few of them and quick where there are millions.

use std::fmt;
use std::ops::BitOrAssign;

use firn_base::BundleNumber;
use roaring::RoaringBitmap;

/// A set of bundles, in order of their numbers. A node's event puts thousands of bundles into queues and takes them out:
/// a bit each, in maps of 65,536 bundles.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct BundleSet(RoaringBitmap);

impl BundleSet {
    /// Adds a bundle or takes it out.
    pub(crate) fn put(&mut self, bundle: BundleNumber, belongs: bool) {
        if belongs {
            self.0.insert(bundle.0);
        } else {
            self.0.remove(bundle.0);
        }
    }

    pub(crate) fn contains(&self, bundle: BundleNumber) -> bool {
        self.0.contains(bundle.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BundleNumber> {
        self.0.iter().map(BundleNumber)
    }
}

impl BitOrAssign for BundleSet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Takes bundles mostly in the order of their numbers, which is by far quicker than any.
impl FromIterator<BundleNumber> for BundleSet {
    fn from_iter<I: IntoIterator<Item = BundleNumber>>(bundles: I) -> Self {
        let mut set = RoaringBitmap::new();
        for BundleNumber(number) in bundles {
            if set.try_push(number).is_err() {
                set.insert(number);
            }
        }
        Self(set)
    }
}

impl fmt::Debug for BundleSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}
