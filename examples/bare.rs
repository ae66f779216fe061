//! The least that could serve a model over HTTP, as a limit to measure the daemon against (docs/benchmarks/edge.md): hyper, the daemon's own reading of a
//! request and its own forward pass, all on the thread that carries the socket. No queue, no lane, no deadline, no limit: a slow forward pass would
//! hold up everybody.
//!
//! ```sh
//! cargo run --release --example bare -- benches/mlp.toml 127.0.0.1:8010 1
//! ```
//!
//! The last number is how many threads carry sockets.
//!
//! ```sh
//! curl -s localhost:8010 -d @target/edge/body.json
//! ```

#![expect(clippy::print_stdout, reason = "whoever starts it waits for the line")]

use std::{convert::Infallible, env, path::Path, sync::Arc};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parityd::{
    http::{Call, Form, parse},
    model::{Device, Net},
    query::Signature,
    serve::Plan,
    weights::Bundle,
};
use serde_json::json;
use tokio::net::TcpListener;

/// The header of requests and replies with binary data.
const JSON_LENGTH: &str = "inference-header-content-length";

struct Served {
    net: Net,
    signature: Signature,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let (config, address) = (arguments.next().context("a configuration")?, arguments.next().context("an address")?);
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let plan = Plan::load(Some(Path::new(&config)))?;
    let bundle = Bundle::load(&plan.config.deployment.weights, None)?;
    let served = Arc::new(Served { net: bundle.base(&Device::Cpu)?, signature: plan.signature() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(&address).await?;
        println!("listening on {address}");
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let served = Arc::clone(&served);
            let service = service_fn(move |request| answer(Arc::clone(&served), request));
            tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
        }
    })
}

async fn answer(served: Arc<Served>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let length = request.headers().get(JSON_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let reply = body.ok().and_then(|body| infer(&served, &body, length));
    let refused = || {
        let mut reply = Response::new(Full::default());
        *reply.status_mut() = StatusCode::BAD_REQUEST;
        reply
    };
    Ok(reply.unwrap_or_else(refused))
}

fn infer(served: &Served, body: &[u8], length: Option<usize>) -> Option<Response<Full<Bytes>>> {
    let Call { wanted, rows, .. } = parse(body, length, &served.signature, 1024).ok()?;
    let values: Vec<f32> = rows.iter().flat_map(|row| row.to_vec()).collect();
    let outputs = served.net.run(&values).ok()?;
    let mut output = json!({"name": served.signature.output.name, "datatype": "FP32", "shape": [rows.count(), 10]});
    let is_binary = wanted.form == Form::Binary;
    if is_binary {
        output["parameters"] = json!({"binary_data_size": outputs.len() * size_of::<f32>()});
    } else {
        output["data"] = json!(outputs);
    }
    let reply = json!({"model_name": "mlp", "model_version": "1", "outputs": [output]});
    let mut bytes = serde_json::to_vec(&reply).ok()?;
    let head = bytes.len();
    let mut builder = Response::builder().header(CONTENT_TYPE, "application/json");
    if is_binary {
        bytes.extend(outputs.iter().flat_map(|value| value.to_le_bytes()));
        builder = Response::builder().header(CONTENT_TYPE, "application/octet-stream").header(JSON_LENGTH, head);
    }
    builder.body(Full::new(bytes.into())).ok()
}
