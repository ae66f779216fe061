//! Stragglers: who becomes one, and what work it still gets.
//!
//! A straggler is not thrown out. It takes a data job when a query that waits would otherwise wait for longer than the straggler is slower: near
//! saturation a slow lane is worth more than none. And it runs a copy of a recent query now and then (a *probe*), on which nothing depends,
//! to show whether it is still slow. Where a query has a backup of its own ([`super::backup`]), a straggler takes one as soon as no lane is free.
//!
//! Where no query has come for long, probes say nothing: a device that rests between them lowers its clock and loses its caches, so that each is slow, however well
//! the device is. It would be a straggler all night, and kept awake for that. So it is trusted again, which costs nothing while nobody asks; two jobs tell.
//!
//! At most a third of the lanes (under a code: r of k + r, what it can spare), but one of two, become stragglers for being slow; when more are slow, slow is
//! normal. Lanes that are on trial come on top.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    Dispatch, Effect, LaneSeat,
    draft::Draft,
    run::{Run, Why},
};
use crate::{
    clock::Time,
    health::{
        LaneHealth, State,
        pace::{Pass, Verdict, median},
    },
    job::PARTS,
    pool::Shared,
    query::LaneId,
    reply::Admitted,
};

/// How much the length of the queue counts against a straggler's slowness.
const SLOPE: f64 = 2.0;

/// A query that has a backup may wait for so many service times, its own included: until about its grace is over.
const PATIENCE: f64 = 1.15;

/// A query that ran so long ago tests no straggler any more.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// So many lanes at work stand for all.
const ENOUGH: usize = 3;

/// A batch as the judge of a lane's pace sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'b> {
    pub(super) pass: Pass,
    pub(super) service: Duration,
    pub(super) marks: [Duration; PARTS],
    /// One of the queries that it ran.
    pub(super) query: Option<&'b Shared<Admitted>>,
}

/// What a straggler can do for the queries that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Help {
    /// They are served sooner by its peers.
    None,
    /// It can run one that is answered by its backup.
    BackedUp,
    /// What it runs itself is done sooner than by its peers.
    Alone,
}

impl Dispatch {
    /// A batch came back in its time or late: the lane learns from it, and may be found slow, or fast again.
    pub(super) fn paced(&self, lane: LaneId, sample: Sample<'_>, now: Time, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        let Sample { pass, service, marks, query } = sample;
        let was_straggler = seat.is_straggler();
        let others = if seat.pace.is_usual(pass, service) { 1.0 } else { self.pace_of_others(seat, now) };
        let verdict = seat.pace.served(pass, service, others, !was_straggler);
        seat.pace.reported(&marks, service);
        let rules = &self.settings.health;
        // A lane that holds parity models alone has nothing better to do than to be slow at them.
        if !rules.stragglers || !seat.settings.role.runs_base() {
            return;
        }
        match verdict {
            Verdict::Slow(percent) if !was_straggler && self.may_be_straggler() => {
                {
                    // Lanes that are found slow at once take the last place one after the other; where there is none, nobody locks.
                    let _one_by_one = self.slowing.lock();
                    if !self.may_be_straggler() {
                        return;
                    }
                    self.change(lane, |health| health.slow(percent, now), effects);
                }
                // One lock at a time: whoever moves a lane holds its state's lock and then takes this one.
                let nothing_recent = {
                    let mut recent = self.recent.lock();
                    *recent = recent.take().or_else(|| Some((query?.clone(), now)));
                    recent.is_none()
                };
                if nothing_recent {
                    // What comes meanwhile will do.
                    seat.with_health(|health| health.probe_again(now + rules.probe));
                }
            }
            Verdict::Fast if was_straggler => {
                self.change(lane, LaneHealth::recovered, effects);
            }
            Verdict::Unchanged | Verdict::Slow(_) if was_straggler => {
                // One more that is fast, and it is back; else there is time.
                let wait = if seat.pace.is_fast(others) { Duration::ZERO } else { rules.probe };
                seat.with_health(|health| health.probe_again(now + wait));
            }
            Verdict::Slow(_) | Verdict::Fast | Verdict::Unchanged => {}
        }
    }

    /// The median of the other lanes' ratios: of their latest batch, or of the one in flight if that is worse already. Lanes at work alone,
    /// if there are enough of them: what an idle one did last may be long ago.
    fn pace_of_others(&self, seat: &LaneSeat, now: Time) -> f64 {
        let others = self.base_lanes().filter(|other| !std::ptr::eq(*other, seat));
        let (mut at_work, mut all) = (self.spare.ratios.take(), self.spare.ratios.take());
        for other in others.filter(|other| other.is_usable()) {
            let so_far = other.ratio_so_far(now);
            let ratio = other.pace.ratio().max(so_far.unwrap_or(0.0));
            all.push(ratio);
            at_work.extend(so_far.map(|_| ratio));
        }
        let ratios = if at_work.len() >= ENOUGH { &mut at_work } else { &mut all };
        let median = median(ratios).max(1.0);
        self.spare.ratios.give(at_work);
        self.spare.ratios.give(all);
        median
    }

    fn may_be_straggler(&self) -> bool {
        let base = self.base_lanes().count();
        let share = match &self.settings.code {
            Some(code) => self.lanes.len() * code.r() / (code.k() + code.r()),
            None => base / 3,
        };
        self.stragglers.load(Ordering::Relaxed) < share.max(1).min(base.saturating_sub(1))
    }

    /// Keeps count of stragglers, and a query for their probes.
    pub(super) fn count_stragglers(&self, from: State, to: State) {
        let is = |state| matches!(state, State::Straggler { .. });
        match (is(from), is(to)) {
            (false, true) => _ = self.stragglers.fetch_add(1, Ordering::Relaxed),
            (true, false) if self.stragglers.fetch_sub(1, Ordering::Relaxed) == 1 => *self.recent.lock() = None,
            (true, _) | (false, false) => {}
        }
    }

    /// A query starts: the next probe may be a copy of it.
    pub(super) fn remember_for_probes(&self, query: &Shared<Admitted>, now: Time) {
        if self.stragglers.load(Ordering::Relaxed) > 0 {
            *self.recent.lock() = Some((query.clone(), now));
        }
    }

    /// The last query that began to run, if that was not long ago.
    fn recent(&self, now: Time) -> Option<Shared<Admitted>> {
        let recent = self.recent.lock();
        recent.as_ref().filter(|(_, began)| now.since(*began) < FORGOTTEN).map(|(query, _)| query.clone())
    }

    /// What a straggler takes: its probe if it is due, data if that waits for long enough.
    pub(super) fn take_slow(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) -> Option<Draft> {
        let seat = self.seat(lane);
        match self.help_of(seat) {
            Help::Alone => return self.take_base(seat.settings.domain, now, effects),
            Help::BackedUp => {
                if let Some(draft) = self.take_data(seat.settings.domain, now, effects) {
                    self.late_from_the_start(draft.jobs(), effects);
                    return Some(draft);
                }
            }
            Help::None => {}
        }
        if !seat.health().probe_due(now) {
            return None;
        }
        let Some(query) = self.recent(now) else {
            self.change(lane, LaneHealth::untested, effects);
            // It is listed as idle from now on.
            return self.take_base(seat.settings.domain, now, effects);
        };
        // Set anew when it comes back.
        seat.with_health(|health| health.probe_again(now + self.settings.health.probe));
        let mut draft = Draft::base(&self.spare);
        draft.run(Run { why: Why::Probe, query, place: None });
        Some(draft)
    }

    /// Whether what waits would wait for longer than this lane is slower: with q jobs for h healthy lanes, the last one is served after about
    /// q / h + 1 service times by them, and after `ratio` of them here. The queue counts twice: it grows while lanes that could work wait for it to.
    pub(super) fn help_of(&self, seat: &LaneSeat) -> Help {
        let waiting = self.data.len() + self.rescue.len() + self.hedge.len();
        if waiting == 0 {
            return Help::None;
        }
        let healthy = self.occupancy.healthy();
        if healthy == 0 {
            return Help::Alone;
        }
        if self.occupancy.free() > 0 {
            return Help::None;
        }
        let by_peers = SLOPE * waiting as f64 / healthy as f64 + 1.0;
        if by_peers > seat.pace.ratio() {
            Help::Alone
        } else if by_peers > PATIENCE && self.has_backups() && self.urgent.load(Ordering::Relaxed) {
            Help::BackedUp
        } else {
            Help::None
        }
    }
}
