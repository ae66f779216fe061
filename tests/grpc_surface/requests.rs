//! What a request may say, and what comes back: each rule with right values and with wrong ones.

use parityd::{
    admission::Refusal,
    grpc::proto::{
        health::{HealthCheckRequest, HealthListRequest, health_client::HealthClient},
        inference::{
            InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
            ModelStatisticsRequest, RepositoryIndexRequest, ServerLiveRequest, ServerMetadataRequest,
            ServerReadyRequest, infer_parameter::ParameterChoice, model_config::SchedulingChoice,
            model_infer_request::InferRequestedOutputTensor,
        },
    },
    query::Accepts,
};
use std::time::Duration;
use tonic::{Code, Request, Status};

use crate::{
    engine::{QUEUE_MAX, ROW},
    port::{Client, Port, parameter, refused, request, tensor},
};

fn ask(port: &Port, client: &mut Client, request: ModelInferRequest) -> Result<Vec<f32>, Status> {
    let reply = port.runtime.block_on(client.model_infer(request))?.into_inner();
    let bytes = &reply.raw_output_contents[0];
    Ok(bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
}

#[test]
fn metadata_and_health_are_told() {
    let port = Port::open();
    let mut client = port.client();
    port.runtime.block_on(async {
        assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
        let server = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
        assert_eq!(server.name, "parityd");
        assert_eq!(server.extensions, ["classification", "model_configuration", "binary_tensor_data", "statistics"]);
        for version in ["", "1"] {
            let (name, version) = ("adder".to_owned(), version.to_owned());
            let ask = ModelMetadataRequest { name: name.clone(), version: version.clone() };
            let model = client.model_metadata(ask).await.unwrap().into_inner();
            assert_eq!(
                (model.name.as_str(), model.versions, model.platform.as_str()),
                ("adder", vec!["1".into()], "test")
            );
            assert_eq!((model.inputs[0].name.as_str(), &model.inputs[0].shape[..]), ("input", &[-1, 1, 2, 2][..]));
            assert_eq!((model.outputs[0].datatype.as_str(), &model.outputs[0].shape[..]), ("FP32", &[-1, 2][..]));
            let ask = ModelConfigRequest { name: name.clone(), version: version.clone() };
            let config = client.model_config(ask).await.unwrap().into_inner().config.unwrap();
            assert_eq!((config.max_batch_size, &config.input[0].dims[..]), (64, &[1, 2, 2][..]));
            assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
            let ready = client.model_ready(ModelReadyRequest { name, version }).await.unwrap();
            assert!(ready.into_inner().ready);
        }
        let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
        assert_eq!((index.models[0].state.as_str(), index.models[0].reason.as_str()), ("READY", ""));
    });
}

#[test]
fn another_model_is_not_found_and_not_ready() {
    let port = Port::open();
    let mut client = port.client();
    port.runtime.block_on(async {
        for (name, version, reason) in [("nobody", "", "unknown_model"), ("adder", "2", "unknown_version")] {
            let (name, version) = (name.to_owned(), version.to_owned());
            let ready = client.model_ready(ModelReadyRequest { name: name.clone(), version: version.clone() });
            assert!(!ready.await.unwrap().into_inner().ready);
            let ask = ModelMetadataRequest { name: name.clone(), version: version.clone() };
            refused(&client.model_metadata(ask).await.unwrap_err(), Code::NotFound, reason);
            let ask = ModelConfigRequest { name: name.clone(), version: version.clone() };
            refused(&client.model_config(ask).await.unwrap_err(), Code::NotFound, reason);
            let ask = ModelStatisticsRequest { name: name.clone(), version: version.clone() };
            refused(&client.model_statistics(ask).await.unwrap_err(), Code::NotFound, reason);
            let ask = ModelInferRequest { model_name: name, model_version: version, ..request(&[ROW]) };
            refused(&client.model_infer(ask).await.unwrap_err(), Code::NotFound, reason);
        }
    });
    assert_eq!((port.refusals("unknown_model"), port.refusals("unknown_version")), (4, 4));
}

#[test]
fn readiness_is_the_engines_and_liveness_is_not() {
    let port = Port::open();
    let mut client = port.client();
    let mut health = HealthClient::new(port.channel());
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let told = |health: &mut HealthClient<_>| {
        let all = port.runtime.block_on(health.list(HealthListRequest {})).unwrap().into_inner().statuses;
        let services = ["", "inference.GRPCInferenceService"];
        assert_eq!(all.keys().collect::<Vec<_>>(), services);
        let each = services.map(|name| port.runtime.block_on(health.check(of(name))).unwrap().into_inner());
        assert_eq!(all.into_values().collect::<Vec<_>>(), each);
        each[0].status
    };
    assert_eq!(told(&mut health), 1, "SERVING");
    let unknown = port.runtime.block_on(health.check(of("nobody"))).unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let mut watched = port.runtime.block_on(health.watch(of(""))).unwrap().into_inner();
    assert_eq!(port.runtime.block_on(watched.message()).unwrap().unwrap().status, 1);
    port.engine.refuse(Refusal::NotReady);
    assert_eq!(port.runtime.block_on(watched.message()).unwrap().unwrap().status, 2);
    assert_eq!(told(&mut health), 2, "NOT_SERVING");
    port.runtime.block_on(async {
        assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
        let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
        assert_eq!(
            (index.models[0].state.as_str(), index.models[0].reason.as_str()),
            ("UNAVAILABLE", "lanes still load, or fewer base lanes can answer than ready_lanes_min asks for")
        );
        let only_ready = RepositoryIndexRequest { ready: true, ..RepositoryIndexRequest::default() };
        assert!(client.repository_index(only_ready).await.unwrap().into_inner().models.is_empty());
        let mut unknown = health.watch(of("nobody")).await.unwrap().into_inner();
        assert_eq!(unknown.message().await.unwrap().unwrap().status, 3, "SERVICE_UNKNOWN");
    });
    assert_eq!(port.refusals("not_ready"), 0, "a question is no refusal");
}

#[test]
fn rows_are_answered_in_order_with_their_provenance() {
    let port = Port::open();
    let mut client = port.client();
    let asked = ModelInferRequest { id: "é".into(), ..request(&[ROW, [1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]) };
    let reply = port.runtime.block_on(client.model_infer(asked)).unwrap().into_inner();
    assert_eq!((reply.model_name.as_str(), reply.model_version.as_str(), reply.id.as_str()), ("adder", "1", "é"));
    assert_eq!(
        reply.parameters["provenance"],
        parameter(ParameterChoice::StringParam("direct,reconstructed,direct".into()))
    );
    assert_eq!(reply.parameters["confidence"], parameter(ParameterChoice::StringParam("1,0.75,1".into())));
    let output = &reply.outputs[0];
    assert_eq!((output.name.as_str(), output.datatype.as_str(), &output.shape[..]), ("logits", "FP32", &[3, 2][..]));
    assert_eq!(reply.raw_output_contents[0].len(), 24);
    assert_eq!(output.contents, None);
    assert!(reply.raw_output_contents[0].starts_with(&7.5_f32.to_le_bytes()));
    let direct = request(&[ROW]);
    let reply = port.runtime.block_on(client.model_infer(direct)).unwrap().into_inner();
    assert_eq!((reply.id.as_str(), reply.parameters.get("confidence")), ("", None));
    let told = port.runtime.block_on(client.model_statistics(ModelStatisticsRequest::default())).unwrap().into_inner();
    let stats = &told.model_stats[0];
    assert_eq!((stats.inference_count, stats.inference_stats.unwrap().success.unwrap().count), (4, 2));
}

#[test]
fn each_datatype_is_taken_from_its_own_list() {
    let port = Port::open();
    let mut client = port.client();
    let none = InferTensorContents::default;
    let bools = InferTensorContents { bool_contents: vec![true, false, true, true], ..none() };
    let ints = InferTensorContents { int_contents: vec![3, 2, -1, 4], ..none() };
    let longs = InferTensorContents { int64_contents: vec![3, 2, -1, 4], ..none() };
    let uints = InferTensorContents { uint_contents: vec![1, 2, 3, 4], ..none() };
    let ulongs = InferTensorContents { uint64_contents: vec![1, 2, 3, 4], ..none() };
    let floats = InferTensorContents { fp32_contents: vec![0.5, 2.0, 3.0, 4.0], ..none() };
    let doubles = InferTensorContents { fp64_contents: vec![0.5, 2.0, 3.0, 4.0], ..none() };
    for (datatypes, contents, sum) in [
        (&["BOOL"][..], &bools, 3.0),
        (&["INT8", "INT16", "INT32"], &ints, 8.0),
        (&["INT64"], &longs, 8.0),
        (&["UINT8", "UINT16", "UINT32"], &uints, 10.0),
        (&["UINT64"], &ulongs, 10.0),
        (&["FP32"], &floats, 9.5),
        (&["FP64"], &doubles, 9.5_f32),
    ] {
        for datatype in datatypes {
            let found = ask(&port, &mut client, tensor(datatype, 1, Some(contents.clone()))).expect(datatype);
            assert_eq!(found[0].to_bits(), sum.to_bits(), "{datatype}");
        }
    }
    let too_wide = InferTensorContents { int_contents: vec![0, 0, 128, 0], ..none() };
    let inexact = InferTensorContents { uint64_contents: vec![16_777_217, 0, 0, 0], ..none() };
    let too_large = InferTensorContents { fp64_contents: vec![0.0, 1e39, 0.0, 0.0], ..none() };
    let two = InferTensorContents { int_contents: vec![1], ..floats.clone() };
    let short = InferTensorContents { fp32_contents: vec![0.5], ..none() };
    for (datatype, contents, text) in [
        ("INT8", Some(too_wide), "inputs[0].contents: value 2 is 128, outside INT8"),
        ("UINT64", Some(inexact), "inputs[0].contents: value 0 is 16777217, which FP32"),
        ("FP64", Some(too_large), "inputs[0].contents: value 1 is 1e39, too large"),
        ("FP32", Some(two), "int_contents has values, and those of FP32 stand in fp32_contents"),
        ("FP32", Some(short), "inputs[0].contents: 1 values, and the shape holds 4"),
        ("FP32", Some(none()), "inputs[0].contents: 0 values"),
        ("FP32", None, "inputs[0].contents: 0 values"),
        ("FP16", Some(floats.clone()), "inputs[0].contents: FP16 comes in raw_input_contents"),
        ("BYTES", Some(floats.clone()), "inputs[0].datatype: \"BYTES\" is none of BOOL"),
    ] {
        let error = ask(&port, &mut client, tensor(datatype, 1, contents)).expect_err(text);
        refused(&error, Code::InvalidArgument, "bad_field");
        assert!(error.message().contains(text), "{error}");
    }
}

#[test]
fn raw_contents_are_bytes_of_any_datatype() {
    let port = Port::open();
    let mut client = port.client();
    let raw = |datatype: &str, parts: &[&'static [u8]]| ModelInferRequest {
        raw_input_contents: parts.iter().map(|&part| part.into()).collect(),
        ..tensor(datatype, 1, None)
    };
    for (datatype, bytes, sum) in [
        ("INT8", &[1_u8, 2, 0xfd, 4][..], 4.0_f32),
        ("FP16", &[0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0x3c], 4.0),
        ("BF16", &[0x80, 0x3f, 0x80, 0x3f, 0x80, 0x3f, 0x80, 0xbf], 2.0),
    ] {
        let found = ask(&port, &mut client, raw(datatype, &[bytes])).expect(datatype);
        assert_eq!(found[0].to_bits(), sum.to_bits(), "{datatype}");
    }
    let mut both = request(&[ROW]);
    both.inputs[0].contents =
        Some(InferTensorContents { fp32_contents: ROW.to_vec(), ..InferTensorContents::default() });
    for (asked, text) in [
        (raw("FP32", &[&[0; 15]]), "raw_input_contents[0]: 15 bytes, and the shape holds 16 of FP32"),
        (raw("FP32", &[&[]]), "raw_input_contents[0]: 0 bytes"),
        (raw("FP64", &[&[0; 16]]), "holds 32 of FP64"),
        (raw("BOOL", &[&[0, 1, 2, 1]]), "raw_input_contents[0]: value 2 is 2, and BOOL"),
        (raw("FP32", &[&[0; 16], &[0; 16]]), "raw_input_contents: 2 tensors"),
        (both, "inputs[0].contents: given beside raw_input_contents"),
    ] {
        let error = ask(&port, &mut client, asked).expect_err(text);
        refused(&error, Code::InvalidArgument, "bad_field");
        assert!(error.message().contains(text), "{error}");
    }
}

#[test]
fn wrong_tensors_and_outputs_are_named() {
    let port = Port::open();
    let mut client = port.client();
    let with = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut asked = request(&[ROW]);
        change(&mut asked);
        asked
    };
    let output = |name: &str| InferRequestedOutputTensor { name: name.into(), ..InferRequestedOutputTensor::default() };
    let region = parameter(ParameterChoice::StringParam("r".into()));
    for (asked, text) in [
        (with(&|asked| asked.inputs.clear()), "inputs: the input \"input\" is missing"),
        (with(&|asked| asked.inputs.push(asked.inputs[0].clone())), "inputs: exactly one tensor"),
        (with(&|asked| asked.inputs[0].name = "image".into()), "inputs[0].name: \"input\" is expected"),
        (with(&|asked| asked.inputs[0].shape = vec![4]), "inputs[0].shape: [4], and [n, 1, 2, 2] is expected"),
        (with(&|asked| asked.inputs[0].shape[0] = 0), "inputs[0].shape: a request has at least one row"),
        (with(&|asked| asked.inputs[0].shape[0] = -1), "inputs[0].shape: [-1, 1, 2, 2]"),
        (with(&|asked| asked.outputs = vec![output("probs")]), "outputs[].name: the model gives \"logits\""),
        (with(&|asked| asked.outputs = vec![output("logits"); 2]), "outputs: \"logits\" is asked for more than once"),
        (
            with(&|asked| {
                asked.inputs[0].parameters.insert("shared_memory_region".into(), region.clone());
            }),
            "inputs[0].parameters: shared_memory_region",
        ),
    ] {
        let error = ask(&port, &mut client, asked).expect_err(text);
        refused(&error, Code::InvalidArgument, "bad_field");
        assert!(error.message().contains(text), "{error}");
    }
    let too_many = with(&|asked| asked.inputs[0].shape[0] = i64::try_from(QUEUE_MAX).unwrap() + 1);
    refused(&ask(&port, &mut client, too_many).unwrap_err(), Code::InvalidArgument, "too_many_rows");
    assert_eq!(ask(&port, &mut client, request(&[ROW; QUEUE_MAX])).unwrap().len(), 2 * QUEUE_MAX);
}

#[test]
fn outputs_are_raw_unless_they_are_wanted_otherwise() {
    let port = Port::open();
    let mut client = port.client();
    let mut ask = |all: Option<bool>, own: Option<bool>, classes: Option<i64>| {
        let truth = |truth| parameter(ParameterChoice::BoolParam(truth));
        let mut asked = request(&[ROW]);
        asked.parameters.extend(all.map(|all| ("binary_data_output".into(), truth(all))));
        let mut output = InferRequestedOutputTensor { name: "logits".into(), ..InferRequestedOutputTensor::default() };
        output.parameters.extend(own.map(|own| ("binary_data".into(), truth(own))));
        let count = |count| ("classification".into(), parameter(ParameterChoice::Int64Param(count)));
        output.parameters.extend(classes.map(count));
        asked.outputs.push(output);
        port.runtime.block_on(client.model_infer(asked)).unwrap().into_inner()
    };
    for (all, own, raw) in [
        (None, None, true),
        (Some(false), None, false),
        (Some(true), None, true),
        (Some(false), Some(true), true),
        (Some(true), Some(false), false),
    ] {
        let reply = ask(all, own, None);
        assert_eq!(reply.raw_output_contents.len(), usize::from(raw), "{all:?} {own:?}");
        let typed = reply.outputs[0].contents.as_ref().map(|contents| contents.fp32_contents.len());
        assert_eq!(typed, (!raw).then_some(2), "{all:?} {own:?}");
    }
    let reply = ask(Some(false), None, Some(1));
    assert_eq!((reply.outputs[0].datatype.as_str(), &reply.outputs[0].shape[..]), ("BYTES", &[1, 1][..]));
    assert_eq!(reply.outputs[0].contents.as_ref().unwrap().bytes_contents, ["inf:1:dog"]);
    let reply = ask(None, None, Some(2));
    assert_eq!(&reply.raw_output_contents[0][..], b"\x09\0\0\0inf:1:dog\x09\0\0\x007.5:0:cat");
}

#[test]
fn parameters_and_the_calls_own_deadline_become_terms() {
    let port = Port::open();
    let mut client = port.client();
    let asked = |name: &str, value| {
        let mut asked = request(&[ROW]);
        asked.parameters.insert(name.to_owned(), parameter(value));
        asked
    };
    ask(&port, &mut client, asked("allow_reconstructed", ParameterChoice::BoolParam(false))).unwrap();
    assert_eq!(port.engine.terms().accepts, Accepts::DirectOnly);
    ask(&port, &mut client, asked("timeout", ParameterChoice::Int64Param(1500))).unwrap();
    assert_eq!(port.engine.terms().timeout, Some(Duration::from_micros(1500)));
    for (name, value) in [
        ("min_confidence", ParameterChoice::DoubleParam(0.5)),
        ("mine", ParameterChoice::StringParam("x".into())),
        ("sequence_id", ParameterChoice::Uint64Param(7)),
        ("triton_enable_empty_final_response", ParameterChoice::BoolParam(true)),
    ] {
        ask(&port, &mut client, asked(name, value)).expect(name);
        assert_eq!(port.engine.terms().timeout, None);
    }
    for (name, value, text) in [
        ("timeout", ParameterChoice::Int64Param(-1), "parameters.timeout: a whole number"),
        ("timeout", ParameterChoice::StringParam("5".into()), "parameters.timeout: a whole number"),
        ("priority", ParameterChoice::DoubleParam(0.5), "parameters.priority"),
        ("min_confidence", ParameterChoice::DoubleParam(1.5), "parameters.min_confidence"),
        ("allow_reconstructed", ParameterChoice::StringParam("no".into()), "parameters.allow_reconstructed"),
        ("triton_x", ParameterChoice::BoolParam(true), "parameters: \"triton_x\""),
    ] {
        let error = ask(&port, &mut client, asked(name, value)).expect_err(text);
        refused(&error, Code::InvalidArgument, "bad_field");
        assert!(error.message().contains(text), "{error}");
    }
    // Whichever is shorter.
    for (own, parameter, least, most) in [(2000, 9_000_000, 1500, 1990), (60_000, 5000, 5, 5)] {
        let mut call = Request::new(asked("timeout", ParameterChoice::Int64Param(parameter)));
        call.set_timeout(Duration::from_millis(own));
        port.runtime.block_on(client.model_infer(call)).unwrap();
        let timeout = port.engine.terms().timeout.unwrap();
        assert!((Duration::from_millis(least)..=Duration::from_millis(most)).contains(&timeout), "{timeout:?}");
    }
}

#[test]
fn refusals_and_failures_have_the_code_that_says_what_to_do() {
    let port = Port::open();
    let mut client = port.client();
    for (refusal, code, reason) in [
        (Refusal::Full, Code::ResourceExhausted, "full"),
        (Refusal::NotReady, Code::Unavailable, "not_ready"),
        (Refusal::Draining, Code::Unavailable, "draining"),
        (Refusal::TooManyRows { queue_max: 1 }, Code::InvalidArgument, "too_many_rows"),
        (Refusal::NotCalibrated, Code::InvalidArgument, "bad_field"),
    ] {
        port.engine.refuse(refusal);
        refused(&ask(&port, &mut client, request(&[ROW])).unwrap_err(), code, reason);
        assert_eq!(port.refusals(reason), 1);
    }
    *port.engine.refusal.lock().unwrap() = None;
    for (first, code, reason, counted) in [
        (-1.0, Code::DeadlineExceeded, "deadline", 0),
        (-2.0, Code::InvalidArgument, "query_fault", 0),
        (-3.0, Code::Unavailable, "stopped", 1),
    ] {
        let error = ask(&port, &mut client, request(&[ROW, [first, 0.0, 0.0, 0.0], [-1.0; 4]])).unwrap_err();
        refused(&error, code, reason);
        assert!(error.message().starts_with("row 1: "), "{error}");
        assert_eq!(port.refusals(reason), counted, "{reason}: the engine counts what it knows of");
    }
}

#[test]
fn every_reply_bears_an_id_the_calls_own_or_a_new_one() {
    let port = Port::open();
    let mut client = port.client();
    let mut ask = |id: Option<&str>, rows: &[[f32; 4]]| {
        let mut call = Request::new(request(rows));
        if let Some(id) = id {
            call.metadata_mut().insert("x-request-id", id.parse().unwrap());
        }
        let told = match port.runtime.block_on(client.model_infer(call)) {
            Ok(reply) => reply.metadata().get("x-request-id").cloned(),
            Err(status) => status.metadata().get("x-request-id").cloned(),
        };
        told.expect("an id").to_str().unwrap().to_owned()
    };
    assert_eq!(ask(Some("order-7"), &[ROW]), "order-7");
    let (first, second) = (ask(None, &[ROW]), ask(Some("two words"), &[ROW]));
    assert!(first.len() == 16 && second.len() == 16 && first != second, "{first} {second}");
    // Refused, and failed after it was admitted.
    assert_eq!(ask(Some("none"), &[]), "none");
    assert_eq!(ask(Some("fails"), &[[-2.0, 0.0, 0.0, 0.0]]), "fails");
}
