//! Fashion-MNIST: where it lies, how it is split, and its rows as the daemon takes them.
//!
//! Pixels are f32 in 0..1, one row after the other; nothing is normalised here, because preprocessing belongs to the model. The split
//! is fixed: validation is the *last* 5,000 training images, and only [`test()`] opens the test files, which training never calls.

mod idx;

use std::{
    env,
    path::{Path, PathBuf},
};

pub use idx::IdxFault;

/// Where the Debian package `dataset-fashion-mnist` puts it.
pub const PACKAGE_DIR: &str = "/usr/share/datasets/fashion-mnist";

/// Names another folder when no flag does.
pub const DIR_VARIABLE: &str = "PARITYD_DATA";

/// Names of the ten classes, by label.
pub const LABELS: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Training images that are set aside; a fifth of them where there are fewer than five times as many.
const VALIDATION_ROWS: usize = 5_000;

/// Why there is no data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No such file, gzipped or raw.
    #[error(
        "{} holds neither {name}.gz nor {name}: install the Debian package dataset-fashion-mnist, or name the folder that holds the \
         files with --data DIR (or {DIR_VARIABLE})",
        dir.display()
    )]
    Absent {
        /// The folder that was looked in.
        dir: PathBuf,
        /// The file without `.gz`.
        name: String,
    },
    /// A file that is not what it should be.
    #[error("{}: {fault}; fetch it again, or name another folder with --data DIR", file.display())]
    Fault {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        fault: IdxFault,
    },
}

/// Images with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Pixels in 0..1, row after row.
    pub pixels: Vec<f32>,
    /// The class of each row.
    pub labels: Vec<u8>,
    /// Height and width of an image.
    pub size: (usize, usize),
}

impl Images {
    /// How many images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Pixels of one image.
    pub const fn width(&self) -> usize {
        self.size.0 * self.size.1
    }

    /// The pixels of one image.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.pixels[index * self.width()..(index + 1) * self.width()]
    }

    fn split_off(&mut self, count: usize) -> Images {
        let pixels = self.pixels.split_off((self.count() - count) * self.width());
        Images { pixels, labels: self.labels.split_off(self.labels.len() - count), size: self.size }
    }
}

/// The folder to read: the flag, else `$PARITYD_DATA`, else that of the Debian package.
pub fn locate(flag: Option<&Path>) -> PathBuf {
    let variable = || env::var_os(DIR_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    flag.map(Path::to_path_buf).or_else(variable).unwrap_or_else(|| PathBuf::from(PACKAGE_DIR))
}

/// The training images without the validation images, and the validation images.
pub fn train(dir: &Path) -> Result<(Images, Images), DataError> {
    let mut train = read(dir, "train")?;
    let validation = train.split_off(VALIDATION_ROWS.min(train.count() / 5));
    Ok((train, validation))
}

/// The test images.
pub fn test(dir: &Path) -> Result<Images, DataError> {
    read(dir, "t10k")
}

fn read(dir: &Path, part: &str) -> Result<Images, DataError> {
    let (image_file, images) = idx::read(dir, &format!("{part}-images-idx3-ubyte"))?;
    let (label_file, labels) = idx::read(dir, &format!("{part}-labels-idx1-ubyte"))?;
    let &[count, height, width] = images.dimensions.as_slice() else {
        return Err(DataError::Fault { file: image_file, fault: IdxFault::Dimensions { expected: 3 } });
    };
    let &[label_count] = labels.dimensions.as_slice() else {
        return Err(DataError::Fault { file: label_file, fault: IdxFault::Dimensions { expected: 1 } });
    };
    // Nor do images without a pixel teach or measure anything.
    if images.bytes.is_empty() {
        return Err(DataError::Fault { file: image_file, fault: IdxFault::Empty });
    }
    if count != label_count {
        return Err(DataError::Fault {
            file: label_file,
            fault: IdxFault::Labels { count: label_count, images: count },
        });
    }
    if let Some(&label) = labels.bytes.iter().find(|&&label| usize::from(label) >= LABELS.len()) {
        return Err(DataError::Fault { file: label_file, fault: IdxFault::Label { label } });
    }
    let pixels = images.bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    Ok(Images { pixels, labels: labels.bytes, size: (height, width) })
}

#[cfg(test)]
mod tests;
