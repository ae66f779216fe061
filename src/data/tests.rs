//! Good files, gzipped and raw; every fault of a file is named with the file.

use std::{fs, io::Write};

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::*;

fn idx(magic: u32, dimensions: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = magic.to_be_bytes().to_vec();
    file.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
    file.extend(bytes);
    file
}

fn images(count: u32) -> Vec<u8> {
    let bytes: Vec<u8> = (0..=255).cycle().take(count as usize * 6).collect();
    idx(0x803, &[count, 2, 3], &bytes)
}

fn labels(count: u32) -> Vec<u8> {
    let bytes: Vec<u8> = (0..10).cycle().take(count as usize).collect();
    idx(0x801, &[count], &bytes)
}

fn folder(part: &str, images: &[u8], labels: &[u8]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
    fs::write(dir.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    dir
}

#[test]
fn raw_and_gzipped_files_read_alike() {
    let dir = folder("t10k", &images(4), &labels(4));
    let raw = test(dir.path()).unwrap();
    assert_eq!((raw.count(), raw.size, raw.width()), (4, (2, 3), 6));
    assert_eq!(raw.row(1)[0].to_bits(), (6.0_f32 / 255.0).to_bits());
    let name = dir.path().join("t10k-images-idx3-ubyte");
    let mut gzip = GzEncoder::new(fs::File::create(name.with_extension("gz")).unwrap(), Compression::fast());
    gzip.write_all(&fs::read(&name).unwrap()).unwrap();
    gzip.finish().unwrap();
    fs::remove_file(name).unwrap();
    assert_eq!(test(dir.path()).unwrap(), raw);
}

#[test]
fn validation_is_the_end_of_the_training_images() {
    let dir = folder("train", &images(10), &labels(10));
    let (train, validation) = train(dir.path()).unwrap();
    assert_eq!(train.labels, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(validation.labels, [8, 9]);
    assert_eq!(validation.row(0)[0].to_bits(), (48.0_f32 / 255.0).to_bits());
}

#[test]
fn absent_data_names_the_package_and_the_flag() {
    let dir = TempDir::new().unwrap();
    let message = test(dir.path()).unwrap_err().to_string();
    assert!(message.contains("dataset-fashion-mnist") && message.contains("--data"), "{message}");
}

#[test]
fn every_fault_is_named_with_its_file() {
    let short = images(4)[..20].to_vec();
    let long = [images(4), vec![0]].concat();
    let nine = idx(0x801, &[4], &[0, 1, 2, 10]);
    for (images, labels, file, fault) in [
        (short, labels(4), "images", "holds 4 bytes of data where its header says 24"),
        (long, labels(4), "images", "holds 25 bytes"),
        (images(4)[..7].to_vec(), labels(4), "images", "ends within its header"),
        (idx(0x0d03, &[4, 2, 3], &[0; 24]), labels(4), "images", "begins with 0x00000d03"),
        (idx(0x802, &[4, 6], &[0; 24]), labels(4), "images", "does not have 3 dimension"),
        (idx(0x803, &[u32::MAX, u32::MAX, u32::MAX], &[0]), labels(4), "images", "holds 1 bytes"),
        (images(0), labels(0), "images", "holds no images"),
        (idx(0x803, &[4, 0, 3], &[]), labels(4), "images", "holds no images"),
        (images(4), labels(3), "labels", "holds 3 labels for 4 images"),
        (images(4), nine, "labels", "holds label 10"),
    ] {
        let dir = folder("t10k", &images, &labels);
        let message = test(dir.path()).unwrap_err().to_string();
        assert!(message.contains(fault) && message.contains(file), "{message}");
    }
}

#[test]
fn a_broken_gzip_file_is_a_fault_and_not_a_panic() {
    let dir = folder("t10k", &images(4), &labels(4));
    fs::write(dir.path().join("t10k-images-idx3-ubyte.gz"), b"\x1f\x8b\x08\x00broken").unwrap();
    assert!(matches!(test(dir.path()), Err(DataError::Fault { fault: IdxFault::Read(_), .. })));
}
