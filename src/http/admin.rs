//! The admin routes: what the lanes are doing, and faults for tests and demonstrations.
//!
//! They exist only when they are configured. A page in an operator's browser must not be able to break a lane: a POST needs a JSON content
//! type, which a plain form cannot send, and an `Origin` that is absent or this host's own. What a browser sends must also name the host by its address or as `localhost`:
//! a page of another site, whose name has come to mean this machine meanwhile (DNS rebinding), is its own origin. A request with neither header does not come from a page.

use std::net::IpAddr;

use hyper::{
    HeaderMap, StatusCode,
    header::{HOST, ORIGIN},
    http::uri::Authority,
};
use serde::{
    Deserialize, Serialize,
    de::{Error as _, Unexpected},
};
use serde_json::json;

use super::{
    Lanes,
    body::Allowance,
    infer::is_type,
    respond,
    respond::Reply,
    route::{Asked, Shared},
};
use crate::{
    admission::Refusal,
    job::{Fault, Garbage, LaneEvent, LaneReport},
    query::LaneId,
    wire::{ClientError, Error, UnknownLane},
};

/// The longest body of a fault.
const FAULT_BYTES_MAX: usize = 4096;

/// A fault in JSON, as it is posted and as it is reported.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"kind\": \"hang\"}")]
struct FaultBody {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f64>,
    /// Of garbage: how it is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<String>,
    /// Of `bit_flip`: which bit, counted through all values of an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<u32>,
}

#[derive(Serialize)]
struct LaneBody<'a> {
    id: u16,
    device: &'a str,
    role: &'static str,
    state: &'static str,
    reason: &'a str,
    fault: Option<FaultBody>,
}

/// Answers `GET /admin/lanes`.
pub(super) fn report(lanes: &dyn Lanes) -> Reply {
    let reports = lanes.report();
    respond::json(StatusCode::OK, &reports.iter().map(lane).collect::<Vec<_>>())
}

#[derive(Serialize)]
struct EventBody<'a> {
    seconds_ago: f64,
    lane: u16,
    from: &'static str,
    to: &'static str,
    reason: &'a str,
}

/// Answers `GET /admin/events`.
pub(super) fn events(lanes: &dyn Lanes) -> Reply {
    let events = lanes.events();
    let event = |event: &'_ LaneEvent| {
        let (seconds_ago, lane) = (event.age.as_secs_f64(), event.lane.0);
        json!(EventBody { seconds_ago, lane, from: event.from, to: event.to, reason: &event.reason })
    };
    respond::json(StatusCode::OK, &events.iter().map(event).collect::<Vec<_>>())
}

fn lane(report: &LaneReport) -> LaneBody<'_> {
    LaneBody {
        id: report.id.0,
        device: &report.device,
        role: report.role.as_str(),
        state: report.state,
        reason: &report.reason,
        fault: report.fault.map(told),
    }
}

fn told(fault: Fault) -> FaultBody {
    let plain = |kind: &str| FaultBody { kind: kind.to_owned(), factor: None, how: None, place: None };
    match fault {
        Fault::Slow { factor } => FaultBody { factor: Some(factor), ..plain("slow") },
        Fault::Hang => plain("hang"),
        Fault::Stuck => plain("stuck"),
        Fault::Panic => plain("panic"),
        Fault::Error => plain("error"),
        Fault::Fatal => plain("fatal"),
        Fault::Poison => plain("poison"),
        Fault::OutOfMemory => plain("out_of_memory"),
        Fault::Nan => plain("nan"),
        Fault::Garbage(how) => {
            let place = if let Garbage::BitFlip(place) = how { Some(place) } else { None };
            FaultBody { how: how.as_str().map(str::to_owned), place, ..plain("garbage") }
        }
    }
}

/// Answers `POST /admin/lanes/{id}/fault`.
pub(super) async fn fault(shared: &Shared, asked: &mut Asked, lanes: &dyn Lanes, lane: &str) -> Result<Reply, Error> {
    let headers = &asked.parts.headers;
    if is_foreign(headers) {
        return Err(ClientError::ForeignOrigin.into());
    }
    if !is_type(headers, "application/json") {
        let expected = "application/json; with curl, add -H 'Content-Type: application/json'";
        return Err(ClientError::WrongType { expected }.into());
    }
    let timeout = shared.site.limits.body_timeout;
    let allowance = Allowance { bytes_max: FAULT_BYTES_MAX, timeout, budget: &shared.budget };
    let body = tokio::select! {
        biased;
        read = asked.body.read(headers, allowance) => read?,
        () = shared.drain.begun() => return Err(Refusal::Draining.into()),
    };
    let id = lane_id(lane).ok_or(ClientError::from(UnknownLane))?;
    lanes.set_fault(id, parse(body.as_ref())?).map_err(ClientError::from)?;
    Ok(respond::nothing())
}

/// What a browser says of a request to a host that it trusts, and a page cannot change. To others it says `Origin` with every POST, and that is enough for them.
const FETCH_SITE: &str = "sec-fetch-site";

/// Whether a browser says that another site's page asks, or a page of a host whose name is not this machine's for sure.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return headers.contains_key(FETCH_SITE) && !is_named_by_address(headers);
    };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let is_own = authority.zip(host(headers)).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
    !is_own || !is_named_by_address(headers)
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Whether the host is named by what no other site's owner can make mean this machine.
fn is_named_by_address(headers: &HeaderMap) -> bool {
    let Some(authority) = host(headers).and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// A lane's id, written as `GET /admin/lanes` tells it: no sign, no zeros in front.
fn lane_id(text: &str) -> Option<LaneId> {
    text.parse().ok().filter(|id: &u16| id.to_string() == text).map(LaneId)
}

/// The fault that a body asks for; `None` clears.
fn parse(body: &[u8]) -> Result<Option<Fault>, ClientError> {
    let body = read(body)?;
    let kind = body.kind.as_str();
    let is_bit_flip = kind == "garbage" && body.how.as_deref() == Some("bit_flip");
    let fields = [
        ("factor", body.factor.is_some(), kind == "slow", "slow"),
        ("how", body.how.is_some(), kind == "garbage", "garbage"),
        ("place", body.place.is_some(), is_bit_flip, "garbage with how = bit_flip"),
    ];
    // Whoever says more than a fault has means another one.
    let stray = fields.into_iter().find(|&(_, is_given, belongs, _)| is_given && !belongs);
    let fault = fault_of(&body)?;
    match stray {
        Some((field, _, _, of)) => Err(ClientError::field(field, format!("is for {of}"))),
        None => Ok(fault),
    }
}

/// A body with its fields, which are named: in a list, that serde would take as well, nobody could tell which is which.
fn read(body: &[u8]) -> Result<FaultBody, ClientError> {
    let read: FaultBody = serde_json::from_slice(body).map_err(|error| ClientError::json(&error))?;
    if body.trim_ascii_start().starts_with(b"{") {
        return Ok(read);
    }
    let expected = &"an object such as {\"kind\": \"hang\"}";
    Err(ClientError::json(&serde_json::Error::invalid_type(Unexpected::Seq, expected)))
}

fn fault_of(body: &FaultBody) -> Result<Option<Fault>, ClientError> {
    Ok(Some(match body.kind.as_str() {
        "slow" => match body.factor {
            Some(factor) if factor.is_finite() && factor >= 1.0 => Fault::Slow { factor },
            Some(_) | None => return Err(ClientError::field("factor", "slow needs a factor of at least 1")),
        },
        "hang" => Fault::Hang,
        "stuck" => Fault::Stuck,
        "panic" => Fault::Panic,
        "error" => Fault::Error,
        "fatal" => Fault::Fatal,
        "poison" => Fault::Poison,
        "out_of_memory" => Fault::OutOfMemory,
        "nan" => Fault::Nan,
        "garbage" => Fault::Garbage(match body.how.as_deref() {
            None => Garbage::Wrong,
            // Without a place, the highest bit of the first value's exponent but one: a value that is far off, and finite.
            Some("bit_flip") => Garbage::BitFlip(body.place.unwrap_or(29)),
            Some("scaled") => Garbage::Scaled,
            Some("swapped") => Garbage::Swapped,
            Some("layer") => Garbage::Layer,
            Some(other) => {
                let problem = format!("{other:?} is none of bit_flip, scaled, swapped, layer");
                return Err(ClientError::field("how", problem));
            }
        }),
        "clear" => return Ok(None),
        other => {
            let problem = format!(
                "{other:?} is none of slow, hang, stuck, panic, error, fatal, poison, out_of_memory, nan, garbage, clear"
            );
            return Err(ClientError::field("kind", problem));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status::Status;

    #[test]
    fn faults_survive_their_json() {
        let faults = [
            Fault::Slow { factor: 3.0 },
            Fault::Hang,
            Fault::Stuck,
            Fault::Panic,
            Fault::Error,
            Fault::Fatal,
            Fault::Poison,
            Fault::OutOfMemory,
            Fault::Nan,
        ];
        let garbage = [Garbage::Wrong, Garbage::BitFlip(17), Garbage::Scaled, Garbage::Swapped, Garbage::Layer];
        for fault in faults.into_iter().chain(garbage.map(Fault::Garbage)) {
            let text = serde_json::to_vec(&told(fault)).expect("JSON");
            assert_eq!(parse(&text), Ok(Some(fault)));
        }
        assert_eq!(parse(br#"{"kind":"clear"}"#), Ok(None));
    }

    #[test]
    fn a_wrong_fault_is_a_400() {
        for body in ["", "[]", "{}", r#"{"kind":"slow"}"#, r#"{"kind":"slow","factor":0.5}"#, r#"{"kind":"x"}"#] {
            let error = parse(body.as_bytes()).expect_err(body);
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{body}");
        }
        // What serde would take for an object.
        for body in [r#"["hang"]"#, r#" ["slow",2.0]"#] {
            let error = parse(body.as_bytes()).expect_err(body);
            assert!(matches!(&error, ClientError::Json(told) if told.contains("an object such as")), "{body}: {error}");
        }
    }

    #[test]
    fn what_another_fault_has_is_refused_by_name() {
        for (body, field) in [
            (r#"{"kind":"hang","factor":3}"#, "factor"),
            (r#"{"kind":"clear","factor":3}"#, "factor"),
            (r#"{"kind":"panic","how":"scaled"}"#, "how"),
            (r#"{"kind":"panic","place":3}"#, "place"),
            (r#"{"kind":"garbage","place":3}"#, "place"),
            (r#"{"kind":"garbage","how":"scaled","place":3}"#, "place"),
            (r#"{"kind":"slow","factor":3,"how":"scaled"}"#, "how"),
        ] {
            let error = parse(body.as_bytes()).expect_err(body);
            assert!(matches!(&error, ClientError::Field { field: named, .. } if named == field), "{body}: {error}");
        }
        assert_eq!(parse(br#"{"kind":"hang","factor":null,"how":null}"#), Ok(Some(Fault::Hang)));
    }

    #[test]
    fn a_lane_has_one_name() {
        assert_eq!(["0", "17", "65535"].map(lane_id), [0, 17, 65_535].map(|id| Some(LaneId(id))));
        for wrong in ["", "00", "+0", "-0", "01", "0x0", " 0", "65536"] {
            assert_eq!(lane_id(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_this_hosts_own_pages_may_ask() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "127.0.0.1:8000".parse().expect("a value"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("a value"));
            }
            headers
        };
        assert!(!is_foreign(&headers(None)));
        assert!(!is_foreign(&headers(Some("http://127.0.0.1:8000"))));
        assert!(is_foreign(&headers(Some("http://127.0.0.1:9000"))));
        assert!(is_foreign(&headers(Some("null"))));
    }

    /// A page of attacker.example, whose name now means this machine, is of the same origin there.
    #[test]
    fn a_name_that_another_may_have_given_this_machine_is_no_host_for_browsers() {
        let asked = |host: &str, origin: bool, browses: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a value"));
            if origin {
                headers.insert(ORIGIN, format!("http://{host}").parse().expect("a value"));
            }
            if browses {
                headers.insert(FETCH_SITE, "same-origin".parse().expect("a value"));
            }
            headers
        };
        for host in [
            "attacker.example:8000",
            "attacker.example",
            "localhost.attacker.example:8000",
            "127.0.0.1.attacker.example",
        ] {
            assert!(is_foreign(&asked(host, true, true)) && is_foreign(&asked(host, true, false)), "{host}");
            assert!(is_foreign(&asked(host, false, true)), "{host}");
            assert!(!is_foreign(&asked(host, false, false)), "{host}: curl and `bench http` ask by any name");
        }
        for host in ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "10.0.0.7:8000"] {
            assert!(!is_foreign(&asked(host, true, true)), "{host}");
        }
    }
}
