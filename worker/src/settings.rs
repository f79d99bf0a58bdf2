//! Settings of a worker, as flags and environment variables.

mod library;
mod padding;
mod provider;
mod selection;

use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    thread,
    time::Duration,
};

use batchfleet_broker::sharded::WORKERS_PER_SHARD;
use batchfleet_policy::BatchMode;
use batchfleet_service::{
    InvalidSettings, OutageSettings, ProcessSettings, RedisSettings, settings::duration,
};
use clap::{ArgAction, Args, Parser};

use self::library::find_library;
pub use self::{padding::PaddingSettings, provider::ExecutionProvider};
use crate::repository::{Location, StoreSettings, Wanted};

/// A shorter --max-batch-time would mistake a busy machine for a hung device.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// Settings of the worker process.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "batchfleet-worker",
    version,
    about = "Claims batches from Redis, runs them through ONNX Runtime, answers every caller"
)]
pub struct WorkerSettings {
    /// The models and how they run.
    #[command(flatten)]
    pub models: ModelSettings,

    /// Where Redis is.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// With several Redises, a queue is spread over one for each so many of its workers. Fewer workers
    /// at a Redis make smaller batches and longer waits
    #[arg(
        long,
        env = "BATCHFLEET_WORKERS_PER_SHARD",
        default_value_t = WORKERS_PER_SHARD,
        value_name = "WORKERS"
    )]
    pub workers_per_shard: NonZeroUsize,

    /// When an outage of Redis makes the worker not ready.
    #[command(flatten)]
    pub outage: OutageSettings,

    /// The process.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// Which models are served, and how.
#[derive(Args, Clone, Debug)]
pub struct ModelSettings {
    /// Models in Triton's layout: `<model>/<version>/model.onnx`, `<model>/config.pbtxt`; in a
    /// folder, or in an object store: `s3://`, `gs://`, `az://`, or `https://` with `WebDAV`
    #[arg(long, env = "BATCHFLEET_MODEL_REPOSITORY", value_name = "DIR|URL")]
    pub model_repository: Location,

    /// Folder for models fetched from an object store [default: among the temporary files]
    #[arg(long, env = "BATCHFLEET_MODEL_CACHE", value_name = "DIR")]
    pub model_cache: Option<PathBuf>,

    /// Folder with one file for each option of the object store, such as `aws_access_key_id`; added
    /// to the options in the environment (`AWS_REGION`, `GOOGLE_SERVICE_ACCOUNT`, ...)
    #[arg(long, env = "BATCHFLEET_MODEL_REPOSITORY_OPTIONS", value_name = "DIR")]
    pub model_repository_options: Option<PathBuf>,

    /// Serve only these models, `NAME`, `NAME:VERSION` or `NAME:VERSION@sha256:DIGEST` (as `batchfleet
    /// digest` prints it); repeatable, or separated by commas [default: all]
    #[arg(long = "model", env = "BATCHFLEET_MODEL", value_name = "NAME", value_delimiter = ',')]
    pub models: Vec<Wanted>,

    /// End if any model of the repository cannot be served. By default the others are served, and
    /// `/v2/repository/index` gives the reason; a model named by --model must always be served
    #[arg(
        long,
        env = "BATCHFLEET_EXIT_ON_ERROR",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub exit_on_error: bool,

    /// Name of this machine or pod; announced, so that a controller can match workers with pods
    #[arg(long, env = "HOSTNAME", default_value = "", value_name = "NAME")]
    pub host_name: String,

    /// Execution provider that runs the models; the worker refuses to start if it is missing
    #[arg(long, env = "BATCHFLEET_EXECUTION_PROVIDER", default_value = "cpu", value_name = "NAME")]
    pub execution_provider: ExecutionProvider,

    /// Numbers of the execution provider's devices, repeatable or separated by commas; every model
    /// runs on each of them [default: 0]
    #[arg(long, env = "BATCHFLEET_DEVICE", value_name = "NUMBER", value_delimiter = ',')]
    pub device: Vec<u16>,

    /// Option of the execution provider for all models, such as `gpu_mem_limit=8000000000`;
    /// repeatable, or separated by commas. An option in a model's `config.pbtxt` takes precedence
    #[arg(
        long = "provider-option",
        env = "BATCHFLEET_PROVIDER_OPTION",
        value_name = "NAME=VALUE",
        value_delimiter = ',',
        value_parser = named_option
    )]
    pub provider_options: Vec<(String, String)>,

    /// Refuse a model if ONNX Runtime copies data between GPU and processor at more places than this,
    /// because it left operators on the processor [default: any number]
    #[arg(long, env = "BATCHFLEET_MAX_MEMCPY_NODES", value_name = "NUMBER")]
    pub max_memcpy_nodes: Option<u32>,

    /// Folder where TensorRT keeps built engines and timings, by model, GPU and version; shared by
    /// workers on the same kind of GPU [default: engines are built at each start]
    #[arg(long, env = "BATCHFLEET_ENGINE_CACHE", value_name = "DIR")]
    pub engine_cache: Option<PathBuf>,

    /// Threads that compute one batch of one model [default: the cores this process may use, minus
    /// one for all other work; 1 on a GPU]
    #[arg(long, env = "BATCHFLEET_INTRA_OP_THREADS", value_name = "NUMBER")]
    pub intra_op_threads: Option<NonZeroUsize>,

    /// The most rows of one batch, unless a model's `config.pbtxt` sets `max_batch_size`
    #[arg(long, env = "BATCHFLEET_MAX_BATCH", default_value = "64", value_name = "ROWS")]
    pub max_batch: NonZeroU32,

    /// N, the most rows claimed and run together: `auto` (from measured batch times and
    /// --slo-p99), or a number
    #[arg(long, env = "BATCHFLEET_BATCH", default_value = "auto", value_name = "ROWS")]
    pub batch: BatchMode,

    /// Run batches of these sizes only, padded with rows of zeros: for engines that prepare each
    /// size, such as TensorRT [default: any size]
    #[arg(long, env = "BATCHFLEET_BATCH_SIZES", value_name = "ROWS", value_delimiter = ',')]
    pub batch_sizes: Vec<NonZeroU32>,

    /// How requests of different lengths are padded.
    #[command(flatten)]
    pub padding: PaddingSettings,

    /// Target for the 99th percentile of a request's latency
    #[arg(
        long,
        env = "BATCHFLEET_SLO_P99",
        default_value = "100ms",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub slo_p99: Duration,

    /// How long a batch that is not full waits for more requests: adds latency, saves compute. With 0,
    /// an only worker waits for requests that follow answers at once, if that raises the rate
    #[arg(
        long,
        env = "BATCHFLEET_LINGER",
        default_value = "0ms",
        value_name = "DURATION",
        value_parser = duration_or_milliseconds
    )]
    pub linger: Duration,

    /// Longest run of a model: a longer one counts as hung, the process exits, and other workers take
    /// over its jobs
    #[arg(
        long,
        env = "BATCHFLEET_MAX_BATCH_TIME",
        default_value = "10s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub max_batch_time: Duration,

    /// Refuse to start with a model that takes none of the inputs that the warm-up makes up, instead
    /// of serving it unmeasured, one request at a time
    #[arg(
        long,
        env = "BATCHFLEET_REQUIRE_WARM_UP",
        default_value_t = false,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub require_warm_up: bool,

    /// How often one answered request of a batch runs again alone, while the worker is idle, to
    /// check that requests in one batch do not influence each other; 0s switches the check off
    #[arg(
        long,
        env = "BATCHFLEET_SENTINEL_INTERVAL",
        default_value = "60s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub sentinel_interval: Duration,

    /// ONNX Runtime's library [default: the environment's `ORT_DYLIB_PATH`, or where `make` put it]
    #[arg(long, env = "BATCHFLEET_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,

    /// The variable by which other programs find the library; a hidden flag, because every setting is
    /// a flag.
    #[arg(long, env = "ORT_DYLIB_PATH", hide = true, value_name = "FILE")]
    pub ort_dylib_path: Option<PathBuf>,
}

/// Threads that compute one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    /// The number for every instance, if the settings give it.
    pub(crate) set: Option<usize>,
    /// The number that all instances on the processor share otherwise.
    pub(crate) shared: usize,
}

impl ModelSettings {
    /// Rejects settings that contradict each other.
    ///
    /// # Errors
    /// The error names the settings to change.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        if let BatchMode::Fixed(rows) = self.batch
            && rows > self.max_batch.get()
        {
            return Err(InvalidSettings::new(format_args!(
                "--batch {rows} is more than --max-batch {}: lower the one or raise the other",
                self.max_batch
            )));
        }
        self.validate_devices()?;
        if self.slo_p99.is_zero() {
            return Err(InvalidSettings::new("--slo-p99 must be more than nothing"));
        }
        if self.max_batch_time < SHORTEST_WATCH {
            return Err(InvalidSettings::new("--max-batch-time must be at least 1s"));
        }
        Ok(())
    }

    fn validate_devices(&self) -> Result<(), InvalidSettings> {
        let of_gpus = [
            ("device", self.device.first().map(u16::to_string)),
            ("provider-option", self.provider_options.first().map(|(name, _)| name.clone())),
            ("engine-cache", self.engine_cache.as_ref().map(|dir| dir.display().to_string())),
            ("max-memcpy-nodes", self.max_memcpy_nodes.map(|nodes| nodes.to_string())),
        ];
        let given = of_gpus.iter().find_map(|(flag, value)| Some((flag, value.as_ref()?)));
        if let (ExecutionProvider::Cpu, Some((flag, value))) = (self.execution_provider, given) {
            return Err(InvalidSettings::new(format_args!(
                "--{flag} {value} means nothing with --execution-provider cpu: drop the one or change \
                 the other"
            )));
        }
        let mut seen = BTreeSet::new();
        match self.device.iter().find(|device| !seen.insert(**device)) {
            Some(device) => Err(InvalidSettings::new(format_args!(
                "--device names {device} twice: `count` in a model's instance_group runs several \
                 instances on one device"
            ))),
            None => Ok(()),
        }
    }

    /// How to read an object store.
    pub(crate) fn store(&self) -> StoreSettings {
        let cache = self.model_cache.clone();
        StoreSettings {
            cache: cache.unwrap_or_else(|| std::env::temp_dir().join("batchfleet-models")),
            options: self.model_repository_options.clone(),
        }
    }

    /// Threads per session. ONNX Runtime's own default is the number of the host's cores, even if
    /// the process may use fewer cores.
    pub(crate) fn threads(&self) -> Threads {
        let cores = || thread::available_parallelism().map_or(1, |cores| cores.get().max(2) - 1);
        let set = self.intra_op_threads.map(NonZeroUsize::get);
        Threads { set, shared: set.unwrap_or_else(cores) }
    }

    /// The numbers of the execution provider's devices.
    pub(crate) fn devices(&self) -> Vec<u16> {
        if self.device.is_empty() { vec![0] } else { self.device.clone() }
    }

    /// The file of ONNX Runtime's library.
    pub(crate) fn library(&self) -> Result<PathBuf, InvalidSettings> {
        find_library(self.onnxruntime.as_deref().or(self.ort_dylib_path.as_deref()))
    }
}

fn named_option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("an option is NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn duration_or_milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds = text.parse().map(|number: u32| Duration::from_millis(number.into()));
    milliseconds.or_else(|_| duration(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> ModelSettings {
        let flags = ["batchfleet-worker", "--model-repository", "models"].iter().chain(flags);
        WorkerSettings::try_parse_from(flags).unwrap().models
    }

    #[test]
    fn only_the_repository_must_be_named() {
        let settings = settings(&[]);
        assert!(settings.validate().is_ok());
        assert_eq!(settings.batch, BatchMode::Auto);
        assert!(settings.threads().shared >= 1);
    }

    #[test]
    fn models_are_repeated_or_separated_by_commas() {
        let settings = settings(&["--model", "a,b", "--model", "c"]);
        let names: Vec<_> = settings.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn linger_is_a_duration_or_milliseconds() {
        for text in ["5", "5ms"] {
            assert_eq!(settings(&["--linger", text]).linger, Duration::from_millis(5), "{text}");
        }
    }

    #[test]
    fn contradictions_are_refused_with_the_settings_to_change() {
        for (flags, complaint) in [
            (&["--batch", "65"][..], "--batch 65 is more than --max-batch 64"),
            (&["--device", "1"][..], "--device 1 means nothing with --execution-provider cpu"),
            (&["--provider-option", "use_tf32=0"][..], "--provider-option use_tf32 means nothing"),
            (
                &["--execution-provider", "cuda", "--device", "1,0,1"][..],
                "--device names 1 twice: `count` in a model's instance_group",
            ),
            (&["--slo-p99", "0s"][..], "--slo-p99 must be more than nothing"),
            (&["--max-batch-time", "500ms"][..], "--max-batch-time must be at least 1s"),
        ] {
            let error = settings(flags).validate().unwrap_err().to_string();
            assert!(error.starts_with(complaint), "{error}");
        }
    }
}
