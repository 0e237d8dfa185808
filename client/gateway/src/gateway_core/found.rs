//! What was found of one key, and what is rendered of it.
//!
//! Always holds: each form is rendered once. Leaves to others: finding it (`looking_up`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use firn_nix_format::PathInfo;
use tokio::time::Instant;

use crate::narinfo::RenderedNarInfo;
use crate::options::NarCompression;
use crate::serve_error::ServeError;
use crate::variants::Variant;

const NO_PATH_INFO: &str = "its record carries no path info";
const RANKS_UNKNOWN: &str = "its publishers differ, and the archive has not told yet whom it prefers";

/// What was found of one key.
#[derive(Debug)]
pub(super) struct Found {
    /// The order of the index; at least one.
    pub(super) variants: Vec<Variant>,
    /// None if no record carries a path info, or if contents differ and no ranks are known that could decide.
    pub(super) narinfos: Option<NarInfos>,
    /// It is true as of this position of the feed.
    pub(super) position: u64,
    /// The generation of ranks by which it was chosen; 0 if there were none.
    pub(super) generation: u64,
    /// When it was found; none if an earlier life found it.
    pub(super) at: Option<Instant>,
    pub(super) refreshing: AtomicBool,
}

/// One path info in each form that was asked for.
#[derive(Debug)]
pub(super) struct NarInfos {
    pub(super) info: PathInfo,
    plain: OnceLock<RenderedNarInfo>,
    zstd: OnceLock<RenderedNarInfo>,
}

/// It is looked up again until this is dropped.
#[derive(Debug)]
pub(super) struct Refresh(Arc<Found>);

impl Found {
    pub(super) fn narinfos(&self) -> Result<&NarInfos, ServeError> {
        self.narinfos.as_ref().ok_or_else(|| {
            let has_path_info = self.variants.iter().any(|variant| variant.record.path_info().is_some());
            ServeError::unreadable(if has_path_info { &RANKS_UNKNOWN } else { &NO_PATH_INFO })
        })
    }

    /// Takes turns: none while somebody looks it up again.
    pub(super) fn begin_refresh(self: &Arc<Self>) -> Option<Refresh> {
        (!self.refreshing.swap(true, Ordering::Relaxed)).then(|| Refresh(Arc::clone(self)))
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Relaxed);
    }
}

impl NarInfos {
    pub(super) const fn new(info: PathInfo) -> Self {
        Self { info, plain: OnceLock::new(), zstd: OnceLock::new() }
    }

    pub(super) fn rendered(&self, compression: NarCompression) -> &RenderedNarInfo {
        let form = match compression {
            NarCompression::None => &self.plain,
            NarCompression::Zstd => &self.zstd,
        };
        form.get_or_init(|| RenderedNarInfo::new(&self.info, compression))
    }
}
