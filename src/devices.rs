//! `devices`: which GPUs there are, which lanes are configured, and their states in a running daemon.
//!
//! Works without a driver, without a configuration and without a daemon: what is not there is said, and the rest is told, which is no failure.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use parityd::{
    config::{self, Config, Lanes},
    nvml,
    serve::{self, StartFaults},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::output::print;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A GPU. What it does not tell is `null`.
#[derive(Serialize)]
struct Device {
    uuid: String,
    name: String,
    pci: String,
    clock_mhz: Option<u32>,
    clock_max_mhz: Option<u32>,
    limits: Vec<String>,
    other_processes: Option<usize>,
}

/// A configured lane.
#[derive(Serialize)]
struct Lane {
    id: u16,
    device: String,
    role: &'static str,
    state: String,
    reason: String,
}

#[derive(Serialize)]
struct Report {
    devices: Vec<Device>,
    /// Why there are none; `null` if NVML answers.
    nvml: Option<String>,
    lanes: Vec<Lane>,
    /// Why there are none; `null` if there is a configuration.
    configuration: Option<String>,
}

/// Prints them.
pub(crate) fn devices(config: Option<&Path>, json: bool) -> Result<()> {
    let (devices, nvml) = match gpus() {
        Ok(devices) => (devices, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let (lanes, faults) = match lanes(config) {
        Ok(lanes) => (lanes, None),
        Err(faults) => (Vec::new(), Some(faults)),
    };
    let configuration = faults.as_ref().map(ToString::to_string);
    let report = Report { devices, nvml, lanes, configuration };
    print(&if json { serde_json::to_string_pretty(&report)? } else { table(&report) })?;
    match faults {
        // Whoever names a configuration wants that one.
        Some(faults) if config.is_some() => Err(faults.into()),
        Some(_) | None => Ok(()),
    }
}

fn gpus() -> Result<Vec<Device>, Box<dyn std::error::Error>> {
    let gpus = nvml::gpus()?;
    let standings = nvml::standing().unwrap_or_default();
    let device = |gpu: nvml::Gpu| {
        let standing = standings.iter().find(|standing| standing.uuid == gpu.uuid);
        Device {
            clock_mhz: standing.map(|standing| standing.clock_mhz),
            clock_max_mhz: standing.map(|standing| standing.clock_max_mhz),
            limits: standing.map(|standing| standing.limits.clone()).unwrap_or_default(),
            other_processes: standing.map(|standing| standing.processes),
            uuid: gpu.uuid,
            name: gpu.name,
            pci: gpu.pci,
        }
    };
    Ok(gpus.into_iter().map(device).collect())
}

fn lanes(config: Option<&Path>) -> Result<Vec<Lane>, StartFaults> {
    let config = config::find(config).and_then(|path| Config::load(&path)).map_err(StartFaults::Config)?;
    let listen = config.http.listen;
    let told = ask(listen);
    let gpus = if config.lanes == Lanes::Auto { serve::auto_gpus()? } else { Vec::new() };
    let (config, _) = config.on_gpus(&gpus).map_err(StartFaults::Config)?;
    let lane = |lane: &config::Lane| {
        let of_lane = |lanes: &Value| lanes.as_array()?.iter().find(|told| told["id"] == lane.id.0).cloned();
        let word = |told: &Value, key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let (state, reason) = match &told {
            Ok(lanes) => of_lane(lanes).map_or_else(
                || unknown("the daemon has no such lane"),
                |told| (word(&told, "state"), word(&told, "reason")),
            ),
            Err(why) => unknown(why),
        };
        Lane { id: lane.id.0, device: lane.device.to_string(), role: lane.role.as_str(), state, reason }
    };
    Ok(config.lanes().iter().map(lane).collect())
}

fn unknown(why: &str) -> (String, String) {
    ("unknown".to_owned(), why.to_owned())
}

/// What the daemon on that port says of its lanes, or why it says nothing.
fn ask(listen: SocketAddr) -> Result<Value, String> {
    let nobody = |_| format!("no daemon answers at {listen}");
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    let stranger = || format!("what answers at {listen} is no parityd");
    if let Some(lanes) = get(address, "/admin/lanes").map_err(nobody)? {
        return serde_json::from_str(&lanes).map_err(|_| stranger());
    }
    // Its admin routes are off; its metrics tell the states, too, without the reasons.
    let metrics = get(address, "/metrics").map_err(nobody)?.ok_or_else(stranger)?;
    let lanes: Vec<Value> = metrics.lines().filter_map(state).collect();
    if lanes.is_empty() { Err(stranger()) } else { Ok(lanes.into()) }
}

/// The body of what a route answers; none if there is no such route.
fn get(address: SocketAddr, path: &str) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    Ok((!head.starts_with("HTTP/1.1 404")).then(|| body.to_owned()))
}

/// The lane and the state of a line of metrics, as the admin route tells them.
fn state(line: &str) -> Option<Value> {
    let (id, state) =
        line.strip_prefix("parityd_lane_state{lane=\"")?.strip_suffix("\"} 1")?.split_once("\",state=\"")?;
    Some(json!({"id": id.parse::<u16>().ok()?, "state": state, "reason": ""}))
}

fn table(report: &Report) -> String {
    let mut lines = Vec::new();
    match &report.nvml {
        Some(why) => lines.push(format!("no GPUs: {why}")),
        None if report.devices.is_empty() => lines.push("no GPUs".to_owned()),
        None => {}
    }
    for device in &report.devices {
        let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let limits = if device.limits.is_empty() {
            String::new()
        } else {
            format!(", held down by {}", device.limits.join(" "))
        };
        let others = device.other_processes.map_or_else(String::new, |count| format!(", {count} other processes"));
        lines.push(format!(
            "{}  {}  {}  {} of {} MHz{limits}{others}",
            device.uuid,
            device.pci,
            device.name,
            number(device.clock_mhz),
            number(device.clock_max_mhz)
        ));
    }
    if let Some(why) = &report.configuration {
        lines.push(format!("no lanes: {why}"));
    }
    let width = report.lanes.iter().map(|lane| lane.device.len()).max().unwrap_or(0);
    for lane in &report.lanes {
        let Lane { id, device, role, state, reason } = lane;
        lines.push(format!("lane {id:<2}  {device:width$}  {role:6}  {state:10}  {reason}").trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_tell_the_state_of_each_lane() {
        let text = "# TYPE parityd_lane_state gauge\nparityd_lane_state{lane=\"0\",state=\"healthy\"} 0\n\
                    parityd_lane_state{lane=\"0\",state=\"hung\"} 1\nparityd_lane_state{lane=\"12\",state=\"healthy\"} 1\n";
        let lanes: Vec<Value> = text.lines().filter_map(state).collect();
        let lane = |id: u16, state: &str| json!({"id": id, "state": state, "reason": ""});
        assert_eq!(lanes, [lane(0, "hung"), lane(12, "healthy")]);
    }
}
