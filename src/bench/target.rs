//! What is known of the server and the model before the load: names, the shape of a row, jobs run so far, lanes that take faults.
//!
//! Everything comes from routes of the protocol, so any server of it will do. What only parityd has (jobs, lanes) is asked for only where it
//! is needed, and its absence is a value.

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{
    BenchError, FaultAt,
    wire::{Server, Silence, segment},
};

/// Values in one request at most: 64 MiB of floats are more than any row that this client is for.
const VALUES_MAX: u64 = 16 * 1024 * 1024;

/// A model that can be sent rows.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Target {
    /// The route of its infer requests.
    pub(super) path: String,
    /// The name of its input.
    pub(super) input: String,
    /// The shape of one row.
    pub(super) row: Vec<u64>,
    /// Values of one row of its only output, where they are told.
    pub(super) classes: Option<u64>,
    /// Its newest version, where one is told.
    pub(super) version: Option<String>,
}

impl Target {
    /// Values of one row.
    pub(super) fn width(&self) -> usize {
        // Bounded by VALUES_MAX when it was read.
        self.row.iter().product::<u64>().try_into().unwrap_or(usize::MAX)
    }
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    versions: Vec<String>,
    inputs: Vec<Tensor>,
    #[serde(default)]
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

/// Asks for the model's metadata.
pub(super) async fn model(server: &Server, name: &str, rows: u32) -> Result<Target, BenchError> {
    let route = format!("/v2/models/{}", segment(name));
    let reply = server.get(&route).await.map_err(|silence| unreachable(server, &silence))?;
    match reply.status {
        StatusCode::OK => read(&reply.body, name, rows),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => {
            let (url, model) = (server.url().clone(), name.to_owned());
            Err(BenchError::UnknownModel { url, model, told: reply.told() })
        }
        status => {
            let problem = format!("GET {route} is answered with {status} ({})", reply.told());
            Err(BenchError::Unreachable { url: server.url().clone(), problem })
        }
    }
}

fn unreachable(server: &Server, silence: &Silence) -> BenchError {
    BenchError::Unreachable { url: server.url().clone(), problem: silence.to_string() }
}

fn read(body: &[u8], name: &str, rows: u32) -> Result<Target, BenchError> {
    let fault = |problem: String| BenchError::Metadata { model: name.to_owned(), problem };
    let metadata: Metadata =
        serde_json::from_slice(body).map_err(|error| fault(format!("its metadata is not the protocol's: {error}")))?;
    let [input] = metadata.inputs.as_slice() else {
        return Err(fault(format!("it has {} inputs, and bench fills one", metadata.inputs.len())));
    };
    if input.datatype != "FP32" {
        return Err(fault(format!("its input {} is {}, and bench sends FP32", input.name, input.datatype)));
    }
    let Some((&first, rest)) = input.shape.split_first() else {
        return Err(fault(format!("its input {} is a scalar", input.name)));
    };
    let row: Option<Vec<u64>> = rest.iter().map(|&dim| u64::try_from(dim).ok().filter(|dim| *dim > 0)).collect();
    let row = row.ok_or_else(|| fault(format!("the shape {:?} is open beyond the number of rows", input.shape)))?;
    if let Ok(taken) = u64::try_from(first)
        && taken != u64::from(rows)
    {
        return Err(BenchError::Rows { model: name.to_owned(), taken, asked: rows });
    }
    let values = row.iter().try_fold(u64::from(rows), |product, &dim| product.checked_mul(dim));
    if values.is_none_or(|values| values > VALUES_MAX) {
        return Err(fault(format!("{rows} rows of {row:?} are more than {VALUES_MAX} values")));
    }
    let classes = match metadata.outputs.as_slice() {
        [output] => output.shape.iter().skip(1).map(|&dim| u64::try_from(dim).ok()).product(),
        _ => None,
    };
    Ok(Target {
        path: format!("/v2/models/{}/infer", segment(name)),
        input: input.name.clone(),
        row,
        classes,
        version: metadata.versions.last().cloned(),
    })
}

/// The server's name and version; empty where it does not tell.
pub(super) async fn server_names(server: &Server) -> (String, String) {
    let told = server.get("/v2").await.ok().and_then(|reply| serde_json::from_slice::<Value>(&reply.body).ok());
    let word = |key: &str| told.as_ref().and_then(|told| told[key].as_str()).unwrap_or_default().to_owned();
    (word("name"), word("version"))
}

/// Jobs that the lanes of a process have run so far, of every kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Jobs {
    count: u64,
    /// When the process started, in its own words; `None` where it does not tell.
    started: Option<String>,
}

impl Jobs {
    /// Those from then to `after`; `None` if another process counts by then, whose count began anew.
    pub(super) fn until(&self, after: &Jobs) -> Option<u64> {
        if self.started == after.started { after.count.checked_sub(self.count) } else { None }
    }

    /// `None` if this server does not count them.
    fn read(text: &str) -> Option<Self> {
        // A counter with labels is absent until it first counts; that this is parityd shows in the others.
        text.contains("parityd_").then(|| Jobs {
            count: samples(text, "parityd_jobs_total").filter_map(|value| value.parse::<u64>().ok()).sum(),
            started: samples(text, "parityd_start_time_seconds").next().map(str::to_owned),
        })
    }
}

/// Jobs so far; `None` if this server does not count them.
pub(super) async fn jobs(server: &Server) -> Option<Jobs> {
    let reply = server.get("/metrics").await.ok().filter(|reply| reply.status == StatusCode::OK)?;
    Jobs::read(&String::from_utf8_lossy(&reply.body))
}

/// The values of a metric, one for each of its labels.
fn samples<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = &'t str> {
    let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    samples.filter(move |(series, _)| series.split('{').next() == Some(name)).map(|(_, value)| value)
}

/// Whether the server takes faults, and has every lane that is to get one.
pub(super) async fn check_lanes(server: &Server, faults: &[FaultAt]) -> Result<(), BenchError> {
    let Some(highest) = faults.iter().max_by_key(|fault| fault.lane) else { return Ok(()) };
    let reply = server.get("/admin/lanes").await.map_err(|silence| unreachable(server, &silence))?;
    let lanes: Option<Vec<Value>> = serde_json::from_slice(&reply.body).ok();
    match lanes {
        Some(lanes) if reply.status == StatusCode::OK => {
            if usize::from(highest.lane) < lanes.len() {
                return Ok(());
            }
            let (fault, url) = (highest.to_string(), server.url().clone());
            Err(BenchError::NoLane { fault, url, lanes: lanes.len() })
        }
        Some(_) | None => Err(BenchError::AdminOff { url: server.url().clone() }),
    }
}

/// Injects one fault.
pub(super) async fn inject(server: &Server, fault: &FaultAt) -> Result<(), BenchError> {
    let route = format!("/admin/lanes/{}/fault", fault.lane);
    let refused = |problem: String| BenchError::FaultRefused { fault: fault.to_string(), problem };
    let reply = server.post(&route, Bytes::from(fault.body().to_string())).await;
    let reply = reply.map_err(|silence| refused(silence.to_string()))?;
    if reply.status.is_success() { Ok(()) } else { Err(refused(format!("{}: {}", reply.status, reply.told()))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(datatype: &str, shape: &Value) -> Vec<u8> {
        let output = json!({"name": "logits", "datatype": "FP32", "shape": [-1, 10]});
        let input = json!({"name": "input", "datatype": datatype, "shape": shape});
        json!({"name": "m", "versions": ["1", "2"], "inputs": [input], "outputs": [output]}).to_string().into_bytes()
    }

    #[test]
    fn metadata_tell_what_to_send() {
        let target = read(&metadata("FP32", &json!([-1, 1, 28, 28])), "a b", 3).unwrap();
        assert_eq!((target.path.as_str(), target.input.as_str()), ("/v2/models/a%20b/infer", "input"));
        assert_eq!((target.row.as_slice(), target.width(), target.classes), ([1, 28, 28].as_slice(), 784, Some(10)));
        assert_eq!(target.version.as_deref(), Some("2"));
        assert_eq!(read(&metadata("FP32", &json!([2, 4])), "m", 2).unwrap().row, [4]);
    }

    #[test]
    fn what_cannot_be_filled_is_told() {
        let told = |body: &[u8], rows| read(body, "m", rows).unwrap_err().to_string();
        assert!(told(&metadata("INT8", &json!([-1, 4])), 1).contains("INT8"));
        assert!(told(&metadata("FP32", &json!([-1, -1])), 1).contains("open"));
        assert!(told(&metadata("FP32", &json!([])), 1).contains("scalar"));
        assert!(told(&metadata("FP32", &json!([1, 4])), 2).contains("--rows 1"));
        assert!(told(&metadata("FP32", &json!([-1, 1_i64 << 40, 1_i64 << 40])), 1).contains("more than"));
        assert!(told(br#"{"inputs": []}"#, 1).contains("0 inputs"));
        assert!(told(b"<html>", 1).contains("metadata"));
    }

    #[test]
    fn jobs_of_all_kinds_are_added() {
        let text = "# HELP parityd_jobs_total x\nparityd_jobs_total{kind=\"data\"} 40\nparityd_jobs_total{kind=\"parity\"} 2\nother 7\n";
        assert_eq!(Jobs::read(text), Some(Jobs { count: 42, started: None }));
        assert_eq!(Jobs::read("other 7\n"), None);
    }

    #[test]
    fn jobs_of_two_processes_are_not_subtracted() {
        let told = |jobs: u64, started: &str| {
            Jobs::read(&format!("{started}parityd_jobs_total{{kind=\"data\"}} {jobs}\n")).unwrap()
        };
        let (first, second) =
            ("parityd_start_time_seconds 1764579600.25\n", "parityd_start_time_seconds 1764579661.5\n");
        assert_eq!(told(40, first).until(&told(100, first)), Some(60));
        assert_eq!(told(40, first).until(&told(100, second)), None);
        assert_eq!(told(40, "").until(&told(100, "")), Some(60), "a server that does not tell when it started");
        assert_eq!(told(40, "").until(&told(7, "")), None, "a counter falls only if it begins anew");
    }
}
