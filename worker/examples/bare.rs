//! Measures the cost of a model alone: runs the model in a loop and prints the CPU microseconds per
//! row, with which the benchmark compares the fleet.
//!
//! Usage: bare LIBRARY MODEL ROWS SECONDS, where LIBRARY is the library file of ONNX Runtime.
#![expect(clippy::print_stdout, reason = "the program prints a number")]

mod common;

use std::time::Duration;

use anyhow::{Context, Result};
use ort::value::Tensor;
use tokio::time::Instant;

use self::common::{cpu, open};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, model, rows, seconds] = &arguments[..] else {
        anyhow::bail!("usage: bare LIBRARY MODEL ROWS SECONDS");
    };
    let (rows, lasts) = (rows.parse()?, Duration::from_secs(seconds.parse()?));
    let mut session = open(library, model)?;
    let input = session.inputs().first().context("the model has no inputs")?;
    let shape = input.dtype().tensor_shape().context("the first input is not a tensor")?;
    let name = input.name().to_owned();
    let columns: usize =
        shape.iter().skip(1).map(|&size| usize::try_from(size).unwrap_or(1)).product();
    let mut run = || -> Result<()> {
        let input = Tensor::from_array(([rows, columns], vec![0.5_f32; rows * columns]))?;
        session.run(ort::inputs![name.as_str() => input])?;
        Ok(())
    };
    run()?;
    let (mut runs, began, before) = (0, Instant::now(), cpu()?);
    while began.elapsed() < lasts {
        run()?;
        runs += rows;
    }
    let microseconds = cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let per_row = microseconds / runs as f64;
    println!("{per_row:.2}");
    Ok(())
}
