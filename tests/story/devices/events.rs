//! Events of a GPU that are not told any more, and then told again.

use super::{Driver, LANE, LANES};
use crate::beside;

/// What hears them has failed, and hears nothing any more although the GPU is back: something else has to.
#[test]
fn an_xid_is_heard_again_after_events_have_failed() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    let told = |words: &str| daemon.log().iter().filter(|line| line.contains(words)).count();
    driver.says("0.wait = 15");
    daemon.wait_until("told of the silence", |_| told("this GPU tells no events") > 0);
    driver.says("");
    daemon.wait_until("listening again", |_| told("NVML tells this GPU's events") > LANES);
    assert_eq!(told("this GPU tells no events"), 1);
    driver.says("0.xid = 1:79");
    daemon.wait_until("fenced", |daemon| {
        let events = daemon.json("/admin/events");
        events.as_array().unwrap().iter().any(|event| event["lane"] == LANE && event["to"] == "fenced")
    });
}
