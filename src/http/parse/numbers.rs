//! The list of numbers that nearly every `data` is, read without serde.
//!
//! A first reading, several times as fast, that gives just what the second would give, or nothing: it knows numbers, commas and
//! brackets, and whatever else it meets, or whatever is wrong, is for the second to read, or to refuse in its words. What stands around the list is
//! short, and goes through serde with an empty list in its place; so the checks of `tensor` hold, and come before a number is read.

#![expect(
    clippy::inline_always,
    reason = "the processor begins the next number before this one is done, if no call lies between"
)]

use std::ops::Range;

use crate::wire::{Datatype, Number};

/// What may stand around the list.
const AROUND_BYTES_MAX: usize = 4096;
/// So many digits fit in an integer of 64 bits, with or without a sign.
const DIGITS_MAX: usize = 18;
/// The powers of ten by which eight digits and fewer move others.
const TENS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
/// What FP64 holds of the powers of ten, exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Where the first tensor's `data` stand in a request, if they are a list and little else is around it.
///
/// Whether the rest is a request is not asked: whoever reads that finds out. No string with a backslash is looked through, so none can be
/// mistaken for something else.
pub(super) fn find(json: &[u8]) -> Option<Range<usize>> {
    let start = opening(json)?;
    let end = start + closing(&json[start..])?;
    (json.len() - (end - start) <= AROUND_BYTES_MAX).then_some(start..end)
}

/// Where the list opens that is the value of `data`, in an object, in a list, in the value of `inputs`.
fn opening(json: &[u8]) -> Option<usize> {
    let mut cursor = Cursor { text: &json[..json.len().min(AROUND_BYTES_MAX)], at: 0 };
    let (mut depth, mut in_inputs) = (0_usize, false);
    loop {
        match cursor.next()? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let word = cursor.string()?;
                if depth == 1 {
                    in_inputs = word == b"inputs";
                } else if depth == 3 && in_inputs && word == b"data" {
                    cursor.skip_space();
                    if cursor.take(b':') {
                        cursor.skip_space();
                        return (cursor.peek()? == b'[').then_some(cursor.at);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The length of the list at the start, if what it holds is lists and what has no brackets.
fn closing(list: &[u8]) -> Option<usize> {
    let mut cursor = Cursor { text: list, at: 0 };
    let mut depth = cursor.take_all(b'[');
    loop {
        cursor.at += find_bracket(list.get(cursor.at..)?)? + 1;
        depth = depth.checked_sub(1)?;
        while depth > 0 {
            cursor.skip_space();
            match cursor.next()? {
                b']' => depth -= 1,
                b',' => {
                    depth += cursor.take_all(b'[');
                    break;
                }
                _ => return None,
            }
        }
        if depth == 0 {
            return Some(cursor.at);
        }
    }
}

/// The place of the first `]`. By blocks, which the compiler compares in vectors.
fn find_bracket(text: &[u8]) -> Option<usize> {
    let (blocks, _) = text.as_chunks::<64>();
    let holds = |block: &[u8; 64]| block.iter().fold(0, |found, &byte| found | u8::from(byte == b']')) > 0;
    let passed = blocks.iter().take_while(|block| !holds(block)).count() * 64;
    text[passed..].iter().position(|&byte| byte == b']').map(|at| passed + at)
}

/// Reads `list`, all of it, into `into`: at most `limit` values, at most `levels` lists one inside the other.
pub(super) fn read(list: &[u8], datatype: Datatype, limit: usize, levels: usize, into: &mut Vec<f32>) -> Option<()> {
    let mut cursor = Cursor { text: list, at: 0 };
    let mut open = 0;
    loop {
        cursor.skip_space();
        if cursor.take(b'[') {
            open += 1;
            cursor.skip_space();
            if open > levels {
                return None;
            }
            if cursor.peek()? != b']' {
                continue;
            }
        } else if into.len() < limit {
            into.push(cursor.value(datatype)?);
        } else {
            return None;
        }
        loop {
            cursor.skip_space();
            match cursor.next()? {
                b',' => break,
                b']' => open -= 1,
                _ => return None,
            }
            if open == 0 {
                return (cursor.at == list.len()).then_some(());
            }
        }
    }
}

/// A place in a text.
struct Cursor<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// How many of this byte come next, with space between them and behind them.
    fn take_all(&mut self, byte: u8) -> usize {
        let mut count = 0;
        loop {
            self.skip_space();
            if !self.take(byte) {
                return count;
            }
            count += 1;
        }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// The rest of a string, whose opening quote is past; none that has a backslash.
    fn string(&mut self) -> Option<&'t [u8]> {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|&byte| matches!(byte, b'"' | b'\\'))?;
        self.at += length + 1;
        (rest[length] == b'"').then_some(&rest[..length])
    }

    /// A number, as `datatype` takes it.
    #[inline(always)]
    fn value(&mut self, datatype: Datatype) -> Option<f32> {
        let text = &self.text[self.at..];
        let (is_negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let (significand, wholes) = read_digits(digits, 0);
        let after = &digits[wholes..];
        let (significand, decimals, rest) = match after {
            [b'.', after @ ..] => {
                let (significand, decimals) = read_many_digits(after, significand);
                (significand, decimals, &after[decimals..])
            }
            _ => (significand, 0, after),
        };
        let is_whole = rest.len() == after.len();
        let is_number = wholes == 1 || wholes > 1 && digits[0] != b'0';
        let is_short = wholes + decimals <= DIGITS_MAX && (is_whole || decimals > 0);
        if !is_number || !is_short || matches!(rest.first(), Some(b'e' | b'E')) {
            return self.any_value(datatype);
        }
        self.at = self.text.len() - rest.len();
        if !matches!(datatype, Datatype::Fp32 | Datatype::Fp64) {
            // A zero below zero is no integer.
            let is_integer = is_whole && (significand > 0 || !is_negative);
            return is_integer.then(|| integer(datatype, significand, is_negative)).flatten();
        }
        // So few digits are no overflow.
        #[expect(clippy::cast_possible_truncation, reason = "to the nearest, as any decimal is")]
        let value = if is_whole { significand as f32 } else { (significand as f64 / POWERS[decimals]) as f32 };
        Some(if is_negative { -value } else { value })
    }

    /// Any number that serde takes.
    fn any_value(&mut self, datatype: Datatype) -> Option<f32> {
        let rest = &self.text[self.at..];
        let ends = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().position(ends)?;
        self.at += length;
        let number: serde_json::Number = serde_json::from_slice(&rest[..length]).ok()?;
        let whole = number.as_u64().map(i128::from).or_else(|| number.as_i64().map(i128::from));
        let number = match whole {
            Some(whole) => Number::Integer(whole),
            None => Number::Real(number.as_f64()?),
        };
        datatype.value(number).ok()
    }
}

fn integer(datatype: Datatype, value: u64, is_negative: bool) -> Option<f32> {
    let value = i128::from(value);
    datatype.value(Number::Integer(if is_negative { -value } else { value })).ok()
}

/// The digits at the start, behind those of `value`; and how many there are. Whoever reads more than a number of 64 bits holds makes nothing of it.
#[inline(always)]
fn read_digits(text: &[u8], mut value: u64) -> (u64, usize) {
    let mut count = 0;
    for digit in text.iter().map(|byte| byte.wrapping_sub(b'0')).take_while(|&digit| digit < 10) {
        value = value.wrapping_mul(10).wrapping_add(digit.into());
        count += 1;
    }
    (value, count)
}

/// The same, sooner where there are many.
#[inline(always)]
fn read_many_digits(text: &[u8], mut value: u64) -> (u64, usize) {
    let mut read = 0;
    for eight in text.as_chunks().0.iter().take(2) {
        let (digits, count) = leading_digits(*eight);
        value = value.wrapping_mul(TENS[count]).wrapping_add(digits);
        read += count;
        if count < 8 {
            return (value, read);
        }
    }
    let (value, rest) = read_digits(&text[read..], value);
    (value, read + rest)
}

/// The number that the digits before anything else of eight bytes make, and how many there are.
fn leading_digits(eight: [u8; 8]) -> (u64, usize) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // A byte that is no digit is above 9 here: its highest bit is set, or is after the addition. Carries reach later bytes alone.
    let values = u64::from_le_bytes(eight) ^ (EACH * 0x30);
    let others = (values.wrapping_add(EACH * 0x76) | values) & (EACH * 0x80);
    let count = others.trailing_zeros() / 8;
    // The digits move to the end, behind zeros; then neighbours become one, three times.
    let digits = values.checked_shl(64 - 8 * count).unwrap_or(0);
    let pairs = (digits.wrapping_mul(10).wrapping_add(digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100).wrapping_add(pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff, count as usize)
}
