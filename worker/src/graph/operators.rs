//! Operators for which the rows of a batch may not be independent.

use std::collections::BTreeSet;

use super::{Graph, Node};

/// Operators that choose the scale of their quantisation from the whole batch.
const BATCH_SCALED: [&str; 4] =
    ["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulBnb4"];

/// Operators that draw random numbers.
const RANDOM: [&str; 6] = [
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
];

impl Graph {
    /// The operators that scale all rows of a batch together.
    pub(crate) fn batch_scaled(&self) -> BTreeSet<&str> {
        self.operators(|node| BATCH_SCALED.contains(&node.operator.as_str()))
    }

    /// The operators that compute another result each time.
    pub(crate) fn random(&self) -> BTreeSet<&str> {
        self.operators(|node| RANDOM.contains(&node.operator.as_str()))
    }

    /// The operators that combine elements along the first dimension, which is where a batch has
    /// its rows unless the graph has moved them: the likely cause where rows influence each other.
    pub(crate) fn along_rows(&self) -> BTreeSet<&str> {
        self.operators(|node| {
            let is_first = |attribute: &str| node.integers.get(attribute) == Some(&0);
            match node.operator.as_str() {
                "Softmax" | "LogSoftmax" | "Hardmax" | "TopK" | "ArgMax" | "ArgMin"
                | "Compress" | "LpNormalization" | "Unique" => is_first("axis"),
                "BatchNormalization" => node.integers.get("training_mode") == Some(&1),
                "RNN" | "LSTM" | "GRU" => {
                    node.integers.get("layout").is_none_or(|layout| *layout == 0)
                }
                "CumSum" | "NonMaxSuppression" | "NonZero" => true,
                name => name.starts_with("Reduce"),
            }
        })
    }

    fn operators(&self, is_meant: impl Fn(&Node) -> bool) -> BTreeSet<&str> {
        let meant = self.nodes.iter().filter(|node| is_meant(node));
        meant.map(|node| node.operator.as_str()).collect()
    }
}
