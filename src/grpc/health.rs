//! `grpc.health.v1`: readiness, in the words that balancers and Kubernetes ask in.
//!
//! It is asked for when somebody asks, so what is told is never older than the question; who watches is told within [`LOOK`] of a change.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status,
    codegen::{async_trait, tokio_stream::wrappers::ReceiverStream},
};

use super::{
    Shared,
    proto::health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus, health_server::Health,
    },
};

/// From one look for whoever watches to the next.
const LOOK: Duration = Duration::from_millis(100);

/// What has a health: the server, and the service that it is for.
const SERVICES: [&str; 2] = ["", "inference.GRPCInferenceService"];

/// The health of a site.
pub(super) struct Readiness {
    shared: Arc<Shared>,
}

impl Readiness {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Readiness { shared: Arc::clone(shared) }
    }
}

fn now(shared: &Shared) -> HealthCheckResponse {
    let is_ready = shared.site.admission.readiness().is_ok();
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[async_trait]
impl Health for Readiness {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if SERVICES.contains(&request.get_ref().service.as_str()) {
            Ok(Response::new(now(&self.shared)))
        } else {
            Err(Status::not_found("there is no service of that name"))
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses = SERVICES.iter().map(|&service| (service.to_owned(), now(&self.shared)));
        Ok(Response::new(HealthListResponse { statuses: statuses.collect() }))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (tell, told) = mpsc::channel(1);
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        tokio::spawn(watch(Arc::clone(&self.shared), known, tell));
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

/// Tells each change, until the client leaves or the daemon stops.
async fn watch(shared: Arc<Shared>, known: bool, tell: mpsc::Sender<Result<HealthCheckResponse, Status>>) {
    let mut last = None;
    loop {
        let status =
            if known { now(&shared) } else { HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() } };
        if last.as_ref() != Some(&status) && tell.send(Ok(status)).await.is_err() {
            return;
        }
        last = Some(status);
        // The last word has been told: the engine refuses before the drain begins.
        if shared.drain.closes_connections() {
            return;
        }
        tokio::select! {
            () = tell.closed() => return,
            () = shared.drain.left() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
