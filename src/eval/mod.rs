//! Accuracy of direct and of reconstructed answers.

mod stripes;

pub use stripes::{Stripes, class, encode};
