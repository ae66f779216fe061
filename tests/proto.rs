//! The code and the descriptors in `proto/` are those of its `.proto` files.
//!
//! They are checked in, so that building parityd needs neither `protoc` nor a generator of code. With `PARITYD_PROTO=write` the test writes
//! them anew:
//!
//! ```sh
//! PARITYD_PROTO=write cargo test --test proto
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, env, fs, path::Path};

use prost::Message;

const FILES: [&str; 2] = ["inference.proto", "grpc/health/v1/health.proto"];

/// What belongs into `proto/`, by name.
fn generated() -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(FILES.map(|file| root.join(file)), [&root]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Bytes are shared, not copied: a message's tensors stay in the buffer that it came in. Maps have an order, so that of two faults the same
    // one is told each time.
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::grpc::codec::Bounded")
        .out_dir(folder.path())
        .compile_fds(descriptors.clone())
        .unwrap();
    let mut found: BTreeMap<String, Vec<u8>> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    found.insert("descriptors.bin".to_owned(), descriptors.encode_to_vec());
    found
}

#[test]
fn the_generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = generated();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["descriptors.bin", "grpc.health.v1.rs", "inference.rs"]);
    for (name, content) in files {
        let path = root.join(&name);
        if env::var("PARITYD_PROTO").is_ok_and(|word| word == "write") {
            fs::write(&path, &content).unwrap();
        }
        let same = fs::read(&path).is_ok_and(|found| found == content);
        assert!(same, "proto/{name} is not what the .proto files say: PARITYD_PROTO=write cargo test --test proto");
    }
}
