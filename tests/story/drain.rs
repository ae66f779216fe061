//! The end of a daemon, seen by clients that do not know that it comes.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use parityd::grpc::proto::inference::{
    ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient, model_infer_request::InferInputTensor,
};
use tonic::{Code, transport::Endpoint};

use crate::{
    alone, beside,
    daemon::{Daemon, config},
    load::{Load, Reply, send},
    statuses,
};

const HANG: &str = r#"{"kind": "hang"}"#;

/// Sends a load, and SIGTERM after `at`; returns when that was, too.
fn send_and_stop(daemon: &Daemon, at: Duration, load: Load) -> (Vec<Reply>, Instant) {
    thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, load));
        thread::sleep(at);
        let stopped = Instant::now();
        daemon.signal();
        (replies.join().unwrap(), stopped)
    })
}

#[test]
fn queries_sent_before_a_stop_are_answered_and_later_ones_told() {
    let _alone = alone();
    for round in 0..3 {
        let mut daemon = Daemon::start(&config("config.toml", &[]));
        let load = Load { seed: round, ..Load::new(100, Duration::from_secs(3)) };
        let (replies, stopped) = send_and_stop(&daemon, Duration::from_secs(2), load);
        assert_eq!(daemon.wait(), Some(0));
        let before = |reply: &Reply| stopped.saturating_duration_since(reply.due) > Duration::from_millis(50);
        let (early, late): (Vec<Reply>, Vec<Reply>) = replies.into_iter().partition(before);
        assert!(early.len() > 150 && late.len() > 50, "{} before, {} after", early.len(), late.len());
        assert_eq!(statuses(&early), BTreeMap::from([(200, early.len())]));
        let odd = late.iter().find(|reply| !(matches!(reply.status, 200 | 503) || reply.refused));
        assert!(odd.is_none(), "{odd:?}");
        assert!(late.iter().all(|reply| reply.status != 503 || (reply.reason == "draining" && reply.retry_after)));
        let ended = late.iter().position(|reply| reply.refused).expect("the process has ended");
        assert!(late[ended..].iter().all(|reply| reply.refused), "nobody answers after the end");
    }
}

/// A lane that hangs holds neither its queries nor the process's end.
#[test]
fn a_fenced_lane_is_abandoned() {
    let _alone = alone();
    let mut daemon = Daemon::start(&config("config.toml", &[]));
    daemon.fault(0, HANG);
    let (replies, _) = send_and_stop(&daemon, Duration::from_secs(1), Load::new(100, Duration::from_millis(900)));
    assert_eq!(statuses(&replies), BTreeMap::from([(200, replies.len())]));
    assert_eq!(daemon.wait(), Some(0));
}

/// A daemon both of whose base lanes hang.
fn stuck(deadline_ms: u32, drain_ms: u32) -> Daemon {
    let batch = format!("batch_max = 1\ndeadline_ms = {deadline_ms}");
    let text = config("examples/parm.toml", &[("batch_max = 1", &batch)]);
    let daemon = Daemon::start(&text.replace("[admin]", &format!("drain_ms = {drain_ms}\n[admin]")));
    daemon.fault(0, HANG);
    daemon.fault(1, HANG);
    daemon
}

/// Until a query is admitted.
fn wait_for_one(daemon: &Daemon) {
    daemon.wait_until("admitted", |daemon| daemon.metric("parityd_queries_open", "") == Some(1.0));
}

#[test]
fn while_it_waits_for_admitted_queries_new_ones_get_a_503() {
    let _beside = beside();
    let mut daemon = stuck(2000, 10_000);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&daemon.url, Load::new(10, Duration::from_millis(100))));
        wait_for_one(&daemon);
        daemon.signal();
        daemon.wait_until("draining", |daemon| daemon.status("/v2/health/ready") == Some(503));
        let refused = send(&daemon.url, Load::new(100, Duration::from_millis(300)));
        assert_eq!(statuses(&refused), BTreeMap::from([(503, refused.len())]));
        assert!(refused.iter().all(|reply| reply.reason == "draining" && reply.retry_after));
        let waited = waiting.join().unwrap();
        assert_eq!(statuses(&waited), BTreeMap::from([(504, 1)]), "answered, by its deadline");
    });
    assert_eq!(daemon.wait(), Some(0));
}

/// Probes look at HTTP's port: while it is open, they see a daemon that ends in order.
#[test]
fn while_a_call_of_grpc_waits_for_its_answer_http_says_that_the_daemon_ends() {
    let _beside = beside();
    let mut daemon = stuck(5000, 60_000);
    let channel = Endpoint::from_shared(format!("http://{}", daemon.grpc())).unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut client = GrpcInferenceServiceClient::new(channel.connect().await.unwrap());
                client.model_infer(blank()).await.map(tonic::Response::into_inner)
            })
        });
        wait_for_one(&daemon);
        daemon.signal();
        daemon.wait_until("draining", |daemon| daemon.status("/v2/health/ready") == Some(503));
        for _ in 0..10 {
            let status = daemon.status("/v2/health/ready");
            if call.is_finished() {
                break;
            }
            assert_eq!(status, Some(503), "the port is open for as long");
            thread::sleep(Duration::from_millis(20));
        }
        let answered = call.join().unwrap();
        assert_eq!(answered.unwrap_err().code(), Code::DeadlineExceeded, "answered, by its deadline");
    });
    assert_eq!(daemon.wait(), Some(0));
}

/// A request of one picture.
fn blank() -> ModelInferRequest {
    let input = InferInputTensor {
        name: "input".into(),
        datatype: "FP32".into(),
        shape: vec![1, 1, 28, 28],
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: "fashion-mnist".into(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 28 * 28 * 4].into()],
        ..ModelInferRequest::default()
    }
}

#[test]
fn queries_that_outlast_drain_ms_get_a_503_and_a_second_signal_ends_it_at_once() {
    let _beside = beside();
    for second in [false, true] {
        let mut daemon = stuck(60_000, if second { 60_000 } else { 300 });
        let replies = thread::scope(|scope| {
            let waiting = scope.spawn(|| send(&daemon.url, Load::new(10, Duration::from_millis(100))));
            wait_for_one(&daemon);
            daemon.signal();
            if second {
                daemon.wait_until("draining", |daemon| daemon.status("/v2/health/ready") == Some(503));
                daemon.signal();
            }
            waiting.join().unwrap()
        });
        let told = if second { (0, String::new()) } else { (503, "stopped".to_owned()) };
        assert_eq!((replies[0].status, replies[0].reason.clone()), told);
        assert_eq!(daemon.wait(), Some(0));
    }
}
