//! Fits a config's inputs and outputs to the model's own: what both leave open stays open, what one
//! of them gives is given, and a contradiction is an error. Pure.

use batchfleet_broker::TensorSpec;

use super::{
    model_config::ModelConfig,
    tensor::{RowAxis, TensorConfig},
};
use crate::reshape::{Reshape, Reshapes};

/// The tensors of a model as clients see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fitted {
    /// The inputs, in the model's order.
    pub(crate) inputs: Vec<TensorSpec>,
    /// The outputs that are served, in the model's order.
    pub(crate) outputs: Vec<TensorSpec>,
    /// How the tensors of clients and those of the model differ in shape.
    pub(crate) reshapes: Reshapes,
}

/// An output of a model.
#[derive(Clone, Debug)]
pub(crate) struct ModelOutput {
    /// The output's name.
    pub(crate) name: String,
    /// Its spec, or why clients cannot get it.
    pub(crate) spec: Result<TensorSpec, String>,
}

impl ModelConfig {
    /// Fits the config to a model with these inputs and outputs. Inputs are `optional` if the model
    /// runs without them. The error is a sentence about the first contradiction.
    pub(crate) fn fit(
        &self,
        inputs: Vec<TensorSpec>,
        outputs: Vec<ModelOutput>,
    ) -> Result<Fitted, String> {
        self.check_names(&inputs, &outputs)?;
        let outputs = self.served_outputs(outputs)?;
        let fit = Fit { config: self, rows_apart: self.rows_apart(&inputs, &outputs) };
        let mut reshapes = Reshapes::default();
        let mut fitted_inputs = Vec::new();
        for model in inputs {
            let config = self.inputs.iter().find(|input| input.name == model.name);
            if config.is_none() && !self.inputs.is_empty() {
                if model.optional {
                    continue;
                }
                return Err(format!(
                    "config.pbtxt lists inputs, but not input {:?}, which the model needs",
                    model.name
                ));
            }
            let (spec, reshape) = fit.input(model, config)?;
            reshapes.inputs.extend(reshape);
            fitted_inputs.push(spec);
        }
        let mut fitted_outputs = Vec::new();
        for model in outputs {
            let config = self.outputs.iter().find(|output| output.name == model.name);
            let (spec, reshape) = fit.tensor("output", model, config)?;
            reshapes.outputs.extend(reshape);
            fitted_outputs.push(spec);
        }
        self.check_samples(&fitted_inputs)?;
        Ok(Fitted { inputs: fitted_inputs, outputs: fitted_outputs, reshapes })
    }

    /// Rejects names that the model does not have.
    fn check_names(&self, inputs: &[TensorSpec], outputs: &[ModelOutput]) -> Result<(), String> {
        let of_inputs: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let of_outputs: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        let unknown = |what: &str, name: &str, known: &[&str]| {
            let known = known.join(", ");
            Err(format!("config.pbtxt names {what} {name:?}, but the model has {known}"))
        };
        for TensorConfig { name, .. } in &self.inputs {
            if !of_inputs.contains(&name.as_str()) {
                return unknown("input", name, &of_inputs);
            }
        }
        for TensorConfig { name, .. } in &self.outputs {
            if !of_outputs.contains(&name.as_str()) {
                return unknown("output", name, &of_outputs);
            }
        }
        let all = [of_inputs, of_outputs].concat();
        for name in self.row_axes.keys() {
            if !all.contains(&name.as_str()) {
                return unknown("in a parameter batch_axis the tensor", name, &all);
            }
        }
        Ok(())
    }

    /// Rejects warm-up samples whose inputs are not those of the model.
    fn check_samples(&self, inputs: &[TensorSpec]) -> Result<(), String> {
        for sample in &self.samples {
            let problem =
                |problem: String| Err(format!("model_warmup {:?} {problem}", sample.name));
            for (name, given) in &sample.inputs {
                let Some(input) = inputs.iter().find(|input| input.name == *name) else {
                    let known: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
                    let known = known.join(", ");
                    return problem(format!("names input {name:?}, but the model has {known}"));
                };
                if given.datatype != input.datatype {
                    let (given, input) = (given.datatype, input.datatype);
                    return problem(format!("has {given} for input {name:?}, which is {input}"));
                }
            }
            let given = |input: &&TensorSpec| sample.inputs.contains_key(&input.name);
            if let Some(missing) = inputs.iter().find(|input| !input.optional && !given(input)) {
                return problem(format!("lacks input {:?}", missing.name));
            }
        }
        Ok(())
    }

    /// The outputs that the config lists, or all.
    fn served_outputs(&self, outputs: Vec<ModelOutput>) -> Result<Vec<TensorSpec>, String> {
        let is_listed =
            |output: &ModelOutput| self.outputs.iter().any(|listed| listed.name == output.name);
        let listed = outputs.into_iter().filter(|out| self.outputs.is_empty() || is_listed(out));
        let way_out = |problem: String| {
            format!(
                "{problem}: export the model without it (skl2onnx: options={{'zipmap': False}}), or \
                 list only the other outputs in config.pbtxt"
            )
        };
        listed.map(|output| output.spec.map_err(way_out)).collect()
    }

    /// Whether the dims of the config leave out the dimension that counts rows: if
    /// `max_batch_size` is greater than 0; without `max_batch_size`, if every listed tensor then has
    /// the model's number of dimensions, and an open dimension for the rows.
    fn rows_apart(&self, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> bool {
        if let Some(rows) = self.max_batch {
            return rows > 0;
        }
        let fits = |(config, models): (&TensorConfig, &[TensorSpec])| {
            let Some(model) = models.iter().find(|model| model.name == config.name) else {
                return true;
            };
            let Some(native) = config.native() else { return true };
            let declared = self.row_axes.contains_key(&config.name);
            match self.axis(&config.name).filter(|_| declared || model.row_axis.is_some()) {
                None => true,
                Some(axis) => {
                    native.len() + 1 == model.shape.len()
                        && (model.shape.get(axis) == Some(&-1) || declared)
                }
            }
        };
        let listed = self.inputs.iter().map(|input| (input, inputs));
        listed.chain(self.outputs.iter().map(|output| (output, outputs))).all(fits)
    }

    /// The dimension of a tensor that counts rows if the model batches.
    pub(crate) fn axis(&self, tensor: &str) -> Option<usize> {
        match self.row_axes.get(tensor) {
            None => Some(0),
            Some(RowAxis::None) => None,
            Some(RowAxis::Axis(axis)) => usize::try_from(*axis).ok(),
        }
    }
}

impl TensorConfig {
    /// The dimensions that the model sees; `None` if the config leaves them to the model.
    fn native(&self) -> Option<&[i64]> {
        let dims = Some(&self.dims).filter(|dims| !dims.is_empty());
        self.reshape.as_ref().or(dims).map(Vec::as_slice)
    }
}

/// One fitting of a config.
struct Fit<'a> {
    config: &'a ModelConfig,
    /// Whether the dims of the config leave out the dimension that counts rows.
    rows_apart: bool,
}

impl Fit<'_> {
    fn input(
        &self,
        model: TensorSpec,
        config: Option<&TensorConfig>,
    ) -> Result<(TensorSpec, Option<Reshape>), String> {
        let optional = match config {
            Some(config) if config.optional && !model.optional => {
                return Err(format!(
                    "input {:?} is optional in config.pbtxt, but the model needs it",
                    model.name
                ));
            }
            Some(config) => config.optional,
            None => model.optional,
        };
        let (spec, reshape) = self.tensor("input", model, config)?;
        Ok((TensorSpec { optional, ..spec }, reshape))
    }

    /// Fits one tensor. `kind` is its kind in errors.
    fn tensor(
        &self,
        kind: &str,
        model: TensorSpec,
        config: Option<&TensorConfig>,
    ) -> Result<(TensorSpec, Option<Reshape>), String> {
        let declared = self.config.row_axes.contains_key(&model.name);
        // An input with a default value has no rows of its own, unless the config declares them.
        let has_rows = declared || model.row_axis.is_some();
        let axis = self.config.axis(&model.name).filter(|_| has_rows);
        let own = self.open(kind, &model, declared)?;
        let row_axis = axis.and_then(|axis| u32::try_from(axis).ok());
        let Some(config) = config else {
            return Ok((TensorSpec { shape: own, row_axis, ..model }, None));
        };
        let name = &model.name;
        if let Some(config) = config.datatype.filter(|datatype| *datatype != model.datatype) {
            let model = model.datatype;
            return Err(format!(
                "{kind} {name:?} is {config} in config.pbtxt, but {model} in the model"
            ));
        }
        let with_rows = |dims: &[i64]| {
            let mut shape = dims.to_vec();
            if let Some(axis) = axis.filter(|_| self.rows_apart) {
                shape.insert(axis.min(dims.len()), -1);
            }
            shape
        };
        let Some(native) = config.native() else {
            return Ok((TensorSpec { shape: own, row_axis, ..model }, None));
        };
        let native = with_rows(native);
        let Some(fitted) = merge(&native, &own, kind == "output") else {
            return Err(self.contradiction(kind, config, &native, &own));
        };
        let reshape = config.reshape.as_ref().map(|native| Reshape {
            name: name.clone(),
            public: config.dims.clone(),
            native: native.clone(),
            rows: self.rows_apart && axis.is_some(),
        });
        if reshape.is_some() && self.rows_apart && axis.is_some_and(|axis| axis > 0) {
            return Err(format!(
                "{kind} {name:?} has a reshape and a batch_axis, of which one is possible"
            ));
        }
        let shape = if reshape.is_some() { with_rows(&config.dims) } else { fitted };
        Ok((TensorSpec { shape, row_axis, ..model }, reshape))
    }

    /// The model's shape, with an open dimension where the config declares that it counts rows.
    fn open(&self, kind: &str, model: &TensorSpec, declared: bool) -> Result<Vec<i64>, String> {
        let mut shape = model.shape.clone();
        let Some(axis) = self.config.axis(&model.name).filter(|_| declared) else {
            return Ok(shape);
        };
        if let Some(dim) = shape.get_mut(axis) {
            *dim = -1;
        } else if !shape.is_empty() {
            return Err(format!(
                "the parameter batch_axis of {kind} {:?} is {axis}, but its shape in the model is \
                 {shape:?}, with dimensions 0 to {}",
                model.name,
                shape.len() - 1
            ));
        }
        Ok(shape)
    }

    fn contradiction(
        &self,
        kind: &str,
        config: &TensorConfig,
        native: &[i64],
        own: &[i64],
    ) -> String {
        let name = &config.name;
        let (dims, what) = match &config.reshape {
            Some(reshape) => (reshape, "reshape"),
            None => (&config.dims, "dims"),
        };
        let with_rows = if dims == native {
            String::new()
        } else {
            format!(", with the batch dimension {native:?},")
        };
        let own_row = own.get(1..).unwrap_or_default();
        let has_its_size = elements(dims).is_some() && elements(dims) == elements(own_row);
        let hint = if !self.rows_apart {
            String::new()
        } else if dims[..] == *own {
            "; dims leave out the batch dimension if max_batch_size is greater than 0".to_owned()
        } else if config.reshape.is_none() && has_its_size {
            format!("; reshape {{ shape: {own_row:?} }} gives the dimensions in the model")
        } else {
            String::new()
        };
        format!(
            "{kind} {name:?} has {what} {dims:?} in config.pbtxt{with_rows} but \
             {own:?} in the model{hint}"
        )
    }
}

/// The number of elements of a tensor without open dimensions.
fn elements(dims: &[i64]) -> Option<i64> {
    dims.iter().try_fold(1_i64, |product, &dim| product.checked_mul(dim).filter(|_| dim >= 0))
}

/// The dimensions that a config and a model have in common; `None` if they contradict each other.
/// An open dimension of a config demands that any size is possible, unless it is an output's.
///
/// A model without dimensions is a scalar, or its file does not give the number of dimensions.
fn merge(config: &[i64], model: &[i64], is_output: bool) -> Option<Vec<i64>> {
    if model.is_empty() {
        return Some(config.to_vec());
    }
    let dim = |(&config, &model): (&i64, &i64)| match (config, model) {
        (config, -1) => Some(config),
        (-1, model) => is_output.then_some(model),
        (config, model) => (config == model).then_some(model),
    };
    (config.len() == model.len()).then(|| config.iter().zip(model).map(dim).collect())?
}

#[cfg(test)]
mod tests;
