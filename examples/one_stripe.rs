//! One stripe by hand: two images, their sum, one lost prediction, and what the code makes of the rest.
//!
//! ```sh
//! cargo run --release --example one_stripe             # images 0 and 1 of tests/data; image 0 is lost
//! cargo run --release --example one_stripe -- 11 7     # image 11 is lost
//! ```
//!
//! What the daemon does on several lanes happens here in one thread, with the same encoder, models and decoder.

#![expect(clippy::print_stdout, reason = "an example shows what it found")]

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use parityd::{
    code::{Code, Sum},
    data,
    eval::class,
    model::Device,
    weights::Bundle,
};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let images = data::test(&root.join("tests/data"))?;
    let given = std::env::args().skip(1).map(|index| index.parse()).collect::<Result<Vec<usize>, _>>()?;
    let (lost, other) = match *given.as_slice() {
        [] => (0, 1),
        [lost, other] => (lost, other),
        _ => bail!("two image numbers are needed, or none"),
    };
    ensure!(lost.max(other) < images.count(), "there are {} images", images.count());

    // The code: parity query = first + second. The weights: a base model, and a parity model trained for this code.
    let code = Sum::with_defaults(2, 1)?;
    let weights = Bundle::load(&root.join("weights/fashion-mnist/1"), Some(&code))?;
    let base = weights.base(&Device::Cpu)?;
    let parity = weights.parity(0, &Device::Cpu)?;

    // Encode: the one input that the parity lane gets.
    let mut parity_query = vec![0.0; images.width()];
    code.encode(0, &[images.row(lost), images.row(other)], &mut parity_query);

    // Run: in the daemon on three devices. The first prediction is only computed here to compare with it.
    let direct = base.predict(images.row(lost))?;
    let present = base.predict(images.row(other))?;
    let summed = parity.predict(&parity_query)?;

    // Decode slot 0 from what is left: the parity model's output minus the present prediction.
    let at_hand = [None, Some(present.as_slice()), Some(summed.as_slice())];
    let reconstructed = code.decode(0, &at_hand).context("one loss of k = 2, r = 1 is recoverable")?;

    println!("{:<12} {:>9} {:>15} {:>10}", "logit", "direct", "reconstructed", "apart");
    let labels = weights.signature().labels;
    for ((label, direct), reconstructed) in labels.iter().zip(&direct).zip(&reconstructed) {
        println!("{label:<12} {direct:>9.2} {reconstructed:>15.2} {:>10.2}", (direct - reconstructed).abs());
    }
    let apart = direct.iter().zip(&reconstructed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let named = |output: &[f32]| format!("class {} ({})", class(output), labels[class(output)]);
    println!();
    println!(
        "image {lost} was lost, image {other} was there; the label is {}",
        labels[usize::from(images.labels[lost])]
    );
    println!("direct:        {}", named(&direct));
    println!("reconstructed: {}", named(&reconstructed));
    println!("farthest apart: {apart:.2}");
    Ok(())
}
