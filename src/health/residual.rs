//! Devices whose answers do not fit together with the others' in complete stripes.
//!
//! *Intuition.* A device that returns finite, wrong values takes part in stripe after stripe, each of which has a larger residual than stripes usually have.
//! So each is held against what is usual, and evidence is added up (Page: Continuous inspection schemes, Biometrika 41, 1954): a stripe adds to the
//! devices that it may blame, and takes from one that it clears, and the sum never falls below 0.
//!
//! *What is usual* differs from code to code by three orders of magnitude and is skewed, so the logarithm of the residual is judged, by its mean and deviation so
//! far. The first `LEARN` stripes only teach; after that each stripe moves the two by a thousandth, by no more than `CLIP` deviations, so that a device that goes wrong slowly is not
//! learned as usual before it is found.
//!
//! *What follows* is a canary, no more: it is exact where a residual is not, and costs a job. So a false alarm costs next to nothing, and this never takes a device
//! out by itself. Each canary doubles the evidence that the device's next one needs; over some hundred stripes that falls back. *Rejected*: judging single stripes (parity models are that far off now and then),
//! and blaming the slot whose answer is the least sure (that is what hard inputs look like).

use crate::query::FaultDomain;

/// Stripes that teach what is usual.
const LEARN: u32 = 64;
/// The weight of each later one.
const ADAPT: f64 = 0.001;
/// Deviations that one stripe can be off.
const CLIP: f64 = 4.0;
/// Deviations above the usual that are no evidence either way.
const ALLOWED: f64 = 1.0;
/// Evidence for a canary.
const ALARM: f64 = 12.0;
/// The most that it is raised to by canaries that were asked for.
const ALARM_MAX: f64 = ALARM * 64.0;
/// What each stripe takes off what was raised: half of it in 350.
const FORGET: f64 = 0.002;
/// The least deviation of the logarithm, for codes that are exact.
const DEVIATION_MIN: f64 = 0.25;
/// Residuals below this are rounding.
const ROUNDING: f64 = 1e-4;

/// What residuals say of each device.
#[derive(Debug)]
pub struct Residuals {
    seen: u32,
    mean: f64,
    /// The sum of squares while it learns, the variance afterwards.
    spread: f64,
    devices: Vec<Evidence>,
}

#[derive(Clone, Copy, Debug)]
struct Evidence {
    sum: f64,
    alarm: f64,
}

impl Residuals {
    /// Nothing was seen yet, of so many devices.
    pub fn new(devices: usize) -> Self {
        let none = Evidence { sum: 0.0, alarm: ALARM };
        Residuals { seen: 0, mean: 0.0, spread: 0.0, devices: vec![none; devices] }
    }

    /// A complete stripe has this residual, and these devices took part. `odd` is called only for a large residual, and names the one device to blame, if the code
    /// can tell. Gives the devices that should run a canary now.
    pub fn seen(
        &mut self,
        residual: f64,
        part: impl IntoIterator<Item = FaultDomain>,
        odd: impl FnOnce() -> Option<FaultDomain>,
    ) -> Vec<FaultDomain> {
        let log = residual.max(ROUNDING).ln();
        let Some(off) = self.learn(log) else { return Vec::new() };
        let odd = if off > ALLOWED { odd() } else { None };
        let mut doubtful = Vec::new();
        for device in part {
            let Some(evidence) = self.devices.get_mut(usize::from(device.0)) else { continue };
            evidence.alarm = (evidence.alarm * (1.0 - FORGET)).max(ALARM);
            let is_blamed = odd.is_none_or(|odd| odd == device);
            let step = if is_blamed { off - ALLOWED } else { -off.abs() };
            evidence.sum = (evidence.sum + step).max(0.0);
            if evidence.sum >= evidence.alarm {
                *evidence = Evidence { sum: 0.0, alarm: (evidence.alarm * 2.0).min(ALARM_MAX) };
                doubtful.push(device);
            }
        }
        doubtful
    }

    /// How many deviations above the usual it is; `None` while there is no usual.
    fn learn(&mut self, log: f64) -> Option<f64> {
        self.seen = self.seen.saturating_add(1);
        let apart = log - self.mean;
        if self.seen <= LEARN {
            // Welford's method.
            self.mean += apart / f64::from(self.seen);
            self.spread += apart * (log - self.mean);
            if self.seen == LEARN {
                self.spread /= f64::from(LEARN - 1);
            }
            return None;
        }
        let deviation = self.spread.sqrt().max(DEVIATION_MIN);
        let off = (apart / deviation).clamp(-CLIP, CLIP);
        self.mean += ADAPT * off * deviation;
        self.spread += ADAPT * ((off * deviation).powi(2) - self.spread);
        Some(off)
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const DEVICES: [FaultDomain; 3] = [FaultDomain(0), FaultDomain(1), FaultDomain(2)];

    /// A skewed residual around 0.3.
    fn usual(random: &mut ChaCha8Rng) -> f64 {
        let sum: f64 = (0..6).map(|_| random.random_range(-0.5..0.5)).sum();
        0.3 * (0.7 * sum).exp()
    }

    fn taught(random: &mut ChaCha8Rng) -> Residuals {
        let mut residuals = Residuals::new(DEVICES.len());
        for _ in 0..LEARN {
            assert!(residuals.seen(usual(random), DEVICES, || None).is_empty());
        }
        residuals
    }

    #[test]
    fn a_device_that_is_blamed_again_and_again_is_to_prove_itself_and_the_others_are_not() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut residuals = taught(&mut random);
        let mut stripes = 0;
        let doubtful = loop {
            stripes += 1;
            let doubtful = residuals.seen(1.4, DEVICES, || Some(FaultDomain(1)));
            if !doubtful.is_empty() {
                break doubtful;
            }
        };
        assert_eq!(doubtful, [FaultDomain(1)]);
        assert!((4..=10).contains(&stripes), "{stripes}");
        assert!(residuals.seen(1.4, DEVICES, || Some(FaultDomain(1))).is_empty(), "the evidence begins anew");
    }

    #[test]
    fn where_nothing_can_be_told_apart_all_that_took_part_are_asked() {
        let mut residuals = taught(&mut ChaCha8Rng::seed_from_u64(2));
        let asked =
            (0..20).map(|_| residuals.seen(1.4, DEVICES[..2].iter().copied(), || None)).find(|asked| !asked.is_empty());
        assert_eq!(asked.unwrap(), DEVICES[..2]);
    }

    #[test]
    fn usual_stripes_ask_nobody() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut residuals = taught(&mut random);
        let asked: usize = (0..1_000_000).map(|_| residuals.seen(usual(&mut random), DEVICES, || None).len()).sum();
        assert!(asked <= 3, "{asked} canaries for nothing in a million stripes");
    }

    #[test]
    fn a_device_that_was_asked_needs_twice_the_evidence_soon_after() {
        let mut residuals = taught(&mut ChaCha8Rng::seed_from_u64(4));
        let mut until =
            || (1..100).find(|_| !residuals.seen(1.4, DEVICES, || Some(FaultDomain(0))).is_empty()).unwrap();
        let (first, second) = (until(), until());
        assert!((2 * first - 2..=2 * first + 2).contains(&second), "{first}, {second}");
    }
}
