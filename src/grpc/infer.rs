//! Infer requests, one by one or in a stream: deadline, admission, answers.
//!
//! The future that waits for the answers *is* the client's interest in them: it is dropped when the client leaves. A stream's requests run side by
//! side, [`IN_FLIGHT`] at most, and are answered in their order; one that fails is told so in its place, and the stream goes on.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tonic::{
    Status,
    codegen::{http::HeaderMap, tokio_stream::wrappers::ReceiverStream},
};

use super::{
    Caller, Shared,
    inbound::Inbound,
    proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse},
    read::read,
    status::{of_tonic, status},
    write,
};
use crate::{
    admission::Refusal,
    clock::{Clock, Time},
    wire::{Asking, Call, Error, Timing, Wanted, check_id, check_room},
};

/// Requests of one stream that are admitted and not answered; the next one is not read before there is room.
const IN_FLIGHT: usize = 64;
/// What a deadline leaves for the reply's way: a tenth of it, and no more than this.
const WAY_BACK_MAX: Duration = Duration::from_millis(10);

/// By when a client wants its answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    clock: Clock,
    timeout: Option<Duration>,
}

impl Patience {
    /// As `grpc-timeout` says, from now on; a call without it waits for as long as it takes. To be asked when the head has come, as the client counts: its message
    /// may follow much later.
    pub(super) fn of(head: &HeaderMap) -> Self {
        let timeout = head.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
        Patience { clock: Clock::start(), timeout }
    }

    /// What the client says.
    pub(super) const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// How long it may take from now on, so that the reply arrives in time.
    fn left(self) -> Option<Duration> {
        let timeout = self.timeout?;
        let reply_by = timeout.saturating_sub((timeout / 10).min(WAY_BACK_MAX));
        Some(reply_by.saturating_sub(self.clock.now().since(Time::ZERO)))
    }
}

/// A duration as gRPC writes it: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| plain)?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A request that could be read, and what admission said.
struct Understood {
    id: Option<String>,
    wanted: Wanted,
    timing: Timing,
    asking: Result<Asking, Error>,
}

impl Understood {
    fn new(shared: &Shared, request: ModelInferRequest, patience: Patience) -> Result<Self, Error> {
        let site = &*shared.site;
        let mut timing = Timing::start();
        check_room(&*site.admission, &site.metrics, &mut timing)?;
        let Call { id, mut terms, wanted, rows } = read(request, &site.signature, site.limits.queue_max)?;
        timing.read();
        terms.timeout = terms.timeout.into_iter().chain(patience.left()).min();
        let asking = Asking::admit(&*site.admission, &shared.drain, &rows, terms);
        Ok(Understood { id, wanted, timing, asking })
    }

    async fn response(self, shared: &Shared) -> Result<ModelInferResponse, Error> {
        let Understood { id, wanted, mut timing, asking } = self;
        let site = &*shared.site;
        let predictions = match asking {
            Ok(asking) => asking.predictions().await,
            Err(refused) => Err(refused),
        };
        timing.answered(&site.metrics, &predictions);
        let predictions = predictions?;
        let response = write::response(site, id, wanted, &predictions);
        timing.written(&site.metrics, predictions.len());
        Ok(response)
    }
}

/// Answers one request.
pub(super) async fn one(
    shared: &Shared,
    request: ModelInferRequest,
    patience: Patience,
) -> Result<ModelInferResponse, Error> {
    Understood::new(shared, request, patience)?.response(shared).await
}

/// What a stream has read, in its order.
enum Item {
    Request {
        id: String,
        understood: Result<Understood, Error>,
    },
    /// Nothing follows, and why.
    End(Status),
}

type Responses = mpsc::Sender<Result<ModelStreamInferResponse, Status>>;

/// Answers a stream of requests.
pub(super) fn stream(
    shared: &Arc<Shared>,
    caller: Caller,
    requests: Inbound,
    patience: Patience,
) -> ReceiverStream<Result<ModelStreamInferResponse, Status>> {
    let (items, admitted) = mpsc::channel(IN_FLIGHT);
    let (responses, answered) = mpsc::channel(1);
    tokio::spawn(admit(Arc::clone(shared), caller.clone(), requests, patience, items));
    tokio::spawn(answer(Arc::clone(shared), caller, admitted, responses));
    ReceiverStream::new(answered)
}

/// Reads requests and admits them, until there are no more, or nobody wants them.
async fn admit(
    shared: Arc<Shared>,
    caller: Caller,
    mut requests: Inbound,
    patience: Patience,
    items: mpsc::Sender<Item>,
) {
    loop {
        // Admission follows the look for room, so that what is admitted is waited for.
        let Ok(room) = items.reserve().await else { return };
        let message = tokio::select! {
            biased;
            () = shared.drain.left() => return room.send(Item::End(status(&Refusal::Draining.into()))),
            () = items.closed() => return,
            message = requests.message() => message,
        };
        match message {
            Ok(Some(request)) => {
                // One that is refused for its length is not sent back either.
                let id = if check_id(&request.id).is_ok() { request.id.clone() } else { String::new() };
                room.send(Item::Request { id, understood: Understood::new(&shared, request, patience) });
            }
            Ok(None) => return,
            Err(refused) => {
                let error = of_tonic(&refused, &shared, &caller);
                let refused = error.map_or(refused, |error| {
                    shared.unanswered(&caller, &error);
                    status(&error)
                });
                return room.send(Item::End(refused));
            }
        }
    }
}

/// Answers them in their order, until its client leaves.
async fn answer(shared: Arc<Shared>, caller: Caller, mut admitted: mpsc::Receiver<Item>, responses: Responses) {
    loop {
        let reply = async {
            match admitted.recv().await? {
                Item::Request { id, understood } => Some(Ok(reply(&shared, &caller, id, understood).await)),
                Item::End(status) => Some(Err(status)),
            }
        };
        let reply = tokio::select! {
            biased;
            () = responses.closed() => return,
            reply = reply => reply,
        };
        let Some(reply) = reply else { return };
        if responses.send(reply).await.is_err() {
            return;
        }
    }
}

async fn reply(
    shared: &Shared,
    caller: &Caller,
    id: String,
    understood: Result<Understood, Error>,
) -> ModelStreamInferResponse {
    let answered = match understood {
        Ok(understood) => understood.response(shared).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(response) => {
            Shared::answered(caller);
            write::streamed(response)
        }
        Err(error) => {
            shared.unanswered(caller, &error);
            write::failed(id, &error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, read) in [
            ("2S", Some(Duration::from_secs(2))),
            ("150m", Some(Duration::from_millis(150))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("5u", Some(Duration::from_micros(5))),
            ("1M", Some(Duration::from_mins(1))),
        ] {
            assert_eq!(timeout(text), read, "{text}");
        }
        for text in ["", "S", "5", "5s", "-5S", "+5S", "1.5S", "123456789S", "é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }

    #[test]
    fn the_way_back_is_a_tenth_and_never_long() {
        let left = |timeout| Patience { clock: Clock::start(), timeout: Some(timeout) }.left().expect("a timeout");
        assert!(left(Duration::from_secs(2)) <= Duration::from_millis(1990));
        assert!(left(Duration::from_secs(2)) > Duration::from_millis(1900));
        assert!(left(Duration::from_millis(10)) <= Duration::from_millis(9));
        assert_eq!(left(Duration::ZERO), Duration::ZERO);
    }
}
