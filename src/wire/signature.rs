//! What a request says of its model and its tensors, held against the deployment's [`Signature`].
//!
//! Each check refuses with the field's name, and both protocols make the same ones: what is wrong in one is wrong in the other, in the same words.
//! More rows than there are places are refused here, before their data are read; admission refuses them once more, for callers without a protocol.

use std::{fmt, sync::Arc};

use super::{ClientError, Datatype, cut};
use crate::query::{Rows, Signature};

/// Dimensions of a shape that are looked at; no model has so many.
pub(crate) const DIMS_MAX: usize = 64;

impl Signature {
    /// Whether this is the model of that name, and that version of it; none stands for any.
    pub(crate) fn check_model(&self, name: &str, version: Option<&str>) -> Result<(), ClientError> {
        if name != self.name {
            return Err(ClientError::UnknownModel { name: cut(name.to_owned()), served: self.name.clone() });
        }
        match version {
            Some(version) if version != self.version => {
                Err(ClientError::UnknownVersion { version: cut(version.to_owned()), served: self.version.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this is the name of the input.
    pub(crate) fn check_input(&self, name: &str) -> Result<(), ClientError> {
        let want = &self.input.name;
        let wrong = || ClientError::field("inputs[0].name", format!("{want:?} is expected, not {name:?}"));
        if name == want { Ok(()) } else { Err(wrong()) }
    }

    /// Why there is not one input.
    pub(crate) fn not_one_input(&self, given: usize) -> ClientError {
        let name = &self.input.name;
        ClientError::field(
            "inputs",
            match given {
                0 => format!("the input {name:?} is missing"),
                _ => format!("exactly one tensor is expected, {name:?}"),
            },
        )
    }

    /// Whether this is the name of the output.
    pub(crate) fn check_output(&self, name: &str) -> Result<(), ClientError> {
        let served = &self.output.name;
        let wrong = || ClientError::field("outputs[].name", format!("the model gives {served:?} and no {name:?}"));
        if name == served { Ok(()) } else { Err(wrong()) }
    }

    /// The output is asked for twice.
    pub(crate) fn output_twice(&self) -> ClientError {
        ClientError::field("outputs", format!("{:?} is asked for more than once", self.output.name))
    }

    /// How many rows `shape` holds; at least one.
    pub(crate) fn check_rows<D>(&self, shape: &[D], queue_max: usize) -> Result<usize, ClientError>
    where
        D: Copy + Default + PartialOrd + fmt::Debug,
        usize: TryFrom<D>,
    {
        let field = "inputs[0].shape";
        if shape.len() > DIMS_MAX {
            return Err(ClientError::field(field, format!("more than {DIMS_MAX} dimensions")));
        }
        let row = shape.get(1..).unwrap_or_default();
        let same = |(&dim, &want): (&D, &usize)| usize::try_from(dim).is_ok_and(|dim| dim == want);
        let negative = shape.iter().any(|dim| *dim < D::default());
        if shape.is_empty()
            || negative
            || row.len() != self.input.shape.len()
            || !row.iter().zip(&self.input.shape).all(same)
        {
            return Err(ClientError::field(field, format!("{shape:?}, and {} is expected", self.shape())));
        }
        match usize::try_from(shape[0]) {
            Ok(0) => Err(ClientError::field(field, "a request has at least one row")),
            Ok(rows) if rows <= queue_max => Ok(rows),
            Ok(_) | Err(_) => Err(ClientError::TooManyRows { queue_max }),
        }
    }

    /// The shape that is right, as text.
    fn shape(&self) -> String {
        let dims = self.input.shape.iter().map(ToString::to_string);
        format!("[{}]", std::iter::once("n".to_owned()).chain(dims).collect::<Vec<_>>().join(", "))
    }

    /// `values`, which stand in `field`, as so many rows.
    pub(crate) fn cut_rows(&self, rows: usize, values: Arc<[f32]>, field: &'static str) -> Result<Rows, ClientError> {
        let (found, width) = (values.len(), self.input.width());
        Rows::new(values, width)
            .filter(|cut| cut.count() == rows)
            .ok_or_else(|| ClientError::field(field, format!("{found} values, and the shape holds {}", rows * width)))
    }
}

impl Datatype {
    /// The datatype of that name.
    pub(crate) fn read(word: &str) -> Result<Self, ClientError> {
        Datatype::named(word).ok_or_else(|| {
            let known = Datatype::ALL.map(Datatype::as_str).join(", ");
            ClientError::field("inputs[0].datatype", format!("{:?} is none of {known}", cut(word.to_owned())))
        })
    }

    /// Binary values that stand in `field`.
    pub(crate) fn read_values(self, bytes: &[u8], field: &'static str) -> Result<Arc<[f32]>, ClientError> {
        let misfit = |(index, misfit)| ClientError::field(field, format!("value {index} {misfit}"));
        self.values(bytes).map_err(misfit)
    }
}
