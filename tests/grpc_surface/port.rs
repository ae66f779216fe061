//! The server in front of the engine, and what requests and refusals look like.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use parityd::{
    admission::Admission,
    grpc::{
        self, Limits, Site,
        proto::inference::{
            InferParameter, InferTensorContents, ModelInferRequest,
            grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
            model_infer_request::InferInputTensor,
        },
    },
    metrics::Metrics,
};
use tokio::runtime::Runtime;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::engine::{Adder, QUEUE_MAX, signature};

pub(crate) type Client = GrpcInferenceServiceClient<Channel>;

/// The server in a runtime of its own; dropping it shuts it down and waits for it.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Arc<Adder>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where clients run.
    pub(crate) runtime: Runtime,
    pub(crate) stop: Option<tokio::sync::oneshot::Sender<()>>,
    /// Another process has the port once this is dropped.
    pub(crate) leave: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<usize>>,
}

impl Port {
    pub(crate) fn open() -> Port {
        Port::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Limits)) -> Port {
        let engine = Arc::new(Adder::new());
        let metrics = Arc::new(Metrics::new("adder", 1));
        let mut limits = Limits::new(QUEUE_MAX, Duration::from_secs(5));
        change(&mut limits);
        let site = Site {
            signature: signature(),
            admission: Arc::clone(&engine) as Arc<dyn Admission>,
            metrics: Arc::clone(&metrics),
            limits,
        };
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (leave, left) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                grpc::serve(listener, Arc::new(site), async { drop(left.await) }, async { drop(stopped.await) }).await
            })
        });
        Port {
            address,
            engine,
            metrics,
            runtime: runtime(),
            stop: Some(stop),
            leave: Some(leave),
            thread: Some(thread),
        }
    }

    /// A connection of its own.
    pub(crate) fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        self.runtime.block_on(endpoint.connect()).expect("the port is open")
    }

    pub(crate) fn client(&self) -> Client {
        GrpcInferenceServiceClient::new(self.channel())
    }

    /// Ends it; gives how many requests were not answered.
    pub(crate) fn shut(&mut self) -> usize {
        drop(self.stop.take());
        self.end()
    }

    /// Waits for its end; gives how many requests were not answered.
    pub(crate) fn end(&mut self) -> usize {
        self.thread.take().map_or(0, |thread| thread.join().expect("the server does not panic"))
    }

    /// How often something was refused for `reason`.
    pub(crate) fn refusals(&self, reason: &str) -> u32 {
        let start = format!("parityd_errors_total{{reason=\"{reason}\"}} ");
        let text = self.metrics.text();
        text.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shut();
    }
}

/// An infer request of these rows, as bytes of FP32.
pub(crate) fn request(rows: &[[f32; 4]]) -> ModelInferRequest {
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest { raw_input_contents: vec![bytes.into()], ..tensor("FP32", rows.len(), None) }
}

/// An infer request of so many rows, with or without contents.
pub(crate) fn tensor(datatype: &str, rows: usize, contents: Option<InferTensorContents>) -> ModelInferRequest {
    let input = InferInputTensor {
        name: "input".into(),
        datatype: datatype.into(),
        shape: vec![i64::try_from(rows).unwrap(), 1, 2, 2],
        parameters: BTreeMap::new(),
        contents,
    };
    ModelInferRequest { model_name: "adder".into(), inputs: vec![input], ..ModelInferRequest::default() }
}

pub(crate) fn parameter(value: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(value) }
}

/// Checks what every refusal has.
#[track_caller]
pub(crate) fn refused(status: &Status, code: Code, reason: &str) {
    let told = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
    assert_eq!((status.code(), told("reason")), (code, Some(reason)), "{status:?}");
    assert!(!status.message().is_empty() && told("retryable").is_some(), "{status:?}");
    let waits = matches!(code, Code::Unavailable | Code::ResourceExhausted);
    assert_eq!(told("grpc-retry-pushback-ms").is_some(), waits, "{status:?}");
}
