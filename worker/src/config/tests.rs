use std::{collections::BTreeSet, time::Duration};

use batchfleet_broker::{Datatype, QueueLimits, QueuePolicy};
use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::Error as Failed,
    },
    forward_to_deserialize_any,
};

use super::{
    message::{InstanceKind, Message},
    *,
};

fn config(text: &str) -> ModelConfig {
    ModelConfig::parse(text).unwrap()
}

fn problem(text: &str) -> String {
    ModelConfig::parse(text).unwrap_err().to_string()
}

#[test]
fn reads_what_triton_users_write() {
    let config = config(
        r#"
        name: "digits"
        platform: "onnxruntime_onnx"
        max_batch_size: 32
        input [ { name: "X" data_type: TYPE_FP32 dims: [ 64 ] } ]
        output { name: "Y", data_type: TYPE_STRING, dims: [ -1 ] label_filename: "y.txt" }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        dynamic_batching { preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 1500 }
        version_policy: { specific { versions: [ 1, 3 ] } }
        parameters { key: "row_ms" value: { string_value: "2" } }
        model_warmup [ { name: "w" batch_size: 1
            inputs { key: "X" value { data_type: TYPE_FP32 dims: 64 zero_data: true } } } ]
        "#,
    );
    assert_eq!(config.name.as_deref(), Some("digits"));
    assert_eq!(config.max_batch, Some(32));
    assert_eq!(config.inputs[0].dims, [64]);
    assert_eq!(config.outputs[0].datatype, Some(Datatype::Bytes));
    assert_eq!(config.outputs[0].label_file.as_deref(), Some("y.txt"));
    assert_eq!(config.versions, VersionPolicy::Specific(vec![1, 3]));
    assert_eq!(config.parameters["row_ms"], "2");
    assert_eq!(config.samples[0].inputs["X"].dims, [64]);
    assert_eq!(config.linger, Some(Duration::from_micros(1500)));
    assert_eq!(config.message.instance_group[0].kind, InstanceKind::Cpu);
    assert_eq!(config.ignored, ["dynamic_batching.preferred_batch_size"]);
}

#[test]
fn an_empty_file_is_the_default() {
    let config = config("");
    assert_eq!(config.versions, VersionPolicy::Latest(1));
    assert_eq!(config.backend, Backend::OnnxRuntime);
    assert_eq!((config.max_batch, config.linger), (None, None));
    assert_eq!(config.message, ModelConfig::default().message);
}

#[test]
fn a_mistake_is_refused_with_its_line() {
    for (text, expected) in [
        (
            "max_batchsize: 2",
            "line 1: a model's config has no field max_batchsize: did you mean max_batch_size?",
        ),
        ("\nbackend: \"tensorflow\"", "line 2: backend \"tensorflow\" is not supported"),
        ("\nplatform: \"tensorrt_plan\"", "line 2: platform \"tensorrt_plan\" is not supported"),
        (
            "backend: \"onnxruntime\"\nplatform: \"batchfleet_echo\"",
            "line 2: platform \"batchfleet_echo\" contradicts backend \"onnxruntime\"",
        ),
        ("max_batch_size: -1", "line 1: max_batch_size -1 is negative"),
        ("input { data_type: TYPE_FP32 }", "line 1: input has no name"),
        ("input { name: \"X\"\ndata_type: TYPE_FP8 }", "line 2: data_type TYPE_FP8 is unknown"),
        (
            "input { name: \"X\"\ndata_type: FP32 }",
            "line 2: data_type FP32 is unknown: did you mean TYPE_FP32?",
        ),
        (
            "input [ { name: \"X\" data_type: TYPE_FP32 dims: 1 },\n{ dims: [ 3 ] } ]",
            "line 2: input has no name",
        ),
        (
            "output { name: \"Y\" data_type: TYPE_FP32 dims: 1 }\n\
             output { name: \"Y\" data_type: TYPE_FP32 dims: 1 }",
            "line 2: output \"Y\" is described twice",
        ),
        (
            "input { name: \"X\" data_type: TYPE_FP32 dims: [ -1, 0 ] }",
            "line 1: input \"X\": dims contain 0",
        ),
        (
            "input { name: \"X\" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8 ] }",
            "line 1: input \"X\" has a format of images, but 2 dims instead of 3",
        ),
        ("version_policy { newest {} }", "line 1: version_policy has no field newest"),
        ("version_policy {}", "line 1: version_policy names none of"),
        ("version_policy { all {} latest {} }", "line 1: version_policy names more than one"),
        ("version_policy { latest { num_versions: 0 } }", "line 1: version_policy latest with"),
        ("version_policy { specific { versions: -2 } }", "line 1: version_policy names version -2"),
        (
            "max_batch_size: 4\ndynamic_batching { preferred_batch_size: [ 2, 8 ] }",
            "line 2: preferred_batch_size 8 is larger than max_batch_size 4",
        ),
        ("dynamic_batching { preferred_batch_size: 0 }", "line 1: preferred_batch_size 0 is not"),
        (
            "parameters { key: \"batch_axis:H\" value { string_value: \"first\" } }",
            "line 1: parameter \"batch_axis:H\" is \"first\": give the number of a dimension",
        ),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(expected), "{text}\n{problem}");
    }
}

#[test]
fn a_reshape_keeps_the_number_of_elements() {
    let input = |dims: &str, shape: &str| {
        format!(
            "max_batch_size: 4\n\
             input {{ name: \"X\" data_type: TYPE_FP32 dims: {dims} reshape {{ shape: {shape} }} }}"
        )
    };
    for (dims, shape, native) in [
        ("[ 6 ]", "[ 2, 3 ]", Some(vec![2, 3])),
        ("[ 1 ]", "[]", Some(vec![])),
        ("[ -1, 4 ]", "[ -1, 2, 2 ]", Some(vec![-1, 2, 2])),
        ("[ 2, -1, 3, -1 ]", "[ 1, 2, -1, 3, -1 ]", Some(vec![1, 2, -1, 3, -1])),
        ("[ 2, 3 ]", "[ 2, 3 ]", None),
    ] {
        assert_eq!(config(&input(dims, shape)).inputs[0].reshape, native, "{dims} {shape}");
    }
    for (dims, shape) in [
        ("[ 6 ]", "[ 2, 2 ]"),
        ("[ -1 ]", "[ -1, -1 ]"),
        ("[ -1, 4 ]", "[ 4, -1 ]"),
        ("[ 6 ]", "[ -1 ]"),
        ("[ 4611686018427387904, 4 ]", "[ 4, 4611686018427387904 ]"),
    ] {
        let problem = problem(&input(dims, shape));
        assert!(problem.contains("does not always have as many elements as dims"), "{problem}");
    }
}

#[test]
fn all_samples_of_a_warm_up_are_read() {
    let samples = config(
        r#"
        model_warmup { name: "a" batch_size: 4 count: 3
            inputs { key: "X" value { data_type: TYPE_INT64 dims: [ 2, 3 ] random_data: true } }
            inputs { key: "S" value { data_type: TYPE_STRING dims: 1 input_data_file: "text" } } }
        model_warmup { inputs { key: "X" value { data_type: TYPE_INT64 zero_data: true } } }
        "#,
    )
    .samples;
    assert_eq!((samples[0].rows, samples[0].count), (4, 3));
    let input = &samples[0].inputs["X"];
    assert_eq!((input.datatype, &input.dims[..]), (Datatype::Int64, &[2, 3][..]));
    assert_eq!(input.data, WarmupData::Random);
    assert_eq!(samples[0].inputs["S"].data, WarmupData::File("text".to_owned()));
    assert_eq!((samples[1].rows, samples[1].count), (1, 1));
    let sample = |value: &str| {
        format!("\nmodel_warmup {{ name: \"w\" inputs {{ key: \"X\" value {{ {value} }} }} }}")
    };
    for (text, expected) in [
        ("\nmodel_warmup { name: \"w\" }".to_owned(), "it has no inputs"),
        (sample("zero_data: true"), "its input \"X\" has no data_type"),
        (sample("data_type: TYPE_FP32"), "its input \"X\" has none of zero_data"),
        (
            sample("data_type: TYPE_FP32 zero_data: true random_data: true"),
            "its input \"X\" has more than one of zero_data",
        ),
        (
            sample("data_type: TYPE_FP32 dims: [ -1 ] zero_data: true"),
            "its input \"X\" has dims [-1]: the dimensions of a sample are not open",
        ),
        (
            sample("data_type: TYPE_FP32 input_data_file: \"../weights\""),
            "its input \"X\" has the input_data_file \"../weights\"",
        ),
    ] {
        let problem = problem(&text);
        let expected = format!("line 2: model_warmup \"w\": {expected}");
        assert!(problem.starts_with(&expected), "{problem}");
    }
}

#[test]
fn a_field_without_effect_is_named_unless_it_has_its_default() {
    let ignored = |text: &str| config(text).ignored;
    assert_eq!(
        ignored(
            "response_cache { enable: true } \
             optimization { cuda { graphs: true busy_wait_events: true graph_spec { batch_size: 4 } } }"
        ),
        ["optimization.cuda.busy_wait_events", "optimization.cuda.graph_spec", "response_cache"]
    );
    assert_eq!(
        ignored("instance_group [ { count: 1 }, { passive: true host_policy: \"a\" } ]"),
        ["instance_group.host_policy", "instance_group.passive"]
    );
    for default in [
        "response_cache { enable: false }",
        "optimization { priority: PRIORITY_DEFAULT input_pinned_memory {} }",
        "instance_group { kind: KIND_AUTO passive: false rate_limiter {} }",
        "dynamic_batching {}",
        "model_transaction_policy { decoupled: false }",
    ] {
        assert_eq!(ignored(default), [""; 0], "{default}");
    }
    let notes = config("response_cache { enable: true }").ignored_notes;
    assert_eq!(
        notes,
        ["response_cache in config.pbtxt has no effect, because answers are not cached"]
    );
}

#[test]
fn queue_policies_limit_the_classes() {
    let levels = "priority_levels: 3 default_priority_level: 2 \
                  default_queue_policy { default_timeout_microseconds: 5 max_queue_size: 9 } \
                  priority_queue_policy { key: 3 value { default_timeout_microseconds: 7 \
                  allow_timeout_override: true } }";
    let [critical, default, sheddable] =
        config(&format!("dynamic_batching {{ {levels} }}")).queue_policy.classes;
    let of_default = QueueLimits { timeout_us: Some(5), may_shorten: false, max_waiting: Some(9) };
    assert_eq!((critical, default), (of_default, of_default));
    let lowest = QueueLimits { timeout_us: Some(7), may_shorten: true, max_waiting: None };
    assert_eq!(sheddable, lowest);
    assert_eq!(config("dynamic_batching {}").queue_policy, QueuePolicy::default());
    for (text, expected) in [
        ("priority_levels: 3", "default_priority_level is 0, but priority_levels 3 allows 1 to 3"),
        ("priority_queue_policy { key: 1 value {} }", "priority_queue_policy has the level 1"),
    ] {
        let problem = problem(&format!("dynamic_batching {{ {text} }}"));
        assert!(problem.starts_with(&format!("line 1: {expected}")), "{problem}");
    }
}

#[test]
fn a_timeout_that_only_delays_has_no_effect() {
    let delays = config(
        "dynamic_batching { default_queue_policy { timeout_action: DELAY \
         default_timeout_microseconds: 5 } }",
    );
    assert_eq!(delays.queue_policy, QueuePolicy::default());
    assert_eq!(delays.ignored, ["dynamic_batching: timeout_action DELAY"]);
}

#[test]
fn what_cannot_be_served_is_refused() {
    for (text, expected) in [
        ("\nsequence_batching { direct {} }", "line 2: sequence_batching is not supported"),
        ("\nsequence_batching {}", "line 2: sequence_batching is not supported"),
        ("\nensemble_scheduling { step [] }", "line 2: ensemble_scheduling is not supported"),
        (
            "\nmodel_transaction_policy { decoupled: true }",
            "line 2: model_transaction_policy.decoupled is not supported",
        ),
        (
            "\ninput { name: \"X\" data_type: TYPE_FP32 dims: 1 }\n\
             input { name: \"Y\" data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }",
            "line 3: input.allow_ragged_batch is not supported",
        ),
        ("batch_input {}", "line 1: batch_input is not supported"),
    ] {
        let problem = problem(text);
        assert!(problem.starts_with(expected), "{text}\n{problem}");
    }
}

#[test]
fn every_field_has_one_effect_and_every_effect_a_field() {
    let fields = paths();
    let mut used = BTreeSet::new();
    for field in &fields {
        let above = |path: &str| field == path || field.starts_with(&format!("{path}."));
        let effects: Vec<&str> =
            effect::EFFECTS.iter().map(|(path, _)| *path).filter(|path| above(path)).collect();
        assert_eq!(effects.len(), 1, "effects of {field}: {effects:?}");
        used.extend(effects);
    }
    let all: BTreeSet<&str> = effect::EFFECTS.iter().map(|(path, _)| *path).collect();
    assert_eq!(used, all, "effects without a field");
    assert_eq!(all.len(), effect::EFFECTS.len(), "a path is listed twice");
    assert!(fields.len() > 90, "{} fields", fields.len());
}

/// The paths of all fields that are not messages themselves.
fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    Message::deserialize(Tracer { path: String::new(), paths: &mut paths }).unwrap();
    paths
}

/// Fills a message with one value per field, and records the path of each value.
struct Tracer<'a> {
    path: String,
    paths: &'a mut Vec<String>,
}

impl Tracer<'_> {
    fn below(&mut self, name: &str) -> Tracer<'_> {
        let path =
            if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Tracer { path, paths: self.paths }
    }

    fn same(&mut self) -> Tracer<'_> {
        Tracer { path: self.path.clone(), paths: self.paths }
    }
}

macro_rules! values {
    ($($method:ident $visit:ident $value:expr),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            self.paths.push(self.path);
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Failed;

    values!(
        deserialize_i32 visit_i32 1, deserialize_i64 visit_i64 1, deserialize_u32 visit_u32 1,
        deserialize_u64 visit_u64 1, deserialize_f64 visit_f64 1.0, deserialize_bool visit_bool true,
        deserialize_string visit_str "a"
    );

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.paths.push(self.path);
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.paths.push(self.path);
        visitor.visit_enum(variants[0].into_deserializer())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_map(TracedFields { tracer: self, fields: fields.iter(), next: "" })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_seq(Once(Some(self)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_map(TracedEntry { tracer: self, done: false })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Failed> {
        Err(Failed::custom("the tracer lacks this kind"))
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 f32 char str bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct identifier
    }
}

struct TracedFields<'a> {
    tracer: Tracer<'a>,
    fields: std::slice::Iter<'static, &'static str>,
    next: &'static str,
}

impl<'de> MapAccess<'de> for TracedFields<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failed> {
        let Some(&next) = self.fields.next() else { return Ok(None) };
        self.next = next;
        seed.deserialize(next.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        seed.deserialize(self.tracer.below(self.next))
    }
}

struct TracedEntry<'a> {
    tracer: Tracer<'a>,
    done: bool,
}

impl<'de> MapAccess<'de> for TracedEntry<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failed> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let key = Tracer { path: String::new(), paths: &mut Vec::new() };
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        seed.deserialize(self.tracer.same())
    }
}

struct Once<'a>(Option<Tracer<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failed> {
        self.0.take().map(|tracer| seed.deserialize(tracer)).transpose()
    }
}
