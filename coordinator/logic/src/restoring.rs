//! Restoring a bundle of an archive that is rebuilt: from a certificate and a manifest to the commands that tell it again.
//!
//! Always holds: what its commit brought is brought again, unless it uses chunks of a bundle that was erased: that
//! went only once all that could be read of this one lay in others, and those come back with it. It comes back itself for
//! those that use chunks of its own. Leaves to others: what is believed (`evidence`), in which order
//! bundles are told (`CommitOrder`), applying.

use std::collections::BTreeSet;

use firn_base::BundleId;
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{Command, RestoredBundle};

use crate::commit_check::{ExternalReferences, RecordSummary, plan_entries};
use crate::evidence::CertifiedBundle;
use crate::facts::Facts;
use crate::similar::plan_features;
use crate::stay::all_stay;

/// How a bundle comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoringPlan {
    /// Brings it back, with its keys.
    pub restore: Command,
    /// Behind that: by what its records are found; none if by nothing. Nothing depends on it.
    pub remember: Option<Command>,
}

/// How `bundle` comes back, whose manifest has these records. All bundles and acts before it were told; `erased` are all
/// that was erased, also after it.
pub fn plan_restored<F: Facts>(
    facts: &F,
    bundle: CertifiedBundle,
    records: &[RecordSummary],
    erased: &BTreeSet<BundleId>,
) -> Result<RestoringPlan, F::Error> {
    let content = ContentHeader::parse(&bundle.content_header).ok();
    let uses_erased =
        content.as_ref().is_some_and(|own| own.dependencies().iter().any(|one| erased.contains(one)));
    let records = if uses_erased { &[] } else { records };
    let CertifiedBundle { content_header, coding_header, certificate, .. } = bundle;
    let summaries: Vec<&RecordSummary> = records.iter().collect();
    let recorded = ExternalReferences::Recorded(&certificate.externals);
    let (entries, externals) = plan_entries(facts, &summaries, recorded)?;
    // A bundle that took the place of another is told where that one stood, so what comes later is the latest again.
    let remember = plan_features(certificate.bundle, None, records);
    let is_head = content.as_ref().is_some_and(|own| own.role() == BundleRole::Head);
    let dependencies: Vec<BundleId> = content.iter().flat_map(ContentHeader::dependencies).copied().collect();
    // As the commands see it: else the one for those that lack none would be refused.
    let lacks_one = !is_head && !all_stay(facts, &dependencies)?;
    let restored = Box::new(RestoredBundle {
        content_header,
        coding_header,
        n: certificate.n,
        uploader: certificate.uploader,
        committed_at: certificate.committed_at,
        ledger_entries: certificate.ledger_entries,
        externals,
        entries,
    });
    let restore =
        if lacks_one { Command::RestoreLacking(restored) } else { Command::RestoreBundle(restored) };
    Ok(RestoringPlan { restore, remember })
}
