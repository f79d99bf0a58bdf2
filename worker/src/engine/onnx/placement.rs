//! Which operators ONNX Runtime has left on the processor, according to its own warnings. Pure.

/// Where the operators of a session on a GPU run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// Places where data are copied between GPU and processor within the model.
    pub(super) memcpy_nodes: u32,
}

impl Placement {
    /// Reads the placement from the warnings of a load.
    pub(super) fn of(warnings: &[String]) -> Self {
        // One warning for each graph, because a model may have graphs within operators.
        Self { memcpy_nodes: warnings.iter().filter_map(|text| memcpy_nodes(text)).sum() }
    }

    /// A sentence for the model's users, if the placement costs time.
    pub(super) fn note(self) -> Option<String> {
        let nodes = self.memcpy_nodes;
        (nodes > 0).then(|| {
            format!(
                "ONNX Runtime left operators on the processor: each run copies data between GPU and \
                 processor at {nodes} places (--max-memcpy-nodes refuses such a model)"
            )
        })
    }

    /// Fails if the model copies data at more than `most` places.
    pub(super) fn check(self, most: Option<u32>) -> Result<(), String> {
        match most {
            Some(most) if self.memcpy_nodes > most => Err(format!(
                "ONNX Runtime left operators on the processor: each run would copy data between GPU \
                 and processor at {} places, and --max-memcpy-nodes is {most}",
                self.memcpy_nodes
            )),
            _ => Ok(()),
        }
    }
}

/// The number in `3 Memcpy nodes are added to the graph main_graph for CUDAExecutionProvider. ...`.
fn memcpy_nodes(warning: &str) -> Option<u32> {
    let (before, _) = warning.split_once(" Memcpy nodes are added to the graph ")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warnings_of_onnx_runtime_are_counted() {
        let warnings = [
            "3 Memcpy nodes are added to the graph main_graph for CUDAExecutionProvider. It might \
             have negative impact on performance (including unable to run CUDA graph). Set \
             session_options.log_severity_level=1 to see the detail logs before this message.",
            "2 Memcpy nodes are added to the graph then_branch for CUDAExecutionProvider. It might",
            "Some nodes were not assigned to the preferred execution providers which may or may not \
             have an negative impact on performance. e.g. ORT explicitly assigns shape related ops \
             to CPU to improve perf.",
            "Initializer w appears in graph inputs and will not be treated as constant value",
        ]
        .map(str::to_owned);
        let placement = Placement::of(&warnings);
        assert_eq!(placement, Placement { memcpy_nodes: 5 });
        assert!(placement.note().unwrap().contains("at 5 places"));
        assert!(placement.check(None).is_ok() && placement.check(Some(5)).is_ok());
        assert!(placement.check(Some(4)).unwrap_err().ends_with("--max-memcpy-nodes is 4"));
        assert_eq!(Placement::of(&[]).note(), None);
    }

    #[test]
    fn operators_on_shapes_alone_are_no_note() {
        let warnings =
            ["Some nodes were not assigned to the preferred execution providers which".to_owned()];
        assert_eq!(Placement::of(&warnings).note(), None);
    }
}
