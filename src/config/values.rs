//! Reading single TOML values: each function is one rule, and says in its error what would have been right.
//!
//! Nothing is converted silently: `"8"` is no number, `8.0` is no whole number, and a number outside its range is refused rather than
//! clamped. Milliseconds may be whole or not, since 0.5 ms is a sensible time on a GPU.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use toml::de::DeValue;

/// A value, or the rule that it breaks.
pub(super) type Read<T> = Result<T, String>;

/// The longest time that can be configured: an hour. Anything longer is taken for a wrong unit.
pub(super) const MILLIS_MAX: f64 = 3_600_000.0;

/// The shortest time where zero makes no sense: a microsecond.
pub(super) const MILLIS_MIN: f64 = 0.001;

/// A string.
pub(super) fn text<'t>(value: &'t DeValue<'_>, example: &str) -> Read<&'t str> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| format!("must be a string such as \"{example}\""))
}

/// A name that needs no quoting in an URL, a file name or a metric label.
pub(super) fn name(value: &DeValue<'_>, example: &str) -> Read<String> {
    plain_name(text(value, example)?)
}

/// A name that clients may ask for.
///
/// # Errors
/// It is none; says what would be.
pub fn plain_name(name: &str) -> Result<String, String> {
    if name == "stats" {
        return Err("must not be \"stats\": /v2/models/stats tells the statistics of all models".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() <= 64 && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(name.to_owned())
    } else {
        Err("must be 1 to 64 of the characters A-Z a-z 0-9 - _ . and start with a letter or digit".to_owned())
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| "must be true or false, without quotes".to_owned())
}

/// A whole number in `range`.
pub(super) fn whole(value: &DeValue<'_>, range: RangeInclusive<usize>) -> Read<usize> {
    let number = value.as_integer().and_then(|integer| i128::from_str_radix(integer.as_str(), integer.radix()).ok());
    number
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

/// A finite number, whole or not.
fn number(value: &DeValue<'_>) -> Option<f64> {
    let number = match value {
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok()? as f64,
        DeValue::Float(float) => float.as_str().parse().ok()?,
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            return None;
        }
    };
    number.is_finite().then_some(number)
}

/// A number from 0 to 1.
pub(super) fn share(value: &DeValue<'_>) -> Read<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "confidences are f32; rounding keeps them within 0 to 1")]
    number(value)
        .filter(|number| (0.0..=1.0).contains(number))
        .map(|number| number as f32)
        .ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// How many times as long: a number from 1 to 100.
pub(super) fn factor(value: &DeValue<'_>) -> Read<f64> {
    number(value)
        .filter(|number| (1.0..=100.0).contains(number))
        .ok_or_else(|| "must be a number from 1 to 100".to_owned())
}

/// Milliseconds, at least `min`.
pub(super) fn millis(value: &DeValue<'_>, min: f64) -> Read<Duration> {
    number(value)
        .filter(|millis| (min..=MILLIS_MAX).contains(millis))
        .map(|millis| Duration::from_secs_f64(millis / 1e3))
        .ok_or_else(|| format!("must be a number of milliseconds from {min} to {MILLIS_MAX}"))
}

/// A non-empty array of finite numbers.
pub(super) fn numbers(value: &DeValue<'_>) -> Read<Vec<f32>> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "predictions and coefficients are f32; overflow is checked next"
    )]
    let read = |value: &DeValue<'_>| number(value).map(|number| number as f32).filter(|number| number.is_finite());
    value
        .as_array()
        .and_then(|array| array.iter().map(|item| read(item.get_ref())).collect::<Option<Vec<_>>>())
        .filter(|numbers| !numbers.is_empty())
        .ok_or_else(|| "must be an array of finite numbers such as [1.0, 2.0]".to_owned())
}

/// A non-empty array of arrays of finite numbers.
pub(super) fn number_rows(value: &DeValue<'_>) -> Read<Vec<Vec<f32>>> {
    value
        .as_array()
        .and_then(|array| array.iter().map(|item| numbers(item.get_ref()).ok()).collect::<Option<Vec<_>>>())
        .filter(|rows| !rows.is_empty())
        .ok_or_else(|| "must be an array of rows of finite numbers such as [[1.0, 1.0]]".to_owned())
}

/// One of a closed list of words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Read<T> {
    let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
    found.map(|&(_, meaning)| meaning).ok_or_else(|| {
        let quoted: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        format!("must be {}", quoted.join(" or "))
    })
}

/// An address and a port.
pub(super) fn address(text: &str) -> Read<SocketAddr> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "must be an IP address and a port such as \"127.0.0.1:8000\" or \"[::1]:8000\"".to_owned())?;
    // The system listens there, and no connection ever comes.
    let is_of_many = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    if is_of_many {
        Err("must be an address of one machine, which multicast and broadcast addresses are not".to_owned())
    } else {
        Ok(address)
    }
}
