//! Figures of measured rows, as SVG and PNG: `eval --plots`.
//!
//! One set of files a base model, named after its (first) deployment. The same rows give the same bytes, whatever the machine has of fonts.

mod figure;

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{EvalError, Row};
use crate::{
    chart,
    weights::{try_write, write_page},
};
pub(super) use figure::Figure;

/// The rows of one network, and the start of its files' names.
pub(super) struct Network<'a> {
    pub(super) stem: String,
    pub(super) rows: Vec<&'a Row>,
}

/// Whether figures can be written into a folder, which is made if it is not there: to be found out before anything is measured.
pub fn may_plot(dir: &Path) -> Result<(), EvalError> {
    try_write(dir).map_err(|error| EvalError::Undrawn { file: dir.to_path_buf(), error })
}

/// Draws every figure of every network into `dir`; gives the files.
pub fn plot(rows: &[Row], dir: &Path) -> Result<Vec<PathBuf>, EvalError> {
    let mut files = Vec::new();
    let codes = codes(rows);
    fs::create_dir_all(dir).map_err(|error| EvalError::Undrawn { file: dir.to_path_buf(), error })?;
    for Network { stem, rows } in networks(rows) {
        for figure in Figure::ALL {
            let Some(chart) = figure.chart(&rows, &codes) else { continue };
            let fault = |fault: chart::Fault| EvalError::Figure { name: figure.name(), fault: fault.to_string() };
            let svg = chart::to_svg(&chart).map_err(fault)?.into_bytes();
            let bitmap = chart::to_png(&chart).map_err(fault)?;
            for (extension, bytes) in [("svg", svg), ("png", bitmap)] {
                let file = dir.join(format!("{stem}-{}.{extension}", figure.name()));
                write_page(&file, &bytes).map_err(|error| EvalError::Undrawn { file: file.clone(), error })?;
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// The networks that something was reconstructed for, each with its rows.
pub(super) fn networks(rows: &[Row]) -> Vec<Network<'_>> {
    let mut networks: Vec<Network<'_>> = Vec::new();
    for row in rows.iter().filter(|row| row.a_d.is_some()) {
        let same = |known: &&mut Network<'_>| {
            let first = known.rows[0];
            first.weights_sha256.first() == row.weights_sha256.first()
        };
        match networks.iter_mut().find(same) {
            Some(network) => network.rows.push(row),
            None => networks.push(Network { stem: row.deployment.clone(), rows: vec![row] }),
        }
    }
    // Two versions of one deployment are told apart by the base model's hash.
    let stems: Vec<String> = networks.iter().map(|network| network.stem.clone()).collect();
    for network in &mut networks {
        if stems.iter().filter(|stem| **stem == network.stem).count() > 1 {
            let hash = network.rows[0].weights_sha256.first().map_or("", String::as_str);
            network.stem = format!("{}-{}", network.stem, hash.get(..8).unwrap_or(hash));
        }
    }
    networks
}

/// Kinds of codes in the order in which they come; each keeps its colour and marker in every figure.
fn codes(rows: &[Row]) -> Vec<&'static str> {
    let mut codes = Vec::new();
    for row in rows.iter().filter(|row| row.a_d.is_some()) {
        if !codes.contains(&row.label()) {
            codes.push(row.label());
        }
    }
    codes
}

#[cfg(test)]
mod tests;
