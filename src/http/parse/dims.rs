//! A tensor's shape, of which no more is kept than any model has.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, Error, SeqAccess, Visitor},
};

use crate::wire::DIMS_MAX;

/// The dimensions of a shape, [`DIMS_MAX`] at most.
#[derive(Default, Debug)]
pub(super) struct Dims(pub(super) Vec<u64>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Dims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of whole numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Dims, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = list.next_element()? {
            if dims.len() == DIMS_MAX {
                return Err(A::Error::custom(format_args!("more than {DIMS_MAX} dimensions")));
            }
            dims.push(dim);
        }
        Ok(Dims(dims))
    }
}
