//! parityd inside another program: the same lanes, stripes and redundancy, without HTTP and without a port.
//!
//! ```sh
//! cargo run --release --example embed
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it found")]

use std::path::Path;

use anyhow::{Context, Result};
use parityd::{
    admission::{Admission, Terms},
    data,
    eval::class,
    query::{Accepts, Rows},
    serve::{Plan, Running},
};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));

    // Configuration and weights, checked; an error lists everything that is wrong. `[http]` is read, but nobody listens.
    let plan = Plan::load(Some(&root.join("config.toml")))?;
    let signature = plan.signature();

    // Returns once every lane has loaded its models and passed its canary. Dropping it ends the lanes.
    let running = Running::start(&plan)?;

    // Three images in one request, pixels in 0..1 one after the other: all three are admitted, or none.
    let images = data::test(&root.join("tests/data"))?;
    let width = signature.input.width();
    let rows = Rows::new(&images.pixels[..3 * width], width).context("whole rows")?;
    let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
    let pending = running.engine.admit(&rows, terms)?;

    // `Pending` is a future, too; `wait` is for a thread without an executor. Each row has its own answer by the deadline.
    for (index, answer) in pending.wait().iter().enumerate() {
        let prediction = answer.clone()?;
        let class = class(&prediction.values);
        println!("image {index}: class {class} ({}), {}", signature.labels[class], prediction.provenance.as_str());
    }
    Ok(())
}
