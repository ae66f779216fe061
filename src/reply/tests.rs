//! Exactly once: answers, permits, and memory that is used again.

use super::*;
use crate::query::{Prediction, Provenance};

fn query() -> Query {
    Query {
        row: Row::whole(vec![0.0]),
        admitted: Time::ZERO,
        deadline: Time::ZERO,
        accepts: Accepts::Any,
        min_confidence: Confidence::NONE,
        in_range: true,
    }
}

fn direct(value: f32) -> Prediction {
    Prediction { values: [value].into(), provenance: Provenance::Direct, confidence: None }
}

fn request(requests: &Requests, rows: usize) -> Option<(Vec<Shared<Admitted>>, Pending)> {
    let (entering, pending) = requests.admit(vec![query(); rows])?;
    Some((entering.collect(), pending))
}

#[test]
fn the_first_answer_wins_and_the_rest_are_late() {
    let requests = Requests::new(2);
    let (admitted, mut pending) = request(&requests, 2).expect("two places");
    assert_eq!(admitted[0].answer(Ok(direct(1.0))), Ok(()));
    assert_eq!(admitted[0].answer(Err(Failure::Deadline)), Err(Late));
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
    assert_eq!(admitted[1].answer(Err(Failure::Deadline)), Ok(()));
    let Poll::Ready(answers) = Pin::new(&mut pending).poll(&mut context) else {
        unreachable!("both rows are answered")
    };
    assert_eq!(answers[0].as_ref().unwrap().values[..], [1.0]);
    assert_eq!(answers[1].as_ref().unwrap_err(), &Failure::Deadline);
}

#[test]
fn a_thread_can_wait_without_an_executor() {
    let requests = Requests::new(2);
    let (admitted, pending) = request(&requests, 2).expect("two places");
    let waiting = thread::spawn(|| pending.wait());
    assert_eq!(admitted[1].answer(Ok(direct(2.0))), Ok(()));
    assert_eq!(admitted[0].answer(Ok(direct(1.0))), Ok(()));
    let answers = waiting.join().unwrap();
    let values = |answer: &Answer| answer.as_ref().unwrap().values[0].to_bits();
    assert_eq!(answers.iter().map(values).collect::<Vec<_>>(), [1.0_f32.to_bits(), 2.0_f32.to_bits()]);
}

#[test]
fn permits_are_all_or_none_and_come_back_with_the_query() {
    let requests = Requests::new(3);
    let (mut admitted, mut pending) = request(&requests, 2).expect("two of three");
    assert!(request(&requests, 2).is_none());
    assert_eq!(requests.admitted(), 2, "a refusal takes nothing");
    admitted[0].start();
    assert_eq!(requests.admitted(), 2, "started, but not answered");
    assert_eq!(admitted[0].answer(Ok(direct(1.0))), Ok(()));
    assert_eq!(requests.admitted(), 1, "over, although somebody still holds the query");
    drop(admitted.pop());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(answers) = Pin::new(&mut pending).poll(&mut context) else {
        unreachable!("a query that everybody has let go of is answered")
    };
    assert_eq!(answers[1].as_ref().unwrap_err(), &Failure::Stopped);
    drop(pending);
    assert!(!admitted[0].is_open(), "its client has left");
    assert_eq!(requests.admitted(), 0);
}

#[test]
fn memory_that_is_used_again_holds_nothing_of_the_query_before() {
    let requests = Requests::new(2);
    let (first, pending) = request(&requests, 1).expect("one place");
    let place = std::ptr::from_ref(&*first[0]);
    first[0].start();
    assert!(first[0].begin_rescue().is_some() && first[0].lose(LaneId(3)).is_none());
    assert_eq!(first[0].answer(Ok(direct(1.0))), Ok(()));
    let answers = pending.wait();
    let late = first[0].clone();
    drop(first);
    let (other, pending) = request(&requests, 1).expect("the place is free");
    assert_eq!(late.answer(Err(Failure::Deadline)), Err(Late), "its own board, not the other's");
    assert!(other[0].answered().is_none());
    drop((other, pending, late));
    assert_eq!(answers[0].as_ref().unwrap().values[..], [1.0], "answers are held for as long as they are read");
    for _ in 0..2 {
        let (again, _pending) = request(&requests, 1).expect("the place is free");
        assert!(
            again[0].answered().is_none() && again[0].lose(LaneId(4)).is_none() && again[0].begin_hedge().is_some()
        );
        if std::ptr::eq(place, &raw const *again[0]) {
            return;
        }
        drop(again);
    }
    unreachable!("of two that are free, it is one");
}

#[test]
fn queries_that_nobody_takes_in_are_let_go_of() {
    let requests = Requests::new(4);
    let (mut entering, pending) = requests.admit(vec![query(); 4]).expect("four places");
    let first = entering.next().expect("there are four");
    drop(entering);
    assert_eq!(requests.admitted(), 1);
    drop(first);
    assert!(pending.wait().iter().all(|answer| answer.as_ref().unwrap_err() == &Failure::Stopped));
}
