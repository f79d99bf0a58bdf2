//! Padding: requests whose rows differ in length run together, if the owner of the model declares
//! which dimensions of its inputs may be filled up.
//!
//! Values are added at the end of the dimension. Outputs that follow the length are cut back to the
//! length of each request. Nothing is padded that is not declared, because only the owner knows
//! whether a model ignores the added values; the [proof](crate::proof) checks that it does.

use std::collections::BTreeMap;

use batchfleet_broker::{Datatype, Job, ModelSpec, TensorSpec};
use half::{bf16, f16};

use crate::{
    graph::{Dimension, Graph},
    tensors,
};

/// The parameters of a `config.pbtxt`.
pub(crate) const PAD: &str = "pad";
pub(crate) const SIZES: &str = "pad_sizes";
pub(crate) const CUT: &str = "cut";

/// What may be padded, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Padding {
    inputs: Vec<PaddedInput>,
    /// The outputs that are cut, and the dimension.
    outputs: BTreeMap<String, usize>,
    /// The lengths to pad to, ascending; empty for any.
    sizes: Vec<u64>,
}

/// An input that may be padded.
#[derive(Clone, Debug, PartialEq)]
struct PaddedInput {
    name: String,
    axis: usize,
    /// The bytes of the value that is added.
    fill: Vec<u8>,
}

/// The padding of one input of a batch.
#[derive(Clone, Debug)]
pub(crate) struct PadTo {
    /// The dimension.
    pub(crate) axis: usize,
    /// Its size in the batch.
    pub(crate) length: u64,
    /// The bytes of the value that is added.
    pub(crate) fill: Vec<u8>,
}

impl Padding {
    /// Reads the parameters `pad`, `pad_sizes` and `cut` for a model that is served as `model`.
    /// `None` if nothing is declared, or if requests for the model do not share batches. An error is a sentence about the mistake.
    pub(crate) fn declared(
        parameters: &BTreeMap<String, String>,
        model: &ModelSpec,
        graph: &Graph,
    ) -> Result<Option<Self>, String> {
        if !model.batches() {
            return Ok(None);
        }
        let text = |parameter: &str| parameters.get(parameter).map(String::as_str);
        let Some(pad) = text(PAD) else {
            let other = [SIZES, CUT].into_iter().find(|parameter| text(parameter).is_some());
            return match other {
                Some(other) => Err(format!(
                    "the parameter {other} needs the parameter {PAD}, which is missing"
                )),
                None => Ok(None),
            };
        };
        let mut inputs = Vec::new();
        for entry in entries(pad) {
            inputs.extend(padded_inputs(entry, model, graph)?);
        }
        if inputs.is_empty() {
            return Err(format!("the parameter {PAD} is empty"));
        }
        let outputs = entries(text(CUT).unwrap_or_default());
        let outputs = outputs.map(|entry| cut_output(entry, model)).collect::<Result<_, _>>()?;
        let sizes = entries(text(SIZES).unwrap_or_default());
        let size = |entry: &str| match entry.parse::<u64>() {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(format!("the parameter {SIZES} has {entry:?} instead of a length")),
        };
        let mut sizes: Vec<u64> = sizes.map(size).collect::<Result<_, _>>()?;
        sizes.sort_unstable();
        Ok(Some(Self { inputs, outputs, sizes }))
    }

    /// The size of the padded dimension in a request; `None` if its inputs differ in this size, so
    /// that the request cannot be padded.
    pub(crate) fn length(&self, job: &Job) -> Option<u64> {
        let mut lengths = job.inputs.iter().filter_map(|input| {
            let padded = self.inputs.iter().find(|padded| padded.name == input.name)?;
            Some(input.shape.get(padded.axis).copied().unwrap_or_default())
        });
        let first = lengths.next()?;
        lengths.all(|length| length == first).then_some(first)
    }

    /// The size to which a request of this length is padded if it runs alone.
    pub(crate) fn target(&self, length: u64) -> u64 {
        let larger = self.sizes.iter().copied().find(|&size| size >= length);
        larger.unwrap_or(length)
    }

    /// The dimension of an input that may be padded.
    pub(crate) fn axis(&self, input: &str) -> Option<usize> {
        self.inputs.iter().find(|padded| padded.name == input).map(|padded| padded.axis)
    }

    /// How to pad an input to `length`.
    pub(crate) fn to(&self, input: &str, length: u64) -> Option<PadTo> {
        let padded = self.inputs.iter().find(|padded| padded.name == input)?;
        Some(PadTo { axis: padded.axis, length, fill: padded.fill.clone() })
    }

    /// The dimension in which an output is cut.
    pub(crate) fn cut_axis(&self, output: &str) -> Option<usize> {
        self.outputs.get(output).copied()
    }
}

/// The parameters that pad the inputs of a text encoder as it is usually exported: token ids and a
/// mask of two dimensions, with free second dimensions. `None` for other models.
pub(crate) fn suggestion(model: &ModelSpec, graph: &Graph) -> Option<BTreeMap<String, String>> {
    const IDS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
    let is_open = |name: &str| {
        let mut inputs = model.inputs.iter();
        inputs.any(|input| input.name == name && input.shape.len() == 2 && input.shape[1] == -1)
    };
    let is_usual = model.inputs.iter().all(|input| IDS.contains(&input.name.as_str()));
    if !model.batches() || !is_usual || !is_open(IDS[0]) || !is_open(IDS[1]) {
        return None;
    }
    let pad: Vec<String> =
        IDS.iter().filter(|name| is_open(name)).map(|name| format!("{name}:1=0")).collect();
    let mut parameters = BTreeMap::from([(PAD.to_owned(), pad.join(" "))]);
    let follows = |output: &&TensorSpec| {
        let of_input = graph.input(IDS[0]).and_then(|dims| dims.get(1));
        let of_output = graph.output(&output.name).and_then(|dims| dims.get(1));
        let is_same = matches!(of_input, Some(Dimension::Symbol(_))) && of_input == of_output;
        output.shape.get(1) == Some(&-1) && (is_same || output.shape.len() > 2)
    };
    let cut: Vec<String> =
        model.outputs.iter().filter(follows).map(|output| format!("{}:1", output.name)).collect();
    if !cut.is_empty() {
        parameters.insert(CUT.to_owned(), cut.join(" "));
    }
    Some(parameters)
}

/// Cuts the second dimension of another output. Returns whether the output was not cut before.
pub(crate) fn also_cut(parameters: &mut BTreeMap<String, String>, output: &str) -> bool {
    let cut = parameters.entry(CUT.to_owned()).or_default();
    let entry = format!("{output}:1");
    if entries(cut).any(|known| known == entry) {
        return false;
    }
    if !cut.is_empty() {
        cut.push(' ');
    }
    cut.push_str(&entry);
    true
}

/// The lines of a `config.pbtxt` with these parameters.
pub(crate) fn lines(parameters: &BTreeMap<String, String>) -> String {
    let line = |(key, value): (&String, &String)| {
        format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }}")
    };
    parameters.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The entries of a list, separated by spaces or commas.
fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', '\t', '\n']).filter(|entry| !entry.is_empty())
}

/// The inputs that an entry of `pad` names: `INPUT:DIMENSION=VALUE`, or `SYMBOL=VALUE` for all
/// dimensions that the model's file gives this name.
fn padded_inputs(
    entry: &str,
    model: &ModelSpec,
    graph: &Graph,
) -> Result<Vec<PaddedInput>, String> {
    let form = || {
        format!(
            "the parameter {PAD} has {entry:?}: write INPUT:DIMENSION=VALUE, such as \
             input_ids:1=0, or NAME=VALUE with a name that the model's file gives a dimension"
        )
    };
    let (place, value) = entry.rsplit_once('=').ok_or_else(form)?;
    let places: Vec<(&str, usize)> = match place.rsplit_once(':') {
        Some((input, axis)) => vec![(input, axis.parse().map_err(|_| form())?)],
        None => symbol_places(place, model, graph),
    };
    if places.is_empty() {
        return Err(format!("no dimension of an input has the name {place:?} in the model's file"));
    }
    let input = |&(name, axis): &(&str, usize)| {
        let spec = model.inputs.iter().find(|input| input.name == name).ok_or_else(|| {
            format!("the parameter {PAD} names input {name:?}, which the model does not have")
        })?;
        let is_rows = spec.row_dimension() == Some(axis);
        if is_rows || spec.shape.get(axis) != Some(&-1) {
            return Err(format!(
                "the parameter {PAD} names dimension {axis} of input {name:?}, whose shape is {:?}: \
                 only open dimensions other than the rows can be padded",
                spec.shape
            ));
        }
        let fill = element(spec.datatype, value).ok_or_else(|| {
            format!("the parameter {PAD} has the value {value:?}, which is no {}", spec.datatype)
        })?;
        Ok(PaddedInput { name: name.to_owned(), axis, fill })
    };
    places.iter().map(input).collect()
}

/// The open dimensions of the inputs that the model's file calls `symbol`.
fn symbol_places<'a>(symbol: &str, model: &'a ModelSpec, graph: &Graph) -> Vec<(&'a str, usize)> {
    let mut places = Vec::new();
    for input in &model.inputs {
        let dims = graph.input(&input.name).unwrap_or_default();
        let named = dims
            .iter()
            .enumerate()
            .filter(|(_, dim)| matches!(dim, Dimension::Symbol(name) if name == symbol));
        places.extend(named.map(|(axis, _)| (input.name.as_str(), axis)));
    }
    places
}

/// The output and the dimension that an entry of `cut` names: `OUTPUT:DIMENSION`.
fn cut_output(entry: &str, model: &ModelSpec) -> Result<(String, usize), String> {
    let parsed = entry.rsplit_once(':').and_then(|(name, axis)| Some((name, axis.parse().ok()?)));
    let (name, axis): (&str, usize) = parsed.ok_or_else(|| {
        format!("the parameter {CUT} has {entry:?}: write OUTPUT:DIMENSION, such as logits:1")
    })?;
    let spec = model.outputs.iter().find(|output| output.name == name).ok_or_else(|| {
        format!("the parameter {CUT} names output {name:?}, which the model does not have")
    })?;
    if spec.row_dimension() == Some(axis) || spec.shape.get(axis) != Some(&-1) {
        return Err(format!(
            "the parameter {CUT} names dimension {axis} of output {name:?}, whose shape is {:?}: \
             only open dimensions other than the rows follow the length",
            spec.shape
        ));
    }
    Ok((name.to_owned(), axis))
}

/// The bytes of one element; `None` if the text is no value of the datatype.
fn element(datatype: Datatype, text: &str) -> Option<Vec<u8>> {
    Some(match datatype {
        Datatype::Bytes => tensors::encode_strings([text].iter()).to_vec(),
        Datatype::Fp16 => f16::from_f64(text.parse().ok()?).to_le_bytes().to_vec(),
        Datatype::Bf16 => bf16::from_f64(text.parse().ok()?).to_le_bytes().to_vec(),
        Datatype::Fp32 => text.parse::<f32>().ok()?.to_le_bytes().to_vec(),
        Datatype::Fp64 => text.parse::<f64>().ok()?.to_le_bytes().to_vec(),
        Datatype::Bool => vec![u8::from(match text {
            "0" | "false" => false,
            "1" | "true" => true,
            _ => return None,
        })],
        Datatype::Uint8 => text.parse::<u8>().ok()?.to_le_bytes().to_vec(),
        Datatype::Uint16 => text.parse::<u16>().ok()?.to_le_bytes().to_vec(),
        Datatype::Uint32 => text.parse::<u32>().ok()?.to_le_bytes().to_vec(),
        Datatype::Uint64 => text.parse::<u64>().ok()?.to_le_bytes().to_vec(),
        Datatype::Int8 => text.parse::<i8>().ok()?.to_le_bytes().to_vec(),
        Datatype::Int16 => text.parse::<i16>().ok()?.to_le_bytes().to_vec(),
        Datatype::Int32 => text.parse::<i32>().ok()?.to_le_bytes().to_vec(),
        Datatype::Int64 => text.parse::<i64>().ok()?.to_le_bytes().to_vec(),
    })
}

#[cfg(test)]
mod tests;
