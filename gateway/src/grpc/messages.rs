//! Converts the answers of HTTP, which are JSON, to the messages of the same names. Triton's JSON is the
//! JSON form of these messages.

use batchfleet_proto::{DESCRIPTORS, Message};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage};
use serde::Serialize;
use tonic::Status;

/// The descriptors of all messages.
#[derive(Clone, Debug)]
pub(super) struct Messages(DescriptorPool);

impl Messages {
    /// Reads the descriptors.
    ///
    /// # Errors
    ///
    /// The descriptors are malformed.
    pub(super) fn new() -> Result<Self, prost_reflect::DescriptorError> {
        DescriptorPool::decode(DESCRIPTORS).map(Self)
    }

    /// The message of this name with the fields of `value`. Fields that the message does not have are
    /// left out.
    pub(super) fn convert<M: Message + Default>(
        &self,
        name: &str,
        value: &impl Serialize,
    ) -> Result<M, Status> {
        let failed = |why: String| Status::internal(format!("internal: {name}: {why}"));
        let value = serde_json::to_value(value).map_err(|error| failed(error.to_string()))?;
        let message = self.0.get_message_by_name(&format!("inference.{name}"));
        let message = message.ok_or_else(|| failed("there is no such message".to_owned()))?;
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let message = DynamicMessage::deserialize_with_options(message, value, &options)
            .map_err(|error| failed(error.to_string()))?;
        message.transcode_to().map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_proto::inference::{ModelConfig, ModelStatisticsResponse};
    use serde_json::json;

    use super::*;

    #[test]
    fn json_becomes_the_message_of_the_same_fields() {
        let messages = Messages::new().unwrap();
        let config: ModelConfig = messages
            .convert(
                "ModelConfig",
                &json!({
                    "name": "m", "max_batch_size": 8, "version_policy": {"all": {}},
                    "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [-1]}],
                    "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 5},
                    "of_ours": true,
                }),
            )
            .unwrap();
        assert_eq!((config.name.as_str(), config.max_batch_size), ("m", 8));
        assert_eq!((config.input[0].data_type, &config.input[0].dims[..]), (11, &[-1][..]));
        assert!(config.version_policy.is_some() && config.scheduling_choice.is_some());
        let statistics: ModelStatisticsResponse = messages
            .convert(
                "ModelStatisticsResponse",
                &json!({"model_stats": [{"name": "m", "inference_count": u64::MAX}]}),
            )
            .unwrap();
        assert_eq!(statistics.model_stats[0].inference_count, u64::MAX);
        let wrong = messages.convert::<ModelConfig>("ModelConfig", &json!({"name": 5}));
        assert_eq!(wrong.unwrap_err().code(), tonic::Code::Internal);
    }
}
