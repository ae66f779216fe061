//! What the engine tells of lanes: each move in the log, unless it repeats too often, and the last ones for whoever asks.

use super::Engine;
use crate::{
    clock::Time,
    health::{
        Move, State,
        drift::{Standing, Turn},
    },
    job::LaneEvent,
    query::LaneId,
    repeat::Line,
};

/// Moves of lanes that are remembered.
const EVENTS_MAX: usize = 100;

impl Engine {
    /// The last moves of lanes, the latest first.
    pub fn events(&self) -> Vec<LaneEvent> {
        let now = self.clock.now();
        let event = |&(at, lane, Move { from, to, reason }): &(Time, LaneId, Move)| LaneEvent {
            age: now.since(at),
            lane,
            from: from.as_str(),
            to: to.as_str(),
            reason: reason.to_string(),
        };
        self.events.lock().iter().rev().map(event).collect()
    }

    pub(super) fn tell_move(&self, lane: LaneId, change: Move) {
        self.broken.changed.notify_all();
        let mut events = self.events.lock();
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back((self.clock.now(), lane, change));
        drop(events);
        let (from, to, reason) = (change.from.as_str(), change.to.as_str(), change.reason);
        if change.from == State::Starting {
            // The start-up log says more about it.
            return tracing::debug!(%lane, from, to, %reason, "lane moved");
        }
        let next = self.moves[usize::from(lane.0)].lock().next(self.clock.now());
        let Line::Told { left_out } = next else { return };
        if change.to == State::Healthy {
            tracing::info!(%lane, from, to, %reason, left_out, "lane moved");
        } else {
            tracing::warn!(%lane, from, to, %reason, left_out, "lane moved");
        }
    }

    pub(super) fn tell_doubt(&self, lane: LaneId) {
        let next = self.moves[usize::from(lane.0)].lock().next(self.clock.now());
        if let Line::Told { left_out } = next {
            tracing::warn!(%lane, left_out, "answers do not fit together with parity: a canary decides");
        }
    }

    /// A lane whose last moves were left out: how many, and where it stands now.
    pub(super) fn tell_left_out(&self) {
        for (lane, moves) in (0..).map(LaneId).zip(&self.moves) {
            let left_out = moves.lock().left_out(self.clock.now());
            if let Some(left_out) = left_out {
                let (state, reason) = self.describe(lane);
                tracing::warn!(%lane, left_out, state, reason, "lane moved again and again");
            }
        }
    }
}

/// Not limited in rate: a turn needs dozens of comparisons, and the way back hundreds, so lines cannot come fast.
pub(super) fn drift(Turn { to, expected, live, compared }: Turn) {
    match to {
        Standing::Drifted => tracing::warn!(expected, live, compared, "reconstructions agree less than calibrated"),
        Standing::Expected => tracing::info!(expected, live, compared, "reconstructions agree as calibrated again"),
    }
}
