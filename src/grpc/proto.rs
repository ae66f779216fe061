//! Messages and services, as code that is generated from `proto/*.proto`.
//!
//! Checked in, so that a build needs neither a compiler of protobuf nor a generator; `tests/proto.rs` holds it to the `.proto` files. Public
//! for programs that speak to a parityd: the clients are in it, too.

/// `inference.GRPCInferenceService`.
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
#[expect(clippy::pedantic, reason = "generated")]
#[expect(missing_docs, unused_qualifications, reason = "generated")]
pub mod inference {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/inference.rs"));
}

/// `grpc.health.v1.Health`.
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
#[expect(clippy::pedantic, reason = "generated")]
#[expect(missing_docs, unused_qualifications, reason = "generated")]
pub mod health {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/grpc.health.v1.rs"));
}

/// The `.proto` files as descriptors, for reflection.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/descriptors.bin"));
