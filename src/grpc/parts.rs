//! The bytes of a body in the order in which they came, in memory of about their size.
//!
//! A part as HTTP/2 gives it is a view into the buffer that the socket was read into, and keeps all of that buffer. A client that sends a byte at a
//! time would hold hundreds of times what is claimed for it. So short parts are copied together; long ones stay where they are.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A part that is at least so long stays where it is: most of its buffer is its own.
const LONG: usize = 8 * 1024;

/// Bytes that were taken and not given out.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Before `short`.
    whole: VecDeque<Bytes>,
    /// Short ones, together.
    short: BytesMut,
}

impl Parts {
    /// Takes one more.
    pub(super) fn push(&mut self, part: Bytes) {
        if part.len() < LONG {
            self.short.extend_from_slice(&part);
        } else {
            self.close();
            self.whole.push_back(part);
        }
    }

    /// All of `others`, behind these.
    pub(super) fn append(&mut self, others: &mut Parts) {
        others.close();
        self.close();
        self.whole.append(&mut others.whole);
    }

    /// The first of them; what is given out may be more than one that was taken.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.close();
        }
        self.whole.pop_front()
    }

    fn close(&mut self) {
        if !self.short.is_empty() {
            self.whole.push_back(self.short.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_their_order_and_short_parts_together() {
        let long = Bytes::from(vec![7; LONG]);
        let mut held = Parts::default();
        for byte in 0..100 {
            held.push(Bytes::copy_from_slice(&[byte]));
        }
        held.push(long.clone());
        held.push(Bytes::from_static(b"end"));
        let mut parts = Parts::default();
        parts.push(Bytes::from_static(b"first"));
        parts.append(&mut held);
        assert!(held.pop().is_none());
        parts.push(Bytes::from_static(b"last"));
        let given: Vec<Bytes> = std::iter::from_fn(|| parts.pop()).collect();
        let all: Vec<u8> = (0..100).collect();
        assert_eq!(given, [Bytes::from_static(b"first"), all.into(), long, "end".into(), "last".into()]);
    }

    #[test]
    fn a_short_part_does_not_keep_the_buffer_it_came_in() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let mut parts = Parts::default();
        parts.push(buffer.slice(..1));
        assert!(buffer.is_unique(), "nothing else looks into it");
    }
}
