//! Encoders, decoders and the core, on one thread.

use std::{hint::black_box, sync::Arc, time::Duration};

use super::{Beside, Figure, Target, in_turns};
use crate::{
    clock::{Clock, Time},
    code::{self, Code, Sum},
    config::{Placement, Policy, PolicyKind},
    dispatch::{Completed, Dispatch, LaneSettings, Settings},
    health::Rules,
    job::{Completion, Role, Work},
    metrics::Metrics,
    query::{Accepts, Confidence, LaneId, Query, Row, Values},
    reply::Requests,
};

/// Values of a picture of 224 × 224 in three colours.
const PICTURE: usize = 3 * 224 * 224;

pub(super) fn figures(clock: Clock) -> Vec<Figure> {
    let mut figures = vec![encode(clock, 784, 1_000), encode(clock, PICTURE, 4)];
    figures.extend([10, 1_000].map(|classes| decode(clock, classes)));
    figures.extend([10, 1_000].map(|classes| residual(clock, classes)));
    figures.extend([16, 256, 1_000].map(|lanes| event(clock, lanes)));
    figures
}

fn plain(what: String, p50_ns: f64) -> Figure {
    Figure { what, p50_ns, p99_ns: None, beside: None, target: None }
}

fn encode(clock: Clock, width: usize, batch: u32) -> Figure {
    let code = Sum::with_defaults(2, 1).expect("a small code");
    let rows = [vec![0.5_f32; width], vec![0.25; width]];
    let (mut query, mut copy) = (vec![0.0; width], vec![0.0; width]);
    let [p50_ns, copied] = in_turns(
        clock,
        batch,
        [&mut || code.encode(0, black_box(&[&rows[0], &rows[1]]), black_box(&mut query)), &mut || {
            black_box(&mut copy).copy_from_slice(black_box(&rows[0]));
        }],
    );
    let beside = Some(Beside { what: "copying one row".to_owned(), p50_ns: copied });
    let target = (width == PICTURE).then_some(Target::Times(1.6));
    Figure { beside, target, ..plain(format!("encode `sum`, k = 2, rows of {width} values"), p50_ns) }
}

fn decode(clock: Clock, classes: usize) -> Figure {
    let code = Sum::with_defaults(2, 1).expect("a small code");
    let (member, parity) = (vec![0.5_f32; classes], vec![0.75; classes]);
    let [p50_ns] = in_turns(
        clock,
        1_000,
        [&mut || drop(black_box(code.decode(0, black_box(&[None, Some(&member), Some(&parity)]))))],
    );
    let target = (classes == 1_000).then_some(Target::Nanos(300.0));
    Figure { target, ..plain(format!("decode `sum`, k = 2, {classes} classes"), p50_ns) }
}

/// The check of a complete stripe that is as usual: without the search for an odd slot.
fn residual(clock: Clock, classes: usize) -> Figure {
    let code = Sum::with_defaults(2, 1).expect("a small code");
    let (member, parity, mut decoded) = (vec![0.5_f32; classes], vec![0.75; classes], Vec::new());
    let outputs: [&[f32]; 3] = [&member, &member, &parity];
    let [p50_ns] = in_turns(
        clock,
        1_000,
        [&mut || _ = black_box(code::residual::residual(&code, black_box(&outputs), &mut decoded))],
    );
    plain(format!("check of a complete stripe, `sum`, k = 2, {classes} classes"), p50_ns)
}

/// Submit, pull and complete of one query, a third of it each.
fn event(clock: Clock, lanes: u16) -> Figure {
    let lane = |domain| LaneSettings::alone(Role::Base, domain);
    let settings = Settings {
        lanes: (0..lanes).map(lane).collect(),
        batch_max: 1,
        queue_max: 1_024,
        code: None,
        calibration: None,
        stripe_fill: Duration::from_millis(20),
        policy: Policy::usual(PolicyKind::Hedged, Placement::Dedicated),
        health: Rules { canary_every: None, ..Rules::default() },
    };
    let dispatch = Dispatch::new(settings, Arc::new(Metrics::new("bench", usize::from(lanes))));
    let mut effects = Vec::new();
    for lane in (0..lanes).map(LaneId) {
        dispatch.ready(lane, Duration::from_millis(1), &mut effects);
    }
    let (row, output, requests) = (Row::whole(vec![0.5; 784]), Values::from(vec![0.5; 10]), Requests::new(1_024));
    let mut completions = Vec::new();
    let (mut now, mut lane) = (Time::ZERO, 0);
    let [three] = in_turns(
        clock,
        2_000,
        [&mut || {
            now = now + Duration::from_micros(1);
            lane = (lane + 1) % lanes;
            let query = Query {
                row: row.clone(),
                admitted: now,
                deadline: now + Duration::from_millis(1),
                accepts: Accepts::Any,
                min_confidence: Confidence::NONE,
                in_range: true,
            };
            let (admitted, pending) = requests.admit([query]).expect("its place comes back each time");
            dispatch.submit(admitted, &mut effects);
            let work = dispatch.pull(LaneId(lane), now, &mut effects);
            let Some(Work::Batch(batch)) = work else { unreachable!("there is a query") };
            completions.push(Completion::Output(Arc::clone(&output)));
            let (lane, service) = (LaneId(lane), Duration::from_millis(1));
            let completed = Completed { lane, batch, completions: &mut completions, service };
            dispatch.complete(completed, now, &mut effects);
            effects.clear();
            if now.nanos().is_multiple_of(1_000_000) {
                dispatch.tick(now, &mut effects);
            }
            drop(pending);
        }],
    );
    let target = (lanes == 16).then_some(Target::Nanos(500.0));
    Figure { target, ..plain(format!("an event of the core, `hedged`, {lanes} lanes"), three / 3.0) }
}
