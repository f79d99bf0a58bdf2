//! The files of a benchmark.

use std::path::PathBuf;

/// The files with the served models and the requests.
#[derive(clap::Args)]
pub(crate) struct Files {
    /// Folder of the demo models
    #[arg(long, value_name = "DIR", default_value = ".cache/models")]
    pub(crate) models: PathBuf,

    /// Folder of the models made for benchmarks
    #[arg(long, value_name = "DIR", default_value = ".cache/bench-models")]
    pub(crate) bench_models: PathBuf,

    /// Folder of the text encoder
    #[arg(long, value_name = "DIR", default_value = ".cache/text-models")]
    pub(crate) text_models: PathBuf,

    /// Token ids of sentences, one sentence per line
    #[arg(long, value_name = "FILE", default_value = ".cache/sentences.csv")]
    pub(crate) sentences: PathBuf,

    /// ONNX Runtime's library
    #[arg(
        long,
        env = "ORT_DYLIB_PATH",
        value_name = "FILE",
        default_value = ".cache/onnxruntime/libonnxruntime.so"
    )]
    pub(crate) onnxruntime: PathBuf,

    /// Handwritten digits with their labels, as CSV
    #[arg(long, value_name = "FILE", default_value = ".cache/digits_test.csv")]
    pub(crate) digits: PathBuf,
}
