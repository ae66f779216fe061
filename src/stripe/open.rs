//! The stripes that still take members.
//!
//! Their tokens wait in a bounded queue. A lane that starts a job takes tokens one by one until a stripe has nobody in flight in its
//! fault domain, joins, and puts the token back unless the stripe is full. While it holds a token others do not see that stripe and may
//! open another: that costs a stripe that stays short a little longer, and buys that nobody ever waits.

use std::{sync::Arc, time::Duration};

use super::{Filling, Joined, Member, Place, Stripe, Stripes};
use crate::{
    clock::Time,
    code::{Code, SlotSet},
    metrics::Metrics,
    pool::Shared,
    query::{FaultDomain, Row, Values},
    queue::Bounded,
    reply::Admitted,
};

/// A token with the time its stripe was opened.
#[derive(Debug)]
struct Waiting {
    filling: Filling,
    opened: Time,
}

/// All stripes that take members.
#[derive(Debug)]
pub struct OpenStripes {
    stripes: Stripes,
    fill: Duration,
    waiting: Bounded<Waiting>,
    /// Recent rows with direct outputs, which can fill stripes that stay short.
    partners: Bounded<(Row, Values)>,
}

impl OpenStripes {
    /// No stripes yet; at most `open_max` may wait for members, each for about `fill`.
    pub fn new(code: Arc<dyn Code>, metrics: Arc<Metrics>, fill: Duration, open_max: usize) -> Self {
        let partners = Bounded::new(2 * code.k());
        // Some are short, and some are full and in flight; both are bounded alike.
        let stripes = Stripes::new(code, metrics, 2 * open_max);
        OpenStripes { stripes, fill, waiting: Bounded::new(open_max), partners }
    }

    /// Gives the row of a query that starts in `domain` a place. Also gives back the stripe if it takes no more members: it is full, or closed
    /// for want of room.
    pub fn place(&self, query: &Shared<Admitted>, domain: FaultDomain, now: Time) -> (Place, Option<Shared<Stripe>>) {
        let token = self.take_for(domain);
        let opened = token.as_ref().map_or(now, |token| token.opened);
        let filling = token.map_or_else(|| self.stripes.open(), |token| token.filling);
        let member = Member { row: query.query.row.clone(), query: Some(query.clone()), domain: Some(domain) };
        let (place, joined) = filling.join(member);
        (place, self.keep_short(joined, opened))
    }

    /// Gives the row of a query that will not be run by itself a place: its slot is erased from the start, so that what is decoded is
    /// served at once. Gives back the stripe if it takes no more members: it is full, or closed for want of room.
    pub fn place_erased(&self, query: &Shared<Admitted>) -> Option<Shared<Stripe>> {
        let admitted = query.query.admitted;
        let token = self.waiting.pop().unwrap_or_else(|| Waiting { filling: self.stripes.open(), opened: admitted });
        let member = Member { row: query.query.row.clone(), query: Some(query.clone()), domain: None };
        let (place, joined) = token.filling.join(member);
        place.stripe.mark_erased(SlotSet::only(place.slot));
        self.keep_short(joined, token.opened)
    }

    /// A stripe that nobody is in flight for in `domain`.
    fn take_for(&self, domain: FaultDomain) -> Option<Waiting> {
        for _ in 0..self.waiting.len() {
            let token = self.waiting.pop()?;
            if !token.filling.stripe().in_flight_in(domain) {
                return Some(token);
            }
            // Of one that is closed the members that run are unprotected from here on; those that were lost are rescued in time.
            drop(self.put(token));
        }
        None
    }

    /// Lets a stripe wait for members; gives it back, closed, if there is no room. Like any redundancy that finds its queue full it is dropped, but whoever
    /// hoped for it is to be rescued.
    fn put(&self, token: Waiting) -> Option<Shared<Stripe>> {
        let Err(Waiting { filling, .. }) = self.waiting.push(token) else { return None };
        let stripe = filling.stripe().clone();
        filling.close();
        Some(stripe)
    }

    fn keep_short(&self, joined: Joined, opened: Time) -> Option<Shared<Stripe>> {
        match joined {
            Joined::Full(stripe) => Some(stripe),
            Joined::Short(filling) => self.put(Waiting { filling, opened }),
        }
    }

    /// Remembers a row and its direct output as a partner for stripes that stay short.
    pub fn remember(&self, row: &Row, output: &Values) {
        self.partners.push_over((row.clone(), Arc::clone(output)));
    }

    /// Takes stripes that have been short for too long out of waiting. Those that known partners could fill are given back as full,
    /// the others as closed; all are closed if `close_all`.
    pub fn overdue(&self, now: Time, close_all: bool) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(token) = self.waiting.pop() else { break };
            if now.since(token.opened) < self.fill {
                overdue.extend(self.put(token).map(Overdue::Closed));
                continue;
            }
            overdue.push(self.finish(token.filling, close_all));
        }
        overdue
    }

    fn finish(&self, mut filling: Filling, close: bool) -> Overdue {
        let stripe = filling.stripe().clone();
        if close || !stripe.wants_parity() {
            filling.close();
            return Overdue::Closed(stripe);
        }
        // Each row once: the sum of a row with itself is nothing that a parity model has been trained on. A member that was answered may be among the
        // partners, and so may be one row twice, which two lanes ran.
        let mut used = Vec::new();
        let filled = loop {
            let Some((row, output)) = self.partners.pop() else {
                filling.close();
                break Overdue::Closed(stripe);
            };
            used.push((row.clone(), Arc::clone(&output)));
            if stripe.rows().any(|mine| mine.is_same(&row)) {
                continue;
            }
            match filling.join_known(row, output) {
                Joined::Full(stripe) => break Overdue::Filled(stripe),
                Joined::Short(still) => filling = still,
            }
        };
        for partner in used {
            self.partners.push_over(partner);
        }
        filled
    }
}

/// What became of a stripe that stayed short.
#[derive(Debug)]
pub enum Overdue {
    /// Known partners filled it.
    Filled(Shared<Stripe>),
    /// It has no use for parity, nobody to fill it, or no room to wait.
    Closed(Shared<Stripe>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Berrut;

    /// Under a code that is not systematic nobody runs its members but whoever is told.
    #[test]
    fn a_stripe_that_finds_no_room_to_wait_is_given_back_closed() {
        let (code, metrics) = (Arc::new(Berrut::new(3, 1, 0).unwrap()), Arc::new(Metrics::new("m", 1)));
        let open = OpenStripes::new(code, metrics, Duration::ZERO, 1);
        let short = || {
            let member = Member { row: Row::whole(vec![1.0]), query: None, domain: None };
            open.stripes.open().join(member)
        };
        let (place, joined) = short();
        assert!(open.keep_short(joined, Time::ZERO).is_none(), "there is room for one");
        place.stripe.mark_erased(SlotSet::only(place.slot));
        assert!(place.stripe.has_hope(place.slot));
        let (place, joined) = short();
        place.stripe.mark_erased(SlotSet::only(place.slot));
        let closed = open.keep_short(joined, Time::ZERO).expect("there is none for another");
        assert!(closed.is_same(&place.stripe) && !closed.is_full() && !closed.has_hope(place.slot));
    }
}
