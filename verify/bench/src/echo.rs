//! The cost of a request without inference: 256 B and 12 KiB through an echo model.

use std::{fs, sync::Arc, time::Duration};

use anyhow::Result;
use batchfleet_loadgen::{
    HttpAnswer, LoadError, Pace, Prepared, Workload,
    infer::{Call, Encoding, Input, outputs},
};
use batchfleet_testkit::FleetPlan;
use bytes::{BufMut, Bytes, BytesMut};
use tempfile::TempDir;

use crate::{
    rig::{BenchLoad, Measurement, Rig, latency_ms},
    table::{goal, heading, line, median},
};

const ROUNDS: usize = 3;
/// Bytes of an answer: ten floats.
const ANSWER: usize = 40;
/// An echo with two inputs. Requests ask for the second output only.
const CONFIG: &str = "backend: \"batchfleet_echo\"\nmax_batch_size: 256\n\
    input [{ name: \"IN\" data_type: TYPE_UINT8 dims: [ -1 ] }]\n\
    input [{ name: \"MARK\" data_type: TYPE_UINT8 dims: [ 40 ] }]\n\
    output [{ name: \"OUT\" data_type: TYPE_UINT8 dims: [ -1 ] }]\n\
    output [{ name: \"MARKED\" data_type: TYPE_UINT8 dims: [ 40 ] }]\n";

/// Prints CPU and latency per request.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let folder = repository()?;
    let serving = Some((folder.path(), "echo"));
    let rig = Rig::start("echo", FleetPlan { serving, ..FleetPlan::default() }).await?;
    let load = |size, users| -> Result<BenchLoad> {
        let workload = Arc::new(Marked::new(size)?);
        Ok(BenchLoad { workload, users, pace: Pace::Closed, lasts })
    };
    heading("echo, binary, 40 B back");
    let mut all: [Vec<Measurement>; 3] = Default::default();
    let cases =
        [("256 B, 1 client", 256, 1), ("256 B, 100", 256, 100), ("12 KiB, 100", 12288, 100)];
    for _ in 0..ROUNDS {
        for (runs, (name, size, users)) in all.iter_mut().zip(cases) {
            let measured = rig.measure(&load(size, users)?).await?;
            line(name, &measured);
            runs.push(measured);
        }
    }
    let [alone, small, large] = &all;
    let of = |runs: &[Measurement], figure: fn(&Measurement) -> f64| {
        median(runs.iter().map(figure).collect())
    };
    println!();
    for (what, runs, most) in [("256 B", small, 45.0), ("12 KiB", large, 70.0)] {
        let cost = of(runs, |run| run.cpu.sum());
        let text = format!("{cost:.1} µs");
        goal(
            &format!("server CPU per request, {what}, median"),
            &text,
            cost <= most,
            &format!("<= {most} µs"),
        );
    }
    let commands = of(alone, |run| run.commands);
    let text = format!("{commands:.1}");
    goal("commands of Redis per request at one client", &text, commands <= 13.0, "<= 13");
    let p50 = |run: &Measurement| latency_ms(&run.report, 0.5);
    let (unloaded, loaded) = (of(alone, p50), of(small, p50));
    goal(
        "added latency at one client, p50",
        &format!("{unloaded:.2} ms"),
        unloaded <= 1.0,
        "<= 1 ms",
    );
    println!("p50 of 100 clients over one client: {:.1}", loaded / unloaded);
    Ok(())
}

/// Writes a model repository with the echo.
pub(crate) fn repository() -> Result<TempDir> {
    let folder = TempDir::new()?;
    fs::create_dir_all(folder.path().join("echo/1"))?;
    fs::write(folder.path().join("echo/config.pbtxt"), CONFIG)?;
    Ok(folder)
}

/// Requests of one size. Each request has a unique mark, which the answer must contain.
pub(crate) struct Marked {
    call: Call,
    encoding: Encoding,
    filling: Bytes,
    run: u64,
}

impl Marked {
    pub(crate) fn new(size: usize) -> Result<Self, LoadError> {
        let filling = Bytes::from(vec![b'.'; size - ANSWER]);
        let input = |name: &str, size: usize| Input {
            name: name.to_owned(),
            datatype: "UINT8".to_owned(),
            shape: vec![1, size as u64],
        };
        let call = Call::new("echo", vec![input("IN", filling.len()), input("MARK", ANSWER)])?;
        let (call, encoding) = (call.wanting(&["MARKED"]), Encoding::Binary);
        Ok(Self { call, encoding, filling, run: rand::random() })
    }

    /// The same requests in another encoding; JSON is sent as binary.
    pub(crate) fn encoded(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }

    fn mark(&self, index: u64) -> Bytes {
        let mut mark = BytesMut::with_capacity(ANSWER);
        mark.put_u64(self.run);
        mark.put_u64(index);
        mark.put_bytes(0, ANSWER - 16);
        mark.freeze()
    }
}

impl Workload for Marked {
    fn request(&self, index: u64) -> Prepared {
        let mark = self.mark(index);
        let data: [&[u8]; 2] = [&self.filling, &mark];
        match self.encoding {
            Encoding::Grpc => self.call.grpc(&data),
            Encoding::Binary | Encoding::Json => self.call.binary(&data),
        }
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        let outputs = outputs(answer)?;
        let output = outputs.first().ok_or("no output")?;
        if output.u8s()? == self.mark(index) {
            Ok(())
        } else {
            Err("the mark of another request".to_owned())
        }
    }
}
