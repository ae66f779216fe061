//! From checked rows to predictions: admission, the wait, and what the statistics count of it.
//!
//! A request of n rows is n queries, which may run on n lanes and come back with n provenances; here they are one again. It is all or
//! none: the first row that failed fails the request. Dropping an [`Asking`] is how a client leaves: with it goes its
//! [`Pending`](crate::reply::Pending).

use std::sync::Arc;

use super::{Awaited, Drain, Error};
use crate::{
    admission::{Admission, Refusal, Terms},
    clock::{Clock, Time, unix_millis},
    metrics::{Answered, Fault, Metrics},
    query::{Answer, Failure, Prediction, Rows},
    reply::Pending,
};

/// A request that was admitted.
#[derive(Debug)]
pub(crate) struct Asking {
    pending: Pending,
    drain: Arc<Drain>,
    _awaited: Awaited,
}

impl Asking {
    /// Admits all rows of a request, or none.
    pub(crate) fn admit(
        admission: &dyn Admission,
        drain: &Arc<Drain>,
        rows: &Rows,
        terms: Terms,
    ) -> Result<Self, Error> {
        let awaited = drain.await_me();
        let pending = admission.admit(rows, terms)?;
        Ok(Asking { pending, drain: Arc::clone(drain), _awaited: awaited })
    }

    /// Waits for all answers, but not beyond the drain.
    pub(crate) async fn predictions(self) -> Result<Vec<Prediction>, Error> {
        let Asking { pending, drain, _awaited } = self;
        tokio::select! {
            biased;
            answers = pending => all(answers.iter()),
            () = drain.over() => Err(Error::Failed { row: 0, failure: Failure::Stopped }),
        }
    }
}

/// Refuses a request before it is read, if it could not be admitted whatever it says.
pub(crate) fn check_room(admission: &dyn Admission, metrics: &Metrics, timing: &mut Timing) -> Result<(), Error> {
    let room = admission.has_room().map_err(Error::from);
    if room.is_err() {
        timing.answered(metrics, &room);
    }
    room
}

/// Admits all rows of a request, and waits for their answers.
pub(crate) async fn predictions(
    admission: &dyn Admission,
    drain: &Arc<Drain>,
    rows: Rows,
    terms: Terms,
) -> Result<Vec<Prediction>, Error> {
    let asking = Asking::admit(admission, drain, &rows, terms)?;
    drop(rows);
    asking.predictions().await
}

/// The predictions, or the first row's failure.
fn all<'a>(answers: impl Iterator<Item = &'a Answer>) -> Result<Vec<Prediction>, Error> {
    let numbered = answers.cloned().enumerate();
    numbered.map(|(row, answer)| answer.map_err(|failure| Error::Failed { row, failure })).collect()
}

/// Which of the protocol's faults an error is. A client's mistake is none, also where admission is the first to see it.
fn fault(error: &Error) -> Option<Fault> {
    Some(match error {
        Error::Client(_) => return None,
        Error::Busy(_) | Error::Refused(Refusal::Full) | Error::Failed { failure: Failure::Deadline, .. } => {
            Fault::Rejected
        }
        Error::Failed { failure: Failure::QueryFault, .. } => Fault::Backend,
        Error::Refused(_) | Error::Failed { failure: Failure::Stopped, .. } => Fault::Other,
    })
}

/// The times of one request, from its last byte on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    clock: Clock,
    read: Time,
    answered: Time,
}

impl Timing {
    /// It has arrived.
    pub(crate) fn start() -> Self {
        Timing { clock: Clock::start(), read: Time::ZERO, answered: Time::ZERO }
    }

    /// It is understood.
    pub(crate) fn read(&mut self) {
        self.read = self.clock.now();
    }

    /// It is answered, or refused.
    pub(crate) fn answered<T>(&mut self, metrics: &Metrics, answer: &Result<T, Error>) {
        self.answered = self.clock.now();
        let fault = answer.as_ref().err().and_then(fault);
        if let Some(fault) = fault {
            metrics.requests.failed(self.answered.since(Time::ZERO), fault);
        }
    }

    /// Its reply is written.
    pub(crate) fn written(self, metrics: &Metrics, rows: usize) {
        let now = self.clock.now();
        metrics.requests.answered(Answered {
            rows,
            whole: now.since(Time::ZERO),
            reading: self.read.since(Time::ZERO),
            writing: now.since(self.answered),
            at_millis: unix_millis(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Provenance;

    fn prediction(values: &[f32]) -> Prediction {
        Prediction { values: values.into(), provenance: Provenance::Direct, confidence: None }
    }

    #[test]
    fn the_first_failed_row_fails_the_request() {
        let answers = [Ok(prediction(&[1.0])), Err(Failure::QueryFault), Err(Failure::Deadline)];
        let error = all(answers.iter()).expect_err("two rows failed");
        assert_eq!(error, Error::Failed { row: 1, failure: Failure::QueryFault });
    }

    /// A request that asks for what the code cannot tell is refused by admission, and wrong all the same.
    #[test]
    fn a_clients_mistake_is_no_failed_inference() {
        let failures = |error: Error| {
            let metrics = Metrics::new("m", 1).of_version("m", "1");
            Timing::start().answered(&metrics, &Err::<(), _>(error));
            let text = metrics.text();
            let counts = text.lines().filter(|line| line.starts_with("nv_inference_request_failure{"));
            counts.filter(|line| line.ends_with(" 1")).count()
        };
        assert_eq!([Refusal::NotCalibrated, Refusal::Draining].map(|refusal| failures(refusal.into())), [0, 1]);
        assert_eq!(failures(Error::Failed { row: 0, failure: Failure::QueryFault }), 1);
    }
}
