//! How sure it is that a bundle survives until repair could help it.
//!
//! Owns: the estimate by which repairs are ordered. Always holds: fewer shards, or more of them on nodes that are
//! away, never make it surer; a bundle that others need counts as often as they are.
//! Leaves to others: counting shards (`health`), what is done about it (`repair`).

/// The chance that a node which is online now is gone for good before its shards could be made anew: a node lives for
/// 12 months in the mean, and its loss is noticed and repaired within 9 days.
const LOST_WHILE_ONLINE: f64 = 0.024;

/// The same for a node that is away. Of home machines that are away most come back, but no network of volunteers
/// has published for how many of them one may hope: a quarter is a cautious guess, and orders bundles only.
const LOST_WHILE_AWAY: f64 = 0.25;

/// How sure it is that a bundle survives, in hundredths of nines: 300 is a chance of 1 : 1000 to lose it.
///
/// In order: the bundle in most danger first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Survival(u32);

impl Survival {
    /// Hundredths of nines.
    #[cfg(test)]
    const fn hundredths_of_nines(self) -> u32 {
        self.0
    }
}

/// Looks estimates up.
#[derive(Debug, Clone)]
pub(crate) struct SurvivalChart {
    // For each k of the ladder the logarithm of the chance to lose a bundle, by shards online and shards away.
    charts: Vec<(u8, Vec<f64>)>,
}

// The ladder's widest scheme has 40 shards.
const SHARDS_MAX: usize = 40;
const ROW: usize = SHARDS_MAX + 1;

// Beyond it no two bundles need to be told apart, and the logarithm of zero is kept out.
const NINES_MAX: f64 = 99.0;

impl SurvivalChart {
    /// The chart for all schemes of the ladder.
    pub(crate) fn new() -> Self {
        let online: Vec<Vec<f64>> = (0..=SHARDS_MAX).map(|of| lost_among(of, LOST_WHILE_ONLINE)).collect();
        let away: Vec<Vec<f64>> = (0..=SHARDS_MAX).map(|of| lost_among(of, LOST_WHILE_AWAY)).collect();
        let chart = |k: u8| {
            let cell = |online_shards: usize, away_shards: usize| {
                let spare = (online_shards + away_shards).checked_sub(usize::from(k));
                spare.map_or(0.0, |spare| {
                    chance_of_more(&online[online_shards], &away[away_shards], spare).log10()
                })
            };
            let cells = (0..ROW).flat_map(|online| (0..ROW).map(move |away| (online, away)));
            (k, cells.map(|(online, away)| cell(online, away)).collect())
        };
        Self { charts: [1, 2, 4, 8, 16].map(chart).into() }
    }

    /// For a bundle of which `online` distinct shards are online and `away` more are durable, and which
    /// `dependents` others cannot be read without.
    pub(crate) fn survival(&self, k: u8, online: u8, away: u8, dependents: u32) -> Survival {
        let chart = self.charts.iter().find(|(own, _)| *own == k).map(|(_, chart)| chart);
        let column = |shards: u8| usize::from(shards).min(SHARDS_MAX);
        let chance = chart.and_then(|chart| chart.get(column(online) * ROW + column(away)));
        let nines = -chance.copied().unwrap_or_default() - f64::from(dependents.saturating_add(1)).log10();
        Survival(whole_hundredths(nines))
    }
}

fn whole_hundredths(nines: f64) -> u32 {
    // Within 0 and 9,900, so that the cast is exact but for the fraction that is to go.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped right before")]
    let hundredths = (nines.clamp(0.0, NINES_MAX) * 100.0) as u32;
    hundredths
}

/// The chances that none, one, two … of so many shards are lost: each by itself, for caps keep them apart.
fn lost_among(shards: usize, chance: f64) -> Vec<f64> {
    let mut lost = vec![0.0; shards + 1];
    lost[0] = 1.0;
    for known in 0..shards {
        for count in (0..=known).rev() {
            lost[count + 1] += lost[count] * chance;
            lost[count] *= 1.0 - chance;
        }
    }
    lost
}

/// The chance that more than `spare` shards are lost of both kinds together. Summed from the small end, where the
/// chances are that matter.
fn chance_of_more(online: &[f64], away: &[f64], spare: usize) -> f64 {
    let mut sum = 0.0;
    for lost in (spare + 1..online.len() + away.len() - 1).rev() {
        let of_online = lost.saturating_sub(away.len() - 1)..=lost.min(online.len() - 1);
        sum += of_online.map(|count| online[count] * away[lost - count]).sum::<f64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_that_is_lost_or_away_makes_survival_less_sure() {
        let chart = SurvivalChart::new();
        for k in [1, 2, 4, 8, 16] {
            for online in k..40 {
                for away in 0..40 - online {
                    let survival = chart.survival(k, online, away, 0);
                    assert!(survival <= chart.survival(k, online + 1, away, 0), "{k} {online} {away}");
                    assert!(survival <= chart.survival(k, online, away + 1, 0), "{k} {online} {away}");
                    assert!(survival >= chart.survival(k, online - 1, away + 1, 0), "{k} {online} {away}");
                }
            }
        }
    }

    #[test]
    fn the_chance_is_that_of_the_binomial_distribution() {
        // 16 online shards without a spare: one loss of 16 is enough.
        let chance: f64 = 1.0 - (1.0 - LOST_WHILE_ONLINE).powi(16);
        let nines = SurvivalChart::new().survival(16, 16, 0, 0).hundredths_of_nines();
        assert_eq!(nines, whole_hundredths(-chance.log10()));
        // Two copies away: both have to be lost.
        assert_eq!(SurvivalChart::new().survival(1, 0, 2, 0).hundredths_of_nines(), 120);
    }

    #[test]
    fn the_survival_of_a_bundle_that_nine_others_need_is_ten_times_less_sure() {
        let chart = SurvivalChart::new();
        let (alone, needed) = (chart.survival(8, 20, 0, 0), chart.survival(8, 20, 0, 9));
        assert_eq!(alone.hundredths_of_nines() - needed.hundredths_of_nines(), 100);
        assert!(needed < alone);
    }

    #[test]
    fn nothing_is_sure_of_a_lost_bundle_and_a_full_one_is_hardly_in_danger() {
        let chart = SurvivalChart::new();
        assert_eq!(chart.survival(4, 3, 0, 0).hundredths_of_nines(), 0);
        assert!(chart.survival(16, 40, 0, 0).hundredths_of_nines() > 2_000);
        assert!(chart.survival(16, 20, 0, 0) < chart.survival(4, 11, 1, 0));
    }
}
