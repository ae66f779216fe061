//! Every order in which slots can arrive or be lost, against a naive re-computation and the linear oracle.

use super::*;
use crate::{
    clock::Time,
    code::Sum,
    query::{Confidence, Query},
    reply::{Pending, Requests},
};

fn rows(k: usize) -> Vec<Vec<f32>> {
    (0..k).map(|i| vec![i as f32 + 0.5, 1.0 - 2.0 * i as f32, (i * i) as f32 * 0.25]).collect()
}

/// The linear model: output 0 is the sum of the inputs, output 1 an alternating sum.
fn linear(row: &[f32]) -> Values {
    let alternating = row.iter().enumerate().map(|(i, x)| if i.is_multiple_of(2) { *x } else { -*x });
    [row.iter().sum::<f32>(), alternating.sum::<f32>()].into()
}

/// A full stripe of open queries, the outputs of all its slots, and who waits for them.
fn full_stripe(code: &Arc<dyn Code>, accepts: Accepts) -> (Shared<Stripe>, Vec<Values>, Vec<Pending>) {
    let metrics = Arc::new(Metrics::new("m", 1));
    let (stripes, requests) = (Stripes::new(Arc::clone(code), metrics, 1), Requests::new(99));
    let rows = rows(code.k());
    let (mut pendings, mut joined) = (Vec::new(), Joined::Short(stripes.open()));
    for (i, row) in rows.iter().enumerate() {
        let row = Row::whole(row.clone());
        let query = Query {
            row: row.clone(),
            admitted: Time::ZERO,
            deadline: Time::ZERO,
            accepts,
            min_confidence: Confidence::NONE,
            in_range: true,
        };
        let (mut admitted, pending) = requests.admit([query]).unwrap();
        pendings.push(pending);
        let Joined::Short(filling) = joined else { unreachable!("k members make it full") };
        let domain = Some(FaultDomain(u16::try_from(i).unwrap()));
        joined = filling.join(Member { row, query: admitted.next(), domain }).1;
    }
    let Joined::Full(stripe) = joined else { unreachable!("k members make it full") };
    let slices: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<Values> = rows.iter().map(|row| linear(row)).collect();
    for parity in 0..code.r() {
        let mut query = vec![0.0; 3];
        code.encode(parity, &slices, &mut query);
        outputs.push(linear(&query));
    }
    (stripe, outputs, pendings)
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for shorter in permutations(n - 1) {
        for at in 0..=shorter.len() {
            let mut order = shorter.clone();
            order.insert(at, n - 1);
            all.push(order);
        }
    }
    all
}

/// Applies the slots' fates in `order` and checks the stripe after each.
fn check_order(code: &Arc<dyn Code>, order: &[usize], lost: SlotSet) {
    let (stripe, outputs, _pendings) = full_stripe(code, Accepts::Any);
    let (mut present, mut erased) = (SlotSet::EMPTY, SlotSet::EMPTY);
    for &slot in order {
        if lost.has(slot) {
            stripe.mark_erased(SlotSet::only(slot));
            erased = erased.with(SlotSet::only(slot));
        } else {
            assert_ne!(stripe.settle(slot, Arc::clone(&outputs[slot])), Settled::Late);
            assert_eq!(stripe.settle(slot, Arc::clone(&outputs[slot])), Settled::Late, "a second output is not taken");
            present = present.with(SlotSet::only(slot));
        }
        let enough = present.count() >= code.k();
        let absent = SlotSet::below(code.k()).without(present);
        assert_eq!(stripe.recoverable(), if enough { absent } else { SlotSet::EMPTY });
        for slot in 0..code.k() {
            let others_left = code.k() + code.r() - erased.without(SlotSet::only(slot)).count() - 1;
            assert_eq!(stripe.has_hope(slot), others_left >= code.k());
        }
    }
    for slot in stripe.recoverable().iter() {
        let decoded = stripe.decode(slot).expect("recoverable");
        for (decoded, direct) in decoded.iter().zip(&*outputs[slot]) {
            assert!((decoded - direct).abs() < 1e-3, "{order:?} without {lost:?}: {decoded} is not {direct}");
        }
        assert!(stripe.decode(slot).is_none(), "each slot is decoded once");
    }
}

#[test]
fn every_arrival_order_and_every_loss_set_up_to_k_4_r_2() {
    for k in 2..=4 {
        for r in 1..=2 {
            let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(k, r).unwrap());
            for order in permutations(k + r) {
                for lost in 0..=SlotSet::below(k + r).bits() {
                    check_order(&code, &order, SlotSet::from_bits(lost));
                }
            }
        }
    }
}

#[test]
fn a_completion_that_comes_late_finds_its_own_stripe() {
    let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(2, 1).unwrap());
    let metrics = Arc::new(Metrics::new("m", 1));
    let stripes = Stripes::new(code, Arc::clone(&metrics), 4);
    let member = |domain| Member { row: Row::whole(vec![1.0]), query: None, domain: Some(FaultDomain(domain)) };
    let (late, joined) = stripes.open().join(member(0));
    let place = std::ptr::from_ref(&*late.stripe);
    drop(joined);
    let (_, other) = stripes.open().join(member(1));
    let Joined::Short(other) = other else { unreachable!("one of two members") };
    assert!(!other.stripe().is_same(&late.stripe), "it is still held, so it is not used again");
    assert_eq!(late.stripe.settle(0, [1.0].into()), Settled::Open);
    assert!(!other.stripe().recoverable().has(0) && other.stripe().in_flight_in(FaultDomain(1)));
    drop(late);
    assert_eq!(metrics.stripes_open.get(), 1);
    let again = stripes.open();
    assert!(std::ptr::eq(place, &raw const **again.stripe()), "now it is");
    assert!(again.stripe().member(0).is_none() && !again.stripe().in_flight_in(FaultDomain(0)));
    assert_eq!(again.stripe().settle(0, [2.0].into()), Settled::Open, "it knows nothing of the one before");
    drop((other, again));
    assert_eq!(metrics.stripes_open.get(), 0);
}

#[test]
fn parity_is_wanted_while_somebody_who_takes_reconstructions_waits() {
    let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(2, 1).unwrap());
    let (stripe, outputs, mut pendings) = full_stripe(&code, Accepts::Any);
    assert!(stripe.wants_parity());
    stripe.settle(0, Arc::clone(&outputs[0]));
    assert!(stripe.wants_parity());
    pendings.clear();
    assert!(!stripe.wants_parity(), "both clients have left");
    let (direct_only, ..) = full_stripe(&code, Accepts::DirectOnly);
    assert!(!direct_only.wants_parity());
}

#[test]
fn a_domain_is_free_again_once_its_member_is_over() {
    let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(2, 1).unwrap());
    let (stripe, outputs, _pendings) = full_stripe(&code, Accepts::Any);
    assert!(stripe.in_flight_in(FaultDomain(0)) && stripe.in_flight_in(FaultDomain(1)));
    stripe.settle(0, Arc::clone(&outputs[0]));
    assert!(!stripe.in_flight_in(FaultDomain(0)) && stripe.in_flight_in(FaultDomain(1)));
    assert!(stripe.parity_starts(0, FaultDomain(2)));
    assert!(stripe.in_flight_in(FaultDomain(2)));
}
