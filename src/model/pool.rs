//! Max-pooling by 2 on CPU, with a right gradient.
//!
//! The gradient that candle 0.11.1 has for it is scaled by the share of maxima in a square: a quarter of what it should be where one
//! value is the largest. Adam hides that but for the weight decay, which then acts 4 and 16 times as strongly on the layers before. Here
//! the first of the largest values gets all of it, as in `PyTorch`. Values are candle's; on other devices it is candle's kernel.

use candle_core::{CpuStorage, CustomOp1, Device, Error, Layout, Result, Shape, Tensor};

/// The largest of each 2 x 2 square of `rows` `[n, channels, height, width]`; height and width must be even.
pub(super) fn max_pool(rows: &Tensor) -> Result<Tensor> {
    match rows.device() {
        Device::Cpu => rows.contiguous()?.apply_op1(MaxPool),
        Device::Cuda(_) | Device::Metal(_) => rows.max_pool2d(2),
    }
}

struct MaxPool;

/// Visits each square of `image`: its place in the output, and the place in the image of its largest value (the first of equals).
fn squares(image: &[f32], width: usize, mut visit: impl FnMut(usize, usize)) {
    // Planes have even heights, so pairs of lines never cross from one into the next.
    for (pair, lines) in image.chunks_exact(2 * width).enumerate() {
        for x in (0..width).step_by(2) {
            let larger = |best: usize, place: usize| if lines[place] > lines[best] { place } else { best };
            let place = [x + 1, x + width, x + width + 1].into_iter().fold(x, larger);
            visit(pair * (width / 2) + x / 2, pair * 2 * width + place);
        }
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, channels, height, width) = layout.shape().dims4()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::Msg("max-pooling needs contiguous values".to_owned()));
        };
        if !height.is_multiple_of(2) || !width.is_multiple_of(2) {
            return Err(Error::Msg(format!("max-pooling by 2 needs even sizes, not {height} x {width}")));
        }
        let image = &rows.as_slice::<f32>()?[start..end];
        let mut pooled = vec![0.0; image.len() / 4];
        squares(image, width, |to, from| pooled[to] = image[from]);
        Ok((CpuStorage::F32(pooled), Shape::from((n, channels, height / 2, width / 2))))
    }

    fn bwd(&self, rows: &Tensor, _pooled: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let image = rows.flatten_all()?.to_vec1::<f32>()?;
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let mut spread = vec![0.0; image.len()];
        squares(&image, rows.dim(3)?, |from, to| spread[to] = gradient[from]);
        Tensor::from_vec(spread, rows.shape(), rows.device()).map(Some)
    }
}
