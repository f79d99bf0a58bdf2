//! What an error of a run means for the worker that met it.
//!
//! ONNX Runtime tells causes apart by text only, so this is a table of texts. Those of CUDA's
//! libraries are made in its `cuda_call.cc`: `CUDA failure 700: an illegal memory access was
//! encountered ; GPU=0 ; ...`, with `CUBLAS`, `CUDNN` and others in the place of `CUDA`; those of
//! memory in `bfc_arena.cc`.

use crate::engine::EngineError;

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The model rejects something in the batch; a batch without it will run.
    Model,
    /// The batch needs more memory than there is; a smaller one will run.
    OutOfMemory,
    /// The device is lost to this process. Whatever it computes from now on may be garbage.
    Device,
}

impl Fault {
    /// Every fault.
    pub(crate) const ALL: [Self; 3] = [Self::Model, Self::OutOfMemory, Self::Device];

    /// The bounded `class` label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::OutOfMemory => "out_of_memory",
            Self::Device => "device",
        }
    }

    /// What `error` means; what nobody knows is the model's.
    pub(crate) fn of(error: &EngineError) -> Self {
        match error {
            EngineError::Failed(text) => Self::of_text(text),
            EngineError::Rows { .. } => Self::Model,
        }
    }

    fn of_text(text: &str) -> Self {
        let known = TEXTS.iter().find(|(part, _)| text.contains(part));
        known.map_or(Self::Model, |&(_, fault)| fault)
    }
}

/// Parts of texts and what they mean; the first that occurs decides.
const TEXTS: [(&str, Fault); 29] = [
    // The arena: no more of the device's memory, or above the limit it was given.
    ("Failed to allocate memory for requested buffer", Fault::OutOfMemory),
    ("is smaller than requested bytes of", Fault::OutOfMemory),
    ("bad_alloc", Fault::OutOfMemory),
    ("bad allocation", Fault::OutOfMemory),
    ("CUDA failure 2:", Fault::OutOfMemory),
    ("CUDA error 2:", Fault::OutOfMemory),
    ("cudaErrorMemoryAllocation", Fault::OutOfMemory),
    ("CUBLAS_STATUS_ALLOC_FAILED", Fault::OutOfMemory),
    ("CUDNN_STATUS_ALLOC_FAILED", Fault::OutOfMemory),
    ("ALLOCATION_FAILED", Fault::OutOfMemory),
    ("CUFFT_ALLOC_FAILED", Fault::OutOfMemory),
    ("out of memory", Fault::OutOfMemory),
    // Calls refused before anything ran: the arguments follow from the input's shape.
    ("CUDA failure 1:", Fault::Model),
    ("CUDA failure 9:", Fault::Model),
    // After all other errors of CUDA the process cannot use the device again.
    ("CUDA failure ", Fault::Device),
    ("CUDA error ", Fault::Device),
    ("illegal memory access", Fault::Device),
    ("device-side assert", Fault::Device),
    ("uncorrectable ECC", Fault::Device),
    ("unspecified launch failure", Fault::Device),
    ("misaligned address", Fault::Device),
    ("launch timed out", Fault::Device),
    ("GPU is lost", Fault::Device),
    ("device lost", Fault::Device),
    ("_STATUS_EXECUTION_FAILED", Fault::Device),
    ("CUBLAS_STATUS_INTERNAL_ERROR", Fault::Device),
    ("CUBLAS_STATUS_NOT_INITIALIZED", Fault::Device),
    ("CUDNN_STATUS_INTERNAL_ERROR", Fault::Device),
    ("CUDNN_STATUS_MAPPING_ERROR", Fault::Device),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_onnx_runtime_are_told_apart() {
        for (text, fault) in [
            (
                "Non-zero status code returned while running Gather node. Name:'g' Status Message: \
                 indices element out of data bounds, idx=300 must be within the inclusive range",
                Fault::Model,
            ),
            ("Got invalid dimensions for input: X for the following indices", Fault::Model),
            (
                "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, \
                 Stream*) Failed to allocate memory for requested buffer of size 1073741824",
                Fault::OutOfMemory,
            ),
            (
                "Available memory of 1024 is smaller than requested bytes of 4096",
                Fault::OutOfMemory,
            ),
            (
                "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, \
                 size);",
                Fault::OutOfMemory,
            ),
            (
                "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=h ; \
                 expr=cublasCreate(&cublas_handle_);",
                Fault::OutOfMemory,
            ),
            ("CUDNN failure 2002: CUDNN_STATUS_ALLOC_FAILED ; GPU=0", Fault::OutOfMemory),
            (
                "CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED_CUDART ; GPU=0 ; hostname=h",
                Fault::Device,
            ),
            (
                "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; \
                 expr=cudaStreamSynchronize(stream);",
                Fault::Device,
            ),
            ("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0", Fault::Device),
            ("CUDA failure 710: device-side assert triggered ; GPU=0", Fault::Device),
            ("CUDA error cudaErrorIllegalAddress:an illegal memory access", Fault::Device),
            ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", Fault::Device),
            ("CUDA failure 9: invalid configuration argument ; GPU=0", Fault::Model),
            ("CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0", Fault::Model),
        ] {
            assert_eq!(Fault::of(&EngineError::Failed(text.to_owned())), fault, "{text}");
        }
    }

    #[test]
    fn outputs_that_cannot_be_told_apart_are_the_models_fault() {
        let error = EngineError::Rows { name: "Y".to_owned(), shape: vec![3], rows: 4 };
        assert_eq!(Fault::of(&error), Fault::Model);
    }
}
