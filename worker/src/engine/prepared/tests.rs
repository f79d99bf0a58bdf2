//! Runs a device that refuses what a GPU refuses: moved memory, shapes that a graph was not recorded
//! for, recording after the warm-up, and calls from a second thread.

use std::thread::{self, ThreadId};

use batchfleet_broker::Datatype;

use super::*;

/// A device that returns its inputs as outputs.
struct Fake {
    thread: ThreadId,
    /// Whether the warm-up is over.
    serves: bool,
    /// The address of the next graph.
    next_address: usize,
    /// The addresses and shapes of recorded graphs, which were run so often.
    recorded: Vec<(usize, Vec<Vec<u64>>, usize)>,
    /// A value that kept memory, or a graph, computes wrongly.
    kept_is_wrong: bool,
    graph_is_wrong: bool,
    /// Graphs beyond this many rows do not fit the device.
    rows_of_graphs: u64,
    ran: Vec<&'static str>,
}

/// The memory of a graph at a fake address.
struct Memory {
    address: usize,
}

impl Fake {
    fn new() -> Self {
        Self {
            thread: thread::current().id(),
            serves: false,
            next_address: 4096,
            recorded: Vec::new(),
            kept_is_wrong: false,
            graph_is_wrong: false,
            rows_of_graphs: u64::MAX,
            ran: Vec::new(),
        }
    }

    fn begin(&mut self, way: &'static str) -> Result<(), EngineError> {
        self.ran.push(way);
        if thread::current().id() == self.thread {
            return Ok(());
        }
        Err(EngineError::failed("a second thread called the device"))
    }
}

fn wrong(inputs: &[Tensor], is_wrong: bool) -> Vec<Tensor> {
    let change = |input: &Tensor| {
        let add = |byte: &u8| byte.wrapping_add(is_wrong.into());
        Tensor { data: input.data.iter().map(add).collect(), ..input.clone() }
    };
    inputs.iter().map(change).collect()
}

fn shapes(inputs: &[Tensor]) -> Vec<Vec<u64>> {
    inputs.iter().map(|input| input.shape.clone()).collect()
}

impl Device for Fake {
    type Graph = Memory;

    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        self.begin("plain")?;
        Ok(inputs.to_vec())
    }

    fn run_kept(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        self.begin("kept")?;
        Ok(wrong(inputs, self.kept_is_wrong))
    }

    fn graph(&mut self, inputs: &[Tensor], _: &[Tensor]) -> Result<Memory, EngineError> {
        self.begin("allocate")?;
        if self.serves {
            return Err(EngineError::failed("CUDA failure 900: recorded while other threads run"));
        }
        if inputs[0].shape[0] > self.rows_of_graphs {
            return Err(EngineError::failed("CUDA failure 2: out of memory"));
        }
        self.next_address += 4096;
        self.recorded.push((self.next_address, shapes(inputs), 0));
        Ok(Memory { address: self.next_address })
    }

    fn run_graph(
        &mut self,
        graph: &mut Memory,
        inputs: &[Tensor],
    ) -> Result<Vec<Tensor>, EngineError> {
        self.begin("graph")?;
        let known = self.recorded.iter_mut().find(|(address, ..)| *address == graph.address);
        let (_, recorded, runs) =
            known.ok_or_else(|| EngineError::failed("the memory of the graph has moved"))?;
        if *recorded != shapes(inputs) {
            return Err(EngineError::failed("the graph was recorded for another size"));
        }
        *runs += 1;
        if *runs <= 2 && self.serves {
            return Err(EngineError::failed("a graph is recorded while the model serves"));
        }
        Ok(wrong(inputs, self.graph_is_wrong))
    }
}

fn batch(rows: u64, value: u8) -> Vec<Tensor> {
    vec![Tensor {
        name: "X".to_owned(),
        datatype: Datatype::Uint8,
        shape: vec![rows, 2],
        data: vec![value; usize::try_from(rows * 2).unwrap()].into(),
    }]
}

fn equal(one: &[Tensor], other: &[Tensor]) -> bool {
    one == other
}

const ALL: Ways = Ways { kept_memory: true, graphs: true };
const KEPT: Ways = Ways { kept_memory: true, graphs: false };

/// The device with everything prepared for batches of 1, 2, 4 and 8 rows.
fn warmed_up(device: Fake, ways: Ways) -> Prepared<Fake> {
    let mut prepared = Prepared::new(device, ways);
    for rows in [1, 2, 4, 8] {
        prepared.prepare(&batch(rows, 1), &equal).unwrap();
        // What is prepared already costs nothing.
        let before = prepared.device.ran.len();
        prepared.prepare(&batch(rows, 2), &equal).unwrap();
        if ways.graphs && prepared.wanted.graphs {
            assert_eq!(prepared.device.ran.len(), before);
        }
    }
    prepared.device.serves = true;
    prepared.device.ran.clear();
    prepared
}

/// Runs batches of 1 to 10 rows with other values than those of the warm-up; returns the ways.
fn ways(prepared: &mut Prepared<Fake>) -> Vec<&'static str> {
    for rows in 1..=10 {
        let inputs = batch(rows, 7);
        assert_eq!(prepared.run(&inputs).unwrap(), inputs);
    }
    std::mem::take(&mut prepared.device.ran)
}

#[test]
fn prepared_sizes_run_as_graphs_and_others_through_kept_memory() {
    let mut prepared = warmed_up(Fake::new(), ALL);
    assert!(prepared.has_graphs() && prepared.notes().is_empty());
    let expected = ["graph", "graph", "kept", "graph", "kept", "kept", "kept", "graph"];
    assert_eq!(ways(&mut prepared)[..8], expected);
    assert_eq!(ways(&mut prepared)[8..], ["kept", "kept"]);
}

#[test]
fn without_graphs_all_sizes_run_through_kept_memory_and_without_both_plainly() {
    assert_eq!(ways(&mut warmed_up(Fake::new(), KEPT)), ["kept"; 10]);
    assert_eq!(ways(&mut warmed_up(Fake::new(), Ways::default())), ["plain"; 10]);
}

#[test]
fn a_model_that_was_never_warmed_up_runs_plainly() {
    let mut prepared = Prepared::new(Fake::new(), ALL);
    assert_eq!(ways(&mut prepared), ["plain"; 10]);
}

#[test]
fn a_way_with_other_outputs_is_not_used_and_named() {
    let mut prepared = warmed_up(Fake { kept_is_wrong: true, ..Fake::new() }, ALL);
    assert_eq!(ways(&mut prepared), ["plain"; 10]);
    let [note] = prepared.notes() else { panic!("{:?}", prepared.notes()) };
    assert!(note.ends_with("because the outputs differ from those of a plain run"), "{note}");
    let mut prepared = warmed_up(Fake { graph_is_wrong: true, ..Fake::new() }, ALL);
    assert_eq!(ways(&mut prepared), ["kept"; 10]);
    assert!(prepared.notes()[0].starts_with("batches run without a CUDA graph, because the"));
}

#[test]
fn sizes_without_memory_for_a_graph_run_without_one() {
    let mut prepared = warmed_up(Fake { rows_of_graphs: 2, ..Fake::new() }, ALL);
    assert_eq!(ways(&mut prepared)[..4], ["graph", "graph", "kept", "kept"]);
    let [note] = prepared.notes() else { panic!("{:?}", prepared.notes()) };
    assert!(note.starts_with("batches of further sizes run without a CUDA graph"), "{note}");
    assert!(note.contains("out of memory"), "{note}");
}

#[test]
fn the_device_refuses_what_a_gpu_refuses() {
    let mut prepared = warmed_up(Fake::new(), ALL);
    let moved = &mut Memory { address: 1 };
    let error = prepared.device.run_graph(moved, &batch(1, 1)).unwrap_err();
    assert!(error.to_string().ends_with("the memory of the graph has moved"), "{error}");
    let error = prepared.device.run_graph(&mut prepared.graphs[0].graph, &batch(3, 1)).unwrap_err();
    assert!(error.to_string().ends_with("recorded for another size"), "{error}");
    assert!(prepared.device.graph(&batch(3, 1), &[]).is_err(), "recording after the warm-up");
    let mut other = prepared;
    let run = move || other.run(&batch(1, 1)).unwrap_err().to_string();
    let error = thread::spawn(run).join().unwrap();
    assert!(error.ends_with("a second thread called the device"), "{error}");
}
