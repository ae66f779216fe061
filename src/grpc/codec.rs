//! Messages, decoded only if they have no more fields than a request needs.
//!
//! Two bytes of a message can become a tensor of two hundred, or a string of thirty: a list of empty ones that fits every limit on its length would take
//! gigabytes. No request has more than a few fields, so whoever sends [`FIELDS_MAX`] is refused before anything is made of them. Numbers may be many, and are at most
//! sixteen times as long in memory.

use std::{any::TypeId, marker::PhantomData};

use bytes::{Buf, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::proto::inference::ModelInferRequest;

/// Fields of a message, and of those inside of it that may have many; numbers not counted.
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

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece.
        check::<U>(message.chunk())?;
        self.0.decode(message)
    }
}

/// A message that did not come through tonic, decoded in the same way and refused in the same words.
pub(super) fn decode<U: Message + Default + 'static>(message: Bytes) -> Result<U, Status> {
    check::<U>(&message)?;
    U::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// Refuses a message of too many fields.
fn check<U: 'static>(message: &[u8]) -> Result<(), Status> {
    let request = TypeId::of::<U>() == TypeId::of::<ModelInferRequest>();
    let mut left = FIELDS_MAX;
    let fits = count(message, if request { &LISTS_OF_A_REQUEST } else { &[] }, &mut left);
    if fits.map_err(|error| Status::internal(error.to_string()))? {
        Ok(())
    } else {
        Err(Status::internal(format!("more than {FIELDS_MAX} fields")))
    }
}

/// A field that is a message with lists of its own.
struct Lists {
    tag: u32,
    inside: &'static [Lists],
}

/// `inputs`, their `contents`, and `outputs` of a `ModelInferRequest`; a test holds them to the messages.
static LISTS_OF_A_REQUEST: [Lists; 2] =
    [Lists { tag: 5, inside: &[Lists { tag: 5, inside: &[] }] }, Lists { tag: 6, inside: &[] }];

/// Whether a message has no more fields than are `left`, with those inside of `lists`; the fields are taken from what is left.
fn count(mut message: &[u8], lists: &[Lists], left: &mut usize) -> Result<bool, DecodeError> {
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message)?;
        let mut field = message;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        if wire_type != WireType::LengthDelimited {
            continue;
        }
        let Some(less) = left.checked_sub(1) else { return Ok(false) };
        *left = less;
        if let Some(Lists { inside, .. }) = lists.iter().find(|list| list.tag == tag) {
            let length = decode_varint(&mut field)?;
            let field = usize::try_from(length).ok().and_then(|length| field.get(..length)).unwrap_or_default();
            if !count(field, inside, left)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::inference::{
        InferParameter, InferTensorContents,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    };

    /// How many fields are counted; none if they are too many.
    fn counted(message: &[u8]) -> Option<usize> {
        let mut left = FIELDS_MAX;
        count(message, &LISTS_OF_A_REQUEST, &mut left).unwrap().then_some(FIELDS_MAX - left)
    }

    #[test]
    fn fields_are_counted_wherever_there_may_be_many() {
        let contents = InferTensorContents { fp32_contents: vec![0.5; 100_000], ..Default::default() };
        let input = InferInputTensor {
            name: "n".repeat(3000),
            shape: vec![1; 5000],
            contents: Some(contents),
            ..InferInputTensor::default()
        };
        let request = ModelInferRequest { model_name: "m".into(), inputs: vec![input.clone()], ..Default::default() };
        assert_eq!(counted(&request.encode_to_vec()), Some(6), "two, three and one");
        let with = |inputs| ModelInferRequest { inputs, ..Default::default() }.encode_to_vec();
        assert_eq!(counted(&with(vec![InferInputTensor::default(); FIELDS_MAX])), Some(FIELDS_MAX));
        assert_eq!(counted(&with(vec![InferInputTensor::default(); FIELDS_MAX + 1])), None);
        let texts = InferTensorContents { bytes_contents: vec![Bytes::new(); FIELDS_MAX], ..Default::default() };
        let parameters = (0..FIELDS_MAX).map(|n| (n.to_string(), InferParameter::default())).collect();
        for input in [
            InferInputTensor { contents: Some(texts), ..Default::default() },
            InferInputTensor { parameters, ..Default::default() },
        ] {
            assert_eq!(counted(&with(vec![input])), None);
        }
        let parameters = (0..FIELDS_MAX).map(|n| (n.to_string(), InferParameter::default())).collect();
        let output = InferRequestedOutputTensor { parameters, ..Default::default() };
        let request = ModelInferRequest { outputs: vec![output], ..Default::default() };
        assert_eq!(counted(&request.encode_to_vec()), None);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let refused = |bytes: &[u8]| count(bytes, &LISTS_OF_A_REQUEST, &mut 9).is_err();
        assert!(refused(&[0xff; 3]));
        // An input of three bytes that are none.
        assert!(refused(&[0x2a, 3, 0xff, 0xff, 0xff]));
        // Longer than the message.
        assert!(refused(&[0x2a, 9, 0]));
    }
}
