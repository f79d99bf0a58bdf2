//! The options of ONNX Runtime's execution providers for GPUs that can be set, and those that
//! cannot. Pure.
//!
//! The tables are complete lists of what is passed on. An option that no table has is refused, so
//! that none is lost without a word.

use ort::ep::{ArenaExtendStrategy, CUDA, TensorRT, cuda::ConvAlgorithmSearch};

/// How a value is read and passed to the builder `P` of a provider.
pub(super) enum Setter<P> {
    /// 1 or 0.
    Flag(fn(P, bool) -> P),
    /// A number from 0 on.
    Number(fn(P, usize) -> P),
    /// The names of the values that 0, 1, ... stand for.
    Choice(&'static [&'static str], fn(P, usize) -> P),
    /// Any text.
    Text(fn(P, &str) -> P),
}

impl<P> Setter<P> {
    /// Sets the option to `value`. The error is what was expected instead.
    pub(super) fn set(&self, provider: P, value: &str) -> Result<P, String> {
        let value = value.trim();
        match self {
            Self::Flag(set) => {
                flag(value).map(|flag| set(provider, flag)).ok_or_else(|| "1 or 0".to_owned())
            }
            Self::Number(set) => {
                let number = value.parse().map_err(|_| "a number from 0 on".to_owned())?;
                Ok(set(provider, number))
            }
            Self::Choice(names, set) => {
                let mut all = names.iter().enumerate();
                let chosen = all.find(|(at, name)| value == at.to_string() || value == **name);
                let (at, _) = chosen.ok_or_else(|| choices(names))?;
                Ok(set(provider, at))
            }
            Self::Text(set) => Ok(set(provider, value)),
        }
    }
}

/// The meaning of a flag's text.
pub(super) fn flag(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn choices(names: &[&str]) -> String {
    let all = names.iter().enumerate().map(|(at, name)| format!("{at} ({name})"));
    all.collect::<Vec<_>>().join(" or ")
}

/// The option of the name, if a table has it.
pub(super) fn find<P: 'static>(
    table: &'static [(&'static str, Setter<P>)],
    name: &str,
) -> Option<&'static Setter<P>> {
    table.iter().find(|(known, _)| *known == name).map(|(_, setter)| setter)
}

use Setter::{Choice, Flag, Number, Text};

/// The options of the CUDA execution provider.
pub(super) const CUDA_OPTIONS: &[(&str, Setter<CUDA>)] = &[
    ("arena_extend_strategy", Choice(&["kNextPowerOfTwo", "kSameAsRequested"], extend_arena)),
    ("cudnn_conv1d_pad_to_nc1d", Flag(CUDA::with_conv1d_pad_to_nc1d)),
    ("cudnn_conv_algo_search", Choice(&["EXHAUSTIVE", "HEURISTIC", "DEFAULT"], search)),
    ("cudnn_conv_use_max_workspace", Flag(CUDA::with_conv_max_workspace)),
    ("enable_skip_layer_norm_strict_mode", Flag(CUDA::with_skip_layer_norm_strict_mode)),
    ("fuse_conv_bias", Flag(CUDA::with_fuse_conv_bias)),
    ("gpu_mem_limit", Number(CUDA::with_memory_limit)),
    ("prefer_nhwc", Flag(CUDA::with_prefer_nhwc)),
    ("use_tf32", Flag(CUDA::with_tf32)),
];

fn extend_arena(cuda: CUDA, choice: usize) -> CUDA {
    cuda.with_arena_extend_strategy(match choice {
        0 => ArenaExtendStrategy::NextPowerOfTwo,
        _ => ArenaExtendStrategy::SameAsRequested,
    })
}

fn search(cuda: CUDA, choice: usize) -> CUDA {
    cuda.with_conv_algorithm_search(match choice {
        0 => ConvAlgorithmSearch::Exhaustive,
        1 => ConvAlgorithmSearch::Heuristic,
        _ => ConvAlgorithmSearch::Default,
    })
}

/// The options of the TensorRT execution provider, with the names of ONNX Runtime and, where they
/// differ, of Triton.
pub(super) const TENSORRT_OPTIONS: &[(&str, Setter<TensorRT>)] = &[
    ("precision_mode", Choice(&["FP32", "FP16", "INT8", "BF16"], precision)),
    ("max_workspace_size_bytes", Number(TensorRT::with_max_workspace_size)),
    ("int8_calibration_table_name", Text(|trt, v| trt.with_int8_calibration_table_name(v))),
    ("int8_use_native_calibration_table", Flag(TensorRT::with_int8_use_native_calibration_table)),
    ("trt_auxiliary_streams", Text(|trt, v| trt.with_auxiliary_streams(v.parse().unwrap_or(-1)))),
    ("trt_bf16_enable", Flag(TensorRT::with_bf16)),
    ("trt_build_heuristics_enable", Flag(TensorRT::with_build_heuristics)),
    ("trt_builder_optimization_level", Choice(&["0", "1", "2", "3", "4", "5"], optimisation)),
    ("trt_context_memory_sharing_enable", Flag(TensorRT::with_context_memory_sharing)),
    ("trt_cuda_graph_enable", Flag(TensorRT::with_cuda_graph)),
    ("trt_detailed_build_log", Flag(TensorRT::with_detailed_build_log)),
    ("trt_dla_core", Number(|trt, core| trt.with_dla_core(narrow(core)))),
    ("trt_dla_enable", Flag(TensorRT::with_dla)),
    ("trt_dump_subgraphs", Flag(TensorRT::with_dump_subgraphs)),
    ("trt_engine_cache_enable", Flag(TensorRT::with_engine_cache)),
    ("trt_engine_cache_path", Text(|trt, v| trt.with_engine_cache_path(v))),
    ("trt_engine_cache_prefix", Text(|trt, v| trt.with_engine_cache_prefix(v))),
    ("trt_engine_hw_compatible", Flag(TensorRT::with_engine_hw_compatible)),
    ("trt_extra_plugin_lib_paths", Text(|trt, v| trt.with_extra_plugin_lib_paths(v))),
    ("trt_force_sequential_engine_build", Flag(TensorRT::with_force_sequential_engine_build)),
    ("trt_force_timing_cache", Flag(TensorRT::with_force_timing_cache)),
    ("trt_fp16_enable", Flag(TensorRT::with_fp16)),
    ("trt_int8_enable", Flag(TensorRT::with_int8)),
    ("trt_layer_norm_fp32_fallback", Flag(TensorRT::with_layer_norm_fp32_fallback)),
    (
        "trt_max_partition_iterations",
        Number(|trt, count| trt.with_max_partition_iterations(narrow(count))),
    ),
    ("trt_max_workspace_size", Number(TensorRT::with_max_workspace_size)),
    ("trt_min_subgraph_size", Number(TensorRT::with_min_subgraph_size)),
    ("trt_profile_max_shapes", Text(|trt, v| trt.with_profile_max_shapes(v))),
    ("trt_profile_min_shapes", Text(|trt, v| trt.with_profile_min_shapes(v))),
    ("trt_profile_opt_shapes", Text(|trt, v| trt.with_profile_opt_shapes(v))),
    ("trt_sparsity_enable", Flag(TensorRT::with_sparsity)),
    ("trt_tactic_sources", Text(|trt, v| trt.with_tactic_sources(v))),
    ("trt_timing_cache_enable", Flag(TensorRT::with_timing_cache)),
    ("trt_timing_cache_path", Text(|trt, v| trt.with_timing_cache_path(v))),
];

fn precision(trt: TensorRT, choice: usize) -> TensorRT {
    match choice {
        0 => trt,
        1 => trt.with_fp16(true),
        2 => trt.with_int8(true),
        _ => trt.with_bf16(true),
    }
}

fn optimisation(trt: TensorRT, level: usize) -> TensorRT {
    trt.with_builder_optimization_level(u8::try_from(level).unwrap_or(3))
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Options of ONNX Runtime that are not passed on, with the reason. They do not change the outputs.
pub(super) const UNUSED_OPTIONS: &[(&str, &str)] = &[
    ("do_copy_in_default_stream", "copies always use the stream of the model"),
    ("use_ep_level_unified_stream", "each instance of a model has one stream"),
    ("tunable_op_enable", "it concerns GPUs of AMD"),
    ("tunable_op_tuning_enable", "it concerns GPUs of AMD"),
    ("tunable_op_max_tuning_duration_ms", "it concerns GPUs of AMD"),
];

/// Options of ONNX Runtime that contradict how a worker runs, with the reason.
pub(super) const REFUSED_OPTIONS: &[(&str, &str)] = &[
    ("device_id", "the worker's --device chooses the GPU"),
    ("has_user_compute_stream", "the worker has no stream to give"),
    ("user_compute_stream", "the worker has no stream to give"),
    ("gpu_external_alloc", "the worker has no other allocator"),
    ("gpu_external_free", "the worker has no other allocator"),
    ("gpu_external_empty_cache", "the worker has no other allocator"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_number_a_flag_or_a_name() {
        for (name, value) in [
            ("use_tf32", "0"),
            ("use_tf32", "False"),
            ("prefer_nhwc", "true"),
            ("gpu_mem_limit", " 4294967296 "),
            ("cudnn_conv_algo_search", "EXHAUSTIVE"),
            ("cudnn_conv_algo_search", "0"),
            ("arena_extend_strategy", "kNextPowerOfTwo"),
        ] {
            let setter = find(CUDA_OPTIONS, name).unwrap();
            let set = setter.set(CUDA::default(), value).unwrap();
            assert!(format!("{set:?}").contains(name), "{set:?}");
        }
        for (name, value, expected) in [
            ("use_tf32", "yes", "1 or 0"),
            ("gpu_mem_limit", "-1", "a number from 0 on"),
            ("cudnn_conv_algo_search", "3", "0 (EXHAUSTIVE) or 1 (HEURISTIC) or 2 (DEFAULT)"),
        ] {
            let setter = find(CUDA_OPTIONS, name).unwrap();
            assert_eq!(setter.set(CUDA::default(), value).unwrap_err(), expected);
        }
    }

    #[test]
    fn the_precision_of_triton_is_a_flag_of_onnx_runtime() {
        let set = |value: &str| {
            let setter = find(TENSORRT_OPTIONS, "precision_mode").unwrap();
            format!("{:?}", setter.set(TensorRT::default(), value).unwrap())
        };
        assert!(set("FP16").contains("trt_fp16_enable"));
        assert!(set("INT8").contains("trt_int8_enable"));
        assert!(!set("FP32").contains("trt_"));
    }

    #[test]
    fn no_option_is_in_two_tables() {
        let mut names: Vec<&str> = CUDA_OPTIONS.iter().map(|(name, _)| *name).collect();
        names.extend(TENSORRT_OPTIONS.iter().map(|(name, _)| *name));
        names.extend(UNUSED_OPTIONS.iter().chain(REFUSED_OPTIONS).map(|(name, _)| *name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
