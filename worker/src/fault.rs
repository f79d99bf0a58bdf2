//! Classifies the errors of runs.
//!
//! ONNX Runtime reports most errors of runs with one of two general codes. Where the code does not
//! identify the cause, a table of error texts decides. `cuda_call.cc` of ONNX Runtime formats the
//! errors of CUDA's libraries, for example as
//! `CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; ...`, with `CUBLAS`,
//! `CUDNN` and others in place of `CUDA`. `bfc_arena.cc` formats the errors about memory.

mod message;

use batchfleet_broker::{Failure, ModelSpec};
use strum::{IntoStaticStr, VariantArray};

use crate::engine::{EngineError, RunError, RunErrorCode};

/// The class of a run's error. The variant's name is the metric label `class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum RunFault {
    /// The model rejects some input of the batch; the rest of the batch can run.
    Model,
    /// The batch needs more memory than is available; a smaller batch can run.
    OutOfMemory,
    /// The process has lost the device. All later outputs may be garbage.
    Device,
}

impl RunFault {
    /// Classifies `error`; an unknown error is attributed to the model.
    pub(crate) fn of(error: &EngineError) -> Self {
        match error {
            EngineError::Failed(source) => Self::of_run(source),
            EngineError::Uneven(_) => Self::Model,
        }
    }

    /// Whether the code or the text of an error is known. The class of other errors is a guess.
    pub(crate) fn is_known(error: &RunError) -> bool {
        if error.code() != RunErrorCode::Unspecific {
            return true;
        }
        let text = error.to_string();
        TEXTS.iter().any(|(part, _)| text.contains(part))
    }

    fn of_run(error: &RunError) -> Self {
        match error.code() {
            RunErrorCode::InvalidInput => Self::Model,
            RunErrorCode::DeviceReset => Self::Device,
            RunErrorCode::Unspecific => {
                let text = error.to_string();
                let known = TEXTS.iter().find(|(part, _)| text.contains(part));
                known.map_or(Self::Model, |&(_, fault)| fault)
            }
        }
    }
}

/// The failure and the message for the caller of a request that failed alone.
///
/// The model has run its warm-up, so an operator that fails on one request fails because of the
/// request's values, unless memory ran out.
pub(crate) fn answer(spec: &ModelSpec, error: &EngineError) -> (Failure, String) {
    let EngineError::Failed(source) = error else { return (Failure::Model, error.to_string()) };
    let (text, code) = (source.to_string(), source.code());
    let is_of_values = match code {
        RunErrorCode::InvalidInput => true,
        RunErrorCode::DeviceReset => false,
        RunErrorCode::Unspecific => {
            RunFault::of(error) == RunFault::Model && message::is_of_operator(&text)
        }
    };
    let reason = message::readable(&text);
    if !is_of_values {
        return (Failure::Model, format!("the model failed: {reason}"));
    }
    let message = match named_input(spec, &reason) {
        Some(input) => format!("input {input:?}: the model does not take these values: {reason}"),
        None => format!("the model does not take these values: {reason}"),
    };
    (Failure::BadInput, message)
}

/// The input that caused an error: the model's only input, or the one that the text names.
fn named_input<'a>(spec: &'a ModelSpec, text: &str) -> Option<&'a str> {
    if let [only] = spec.inputs.as_slice() {
        return Some(&only.name);
    }
    let names = spec.inputs.iter().map(|input| input.name.as_str());
    let is_named = |name: &str| {
        let quoted = [format!("'{name}'"), format!("{name:?}"), format!("input: {name} ")];
        quoted.iter().any(|quoted| text.contains(quoted))
    };
    names.filter(|name| !name.is_empty()).find(|name| is_named(name))
}

/// Fragments of error texts and their faults; the first fragment found in a text decides.
const TEXTS: &[(&str, RunFault)] = &[
    // The arena is out of device memory, or at its configured limit.
    ("Failed to allocate memory for requested buffer", RunFault::OutOfMemory),
    ("is smaller than requested bytes of", RunFault::OutOfMemory),
    ("bad_alloc", RunFault::OutOfMemory),
    ("bad allocation", RunFault::OutOfMemory),
    ("CUDA failure 2:", RunFault::OutOfMemory),
    ("CUDA error 2:", RunFault::OutOfMemory),
    ("cudaErrorMemoryAllocation", RunFault::OutOfMemory),
    ("CUBLAS_STATUS_ALLOC_FAILED", RunFault::OutOfMemory),
    ("CUDNN_STATUS_ALLOC_FAILED", RunFault::OutOfMemory),
    ("ALLOCATION_FAILED", RunFault::OutOfMemory),
    ("CUFFT_ALLOC_FAILED", RunFault::OutOfMemory),
    ("out of memory", RunFault::OutOfMemory),
    // CUDA rejected the call before anything ran; the call's arguments follow from the input's
    // shape.
    ("CUDA failure 1:", RunFault::Model),
    ("CUDA failure 9:", RunFault::Model),
    // A capture of a graph was disturbed or is not possible; the device itself works.
    ("CUDA failure 900:", RunFault::Model),
    ("CUDA failure 901:", RunFault::Model),
    // After any other CUDA error the process cannot use the device again.
    ("CUDA failure ", RunFault::Device),
    ("CUDA error ", RunFault::Device),
    ("illegal memory access", RunFault::Device),
    ("device-side assert", RunFault::Device),
    ("uncorrectable ECC", RunFault::Device),
    ("unspecified launch failure", RunFault::Device),
    ("misaligned address", RunFault::Device),
    ("launch timed out", RunFault::Device),
    ("GPU is lost", RunFault::Device),
    ("device lost", RunFault::Device),
    ("_STATUS_EXECUTION_FAILED", RunFault::Device),
    ("CUBLAS_STATUS_INTERNAL_ERROR", RunFault::Device),
    ("CUBLAS_STATUS_NOT_INITIALIZED", RunFault::Device),
    ("CUDNN_STATUS_INTERNAL_ERROR", RunFault::Device),
    ("CUDNN_STATUS_MAPPING_ERROR", RunFault::Device),
    ("CUDNN_STATUS_NOT_INITIALIZED", RunFault::Device),
    // The frontend of cuDNN plans a convolution, and refuses shapes that it has no plan for.
    ("OP not supported by CUDNN Frontend", RunFault::Model),
    ("Failed to initialize CUDNN Frontend", RunFault::Model),
];

#[cfg(test)]
mod tests {
    use batchfleet_broker::{Datatype, QueueName, TensorSpec};

    use super::*;
    use crate::layout::UnevenOutput;

    #[test]
    fn texts_of_onnx_runtime_are_told_apart() {
        for (text, fault) in [
            (
                "Non-zero status code returned while running Gather node. Name:'g' Status Message: \
                 indices element out of data bounds, idx=300 must be within the inclusive range",
                RunFault::Model,
            ),
            ("Got invalid dimensions for input: X for the following indices", RunFault::Model),
            (
                "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, \
                 Stream*) Failed to allocate memory for requested buffer of size 1073741824",
                RunFault::OutOfMemory,
            ),
            (
                "Available memory of 1024 is smaller than requested bytes of 4096",
                RunFault::OutOfMemory,
            ),
            (
                "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, \
                 size);",
                RunFault::OutOfMemory,
            ),
            (
                "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=h ; \
                 expr=cublasCreate(&cublas_handle_);",
                RunFault::OutOfMemory,
            ),
            ("CUDNN failure 2002: CUDNN_STATUS_ALLOC_FAILED ; GPU=0", RunFault::OutOfMemory),
            (
                "CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED_CUDART ; GPU=0 ; hostname=h",
                RunFault::Device,
            ),
            (
                "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; \
                 expr=cudaStreamSynchronize(stream);",
                RunFault::Device,
            ),
            ("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0", RunFault::Device),
            ("CUDA failure 710: device-side assert triggered ; GPU=0", RunFault::Device),
            ("CUDA error cudaErrorIllegalAddress:an illegal memory access", RunFault::Device),
            ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", RunFault::Device),
            ("CUDA failure 9: invalid configuration argument ; GPU=0", RunFault::Model),
            ("CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0", RunFault::Model),
            ("CUDA failure 900: operation not permitted when stream is capturing", RunFault::Model),
            ("CUDA failure 901: operation failed due to a previous error during", RunFault::Model),
            ("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0", RunFault::Device),
        ] {
            assert_eq!(RunFault::of(&EngineError::failed(text)), fault, "{text}");
        }
    }

    #[test]
    fn a_code_goes_before_the_text() {
        let text = "Got invalid dimensions for input: 'out of memory'";
        for (code, fault) in [
            (RunErrorCode::InvalidInput, RunFault::Model),
            (RunErrorCode::DeviceReset, RunFault::Device),
            (RunErrorCode::Unspecific, RunFault::OutOfMemory),
        ] {
            let error = EngineError::Failed(RunError::new(code, text));
            assert_eq!(RunFault::of(&error), fault, "{code:?}");
        }
    }

    fn spec(inputs: &[&str]) -> ModelSpec {
        let input = |name: &&str| TensorSpec::new(*name, Datatype::Int64, [-1]);
        ModelSpec {
            queue: QueueName::new("m", 1),
            platform: String::new(),
            backend: String::new(),
            max_batch: None,
            inputs: inputs.iter().map(input).collect(),
            outputs: Vec::new(),
        }
    }

    #[test]
    fn values_that_the_model_does_not_take_are_the_callers_fault() {
        let operator = "Non-zero status code returned while running Gather node. Name:'' Status \
                        Message: indices element out of data bounds, idx=9";
        let reason = "the model does not take these values: Gather: indices element out of data \
                      bounds, idx=9";
        let of = |code, text: &str, inputs: &[&str]| {
            answer(&spec(inputs), &EngineError::Failed(RunError::new(code, text)))
        };
        for code in [RunErrorCode::InvalidInput, RunErrorCode::Unspecific] {
            let expected = format!("input \"ids\": {reason}");
            assert_eq!(of(code, operator, &["ids"]), (Failure::BadInput, expected));
            assert_eq!(
                of(code, operator, &["ids", "mask"]),
                (Failure::BadInput, reason.to_owned())
            );
        }
        let shape = "Got invalid dimensions for input: mask for the following indices";
        let (failure, message) = of(RunErrorCode::InvalidInput, shape, &["ids", "mask"]);
        assert_eq!(failure, Failure::BadInput);
        assert!(message.starts_with("input \"mask\": "), "{message}");
    }

    #[test]
    fn other_errors_are_the_models_fault_and_name_no_place_in_its_source() {
        let memory = "Non-zero status code returned while running MatMul node. Name:'' Status \
                      Message: /onnxruntime_src/core/framework/bfc_arena.cc:376 void* \
                      onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate \
                      memory for requested buffer of size 10";
        let of = |error: &EngineError| answer(&spec(&["x"]), error);
        let expected = "the model failed: MatMul: Failed to allocate memory for requested buffer of \
                        size 10";
        assert_eq!(of(&EngineError::failed(memory)), (Failure::Model, expected.to_owned()));
        let (failure, message) = of(&EngineError::failed("no output \"y\""));
        assert_eq!((failure, &*message), (Failure::Model, "the model failed: no output \"y\""));
        let uneven = UnevenOutput { name: "Y".to_owned(), shape: vec![3], rows: 4, axis: 0 };
        assert_eq!(of(&uneven.into()).0, Failure::Model);
    }

    #[test]
    fn outputs_that_cannot_be_split_are_the_models_fault() {
        let error = UnevenOutput { name: "Y".to_owned(), shape: vec![3], rows: 4, axis: 0 };
        assert_eq!(RunFault::of(&error.into()), RunFault::Model);
    }
}
