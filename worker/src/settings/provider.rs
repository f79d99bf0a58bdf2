//! The execution provider that runs the models.

use clap::ValueEnum;

/// An execution provider of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExecutionProvider {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An NVIDIA GPU through TensorRT; CUDA runs the operators that TensorRT lacks.
    Tensorrt,
}

impl ExecutionProvider {
    /// The name in settings and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}
