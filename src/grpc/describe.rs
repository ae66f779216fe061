//! What the daemon tells of itself: server and model metadata, the model's configuration, statistics, the repository's index. The same facts as over
//! HTTP, as messages.

use super::{
    Site,
    proto::inference::{
        DataType, InferStatistics, ModelConfig, ModelConfigResponse, ModelDynamicBatching, ModelInput,
        ModelMetadataResponse, ModelOutput, ModelStatistics, ModelStatisticsResponse, ModelTransactionPolicy,
        ModelVersionPolicy, RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
        model_config::SchedulingChoice,
        model_metadata_response::TensorMetadata,
        model_version_policy::{Latest, PolicyChoice},
        repository_index_response::ModelIndex,
    },
    write::dim,
};
use crate::{
    metrics::Total,
    query::{Signature, TensorSpec},
    wire::EXTENSIONS,
};

/// Answers `ServerMetadata`.
pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "parityd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// The shape of one row.
fn dims(spec: &TensorSpec) -> Vec<i64> {
    spec.shape.iter().copied().map(dim).collect()
}

/// Answers `ModelMetadata`.
pub(super) fn model(site: &Site) -> ModelMetadataResponse {
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: "FP32".to_owned(),
        shape: [vec![-1], dims(spec)].concat(),
    };
    let Signature { name, version, platform, input, output, .. } = &site.signature;
    ModelMetadataResponse {
        name: name.clone(),
        versions: vec![version.clone()],
        platform: platform.clone(),
        inputs: vec![tensor(input)],
        outputs: vec![tensor(output)],
    }
}

/// Answers `ModelConfig`.
pub(super) fn config(site: &Site) -> ModelConfigResponse {
    let Signature { name, platform, input, output, .. } = &site.signature;
    let data_type = DataType::TypeFp32.into();
    let config = ModelConfig {
        name: name.clone(),
        platform: platform.clone(),
        backend: "parityd".to_owned(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })),
        }),
        max_batch_size: i32::try_from(site.limits.queue_max).unwrap_or(i32::MAX),
        input: vec![ModelInput { name: input.name.clone(), data_type, dims: dims(input) }],
        output: vec![ModelOutput { name: output.name.clone(), data_type, dims: dims(output) }],
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching {})),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    };
    ModelConfigResponse { config: Some(config) }
}

/// Answers `ModelStatistics`.
pub(super) fn statistics(site: &Site) -> ModelStatisticsResponse {
    let batches = site.metrics.batches();
    let totals = site.metrics.requests.totals(batches);
    let told = |total: Total| Some(StatisticDuration { count: total.count, ns: total.nanos });
    let model = ModelStatistics {
        name: site.signature.name.clone(),
        version: site.signature.version.clone(),
        last_inference: totals.last_millis,
        inference_count: totals.rows,
        execution_count: batches.count,
        inference_stats: Some(InferStatistics {
            success: told(totals.success),
            fail: told(totals.fail),
            queue: told(totals.queue),
            compute_input: told(totals.reading),
            compute_infer: told(totals.computing),
            compute_output: told(totals.writing),
            cache_hit: told(Total::default()),
            cache_miss: told(Total::default()),
        }),
    };
    ModelStatisticsResponse { model_stats: vec![model] }
}

/// Answers `RepositoryIndex`.
pub(super) fn index(site: &Site, ready: bool) -> RepositoryIndexResponse {
    let entry = |state: &str, reason: String| ModelIndex {
        name: site.signature.name.clone(),
        version: site.signature.version.clone(),
        state: state.to_owned(),
        reason,
    };
    let models = match site.admission.readiness() {
        Ok(()) => vec![entry("READY", String::new())],
        Err(_) if ready => Vec::new(),
        Err(refusal) => vec![entry("UNAVAILABLE", refusal.to_string())],
    };
    RepositoryIndexResponse { models }
}
