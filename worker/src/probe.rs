//! Tells a lost device from a request that the model does not take.
//!
//! The texts of errors that a runtime gives after the loss of a device are not all known. So after an
//! error that is not known, a row that ran in the warm-up runs again: if it fails now, the device is at
//! fault, and not the request.

use batchfleet_broker::{ModelSpec, Tensor};
use tracing::error;

use crate::{
    engine::{Alike, Engine, EngineError, RunError, RunErrorCode},
    fault::RunFault,
};

/// An engine on a device that can be lost.
pub(crate) struct Probed {
    engine: Box<dyn Engine>,
    /// The smallest batch that ran in the warm-up.
    known: Option<(Vec<Tensor>, u32)>,
}

impl Probed {
    /// Watches over `engine`.
    pub(crate) fn new(engine: Box<dyn Engine>) -> Self {
        Self { engine, known: None }
    }

    /// The error of a failed run, which says so if the device is lost.
    fn judged(&mut self, error: EngineError) -> EngineError {
        let EngineError::Failed(source) = &error else { return error };
        let Some((inputs, rows)) = self.known.as_ref().filter(|_| !RunFault::is_known(source))
        else {
            return error;
        };
        match self.engine.run(inputs.clone(), *rows) {
            Err(again) if RunFault::of(&again) != RunFault::OutOfMemory => {
                error!(%error, %again, "a request of the warm-up fails as well: the device is lost");
                EngineError::Failed(RunError::new(RunErrorCode::DeviceReset, error.to_string()))
            }
            _ => error,
        }
    }
}

impl Engine for Probed {
    fn spec(&self) -> &ModelSpec {
        self.engine.spec()
    }

    fn serve_singly(&mut self) {
        self.engine.serve_singly();
    }

    fn provider(&self) -> &'static str {
        self.engine.provider()
    }

    fn memcpy_nodes(&self) -> u32 {
        self.engine.memcpy_nodes()
    }

    fn has_sizes(&self) -> bool {
        self.engine.has_sizes()
    }

    fn notes(&self) -> Vec<String> {
        self.engine.notes()
    }

    fn prepare(
        &mut self,
        inputs: &[Tensor],
        rows: u32,
        alike: Alike<'_>,
    ) -> Result<(), EngineError> {
        self.engine.prepare(inputs, rows, alike)?;
        if self.known.as_ref().is_none_or(|(_, known)| rows < *known) {
            self.known = Some((inputs.to_vec(), rows));
        }
        Ok(())
    }

    fn return_memory(&mut self, inputs: &[Tensor]) -> Result<bool, EngineError> {
        self.engine.return_memory(inputs)
    }

    fn run(&mut self, inputs: Vec<Tensor>, rows: u32) -> Result<Vec<Tensor>, EngineError> {
        self.engine.run(inputs, rows).map_err(|error| self.judged(error))
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Datatype;

    use super::*;
    use crate::batch::examples;

    /// Fails on requests with the byte 9, and on all once lost.
    struct Device {
        spec: ModelSpec,
        text: &'static str,
        is_lost: bool,
        after: &'static str,
    }

    impl Engine for Device {
        fn spec(&self) -> &ModelSpec {
            &self.spec
        }

        fn serve_singly(&mut self) {}

        fn provider(&self) -> &'static str {
            "cuda"
        }

        fn run(&mut self, inputs: Vec<Tensor>, _rows: u32) -> Result<Vec<Tensor>, EngineError> {
            if inputs[0].data.contains(&9) {
                return Err(EngineError::failed(self.text));
            }
            if self.is_lost {
                return Err(EngineError::failed(self.after));
            }
            Ok(inputs)
        }
    }

    fn rows(value: u8) -> Vec<Tensor> {
        let data = vec![value; 2].into();
        vec![Tensor { name: "X".to_owned(), datatype: Datatype::Uint8, shape: vec![1, 2], data }]
    }

    /// The fault of a bad request on a device that fails with `text`, and if it is lost, on every
    /// later request with `after`.
    fn fault(text: &'static str, is_lost: bool, after: &'static str) -> RunFault {
        let device = Device { spec: examples::spec(4), text, is_lost, after };
        let mut probed = Probed::new(Box::new(device));
        probed.prepare(&rows(1), 1, &|one, other| one == other).unwrap();
        let error = probed.run(rows(9), 1).unwrap_err();
        RunFault::of(&error)
    }

    #[test]
    fn an_unknown_error_is_the_requests_fault_if_a_request_of_the_warm_up_still_runs() {
        assert_eq!(fault("CUDNN_FE failure 8: HEURISTIC_QUERY_FAILED", false, ""), RunFault::Model);
        let lost = fault("CUDNN_FE failure 7: EXECUTION_FAILED", true, "CUDNN_FE failure 7");
        assert_eq!(lost, RunFault::Device);
    }

    #[test]
    fn a_lack_of_memory_is_no_lost_device_and_known_errors_are_not_probed() {
        let lacking = fault("something new", true, "CUDA failure 2: out of memory");
        assert_eq!(lacking, RunFault::Model);
        assert_eq!(fault("CUDA failure 700: an illegal memory", false, ""), RunFault::Device);
        assert_eq!(fault("CUDA failure 1: invalid argument", true, "gone"), RunFault::Model);
    }

    #[test]
    fn without_a_warm_up_nothing_is_probed() {
        let device = Device { spec: examples::spec(4), text: "new", is_lost: true, after: "gone" };
        let error = Probed::new(Box::new(device)).run(rows(9), 1).unwrap_err();
        assert_eq!(RunFault::of(&error), RunFault::Model);
    }
}
