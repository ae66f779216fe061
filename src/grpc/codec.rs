//! Messages, decoded only if they have no more fields than a request needs.
//!
//! Two bytes of a message can become a tensor of two hundred: a list of empty tensors that fits every limit on its length would take gigabytes. No
//! request has more than a few fields, so whoever sends [`FIELDS_MAX`] is refused before anything is made of them.

use std::marker::PhantomData;

use bytes::Buf;
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, decode_key, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Fields of a message, those inside of its fields not counted.
pub(super) const FIELDS_MAX: usize = 1024;

/// The codec of all services; `proto/*.rs` name it.
#[derive(Debug)]
pub(super) struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Bounded(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// prost's decoder behind a look at the message.
#[derive(Debug)]
pub(super) struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece.
        let fields = fields(message.chunk()).map_err(|error| Status::internal(error.to_string()))?;
        if fields > FIELDS_MAX {
            return Err(Status::internal(format!("more than {FIELDS_MAX} fields")));
        }
        self.0.decode(message)
    }
}

/// How many fields a message has; no more than one over the limit are counted.
fn fields(mut message: &[u8]) -> Result<usize, DecodeError> {
    let mut fields = 0;
    while message.has_remaining() && fields <= FIELDS_MAX {
        let (tag, wire_type) = decode_key(&mut message)?;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        fields += 1;
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};

    #[test]
    fn fields_are_counted_and_not_what_is_in_them() {
        let input = InferInputTensor { name: "n".repeat(3000), shape: vec![1; 5000], ..InferInputTensor::default() };
        let mut request = ModelInferRequest { model_name: "m".into(), inputs: vec![input], ..Default::default() };
        assert_eq!(fields(&request.encode_to_vec()), Ok(2));
        request.inputs = vec![InferInputTensor::default(); FIELDS_MAX];
        assert_eq!(fields(&request.encode_to_vec()), Ok(FIELDS_MAX + 1));
        request.inputs = vec![InferInputTensor::default(); 100_000];
        assert_eq!(fields(&request.encode_to_vec()), Ok(FIELDS_MAX + 1), "and no more");
        assert!(fields(&[0xff; 3]).is_err());
    }
}
