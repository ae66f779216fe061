//! The gate on confidence with real weights: what is served is as sure as was asked for, and what is not is answered directly.

use std::{process::Command, time::Duration};

use parityd::{code::Sum, weights::oracle};
use tempfile::TempDir;

use crate::{
    alone, assert_all_answered,
    daemon::{Daemon, config},
    load::{Load, Reply},
    parm::send_while_lane_0_hangs,
};

/// Eight rows a request, all of a batch: the lane that hangs some thirty times takes a batch with it each time, so that more than a
/// hundred rows are decoded and what some quarter of them must show is shown by many.
fn load(min_confidence: Option<f64>) -> Load {
    Load { rows: 8, min_confidence, ..Load::new(60, Duration::from_secs(3)) }
}

/// The confidence of each decoded row.
fn decoded(replies: &[Reply]) -> Vec<f64> {
    let rows = replies.iter().flat_map(|reply| reply.provenance.iter().zip(&reply.confidence));
    rows.filter(|(word, _)| *word == "approximate").map(|(_, confidence)| *confidence).collect()
}

#[test]
fn what_is_not_sure_enough_is_answered_directly() {
    let _alone = alone();
    let daemon = Daemon::start(&config("config.toml", &[("min_confidence = 0.0", "min_confidence = 0.9")]));
    let gated = || daemon.metric("parityd_gated_total", "").expect("it is always there");
    let replies = send_while_lane_0_hangs(&daemon, load(None));
    assert_all_answered(&replies, "with a gate");
    let served = decoded(&replies);
    println!("{} of {} rows were decoded and served, {} held back", served.len(), 8 * replies.len(), gated());
    assert!(served.len() >= 4 && served.iter().all(|confidence| (0.9..=1.0).contains(confidence)), "{served:?}");
    assert!(gated() >= 1.0, "about a quarter of the images are less sure");
    for reply in &replies {
        assert_eq!(reply.confidence.len(), if reply.is_decoded() { 8 } else { 0 }, "{reply:?}");
        let direct = reply.provenance.iter().zip(&reply.confidence).filter(|(word, _)| *word == "direct");
        assert!(direct.into_iter().all(|(_, confidence)| (confidence - 1.0).abs() < 1e-9));
    }
    assert_eq!(daemon.metric("parityd_drift", ""), Some(0.0));
    assert!(daemon.metric("parityd_agreement_expected", "").is_some_and(|share| (0.9..0.97).contains(&share)));

    // A request may ask for less than the policy does, and for more.
    let before = gated();
    let all = send_while_lane_0_hangs(&daemon, load(Some(0.0)));
    assert!(decoded(&all).iter().any(|confidence| *confidence < 0.9), "{all:?}");
    assert!((gated() - before).abs() < 0.5, "nothing was held back");
    let sure = send_while_lane_0_hangs(&daemon, load(Some(0.999)));
    assert!(decoded(&sure).iter().all(|confidence| *confidence >= 0.999) && gated() > before);
}

/// Weights without a calibration cannot tell a confidence, and nobody pretends that they can.
#[test]
fn without_a_calibration_nothing_is_asked_for() {
    let _alone = alone();
    let folder = TempDir::new().unwrap();
    oracle::write(folder.path(), &[1, 28, 28], 10, &Sum::with_defaults(2, 1).unwrap()).unwrap();
    let shipped = config("examples/parm.toml", &[]);
    let weights = shipped.lines().find(|line| line.starts_with("weights = ")).expect("a deployment");
    let uncalibrated = shipped.replace(weights, &format!("weights = {:?}", folder.path().display().to_string()));
    let daemon = Daemon::start(&uncalibrated);
    let asks = send_while_lane_0_hangs(
        &daemon,
        Load { min_confidence: Some(0.5), ..Load::new(50, Duration::from_millis(300)) },
    );
    assert!(asks.iter().all(|reply| (reply.status, reply.reason.as_str()) == (400, "bad_field")), "{asks:?}");
    let silent =
        send_while_lane_0_hangs(&daemon, Load { min_confidence: Some(0.0), ..Load::new(100, Duration::from_secs(1)) });
    assert_all_answered(&silent, "who asks for nothing");
    assert!(silent.iter().any(Reply::is_decoded) && silent.iter().all(|reply| reply.confidence.is_empty()));
    assert_eq!((daemon.metric("parityd_drift", ""), daemon.metric("parityd_agreement_expected", "")), (None, None));

    let file = folder.path().join("config.toml");
    let gated = uncalibrated.replace("[deployment.policy]", "[deployment.policy]\nmin_confidence = 0.5");
    std::fs::write(&file, gated).unwrap();
    let check = Command::new(env!("CARGO_BIN_EXE_parityd")).arg("check").arg("--config").arg(&file).output().unwrap();
    let told = String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(78), "{told}");
    assert!(told.contains("min_confidence") && told.contains("parityd train calibrate"), "{told}");
}
