//! What TensorRT needs to know before a model is loaded: the shapes that its engine is built for, and
//! where built engines are kept.
//!
//! TensorRT builds an engine for a range of shapes, which takes minutes. Without a declared range, it
//! builds again whenever a batch is outside of what it has seen.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use batchfleet_broker::TensorSpec;
use batchfleet_policy::BatchMode;
use ort::ep::TensorRT;
use sha2::{Digest, Sha256};

use super::options::GpuOptions;
use crate::{config::ModelConfig, gpus, repository::ModelBytes, settings::ModelSettings};

/// ONNX Runtime's part of TensorRT.
const PROVIDER: &str = "libonnxruntime_providers_tensorrt.so";
/// How the loader says that a library is missing.
const MISSING: &str = ": cannot open shared object file";

/// Why a library of ONNX Runtime in `folder` cannot use TensorRT, if a file is missing.
pub(super) fn missing(folder: &Path) -> Option<String> {
    let there = folder.join(PROVIDER).is_file();
    (!there).then(|| format!("{PROVIDER} is not in {}", folder.display()))
}

/// The library that is missing according to an error of ONNX Runtime, as a sentence.
pub(super) fn missing_in(error: &str) -> Option<String> {
    let (before, _) = error.split_once(MISSING)?;
    let library = before.rsplit([' ', '\n']).next().filter(|name| !name.is_empty())?;
    Some(format!("{library} is missing"))
}

/// The batch sizes of an engine.
#[derive(Clone, Copy, Debug)]
struct Rows {
    /// The size that it is fastest at.
    best: u64,
    /// The largest.
    most: u64,
}

/// Sets the shapes of the engine and the place of built engines, as far as the options leave them
/// open. The error is a sentence with the way out.
pub(super) fn configure(
    gpu: &mut GpuOptions,
    inputs: &[TensorSpec],
    config: &ModelConfig,
    settings: &ModelSettings,
    (bytes, device, library): (&ModelBytes, u16, &Path),
) -> Result<(), String> {
    let most = config.max_batch.unwrap_or(settings.max_batch.get()).max(1);
    let best = match settings.batch {
        BatchMode::Fixed(rows) => rows.min(most),
        BatchMode::Auto => most.div_ceil(2),
    };
    let rows = Rows { best: best.into(), most: most.into() };
    let has_profile = gpu.given.keys().any(|name| name.starts_with("trt_profile_"));
    if !has_profile && let Some([least, best, most]) = profile(inputs, config, rows)? {
        gpu.tensorrt = gpu
            .tensorrt
            .clone()
            .with_profile_min_shapes(least)
            .with_profile_opt_shapes(best)
            .with_profile_max_shapes(most);
    }
    if let Some(cache) = &settings.engine_cache {
        let place = place(cache, &gpus::name(device), &version(library), &digest(bytes));
        gpu.tensorrt = cached(gpu.tensorrt.clone(), &place)?;
    }
    Ok(())
}

/// The least, the best and the largest shapes of all inputs with open dimensions, in the form of
/// `trt_profile_*_shapes`; `None` if no dimension is open.
fn profile(
    inputs: &[TensorSpec],
    config: &ModelConfig,
    rows: Rows,
) -> Result<Option<[String; 3]>, String> {
    let mut shapes: [Vec<String>; 3] = Default::default();
    for input in inputs.iter().filter(|input| input.shape.contains(&-1)) {
        let [mut least, mut best, mut most] = [const { Vec::new() }; 3];
        for (axis, &dim) in input.shape.iter().enumerate() {
            let sizes = match u64::try_from(dim) {
                Ok(size) => [size; 3],
                Err(_) if input.row_dimension() == Some(axis) => [1, rows.best, rows.most],
                Err(_) => {
                    let size = given(input, axis, config).ok_or_else(|| {
                        format!(
                            "TensorRT needs the size of dimension {axis} of input {:?}: give its dims \
                             or a model_warmup in config.pbtxt, or the parameters \
                             trt_profile_min_shapes, _opt_shapes and _max_shapes",
                            input.name
                        )
                    })?;
                    [1, size, size]
                }
            };
            for (shape, size) in [&mut least, &mut best, &mut most].into_iter().zip(sizes) {
                shape.push(size.to_string());
            }
        }
        for (all, shape) in shapes.iter_mut().zip([least, best, most]) {
            all.push(format!("{}:{}", input.name, shape.join("x")));
        }
    }
    let is_open = !shapes[0].is_empty();
    Ok(is_open.then(|| shapes.map(|all| all.join(","))))
}

/// The size that the config gives an open dimension.
fn given(input: &TensorSpec, axis: usize, config: &ModelConfig) -> Option<u64> {
    // Both leave out the dimension of the rows.
    let at = match input.row_dimension() {
        Some(rows) if rows < axis => axis - 1,
        _ => axis,
    };
    let declared = config.inputs.iter().find(|declared| declared.name == input.name);
    let declared = declared.and_then(|declared| declared.dims.get(at).copied());
    let sample = config.warmup.get(&input.name).and_then(|dims| dims.get(at).copied());
    declared.and_then(|dim| u64::try_from(dim).ok()).or(sample)
}

/// Engines of one model, on one kind of GPU, built by one version of TensorRT. Timings are shared by
/// all models.
fn place(cache: &Path, gpu: &str, version: &str, digest: &str) -> [PathBuf; 2] {
    let plain = |text: &str| -> String {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
        text.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect()
    };
    let folder = cache.join(format!("{}-tensorrt-{}", plain(gpu), plain(version)));
    [folder.join(digest), folder]
}

fn cached(tensorrt: TensorRT, [engines, timings]: &[PathBuf; 2]) -> Result<TensorRT, String> {
    fs::create_dir_all(engines)
        .map_err(|error| format!("--engine-cache {}: {error}", engines.display()))?;
    Ok(tensorrt
        .with_engine_cache(true)
        .with_engine_cache_path(engines.display())
        .with_timing_cache(true)
        .with_timing_cache_path(timings.display()))
}

/// The SHA-256 of a model and its data.
fn digest(bytes: &ModelBytes) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&bytes.model);
    let files: BTreeMap<_, _> = bytes.external.iter().map(|(name, data)| (name, data)).collect();
    for (name, data) in files {
        hasher.update(name);
        hasher.update(&data[..]);
    }
    hex::encode(hasher.finalize())
}

/// The version of TensorRT, which is part of the name of one of its libraries.
fn version(folder: &Path) -> String {
    let named = |name: &str| {
        let rest = name.strip_prefix("libnvinfer_builder_resource")?;
        rest.split_once(".so.").map(|(_, version)| version.to_owned())
    };
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| named(file.file_name().to_str()?)).max().unwrap_or("unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Datatype;

    use super::*;

    const ROWS: Rows = Rows { best: 16, most: 64 };

    fn input(name: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec::new(name, Datatype::Fp32, shape.to_vec())
    }

    #[test]
    fn an_engine_is_built_for_one_row_to_the_largest_batch() {
        let inputs = [input("x", &[-1, 3, 224, 224]), input("scale", &[1])];
        let shapes = profile(&inputs, &ModelConfig::default(), ROWS).unwrap().unwrap();
        assert_eq!(shapes, ["x:1x3x224x224", "x:16x3x224x224", "x:64x3x224x224"]);
        assert_eq!(profile(&inputs[1..], &ModelConfig::default(), ROWS), Ok(None));
    }

    #[test]
    fn other_open_dimensions_have_the_sizes_of_the_config() {
        let inputs = [input("ids", &[-1, -1]), input("mask", &[-1, -1])];
        let config = ModelConfig::parse(
            "max_batch_size: 64 \
             input { name: \"mask\" data_type: TYPE_FP32 dims: 128 } \
             model_warmup { name: \"w\" batch_size: 1 inputs { key: \"ids\" value { \
             data_type: TYPE_FP32 dims: 128 random_data: true } } }",
        )
        .unwrap();
        let shapes = profile(&inputs, &config, ROWS).unwrap().unwrap();
        assert_eq!(
            shapes,
            ["ids:1x1,mask:1x1", "ids:16x128,mask:16x128", "ids:64x128,mask:64x128"]
        );
        let error = profile(&inputs, &ModelConfig::default(), ROWS).unwrap_err();
        assert!(error.starts_with("TensorRT needs the size of dimension 1 of input \"ids\": give"));
    }

    #[test]
    fn least_best_and_most_are_in_order_for_every_open_input() {
        let inputs = [input("a", &[-1, -1, 2]), input("b", &[-1])];
        let config =
            ModelConfig { warmup: [("a".to_owned(), vec![7, 2])].into(), ..ModelConfig::default() };
        for (best, most) in [(1, 1), (1, 8), (8, 8)] {
            let shapes = profile(&inputs, &config, Rows { best, most }).unwrap().unwrap();
            let sizes = shapes.map(|shapes| -> Vec<u64> {
                let numbers = shapes.split(|c: char| !c.is_ascii_digit());
                numbers.filter_map(|number| number.parse().ok()).collect()
            });
            assert_eq!(sizes[0].len(), 4);
            let in_order =
                (0..4).all(|at| sizes[0][at] <= sizes[1][at] && sizes[1][at] <= sizes[2][at]);
            assert!(in_order, "{sizes:?}");
        }
    }

    #[test]
    fn engines_are_kept_by_model_kind_of_gpu_and_version() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libnvinfer.so.10", "libnvinfer_builder_resource_sm90.so.10.14.1"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(version(folder.path()), "10.14.1");
        assert_eq!(version(Path::new("/nowhere")), "unknown");
        let bytes =
            |model: &str| ModelBytes { model: model.into(), external: Vec::new(), in_place: false };
        assert_ne!(digest(&bytes("a")), digest(&bytes("b")));
        let [engines, timings] = place(Path::new("/cache"), "NVIDIA H200 / MIG", "10.14.1", "0f");
        assert_eq!(timings, Path::new("/cache/NVIDIA-H200---MIG-tensorrt-10.14.1"));
        assert_eq!(engines, timings.join("0f"));
        let places = place(folder.path(), "gpu", "10", "0f");
        let built = cached(TensorRT::default(), &places).unwrap();
        assert!(format!("{built:?}").contains("trt_timing_cache_path"), "{built:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = "Failed to load library /lib/libonnxruntime_providers_tensorrt.so with error: \
                     libnvinfer.so.10: cannot open shared object file: No such file or directory";
        assert_eq!(missing_in(error).unwrap(), "libnvinfer.so.10 is missing");
        assert_eq!(missing_in("another error"), None);
        let missing = missing(Path::new("/nowhere")).unwrap();
        assert_eq!(missing, "libonnxruntime_providers_tensorrt.so is not in /nowhere");
    }
}
