//! Memory that is used again: values shared by reference count, and lists.
//!
//! A [`Shared`] is an `Arc` whose last holder does not free its value but empties it and gives it back to the pool that it came from. Nobody
//! else can see that: a value is emptied and filled only by whoever holds it *alone*, which `Arc::get_mut` proves at both ends, so whoever
//! still holds one, however late, finds what it left there. It takes no generation numbers; and no weak reference to one can be made, since it
//! would keep it from ever being held alone.
//!
//! Pools are bounded queues. They start empty, grow to what is in use at once, and let go of what is more than they may hold. If the last two
//! holders let go at the same moment neither may find itself alone; then the value is freed like any other, and the pool makes a new one.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use crate::queue::Bounded;

/// What a pool can use again.
pub trait Reuse {
    /// Nobody holds it any more: it ends as if it were dropped, and lets go of everything but its own memory.
    fn empty(&mut self);
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// Weak, because the pool holds entries in turn.
    home: Weak<Bounded<Arc<Entry<T>>>>,
}

/// Values that wait to be used again.
#[derive(Debug)]
pub struct Pool<T>(Arc<Bounded<Arc<Entry<T>>>>);

impl<T: Reuse> Pool<T> {
    /// An empty pool, which keeps `capacity` values at most.
    pub fn new(capacity: usize) -> Self {
        Pool(Arc::new(Bounded::new(capacity)))
    }

    /// A value that was used before, or a `new` one, made what it is to be by `fill`.
    pub fn take(&self, new: impl FnOnce() -> T, fill: impl FnOnce(&mut T)) -> Shared<T> {
        let new = || Arc::new(Entry { value: new(), home: Arc::downgrade(&self.0) });
        let mut entry = self.0.pop().unwrap_or_else(new);
        let alone = Arc::get_mut(&mut entry).expect("only who holds an entry alone gives it back");
        fill(&mut alone.value);
        Shared(Some(entry))
    }
}

/// A value of a [`Pool`], shared by reference count.
pub struct Shared<T: Reuse>(Option<Arc<Entry<T>>>);

impl<T: Reuse> Shared<T> {
    fn entry(&self) -> &Arc<Entry<T>> {
        self.0.as_ref().expect("it is taken out by `drop` alone")
    }

    /// Whether both are one and the same value.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.entry(), other.entry())
    }

    /// Whether nobody else holds it.
    pub fn is_sole(&self) -> bool {
        Arc::strong_count(self.entry()) == 1
    }
}

impl<T: Reuse> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T: Reuse> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.entry().value
    }
}

impl<T: Reuse + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Reuse> Drop for Shared<T> {
    fn drop(&mut self) {
        // The count first: it is a load, where the proof is a read-modify-write, and most who let go are not the last.
        let Some(mut entry) = self.0.take().filter(|entry| Arc::strong_count(entry) == 1) else { return };
        let Some(alone) = Arc::get_mut(&mut entry) else { return };
        alone.value.empty();
        if let Some(home) = alone.home.upgrade() {
            // No room: it is freed.
            drop(home.push(entry));
        }
    }
}

/// Lists that wait to be filled again; who takes one gives it back empty, or not at all.
#[derive(Debug)]
pub struct Lists<T>(Bounded<Vec<T>>);

impl<T> Lists<T> {
    /// None yet, and at most `capacity`.
    pub fn new(capacity: usize) -> Self {
        Lists(Bounded::new(capacity))
    }

    /// An empty list, with room if one was given back.
    pub fn take(&self) -> Vec<T> {
        self.0.pop().unwrap_or_default()
    }

    /// Gives back a list, whose items are dropped.
    pub fn give(&self, mut list: Vec<T>) {
        list.clear();
        // No room: it is freed.
        drop(self.0.push(list));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    /// A number that is counted while it is in use.
    #[derive(Debug)]
    struct Number {
        value: usize,
        in_use: Arc<AtomicUsize>,
    }

    impl Reuse for Number {
        fn empty(&mut self) {
            if std::mem::take(&mut self.value) > 0 {
                self.in_use.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    impl Drop for Number {
        fn drop(&mut self) {
            self.empty();
        }
    }

    fn take(pool: &Pool<Number>, in_use: &Arc<AtomicUsize>, value: usize) -> Shared<Number> {
        in_use.fetch_add(1, Ordering::SeqCst);
        pool.take(|| Number { value: 0, in_use: Arc::clone(in_use) }, |number| number.value = value)
    }

    #[test]
    fn a_value_is_used_again_once_the_last_holder_has_let_go() {
        let (pool, in_use) = (Pool::new(4), Arc::default());
        let first = take(&pool, &in_use, 1);
        let place = std::ptr::from_ref(&*first);
        let late = first.clone();
        drop(first);
        let second = take(&pool, &in_use, 2);
        assert!(!late.is_same(&second) && late.is_sole());
        assert_eq!((late.value, second.value), (1, 2), "who comes late finds its own");
        drop(late);
        assert_eq!(in_use.load(Ordering::SeqCst), 1, "it is over when nobody holds it");
        let third = take(&pool, &in_use, 3);
        assert!(std::ptr::eq(place, &raw const *third), "and its memory is used again");
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_may_and_may_go_first() {
        let (pool, in_use) = (Pool::new(2), Arc::default());
        let mut held: Vec<_> = (1..=5).map(|value| take(&pool, &in_use, value)).collect();
        held.truncate(1);
        assert_eq!((pool.0.len(), in_use.load(Ordering::SeqCst)), (2, 1));
        drop(pool);
        assert_eq!(held[0].value, 1);
        drop(held);
        assert_eq!(in_use.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn nobody_sees_a_value_change_whatever_the_threads_do() {
        let (pool, in_use) = (Pool::new(8), Arc::default());
        let handed = Bounded::new(8);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (pool, in_use, handed) = (&pool, &in_use, &handed);
                scope.spawn(move || {
                    for round in 1..20_000 {
                        let value = round * 4 + thread;
                        let mine = take(pool, in_use, value);
                        drop(handed.push((value, mine.clone())));
                        if let Some((told, other)) = handed.pop() {
                            assert_eq!(other.value, told);
                        }
                        assert_eq!(mine.value, value);
                    }
                });
            }
        });
        drop(handed);
        assert_eq!(in_use.load(Ordering::SeqCst), 0, "each is over once");
    }

    #[test]
    fn lists_keep_their_room() {
        let lists = Lists::new(1);
        let mut list = lists.take();
        list.extend([1, 2, 3]);
        lists.give(list);
        lists.give(vec![4]);
        let again = lists.take();
        assert!(again.is_empty() && again.capacity() >= 3);
        assert_eq!(lists.take().capacity(), 0, "there was room for one");
    }
}
