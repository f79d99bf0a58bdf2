//! Faults inside a run, which tests inject through the bytes of a request.
//!
//! Each fault is a parameter in the `config.pbtxt` of the echo engine. A batch has a marker if the
//! marker's text occurs in the bytes of its inputs.
//!
//! - `fail_marker`: a batch with the marker fails, as if the model rejects a value of one row.
//! - `abort_marker`: a batch with the marker kills the process, as a crash in native code does.
//! - `hang_marker`: a batch with the marker never returns.
//! - `fatal_marker`: a batch with the marker fails with a device error, and the device is lost:
//!   every later run returns immediately, without an error, and outputs zeros.
//! - `oom_rows`: batches of more rows run out of memory. With `oom_marker`, the limit applies only
//!   from the first batch with the marker on, as if another process takes the device's memory.
//! - `slow_while`: the path of a file; while it exists, batches take twice as long, as if another
//!   process takes half of the device.
//! - `run_log`: a folder; injects no fault. Each process writes into a file named by its process
//!   id, 32 bytes for each row that it begins to run: the milliseconds since 1970 (64 bits, little
//!   endian) and the first 24 bytes of the row.
//!
//! The error texts are copied from ONNX Runtime, because `fault` classifies errors by their texts.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    process, thread,
    time::{SystemTime, UNIX_EPOCH},
};

use batchfleet_broker::Tensor;

use crate::{
    engine::EngineError,
    repository::{ModelSource, RepositoryError},
};

/// Bytes of a row that the run log records.
const RECORDED: usize = 24;

/// ONNX Runtime's error for a row that it cannot compute.
const BAD_ROW: &str = "Non-zero status code returned while running Gather node. Name:'gather' \
    Status Message: indices element out of data bounds, idx=300 must be within the inclusive range \
    [-256,255]";

/// ONNX Runtime's error for a lost device.
const DEVICE_LOST: &str = "Non-zero status code returned while running Conv node. Name:'conv' \
    Status Message: CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; \
    hostname=echo ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc ; line=121 ; \
    expr=cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)); ";

/// ONNX Runtime's error for a lack of memory.
const NO_MEMORY: &str = "Non-zero status code returned while running MatMul node. Name:'matmul' \
    Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* \
    onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to \
    allocate memory for requested buffer of size 1073741824";

/// The configured faults of one echo engine, and their state.
#[derive(Debug, Default)]
pub(super) struct Faults {
    fail: Option<String>,
    abort: Option<String>,
    hang: Option<String>,
    fatal: Option<String>,
    oom: Option<String>,
    oom_rows: Option<u32>,
    slow_while: Option<PathBuf>,
    run_log: Option<File>,
    /// Whether batches of more than `oom_rows` rows run out of memory.
    scarce: bool,
    /// Whether the device is lost and its outputs are garbage.
    lost: bool,
}

impl Faults {
    /// Reads the faults from the config of `source`.
    pub(super) fn load(source: &ModelSource) -> Result<Self, RepositoryError> {
        let parameters = &source.config.parameters;
        let marker = |name: &str| parameters.get(name).filter(|text| !text.is_empty()).cloned();
        let oom_rows = parameters.get("oom_rows").map(|rows| {
            rows.parse()
                .map_err(|_| source.contradiction(format!("oom_rows {rows:?} is not a number")))
        });
        let run_log = parameters.get("run_log").map(|folder| {
            open_log(folder).map_err(|e| source.contradiction(format!("run_log {folder:?}: {e}")))
        });
        let oom = marker("oom_marker");
        Ok(Self {
            fail: marker("fail_marker"),
            abort: marker("abort_marker"),
            hang: marker("hang_marker"),
            fatal: marker("fatal_marker"),
            oom_rows: oom_rows.transpose()?,
            slow_while: parameters.get("slow_while").map(PathBuf::from),
            run_log: run_log.transpose()?,
            scarce: oom.is_none(),
            oom,
            lost: false,
        })
    }

    /// Whether the device is lost.
    pub(super) fn device_is_lost(&self) -> bool {
        self.lost
    }

    /// The factor by which a batch that begins now is slowed down.
    pub(super) fn slowdown(&self) -> u32 {
        if self.slow_while.as_ref().is_some_and(|file| file.exists()) { 2 } else { 1 }
    }

    /// Appends the rows of a batch to the run log.
    pub(super) fn record(&mut self, inputs: &[Tensor], rows: u32) -> Result<(), EngineError> {
        let (Some(log), Some(input)) = (&mut self.run_log, inputs.first()) else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).to_le_bytes();
        let size = input.data.len() / usize::try_from(rows.max(1)).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        for row in input.data.chunks(size.max(1)) {
            let mut recorded = [0; RECORDED];
            let kept = row.len().min(RECORDED);
            recorded[..kept].copy_from_slice(&row[..kept]);
            entries.extend_from_slice(&now);
            entries.extend_from_slice(&recorded);
        }
        log.write_all(&entries).map_err(|error| EngineError::failed(format!("run_log: {error}")))
    }

    /// Injects the faults whose markers are in the inputs.
    pub(super) fn inject(&mut self, inputs: &[Tensor], rows: u32) -> Result<(), EngineError> {
        let has = |marker: &Option<String>| {
            marker.as_ref().is_some_and(|marker| contains(inputs, marker.as_bytes()))
        };
        if has(&self.abort) {
            process::abort();
        }
        while has(&self.hang) {
            thread::park();
        }
        if has(&self.fatal) {
            self.lost = true;
            return Err(EngineError::failed(DEVICE_LOST));
        }
        self.scarce |= has(&self.oom);
        if self.scarce && self.oom_rows.is_some_and(|most| rows > most) {
            return Err(EngineError::failed(NO_MEMORY));
        }
        if has(&self.fail) {
            return Err(EngineError::failed(BAD_ROW));
        }
        Ok(())
    }
}

fn open_log(folder: &str) -> io::Result<File> {
    let path = std::path::Path::new(folder).join(process::id().to_string());
    OpenOptions::new().create(true).append(true).open(path)
}

fn contains(inputs: &[Tensor], marker: &[u8]) -> bool {
    inputs.iter().any(|input| input.data.windows(marker.len()).any(|bytes| bytes == marker))
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, sync::Arc};

    use batchfleet_broker::{Datatype, QueueName};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        config::ModelConfig,
        engine::{Engine, echo::Echo},
    };

    /// An echo engine with the given parameters.
    fn echo(parameters: &[(&str, &str)]) -> Echo {
        let tensor = "[{ name: \"x\" data_type: TYPE_UINT8 dims: [ 4 ] }]";
        let mut config = format!("backend: \"batchfleet_echo\"\ninput {tensor}\noutput {tensor}\n");
        for (key, value) in parameters {
            let value = format!("value {{ string_value: \"{value}\" }}");
            writeln!(config, "parameters {{ key: \"{key}\" {value} }}").unwrap();
        }
        let config = Arc::new(ModelConfig::parse(&config).unwrap());
        let source = ModelSource {
            queue: QueueName::new("echo", 1),
            folder: "echo".into(),
            file: "echo/1/model.onnx".into(),
            digest: None,
            config,
        };
        Echo::load(&source, 8).unwrap()
    }

    fn run(echo: &mut Echo, rows: &[&[u8; 4]]) -> Result<Vec<u8>, String> {
        let data: Vec<u8> = rows.iter().copied().flatten().copied().collect();
        let count = u32::try_from(rows.len()).unwrap();
        let shape = vec![u64::from(count), 4];
        let input =
            Tensor { name: "x".into(), datatype: Datatype::Uint8, shape, data: data.into() };
        let outputs = echo.run(vec![input], count).map_err(|error| error.to_string())?;
        Ok(outputs[0].data.to_vec())
    }

    #[test]
    fn a_marked_row_fails_its_batch_and_no_other() {
        let mut echo = echo(&[("fail_marker", "bad")]);
        assert!(run(&mut echo, &[b"good", b"bad!"]).unwrap_err().contains("out of data bounds"));
        assert_eq!(run(&mut echo, &[b"good"]).unwrap(), b"good");
    }

    #[test]
    fn a_lost_device_answers_garbage_from_then_on() {
        let mut echo = echo(&[("fatal_marker", "bang")]);
        assert!(run(&mut echo, &[b"bang"]).unwrap_err().contains("CUDA failure 700"));
        assert_eq!(run(&mut echo, &[b"good"]).unwrap(), [0; 4]);
    }

    #[test]
    fn memory_is_scarce_from_the_marker_on() {
        let mut echo = echo(&[("oom_rows", "1"), ("oom_marker", "full")]);
        assert!(run(&mut echo, &[b"good", b"good"]).is_ok());
        assert!(run(&mut echo, &[b"full"]).is_ok(), "one row still fits");
        assert!(run(&mut echo, &[b"good", b"good"]).unwrap_err().contains("Failed to allocate"));
    }

    #[test]
    fn batches_take_twice_as_long_while_the_file_is_there() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("slow");
        let mut echo = echo(&[("batch_ms", "20"), ("slow_while", file.to_str().unwrap())]);
        let mut takes = || {
            let began = tokio::time::Instant::now();
            run(&mut echo, &[b"good"]).unwrap();
            began.elapsed().as_millis()
        };
        assert!(takes() >= 20);
        std::fs::write(&file, "").unwrap();
        assert!(takes() >= 40);
    }

    #[test]
    fn every_row_that_begins_to_run_is_recorded() {
        let folder = TempDir::new().unwrap();
        let mut echo = echo(&[("run_log", folder.path().to_str().unwrap())]);
        run(&mut echo, &[b"row1", b"row2"]).unwrap();
        let log = std::fs::read(folder.path().join(process::id().to_string())).unwrap();
        let (entries, rest) = log.as_chunks::<32>();
        assert_eq!((entries.len(), rest.len()), (2, 0));
        assert_eq!((&entries[0][8..12], &entries[1][8..12]), (&b"row1"[..], &b"row2"[..]));
    }
}
