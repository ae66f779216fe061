//! Answers: who gets which prediction, and when a reconstruction may be served.
//!
//! A reconstruction of a slot that is erased is served at once. Otherwise it waits until the query's grace is over, because most
//! reconstructions that could be served at once turn out to be needless: the direct answer was about to come, and it is exact. What is decoded
//! bears the code's label: reconstructed, approximate (`compact`), or direct (`replica`).
//!
//! A reconstruction of less confidence than its query asks for is held back. Each slot is decoded once, so from then on the query is like
//! one that takes direct answers only: it waits for its run, and is run again at once if that is lost.

use std::{sync::Arc, time::Duration};

use super::{Dispatch, Effect, timers::Due};
use crate::{
    clock::Time,
    config::Grace,
    health::drift::Standing,
    pool::Shared,
    query::{Accepts, Answer, Failure, Prediction, Provenance, Query, Values},
    reply::{Admitted, Late},
    stripe::{Place, Stripe},
};

/// `grace = "auto"` waits this much longer than expected, in 1/100.
const GRACE_PERCENT: u32 = 115;
/// … and at least this much longer, so that timer jitter alone does not end it.
const GRACE_MIN: Duration = Duration::from_millis(5);

impl Dispatch {
    /// The exact answer came.
    pub(super) fn answer_direct(&self, query: &Admitted, output: &Values, now: Time) {
        let prediction = Prediction { values: Arc::clone(output), provenance: Provenance::Direct, confidence: None };
        if self.answer(query, prediction, now).is_err() {
            self.metrics.late.inc();
        }
    }

    /// The first run of a query gave `output`: compares what was decoded for it before, if anything was. What was served counts for the
    /// live `A_d`. For drift, what was held back counts as well: its confidence decides which of the two it is, so either alone
    /// would be a biased sample of what the calibration was fitted on.
    pub(super) fn compare(&self, query: &Admitted, place: Option<&Place>, output: &Values, effects: &mut Vec<Effect>) {
        let is_decoded = |prediction: &&Prediction| {
            matches!(prediction.provenance, Provenance::Reconstructed | Provenance::Approximate)
        };
        let served = query.answered().and_then(|answer| answer.as_ref().ok()).filter(is_decoded);
        let agrees = |decoded: &Values| argmax(decoded) == argmax(output);
        if let Some(served) = served {
            self.metrics.agreement(agrees(&served.values));
        }
        let held = || place.and_then(|place| place.stripe.held(place.slot));
        let decoded = served.map(|served| &served.values).or_else(held);
        if let (Some(drift), Some(decoded)) = (&self.drift, decoded) {
            let mut drift = drift.lock();
            let turn = drift.compared(agrees(decoded));
            // Under the lock, or two turns could be told in the wrong order.
            self.metrics.drifted(drift.standing() == Standing::Drifted);
            effects.extend(turn.map(Effect::Drift));
        }
    }

    fn answer(&self, query: &Admitted, prediction: Prediction, now: Time) -> Result<(), Late> {
        let provenance = prediction.provenance;
        query.answer(Ok(prediction))?;
        self.metrics.answered(provenance, now.since(query.query.admitted));
        Ok(())
    }

    /// The query ends without a prediction, unless it has one.
    pub(super) fn fail(&self, query: &Admitted, failure: Failure) {
        let failed: Answer = Err(failure);
        if query.answer(failed).is_ok() {
            self.metrics.failed(failure.reason(), 1);
        }
    }

    /// Something arrived: serves what may be served now, and sets a timer for what must wait for its grace.
    pub(super) fn decode_ready(&self, stripe: &Shared<Stripe>, now: Time, effects: &mut Vec<Effect>) {
        for slot in stripe.recoverable().iter() {
            let Some(query) = stripe.waiting(slot) else { continue };
            let at = self.grace_ends(&query.query);
            if stripe.is_erased(slot) || at <= now {
                self.reconstruct(stripe, slot, now, effects);
            } else {
                self.timers.add(at, Due::Grace(stripe.clone(), slot));
            }
        }
    }

    /// Decodes a slot and answers its query, or holds back what it decoded: it is too unsure, or not finite, as sums of finite outputs may be.
    pub(super) fn reconstruct(&self, stripe: &Shared<Stripe>, slot: usize, now: Time, effects: &mut Vec<Effect>) {
        let Some(query) = stripe.waiting(slot) else { return };
        let Some(values) = stripe.decode(slot) else { return };
        let is_finite = values.iter().all(|value| value.is_finite());
        let calibration = self.settings.calibration.filter(|_| is_finite);
        let confidence = calibration.map(|calibration| calibration.temperature.confidence(&values));
        let is_unsure = confidence.is_some_and(|confidence| confidence < query.query.min_confidence);
        if is_unsure {
            self.metrics.gated.inc();
        }
        if is_unsure || !is_finite {
            if stripe.hold_back(slot, values) {
                let place = Place { stripe: stripe.clone(), slot };
                self.rescue(query.clone(), Some(place), effects);
            }
            return;
        }
        let prediction = Prediction { values, provenance: stripe.provenance(), confidence };
        if self.answer(query, prediction, now).is_ok() {
            stripe.served();
        }
    }

    /// When a reconstruction may beat the direct answer; never after the deadline.
    fn grace_ends(&self, query: &Query) -> Time {
        let grace = match self.settings.policy.grace {
            Grace::None => Duration::ZERO,
            Grace::Fixed(grace) => grace,
            Grace::Auto => {
                let expected = self.expected();
                (expected * GRACE_PERCENT / 100).max(expected + GRACE_MIN)
            }
        };
        (query.admitted + grace).min(query.deadline)
    }

    /// The deadline has come: the default prediction if there is one and the client takes it, else a failure.
    pub(super) fn expire(&self, query: &Admitted, now: Time) {
        let takes_default = query.query.accepts == Accepts::Any;
        if let Some(values) = self.default_prediction().filter(|_| takes_default) {
            let prediction = Prediction { values, provenance: Provenance::Default, confidence: None };
            // A direct answer may have come this very moment; then it stands.
            self.answer(query, prediction, now).unwrap_or(());
        } else {
            self.fail(query, Failure::Deadline);
        }
    }
}

fn argmax(values: &[f32]) -> Option<usize> {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}
