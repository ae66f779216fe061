//! Whether reconstructions still agree with the base model as often as their calibration found.
//!
//! Each comparison of a reconstruction with the direct answer that came later is told as one bit. A cumulative sum (Page: Continuous
//! inspection schemes, Biometrika 41, 1954) weighs the bits: each adds the logarithm of how much likelier it is if answers differ with twice the
//! odds than if they differ as often as the calibration allows, and the sum never falls below 0. So its window is as long as the evidence
//! asks for: everything since it last stood at 0. Some thirty comparisons show that another model answers, some hundreds that the odds have doubled.
//!
//! *False alarms.* "As often as the calibration allows" is the upper confidence limit of the share that differed there (Wilson, JASA 22,
//! 1927, at `Z`), since a few thousand rows know that share to half a point only. While live answers differ no more often, the mean number of
//! comparisons to a false alarm is at least `ALARM_ODDS` (Lorden, Ann. Math. Statist. 42, 1971), and n comparisons raise one with a
//! probability of at most n / `ALARM_ODDS`. The alarm ends by the same rule with the two hypotheses exchanged, at `CLEAR_ODDS`: between
//! them lies the hysteresis.
//!
//! Better agreement than expected is no alarm: easy inputs do that, and nobody would act on it.

/// The calibration's share is less than the limit with all but one in two thousand of its samples.
const Z: f64 = 3.29;

/// Evidence for an alarm, and the mean number of comparisons to a false one at least.
const ALARM_ODDS: f64 = 1e6;

/// Evidence for its end, and the mean number of comparisons to a false end at least, if the odds of differing have doubled.
const CLEAR_ODDS: f64 = 1e4;

/// How live agreement stands to the calibration's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// As expected, or better.
    Expected,
    /// Too low.
    Drifted,
}

/// A change of standing, with what it rests on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Turn {
    /// The new standing.
    pub to: Standing,
    /// The calibration's share of agreement.
    pub expected: f64,
    /// The share among the comparisons that speak for the turn.
    pub live: f64,
    /// How many those are.
    pub compared: u64,
}

/// The comparisons of one code.
#[derive(Clone, Copy, Debug)]
pub struct Drift {
    expected: f64,
    /// What a comparison adds to the evidence for drift, if the answers agree (below 0) and if they differ (above 0).
    steps: [f64; 2],
    standing: Standing,
    /// For the other standing, as a logarithm; never below 0.
    evidence: f64,
    agreed: u64,
    compared: u64,
}

impl Drift {
    /// Nothing compared yet, under a calibration that found a share `agreement` on `rows` rows.
    pub fn new(agreement: f64, rows: usize) -> Self {
        let allowed = upper_limit(1.0 - agreement, rows);
        // A share with twice the odds of q is 2q / (1 + q).
        let steps = [-allowed.ln_1p(), f64::ln(2.0) - allowed.ln_1p()];
        Drift { expected: agreement, steps, standing: Standing::Expected, evidence: 0.0, agreed: 0, compared: 0 }
    }

    /// How it stands.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// One more comparison.
    pub fn compared(&mut self, agree: bool) -> Option<Turn> {
        if self.evidence <= 0.0 {
            (self.evidence, self.agreed, self.compared) = (0.0, 0, 0);
        }
        self.compared += 1;
        self.agreed += u64::from(agree);
        let step = self.steps[usize::from(!agree)];
        let (for_other, to, enough) = match self.standing {
            Standing::Expected => (step, Standing::Drifted, ALARM_ODDS),
            Standing::Drifted => (-step, Standing::Expected, CLEAR_ODDS),
        };
        self.evidence += for_other;
        if self.evidence < enough.ln() {
            return None;
        }
        let live = self.agreed as f64 / self.compared as f64;
        let turn = Turn { to, expected: self.expected, live, compared: self.compared };
        (self.standing, self.evidence) = (to, 0.0);
        Some(turn)
    }
}

/// Wilson's upper limit of a share that was `share` in `rows`.
fn upper_limit(share: f64, rows: usize) -> f64 {
    let (n, z) = (rows.max(1) as f64, Z);
    let middle = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    ((middle + half) / (1.0 + z * z / n)).min(1.0)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    /// (agreement, rows) of calibrations like the shipped ones.
    const CALIBRATIONS: [(f64, usize); 4] = [(0.955, 5000), (0.934, 5000), (0.85, 5000), (0.72, 5000)];

    /// Feeds comparisons that agree with a share `agreement`; the turns, each with the number of comparisons before it.
    fn feed(drift: &mut Drift, random: &mut ChaCha8Rng, agreement: f64, comparisons: usize) -> Vec<(usize, Standing)> {
        (0..comparisons)
            .filter_map(|n| drift.compared(random.random_bool(agreement)).map(|turn| (n, turn.to)))
            .collect()
    }

    #[test]
    fn the_limit_is_wilsons() {
        assert!((upper_limit(0.066, 5000) - 0.0787).abs() < 5e-4);
        assert!(upper_limit(0.0, 100) > 0.05, "none in a hundred is not never");
        assert!(upper_limit(1.0, 10) <= 1.0);
    }

    /// Ten thousand times the least that an alarm takes, and a share that lies two standard errors of the calibration below it.
    #[test]
    fn the_calibrated_rate_never_alarms() {
        for (seed, (agreement, rows)) in CALIBRATIONS.into_iter().enumerate() {
            let standard_error = f64::sqrt(agreement * (1.0 - agreement) / rows as f64);
            for live in [agreement, agreement - 2.0 * standard_error] {
                let mut drift = Drift::new(agreement, rows);
                let mut random = ChaCha8Rng::seed_from_u64(seed as u64);
                let turns = feed(&mut drift, &mut random, live, 300_000);
                assert_eq!(turns, [], "{live} under {agreement}");
            }
        }
    }

    #[test]
    fn a_drop_alarms_soon_and_its_end_clears() {
        for (agreement, rows) in CALIBRATIONS {
            for seed in 0..20 {
                let (mut drift, mut random) = (Drift::new(agreement, rows), ChaCha8Rng::seed_from_u64(seed));
                assert_eq!(feed(&mut drift, &mut random, agreement, 5_000), []);
                let doubled = 2.5 * (1.0 - agreement) / agreement;
                let turns = feed(&mut drift, &mut random, 1.0 / (1.0 + doubled), 3_000);
                assert!(matches!(turns[..], [(_, Standing::Drifted)]), "{agreement}, {seed}: {turns:?}");
                let turns = feed(&mut drift, &mut random, agreement, 5_000);
                assert!(matches!(turns[..], [(_, Standing::Expected)]), "{agreement}, {seed}: {turns:?}");
            }
        }
    }

    #[test]
    fn answers_of_another_model_alarm_within_a_hundred() {
        for (agreement, rows) in CALIBRATIONS {
            for seed in 0..20 {
                let (mut drift, mut random) = (Drift::new(agreement, rows), ChaCha8Rng::seed_from_u64(seed));
                let turns = feed(&mut drift, &mut random, 0.1, 100);
                assert_eq!(turns.first().map(|(_, to)| *to), Some(Standing::Drifted), "{agreement}");
            }
        }
    }

    #[test]
    fn a_turn_tells_what_it_rests_on() {
        let mut drift = Drift::new(0.9, 5000);
        assert!((0..1_000).all(|_| drift.compared(true).is_none()));
        let turn = (0..100).find_map(|_| drift.compared(false)).unwrap();
        assert_eq!((turn.to, drift.standing()), (Standing::Drifted, Standing::Drifted));
        assert!(turn.live < 0.01 && turn.compared < 40, "what came before says nothing about now: {turn:?}");
    }
}
