//! All methods of the protocol except inference. What cannot work in a fleet is refused with the way to
//! do it here.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use actix_web::web::Data;
use batchfleet_oip::{Problem, metadata, statistics};
use batchfleet_proto::inference::{
    self as proto, grpc_inference_service_server::GrpcInferenceService,
};
use futures_core::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{messages::Messages, status::status};
use crate::{
    api::Api,
    catalog,
    clients::Client,
    describe,
    error::InferError,
    model::Model,
    model_change::{self, Action},
};

/// The client of a call, as an extension of the request.
#[derive(Clone)]
pub(super) struct Caller(pub(super) Arc<Client>);

/// Answers everything but inference.
pub(super) struct Service {
    api: Data<Api>,
    messages: Messages,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub(super) fn new(api: Data<Api>, messages: Messages) -> Self {
        Self { api, messages }
    }

    /// The model of a call, if its client may use it; an empty version is the default version.
    fn model<T>(
        &self,
        request: &Request<T>,
        name: &str,
        version: &str,
    ) -> Result<Arc<Model>, Status> {
        let client = client(request)?;
        let version = Some(version).filter(|version| !version.is_empty());
        let found = self.api.core.catalog.find(name, version, |name| client.may_use(name));
        found.map_err(|problem| status(&InferError::from(problem)))
    }

    /// Loads or unloads a model.
    async fn change<T>(
        &self,
        action: Action,
        request: &Request<T>,
        asked: ControlCall<'_>,
    ) -> Result<(), Status> {
        let ControlCall { repository, model, parameters } = asked;
        let client = client(request)?;
        let refused = |problem: Problem| status(&InferError::from(problem));
        if !repository.is_empty() {
            // The words of Triton.
            let text = "'repository_name' specification is not supported";
            return Err(refused(Problem::unsupported(text)));
        }
        action.check(parameters.keys().map(String::as_str)).map_err(refused)?;
        if !client.may_use(model) {
            return Err(refused(catalog::unknown(model, None, false)));
        }
        let changed = model_change::change(self.api.core.clone(), action, model.to_owned()).await;
        changed.map_err(|error| status(&error))
    }
}

/// What a call to load or unload a model asks for.
struct ControlCall<'a> {
    repository: &'a str,
    model: &'a str,
    parameters: &'a HashMap<String, proto::ModelRepositoryParameter>,
}

fn client<T>(request: &Request<T>) -> Result<&Client, Status> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or_else(|| Status::internal("internal: the client is unknown"))?;
    Ok(&caller.0)
}

/// Refuses a call with the way to do it here.
fn unsupported<T>(way: &str) -> Answer<T> {
    Err(Status::unimplemented(format!("unsupported: {way}")))
}

const SHARED_MEMORY: &str =
    "gateway and client share no memory; send tensors in raw_input_contents";

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<proto::ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Answer<proto::ServerLiveResponse> {
        Ok(Response::new(proto::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Answer<proto::ServerReadyResponse> {
        let ready = describe::unready(&self.api).is_none();
        Ok(Response::new(proto::ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Answer<proto::ModelReadyResponse> {
        let asked = request.get_ref();
        let ready = match self.model(&request, &asked.name, &asked.version) {
            Ok(model) => describe::ready(&self.api, &model).is_ok(),
            // As in Triton, an unknown model is not ready, which clients wait for.
            Err(error) if matches!(error.code(), Code::NotFound | Code::Unavailable) => false,
            Err(error) => return Err(error),
        };
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Answer<proto::ServerMetadataResponse> {
        self.messages.convert("ServerMetadataResponse", &metadata::server()).map(Response::new)
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Answer<proto::ModelMetadataResponse> {
        let asked = request.get_ref();
        let model = self.model(&request, &asked.name, &asked.version)?;
        let versions = self.api.core.catalog.versions(&model.spec.queue.model);
        let described = metadata::model(&model.spec, &versions);
        self.messages.convert("ModelMetadataResponse", &described).map(Response::new)
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Answer<proto::ModelConfigResponse> {
        let asked = request.get_ref();
        let model = self.model(&request, &asked.name, &asked.version)?;
        let config = describe::config(&self.api, &model);
        let config = self.messages.convert("ModelConfig", &config)?;
        Ok(Response::new(proto::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Answer<proto::ModelStatisticsResponse> {
        let asked = request.get_ref();
        let models = if asked.name.is_empty() {
            describe::usable(&self.api, client(&request)?)
        } else {
            let model = self.model(&request, &asked.name, &asked.version)?;
            let all = asked.version.is_empty();
            if all { describe::versions(&self.api, &model) } else { vec![model] }
        };
        let totals: Vec<_> = models.iter().map(|model| model.books.statistics()).collect();
        let queues = models.iter().map(|model| &model.spec.queue);
        let report = statistics::report(queues.zip(&totals));
        self.messages.convert("ModelStatisticsResponse", &report).map(Response::new)
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Answer<proto::RepositoryIndexResponse> {
        let models = describe::index(&self.api, client(&request)?, request.get_ref().ready).await;
        let index = serde_json::json!({ "models": models });
        self.messages.convert("RepositoryIndexResponse", &index).map(Response::new)
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<proto::SystemSharedMemoryStatusRequest>,
    ) -> Answer<proto::SystemSharedMemoryStatusResponse> {
        Ok(Response::new(proto::SystemSharedMemoryStatusResponse::default()))
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<proto::SystemSharedMemoryRegisterRequest>,
    ) -> Answer<proto::SystemSharedMemoryRegisterResponse> {
        unsupported(SHARED_MEMORY)
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<proto::SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<proto::SystemSharedMemoryUnregisterResponse> {
        Ok(Response::new(proto::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<proto::CudaSharedMemoryStatusRequest>,
    ) -> Answer<proto::CudaSharedMemoryStatusResponse> {
        Ok(Response::new(proto::CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<proto::CudaSharedMemoryRegisterRequest>,
    ) -> Answer<proto::CudaSharedMemoryRegisterResponse> {
        unsupported(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<proto::CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<proto::CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(proto::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn repository_model_load(
        &self,
        request: Request<proto::RepositoryModelLoadRequest>,
    ) -> Answer<proto::RepositoryModelLoadResponse> {
        let proto::RepositoryModelLoadRequest { repository_name, model_name, parameters } =
            request.get_ref();
        let asked = ControlCall { repository: repository_name, model: model_name, parameters };
        self.change(Action::Load, &request, asked).await?;
        Ok(Response::new(proto::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<proto::RepositoryModelUnloadRequest>,
    ) -> Answer<proto::RepositoryModelUnloadResponse> {
        let proto::RepositoryModelUnloadRequest { repository_name, model_name, parameters } =
            request.get_ref();
        let asked = ControlCall { repository: repository_name, model: model_name, parameters };
        self.change(Action::Unload, &request, asked).await?;
        Ok(Response::new(proto::RepositoryModelUnloadResponse {}))
    }

    async fn trace_setting(
        &self,
        _: Request<proto::TraceSettingRequest>,
    ) -> Answer<proto::TraceSettingResponse> {
        unsupported(
            "traces are set up with --trace-endpoint and --trace-sample; a call is traced if its \
            metadata has a sampled traceparent",
        )
    }

    async fn log_settings(
        &self,
        _: Request<proto::LogSettingsRequest>,
    ) -> Answer<proto::LogSettingsResponse> {
        unsupported("logs are set up with --log and --log-format")
    }

    async fn model_infer(
        &self,
        _: Request<proto::ModelInferRequest>,
    ) -> Answer<proto::ModelInferResponse> {
        Err(Status::internal("internal: inference is answered elsewhere"))
    }

    async fn model_stream_infer(
        &self,
        _: Request<Streaming<proto::ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        Err(Status::internal("internal: inference is answered elsewhere"))
    }
}
