//! Max-pooling on CPU, with a right gradient.
//!
//! The gradient that candle 0.11.1 has for it is scaled by the share of maxima in a square: a quarter of what it should be where one
//! value is the largest. Adam hides that but for the weight decay, which then acts 4 and 16 times as strongly on the layers before. Here
//! the first of the largest values gets all of it, as in `PyTorch`. Values are candle's; on other devices it is candle's kernel.

use candle_core::{CpuStorage, CustomOp1, Device, Error, Layout, Result, Shape, Tensor};

use super::Window;

/// The largest of each square of `rows` `[n, channels, height, width]`. What is padded is never the largest.
pub(super) fn max_pool(rows: &Tensor, window: Window) -> Result<Tensor> {
    match rows.device() {
        Device::Cpu => rows.contiguous()?.apply_op1(MaxPool { window }),
        Device::Cuda(_) | Device::Metal(_) => {
            // Candle pads with zeros, which may be the largest; the values at the edge once more never change a maximum.
            let Window { kernel, stride, padding } = window;
            let padded = rows.pad_with_same(2, padding, padding)?.pad_with_same(3, padding, padding)?;
            padded.max_pool2d_with_stride(kernel, stride)
        }
    }
}

struct MaxPool {
    window: Window,
}

impl MaxPool {
    /// Height and width of what it makes.
    fn sides(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let sides = self.window.along(height, 1).zip(self.window.along(width, 1));
        sides.ok_or_else(|| Error::Msg(format!("no square of {:?} fits into {height} x {width}", self.window)))
    }

    /// Visits each square of each plane of `image`: its place in the output, and the place in the image of its largest value (the first
    /// of equals).
    fn squares(
        &self,
        image: &[f32],
        (height, width): (usize, usize),
        mut visit: impl FnMut(usize, usize),
    ) -> Result<()> {
        let (high, wide) = self.sides(height, width)?;
        let Window { kernel, stride, padding } = self.window;
        // Of a square that begins at `first`, what lies in the picture.
        let inside = |first: usize, side: usize| first.saturating_sub(padding)..side.min(first + kernel - padding);
        for (plane, values) in image.chunks_exact(height * width).enumerate() {
            for (y, x) in (0..high).flat_map(|y| (0..wide).map(move |x| (y, x))) {
                let columns = inside(x * stride, width);
                let first = inside(y * stride, height).start * width + columns.start;
                let places = inside(y * stride, height)
                    .flat_map(|line| line * width + columns.start..line * width + columns.end);
                let largest = places.fold(first, |best, place| if values[place] > values[best] { place } else { best });
                visit((plane * high + y) * wide + x, plane * height * width + largest);
            }
        }
        Ok(())
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
        let (high, wide) = self.sides(height, width)?;
        let image = &rows.as_slice::<f32>()?[start..end];
        let mut pooled = vec![0.0; n * channels * high * wide];
        self.squares(image, (height, width), |to, from| pooled[to] = image[from])?;
        Ok((CpuStorage::F32(pooled), Shape::from((n, channels, high, wide))))
    }

    fn bwd(&self, rows: &Tensor, _pooled: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let image = rows.flatten_all()?.to_vec1::<f32>()?;
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let mut spread = vec![0.0; image.len()];
        self.squares(&image, (rows.dim(2)?, rows.dim(3)?), |from, to| spread[to] += gradient[from])?;
        Tensor::from_vec(spread, rows.shape(), rows.device()).map(Some)
    }
}
