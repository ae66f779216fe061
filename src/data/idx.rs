//! The IDX format: a magic number, the dimensions, then bytes; gzipped or raw.
//!
//! Nothing is trusted: the magic number, the element type, the dimensions and the length of the file must all agree, and a header
//! cannot make the reader allocate more than a fixed limit.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::DataError;

/// Bytes that one file may unpack to: ten times the largest of Fashion-MNIST.
const BYTES_MAX: u64 = 512 << 20;

/// What is wrong with an IDX file.
#[derive(Debug, thiserror::Error)]
pub enum IdxFault {
    /// It could not be read or unpacked.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It does not begin as an IDX file of bytes does.
    #[error("begins with {0:#010x}, not with 0x0000_08 and the number of dimensions")]
    Magic(u32),
    /// It ends within the header.
    #[error("ends within its header")]
    Header,
    /// It has another number of dimensions.
    #[error("does not have {expected} dimension(s)")]
    Dimensions {
        /// The right number.
        expected: usize,
    },
    /// It is shorter or longer than its header says.
    #[error("holds {found} bytes of data where its header says {expected}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What there is (counted up to the limit).
        found: u64,
    },
    /// There is nothing in it.
    #[error("holds no images")]
    Empty,
    /// There is not one label for each image.
    #[error("holds {count} labels for {images} images")]
    Labels {
        /// Labels.
        count: usize,
        /// Images.
        images: usize,
    },
    /// A label that names no class.
    #[error("holds label {label}; labels are 0 to 9")]
    Label {
        /// The label.
        label: u8,
    },
}

/// What an IDX file of bytes holds.
pub(super) struct Idx {
    pub(super) dimensions: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

/// Reads `name.gz`, else `name`, of `dir`; says which file it was.
pub(super) fn read(dir: &Path, name: &str) -> Result<(PathBuf, Idx), DataError> {
    let gzipped = dir.join(format!("{name}.gz"));
    let raw = dir.join(name);
    let (file, opened) = if gzipped.is_file() {
        let opened = File::open(&gzipped).map(|file| Box::new(GzDecoder::new(file)) as Box<dyn Read>);
        (gzipped, opened)
    } else if raw.is_file() {
        let opened = File::open(&raw).map(|file| Box::new(file) as Box<dyn Read>);
        (raw, opened)
    } else {
        return Err(DataError::Absent { dir: dir.to_path_buf(), name: name.to_owned() });
    };
    match opened.map_err(IdxFault::Read).and_then(parse) {
        Ok(idx) => Ok((file, idx)),
        Err(fault) => Err(DataError::Fault { file, fault }),
    }
}

fn parse(reader: impl Read) -> Result<Idx, IdxFault> {
    let mut bytes = Vec::new();
    reader.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let number = |place: usize| -> Result<u32, IdxFault> {
        let four = bytes.get(place * 4..place * 4 + 4).ok_or(IdxFault::Header)?;
        Ok(u32::from_be_bytes(four.try_into().expect("the range has four bytes")))
    };
    let magic = number(0)?;
    // Two zero bytes, the type (8: unsigned bytes), the number of dimensions.
    let rank = magic & 0xff;
    if magic >> 8 != 8 || rank == 0 {
        return Err(IdxFault::Magic(magic));
    }
    let rank = usize::try_from(rank).expect("one byte fits");
    let dimensions = (1..=rank).map(number).collect::<Result<Vec<u32>, _>>()?;
    let expected = dimensions.iter().try_fold(1_u64, |product, &size| product.checked_mul(u64::from(size)));
    let header = 4 + 4 * rank;
    let found = (bytes.len() - header) as u64;
    if expected != Some(found) {
        return Err(IdxFault::Length { expected: expected.unwrap_or(u64::MAX), found });
    }
    bytes.drain(..header);
    let dimensions = dimensions.into_iter().map(|size| usize::try_from(size).expect("32 bits fit")).collect();
    Ok(Idx { dimensions, bytes })
}
