//! The engine of a few lines that stands behind both ports' tests.
//!
//! It answers through [`Admitted`], as the real one does, so what is proven about permits and clients that leave holds for the daemon too.

use std::{sync::Mutex, time::Duration};

use parityd::{
    admission::{Admission, Refusal, Terms},
    clock::{Clock, Time},
    pool::Shared,
    query::{Accepts, Answer, Confidence, Failure, Prediction, Provenance, Query, Rows, Signature, TensorSpec},
    reply::{Admitted, Pending, Requests},
};

pub(crate) const QUEUE_MAX: usize = 64;
pub(crate) const ROW: [f32; 4] = [0.5, 1.0, 2.0, 4.0];

/// Rows of 1x2x2, of which two values are made.
pub(crate) fn signature() -> Signature {
    Signature {
        name: "adder".into(),
        version: "1".into(),
        platform: "test".into(),
        input: TensorSpec { name: "input".into(), shape: vec![1, 2, 2] },
        input_range: (0.0, 1.0),
        output: TensorSpec { name: "logits".into(), shape: vec![2] },
        labels: vec!["cat".into(), "dog".into()],
    }
}

/// An engine that adds each row up. A row whose first value is negative fails by number; odd rows come back reconstructed.
pub(crate) struct Adder {
    requests: Requests,
    pub(crate) refusal: Mutex<Option<Refusal>>,
    /// What the last request asked of its answers.
    asked: Mutex<Option<Terms>>,
    /// Admitted and not answered, while the engine holds its answers back.
    held: Mutex<Option<Vec<Shared<Admitted>>>>,
}

impl Adder {
    pub(crate) fn new() -> Self {
        let requests = Requests::new(QUEUE_MAX);
        Adder { requests, refusal: Mutex::default(), asked: Mutex::default(), held: Mutex::default() }
    }

    fn answer(admitted: &Admitted, index: usize) {
        let row = &admitted.query.row;
        let failure = [(-1.0, Failure::Deadline), (-2.0, Failure::QueryFault), (-3.0, Failure::Stopped)];
        let failed = failure.iter().find(|(first, _)| (row[0] - first).abs() < f32::EPSILON);
        let confidence = Confidence::new(0.75).unwrap();
        let provenance = match admitted.query.accepts {
            Accepts::Any if index % 2 == 1 && confidence >= admitted.query.min_confidence => Provenance::Reconstructed,
            Accepts::Any | Accepts::DirectOnly => Provenance::Direct,
        };
        let confidence = (provenance == Provenance::Reconstructed).then_some(confidence);
        let sum = row.iter().sum::<f32>();
        let answer: Answer = match failed {
            Some((_, failure)) => Err(*failure),
            None => Ok(Prediction { values: [sum, f32::MAX * sum].into(), provenance, confidence }),
        };
        admitted.answer(answer).expect("nobody else answers");
    }

    pub(crate) fn hold(&self) {
        *self.held.lock().unwrap() = Some(Vec::new());
    }

    pub(crate) fn held(&self) -> Vec<Shared<Admitted>> {
        self.held.lock().unwrap().clone().unwrap_or_default()
    }

    pub(crate) fn release(&self) {
        for (index, admitted) in self.held.lock().unwrap().take().unwrap_or_default().iter().enumerate() {
            Adder::answer(admitted, index);
        }
    }

    /// Refuses from now on.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap() = Some(refusal);
    }

    /// What the last request asked of its answers.
    pub(crate) fn terms(&self) -> Terms {
        self.asked.lock().unwrap().expect("something was admitted")
    }

    pub(crate) fn taken(&self) -> usize {
        self.requests.admitted()
    }
}

impl Admission for Adder {
    fn has_room(&self) -> Result<(), Refusal> {
        match *self.refusal.lock().unwrap() {
            Some(refusal @ (Refusal::Full | Refusal::NotReady | Refusal::Draining)) => Err(refusal),
            Some(Refusal::TooManyRows { .. } | Refusal::NotCalibrated) | None => Ok(()),
        }
    }

    fn admit(&self, rows: &Rows, terms: Terms) -> Result<Pending, Refusal> {
        if let Some(refusal) = *self.refusal.lock().unwrap() {
            return Err(refusal);
        }
        *self.asked.lock().unwrap() = Some(terms);
        let query = |row| Query {
            row,
            admitted: Time::ZERO,
            deadline: Time::ZERO,
            accepts: terms.accepts,
            min_confidence: terms.min_confidence.unwrap_or(Confidence::NONE),
            in_range: true,
        };
        let (entering, pending) = self.requests.admit(rows.iter().map(query)).ok_or(Refusal::Full)?;
        let admitted: Vec<_> = entering.collect();
        if let Some(held) = self.held.lock().unwrap().as_mut() {
            held.extend(admitted);
        } else {
            std::thread::spawn(move || {
                for (index, admitted) in admitted.iter().enumerate() {
                    Adder::answer(admitted, index);
                }
            });
        }
        Ok(pending)
    }

    fn readiness(&self) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().map_or(Ok(()), Err)
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::start();
    while !holds() {
        assert!(clock.now().since(Time::ZERO) < Duration::from_secs(10), "{what} never came");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
