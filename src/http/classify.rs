//! One picture in, its classes out: `POST …/classify`, for people with curl.
//!
//! A request in a convenient form and nothing else: the picture becomes one row, which goes through admission like a row of any infer request,
//! with the same terms, provenances and errors. What the caller asks for stands in the query of the address, so that the body is the file and
//! nothing else; a word there that is not known is refused, because nobody but people write it, and people mistype.
//!
//! Decoding takes milliseconds to a second of one core. It happens on the runtime's threads for such work: on a lane it would make queries late,
//! and on a thread that carries sockets it would hold up every connection there. Only [`Decoders`] many run at once, because they compete with CPU
//! lanes, and because each may hold some hundred MiB; one that gets no place soon is refused like any other request for which there is no room.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{
    body::Allowance,
    form,
    outputs::Parameters,
    picture::{Canvas, FILE_BYTES_MAX},
    respond,
    respond::Reply,
    route::{Asked, Shared, decode},
};
use crate::{
    admission::{Refusal, Terms},
    query::{Accepts, Confidence, Prediction, Rows, Signature},
    wire::{ClientError, Crowd, Error, Held, MIN_CONFIDENCE, Timing, check_room, highest, predictions},
};

/// Pictures that are decoded at once.
const DECODERS: usize = 2;
/// The longest wait for one of them.
const DECODER_WAIT: Duration = Duration::from_secs(1);
/// Classes in a reply, if nobody asks for more or fewer.
const TOP_K: usize = 5;

/// Where pictures are decoded.
#[derive(Debug)]
pub(super) struct Decoders(Arc<Semaphore>);

impl Default for Decoders {
    fn default() -> Self {
        Decoders(Arc::new(Semaphore::new(DECODERS)))
    }
}

impl Decoders {
    /// The row of a picture; `boundary` if it stands in a form. A decoding that has begun ends, though its client may have left, and its place is
    /// taken until then.
    async fn row(&self, canvas: Canvas, body: Held, boundary: Option<String>) -> Result<Arc<[f32]>, Error> {
        let place = tokio::time::timeout(DECODER_WAIT, Arc::clone(&self.0).acquire_owned()).await;
        let place = place.map_err(|_| Crowd::Pictures)?.expect("the semaphore is never closed");
        let decoded = tokio::task::spawn_blocking(move || {
            let _place = place;
            let bytes = body.as_ref();
            let file = boundary.map_or(Ok(0..bytes.len()), |boundary| form::file(bytes, &boundary))?;
            canvas.row(&bytes[file])
        });
        // A decoder that panics has met a file that it cannot read; the log has the place.
        let unreadable = |_| Err(ClientError::picture("its decoder gave up"));
        decoded.await.unwrap_or_else(unreadable).map_err(Error::from)
    }
}

/// What the query of the address asks for.
#[derive(PartialEq, Debug)]
struct Wish {
    top_k: usize,
    direct_only: bool,
    min_confidence: Option<Confidence>,
    timeout: Option<Duration>,
}

impl Wish {
    fn read(query: &str) -> Result<Self, ClientError> {
        let mut wish = Wish { top_k: TOP_K, direct_only: false, min_confidence: None, timeout: None };
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text =
                |text: &str| decode(text).ok_or_else(|| ClientError::field("query", "it is not percent-encoded text"));
            let (name, value) = (text(name)?, text(value)?);
            wish.take(&name, &value)?;
            if seen.contains(&name) {
                return Err(ClientError::field(name, "given twice"));
            }
            seen.push(name);
        }
        Ok(wish)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), ClientError> {
        let wrong = |field: &'static str, expected: &str| {
            ClientError::field(field, format!("{expected} is expected, not {value:?}"))
        };
        match name {
            "top_k" => {
                let count = digits(value).filter(|&count| count > 0);
                let count = count.ok_or_else(|| wrong("top_k", "a whole number from 1 on"))?;
                // More than there are classes are all of them.
                self.top_k = usize::try_from(count).unwrap_or(usize::MAX);
            }
            "allow_reconstructed" => {
                let allowed = value.parse::<bool>().map_err(|_| wrong("allow_reconstructed", "true or false"))?;
                self.direct_only = !allowed;
            }
            "min_confidence" => {
                let least = value.parse().ok().and_then(Confidence::new);
                self.min_confidence = Some(least.ok_or_else(|| wrong("min_confidence", "a number from 0 to 1"))?);
            }
            "timeout_us" => {
                let micros = digits(value).ok_or_else(|| wrong("timeout_us", "a whole number of microseconds"))?;
                // 0 is none, as in an infer request.
                self.timeout = Some(micros).filter(|&micros| micros > 0).map(Duration::from_micros);
            }
            other => {
                let known = "top_k, allow_reconstructed, min_confidence and timeout_us are known";
                return Err(ClientError::field("query", format!("{other:?}: {known}")));
            }
        }
        Ok(())
    }

    fn terms(&self) -> Terms {
        Terms {
            accepts: if self.direct_only { Accepts::DirectOnly } else { Accepts::Any },
            min_confidence: self.min_confidence,
            timeout: self.timeout,
        }
    }
}

/// A number without a sign. More than fits is as much as fits: of classes and of time that is all there is.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[derive(Serialize)]
struct ClassifyReply<'a> {
    model_name: &'a str,
    model_version: &'a str,
    parameters: Parameters<'a>,
    classes: Vec<Class<'a>>,
}

#[derive(Serialize)]
struct Class<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    /// Not finite, and so `null`, if the outputs are not.
    score: f64,
}

/// Answers `POST …/classify`.
pub(super) async fn classify(shared: &Shared, asked: &mut Asked) -> Result<Reply, Error> {
    let site = &*shared.site;
    let what = "pictures for a model whose input is not [1 or 3, height, width] are";
    let canvas = Canvas::of(&site.signature).ok_or(ClientError::NotServed { what })?;
    let wish = Wish::read(asked.parts.uri.query().unwrap_or_default())?;
    let headers = &asked.parts.headers;
    let boundary = form::boundary(headers)?;
    let allowance = Allowance { bytes_max: FILE_BYTES_MAX, timeout: site.limits.body_timeout, budget: &shared.budget };
    let body = tokio::select! {
        biased;
        read = asked.body.read(headers, allowance) => read?,
        () = shared.drain.begun() => return Err(Refusal::Draining.into()),
    };
    let mut timing = Timing::start();
    check_room(&*site.admission, &site.metrics, &mut timing)?;
    let row = tokio::select! {
        biased;
        row = shared.decoders.row(canvas, body, boundary) => row,
        () = shared.drain.begun() => Err(Refusal::Draining.into()),
    };
    // Like a room that is not there: who sent a file that is no picture has asked for no inference.
    if let Err(Error::Busy(_) | Error::Refused(_)) = &row {
        timing.answered(&site.metrics, &row);
    }
    let row = row?;
    timing.read();
    let rows = Rows::new(row, site.signature.input.width()).expect("a canvas has the shape of one row");
    let predictions = predictions(&*site.admission, &shared.drain, rows, wish.terms()).await;
    timing.answered(&site.metrics, &predictions);
    let reply = written(&site.signature, wish.top_k, &predictions.map_err(own_field)?);
    timing.written(&site.metrics, 1);
    Ok(reply)
}

/// The error with the field's name as it is here.
fn own_field(error: Error) -> Error {
    match &error {
        Error::Client(ClientError::Field { field, problem }) if field == MIN_CONFIDENCE => {
            ClientError::field("min_confidence", problem.clone()).into()
        }
        Error::Client(_) | Error::Busy(_) | Error::Refused(_) | Error::Failed { .. } => error,
    }
}

fn written(signature: &Signature, top_k: usize, predictions: &[Prediction]) -> Reply {
    let values = predictions.first().map_or(&[][..], |prediction| &prediction.values);
    let scores = softmax(values);
    let class =
        |index: usize| Class { index, label: signature.labels.get(index).map(String::as_str), score: scores[index] };
    let reply = ClassifyReply {
        model_name: &signature.name,
        model_version: &signature.version,
        parameters: Parameters::of(predictions),
        classes: highest(values, top_k).into_iter().map(class).collect(),
    };
    respond::json(StatusCode::OK, &reply)
}

/// Shares that add up to 1, in the order of the logits. Outputs that are not finite have none.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
    // From the highest down, so that nothing overflows.
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{query::TensorSpec, wire::Budget};

    #[test]
    fn a_wish_is_read_whole_or_refused_by_name() {
        let plain = Wish { top_k: 5, direct_only: false, min_confidence: None, timeout: None };
        for text in ["", "&", "allow_reconstructed=true", "timeout_us=0", "top%5Fk=5"] {
            assert_eq!(Wish::read(text).as_ref(), Ok(&plain), "{text}");
        }
        let all = Wish::read("top_k=99999999999999999999&allow_reconstructed=false&min_confidence=0.5&timeout_us=7");
        let most = usize::MAX;
        let least = Confidence::new(0.5);
        let timeout = Some(Duration::from_micros(7));
        assert_eq!(all, Ok(Wish { top_k: most, direct_only: true, min_confidence: least, timeout }));
        for (text, field) in [
            ("top_k=0", "top_k"),
            ("top_k=+1", "top_k"),
            ("top_k", "top_k"),
            ("top_k=5&top_k=5", "top_k"),
            ("allow_reconstructed=1", "allow_reconstructed"),
            ("min_confidence=1.5", "min_confidence"),
            ("min_confidence=NaN", "min_confidence"),
            ("timeout_us=-1", "timeout_us"),
            ("topk=5", "query"),
            ("top_k=%ff", "query"),
        ] {
            let error = Wish::read(text).expect_err(text);
            assert!(error.to_string().starts_with(&format!("{field}: ")), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn who_gets_no_place_soon_is_refused() {
        let places = Decoders::default();
        let all = u32::try_from(DECODERS).expect("few");
        let taken = Arc::clone(&places.0).acquire_many_owned(all).await.expect("never closed");
        let spec = |shape: &[usize]| TensorSpec { name: "x".into(), shape: shape.into() };
        let canvas = Canvas::of(&Signature {
            name: "m".into(),
            version: "1".into(),
            platform: "p".into(),
            input: spec(&[1, 2, 2]),
            input_range: (0.0, 1.0),
            output: spec(&[2]),
            labels: Vec::new(),
        });
        let canvas = canvas.expect("rows are pictures");
        let budget = Budget::new(100);
        let body = || Held::new(100, &budget);
        assert_eq!(places.row(canvas, body(), None).await, Err(Crowd::Pictures.into()));
        drop(taken);
        let empty = places.row(canvas, body(), None).await.expect_err("no picture");
        assert_eq!(empty.reason(), "bad_picture");
    }

    #[test]
    fn scores_add_up_to_one_and_follow_the_logits() {
        let scores = softmax(&[1.0, 3.0, 2.0, f32::MIN]);
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-12 && scores[1] > scores[2] && scores[2] > scores[0]);
        assert!((softmax(&[f32::MAX, 0.0])[0] - 1.0).abs() < 1e-12, "nothing overflows");
        assert!(softmax(&[f32::INFINITY, 0.0])[0].is_nan(), "and what is not finite has no share");
    }
}
