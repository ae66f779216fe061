//! The methods of `inference.GRPCInferenceService`.

use std::sync::Arc;

use tonic::{
    Request, Response, Status, Streaming,
    codegen::{async_trait, tokio_stream::wrappers::ReceiverStream},
};

use super::{
    Caller, Shared, Site, describe,
    inbound::Requests,
    infer::{self, Patience},
    proto::inference::{
        ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
        ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
        ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest,
        ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::GrpcInferenceService,
    },
    read::named,
    status::status,
};
use crate::wire::{ClientError, Error};

/// The protocol in front of a site.
pub(super) struct Protocol {
    shared: Arc<Shared>,
}

impl Protocol {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Protocol { shared: Arc::clone(shared) }
    }

    fn site(&self) -> &Site {
        &self.shared.site
    }

    /// An answer, or the status of an error, which is counted; both are told of.
    fn told<T>(&self, caller: &Caller, answer: Result<T, impl Into<Error>>) -> Result<Response<T>, Status> {
        match answer {
            Ok(answer) => {
                Shared::answered(caller);
                Ok(Response::new(answer))
            }
            Err(error) => {
                let error = error.into();
                self.shared.unanswered(caller, &error);
                Err(status(&error))
            }
        }
    }

    fn check(&self, name: &str, version: &str) -> Result<(), ClientError> {
        self.site().signature.check_model(name, named(version))
    }
}

/// By when an answer is wanted; the front has put that beside every request.
fn patience<T>(request: &Request<T>) -> Patience {
    *request.extensions().get().expect("every call passes the front")
}

/// The caller, whom the front has put beside every request, too, and the message.
fn taken<T>(request: Request<T>) -> (Caller, T) {
    let caller = request.extensions().get().cloned();
    (caller.expect("every call passes the front"), request.into_inner())
}

#[async_trait]
impl GrpcInferenceService for Protocol {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.site().admission.readiness().is_ok() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        // A question and no refusal, as in Triton: what is not there is not ready.
        let ready = self.check(&name, &version).is_ok() && self.site().admission.readiness().is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(describe::server()))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let (caller, ModelMetadataRequest { name, version }) = taken(request);
        self.told(&caller, self.check(&name, &version).map(|()| describe::model(self.site())))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let patience = patience(&request);
        let (caller, request) = taken(request);
        self.told(&caller, infer::one(&self.shared, request, patience).await)
    }

    type ModelStreamInferStream = ReceiverStream<Result<ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let patience = patience(&request);
        let requests = request.extensions().get().and_then(Requests::take);
        let requests = requests.expect("the front has put them beside the call");
        let (caller, _empty) = taken(request);
        Ok(Response::new(infer::stream(&self.shared, caller, requests, patience)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let (caller, ModelConfigRequest { name, version }) = taken(request);
        self.told(&caller, self.check(&name, &version).map(|()| describe::config(self.site())))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let (caller, ModelStatisticsRequest { name, version }) = taken(request);
        let checked = if name.is_empty() { Ok(()) } else { self.check(&name, &version) };
        self.told(&caller, checked.map(|()| describe::statistics(self.site())))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Ok(Response::new(describe::index(self.site(), request.get_ref().ready)))
    }
}
