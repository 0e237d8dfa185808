//! What the coordinators decide: their state and how commands change it, who holds what, what to repair.
//!
//! Owns: records, `apply`, placement, health, repair, the leader's soft state and the checks of a commit.
//! Always holds: nothing here reads a clock, a disk, a socket or chance; time and seeds are given, and equal
//! inputs give equal results on every replica. Leaves to others: consensus, storage and the network
//! (`coordinator/server`).

mod absence;
mod act_check;
mod address_table;
mod apply;
mod balance;
mod brake;
mod build_plan;
mod builder;
mod bundle_fill;
mod bundle_set;
mod bundles_since;
mod caps;
mod catalogue;
mod change;
mod clock_rule;
mod commit_check;
mod commit_room;
mod compacting;
mod digest;
mod divergence;
mod drain;
mod evidence;
mod evidence_book;
mod facts;
mod feature_level;
mod feed_chain;
mod feed_filters;
mod filter_build;
mod fleet;
mod fleet_watch;
mod fleet_width;
mod freshness;
mod headers;
mod health;
mod health_index;
mod history;
mod index_set;
mod inventory;
mod inventory_comparison;
mod kin;
mod layer;
mod layout;
mod ledger_position;
mod listening;
mod losses;
mod member_change;
mod memory;
mod moves;
mod names;
mod node_roles;
mod openings;
mod orders;
mod overlay;
mod pass;
mod placement;
mod planning;
mod policy;
mod purge_index;
mod purging;
mod receipts;
mod recode;
mod refusals;
mod refused_steps;
mod repair;
mod repair_traffic;
mod report_book;
mod reserve_room;
mod restoring;
mod rights;
mod second_codings;
mod shares;
mod similar;
mod spare_homes;
mod standing;
mod state;
mod stay;
mod steady_width;
mod survival;
mod suspension;
mod taken;
mod tidying;
mod unrestored;
mod view;
mod voices;
mod vouching;
mod width;
mod withdrawn_references;

pub use absence::{ABSENCE_MOST, Absence, AbsenceRefused};
pub use act_check::{ActRefusal, check_act, check_name};
pub use address_table::{AddressTable, AddressTableError, TABLE_BYTES_MAX, place_of};
pub use apply::{Applied, apply};
pub use brake::{BrakeFacts, BrakeState, HearingFacts, brake, is_still_hearing};
pub use build_plan::{BuildCause, BuildPlan};
pub use bundles_since::{BundlePage, bundles_since};
pub use caps::BREACH_MENDED_AFTER;
pub use catalogue::{BundleView, Catalogue};
pub use change::Change;
pub use clock_rule::{CLOCK_BAND, ClockReading, ClockRefusal, ClockStanding, Clocks, READING_GOOD_FOR};
pub use commit_check::{
    CheckedBundle, ExternalReferences, RecordSummary, WithoutRecords, check_has_records, plan_commit,
    plan_entries,
};
pub use commit_room::{CommitRoom, CommitTooLarge};
pub use compacting::{
    CompactionRefusal, GatheringError, SmallBundle, UsedBundle, UsedByOthers, check_compaction, check_unused,
    order_of, plan_compaction, plan_gathered_features, plan_gathering, plan_groups, read_small,
    small_bundles,
};
pub use digest::{STATE_DIGEST_BYTES, SUM_BYTES, SetSum, StateDigest, advance, full_digest};
pub use divergence::{Comparison, compare_states};
pub use drain::{sum_drains, survey_drain};
pub use evidence::{CertifiedBundle, Evidence, EvidenceCounts, EvidenceError};
pub use evidence_book::{
    CodingName, CommitOrder, EvidenceBook, MemoryBook, Showing, ShownCoding, ShownHeaders,
};
pub use facts::{Facts, Scan};
pub use feature_level::{LevelRefusal, check_level, is_level_awaited, level_to_raise};
pub use feed_chain::feed_digest_behind;
pub use feed_filters::{
    FILTER_UNIT_EVENTS, FilterOrder, FilterPlan, HeldFilter, filter_ranges, plan_filters,
};
pub use filter_build::{BuildStep, FilterBuild, FilterBuildError};
pub use fleet::{FleetNode, FleetView};
pub use fleet_watch::{
    ComparisonProgress, FleetWatch, Heard, Inventory, InventoryProgress, OFFLINE_AFTER, SUMMARY_INTERVAL,
};
pub use freshness::Freshness;
pub use headers::{CodedBundle, CodedBundleError};
pub use health::{BundleHealth, HealthClass, classify, goal, repair_threshold};
pub use health_index::{BRINK_ONLINE_FOR, FEW_ONLINE_FOR, HealthIndex};
pub use history::HistoryOrder;
pub use inventory::{
    CHALLENGE_BYTES, CHALLENGED_SHARDS, Challenge, InventoryFindings, choose_challenges, compare_inventory,
    expected_on, replaced_file_bytes,
};
pub use inventory_comparison::{ComparisonStep, TakenStep};
pub use ledger_position::ledger_position;
pub use listening::{Listening, ListeningFacts, ListeningPlan, TurnEnd};
pub use losses::LossWatch;
pub use member_change::{
    CAUGHT_UP_ENTRIES, MEMBERS_MAX, MemberFacts, MemberPlan, MemberRefusal, RosterRefusal, check_next_roster,
    member_number, next_roster, plan_member_change, plan_readmission, roster_gap,
};
pub use memory::MemoryState;
pub use moves::{MovePlan, drained_nodes, plan_moves};
pub use orders::{DeletionEnd, Orders};
pub use overlay::Overlay;
pub use pass::{PassPlan, plan_pass};
pub use placement::{PlacementError, PlacementRequest, plan_placement};
pub use planning::{PlanningBudget, PlanningView};
pub use policy::{COUNT_LOST_AFTER_MILLIS, default_policy};
pub use purge_index::PurgeIndex;
pub use purging::{
    PurgeBook, PurgesWanted, ReplacementError, leaving_with, plan_purging, plan_replacement, purge_progress,
    purge_summary, replaced_among, unwanted_of,
};
pub use receipts::{ExpectedReceipts, ReceiptError};
pub use recode::{RecodePlan, RecodeStep, RecodeTerms, RecodeWork, plan_recoding};
pub use refusals::Refusals;
pub use refused_steps::RefusedSteps;
pub use repair::{RepairPlan, plan_repairs, survey};
pub use repair_traffic::LineShares;
pub use report_book::ReportBook;
pub use reserve_room::{Reserve, ReserveError};
pub use restoring::{RestoringPlan, plan_restored};
pub use rights::{role_for_act, role_for_request};
pub use second_codings::SecondView;
pub use similar::{GoingContent, find_similar, plan_commit_features, plan_features};
pub use state::{
    BundleRecord, CodingRecord, Counters, ErasedRecord, ErasureRecord, FeatureRecord, FeedRecord, HeldRecord,
    NodeNumber, NodeRecord, NodeSite, PurgeRecord, RecodingRecord, ReservationRecord, SurplusRecord,
    WithdrawnRecord,
};
pub use steady_width::SteadyWidth;
pub use suspension::{
    AnnouncementRefused, SUSPENSION_NOTICE, Suspension, check_announcement, due_suspensions, suspension_at,
};
pub use tidying::{Deletion, TidyingPlan, plan_tidying};
pub use unrestored::UnrestoredBundles;
pub use view::{BundleFindings, bundle_info, bundle_summary, caps_status, node_summary, resting_node};
pub use voices::{Hearing, Voice, Voices};
pub use vouching::{RootsAnswer, RootsError, judge_roots};
pub use width::{WIDTH_REMEMBERED_FOR, WidthMemory, choose_scheme};
pub use withdrawn_references::{ToldSoFar, WithdrawnReferences};
