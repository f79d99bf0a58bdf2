//! The path of a request from the model name to the outputs, independent of the protocol.
//!
//! A front (such as `http`) identifies the client, calls [`Core::begin`], reads the request, calls
//! [`Core::infer`] and writes the answer. The request's [`Record`] is updated at each step.

use std::{sync::Arc, time::Duration};

use batchfleet_broker::{ClassCount, Priority, Reply, RequestId, Tensor, Timing};
use batchfleet_oip::{
    Problem,
    infer::{InferRequest, Outline, WantedOutput},
};

use crate::{
    books::Record,
    catalog::Catalog,
    clients::{Client, ClientSeat, Clients},
    dispatch::{Dispatcher, JobRequest},
    error::{InferError, InferResult},
    mailbox::Mailbox,
    metrics::{GatewayMetrics, Protocol},
    model::Model,
    model_control::{Models, Passage},
    outstanding::RequestWork,
    refusal_pace::RefusalPace,
    trace::Trace,
    usage::Usage,
};

/// State shared by all fronts of a gateway.
pub(crate) struct Core {
    pub(crate) catalog: Catalog,
    /// Loads and unloads models, if clients may.
    pub(crate) models: Models,
    pub(crate) clients: Arc<Clients>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) usage: Usage,
    /// The default deadline: time from the arrival of a request to its answer.
    pub(crate) deadline: Duration,
    /// The longest deadline that a request may set.
    pub(crate) max_deadline: Duration,
    /// Spreads the refusals of large requests over time.
    pub(crate) pace: RefusalPace,
}

/// A request for a known model, from a client within its share. The body has not been read.
pub(crate) struct Asked {
    pub(crate) model: Arc<Model>,
    client: Client,
    /// Counts the request as in flight for its client.
    _seat: Option<ClientSeat>,
    /// Keeps the model from being replaced.
    _passage: Option<Passage>,
}

/// A request that a front has read.
pub(crate) struct ParsedRequest {
    pub(crate) request: InferRequest,
    /// The [`digest`](batchfleet_broker::wire::digest) of the inputs.
    pub(crate) digest: u64,
    /// The size of the body, inflated.
    pub(crate) bytes: usize,
}

/// The outputs of a request, and the form in which to send them.
pub(crate) struct Prediction {
    pub(crate) outputs: Vec<Tensor>,
    /// Size and durations of the batch that computed the outputs.
    pub(crate) timing: Timing,
    /// The client's id for the request, echoed in the response.
    pub(crate) id: Option<String>,
    pub(crate) wanted: Vec<WantedOutput>,
}

impl Core {
    /// Begins the record of a request that arrives now.
    pub(crate) fn arrive(&self, trace: Trace, protocol: Protocol) -> Record<'_> {
        self.metrics.arrived(protocol);
        Record::arrive(&self.metrics, trace)
    }

    /// Finds the model of a request, and counts the request as in flight for its client. Waits while the
    /// model is replaced.
    ///
    /// # Errors
    ///
    /// The model is unknown, the client exceeds its share, or no worker serves the model. Without a
    /// worker a request is not even parsed: the inputs may have changed since the last worker.
    pub(crate) async fn begin(
        &self,
        record: &mut Record<'_>,
        client: Client,
        model: &str,
        version: Option<&str>,
    ) -> Result<Asked, InferError> {
        let passage = self.models.enter(model).await;
        let model = self.catalog.find(model, version, |name| client.may_use(name))?;
        record.offered(&model.books, version.is_some());
        let seat = self.clients.admit(&client, record.arrived())?;
        if !model.is_available() {
            return Err(InferError::NoWorkers(model.spec.queue.model.clone()));
        }
        Ok(Asked { model, client, _seat: seat, _passage: passage })
    }

    /// Refuses a request whose tensors have not arrived, if it would not be admitted now.
    ///
    /// # Errors
    ///
    /// As [`infer`](Self::infer).
    pub(crate) fn foresee(
        &self,
        record: &mut Record<'_>,
        asked: &Asked,
        outline: &Outline,
    ) -> Result<(), InferError> {
        let Outline { inputs, rows, timeout, priority } = outline;
        let priority = asked.client.class(*priority);
        let units = asked.model.expected_units(*rows, inputs);
        let deadline = record.arrived() + self.time(asked, priority, *timeout);
        let work = RequestWork { priority, rows: *rows, units };
        let Err(error) = self.dispatcher.would_admit(&asked.model, work, deadline) else {
            return Ok(());
        };
        record.read(*rows);
        asked.model.units(*rows, inputs);
        Err(error)
    }

    /// Waits for the turn of a refusal, if the request of `bytes` bytes is refused because of load.
    pub(crate) async fn turn_to_refuse(&self, error: &InferError, bytes: usize) {
        if error.is_overload() {
            self.pace.wait(bytes).await;
        }
    }

    /// The time from the arrival of a request to its deadline.
    fn time(&self, asked: &Asked, priority: Priority, timeout: Option<Duration>) -> Duration {
        asked.model.limits(priority).time(timeout, self.deadline, self.max_deadline)
    }

    /// Submits a parsed request to the queue of its model and waits for the outputs. Dropping the
    /// future cancels the request.
    ///
    /// # Errors
    ///
    /// The request was refused, or ended without outputs.
    pub(crate) async fn infer(
        &self,
        record: &mut Record<'_>,
        asked: &Asked,
        parsed: ParsedRequest,
        mailbox: &Mailbox,
    ) -> Result<Prediction, InferError> {
        let ParsedRequest { request, digest, bytes } = parsed;
        record.read(request.rows);
        let priority = asked.client.class(request.priority);
        let job = JobRequest {
            id: RequestId::random(),
            outputs: output_names(&request.outputs, &asked.model),
            classes: class_counts(&request.outputs, &asked.model)?,
            inputs: request.inputs,
            digest,
            rows: request.rows,
            priority,
            trace: record.trace(),
            deadline: record.arrived() + self.time(asked, priority, request.timeout),
        };
        let result = put(&self.dispatcher, record, &asked.model, job, mailbox).await;
        if let Err(error) = &result {
            self.turn_to_refuse(error, bytes).await;
        }
        let Reply { outcome, timing, .. } = result?;
        let outputs = outcome.map_err(InferError::Worker)?;
        Ok(Prediction { outputs, timing, id: request.id, wanted: request.outputs })
    }
}

/// Admits a request, waits for its result, and records both.
pub(crate) async fn put(
    dispatcher: &Dispatcher,
    record: &mut Record<'_>,
    model: &Arc<Model>,
    request: JobRequest,
    mailbox: &Mailbox,
) -> InferResult {
    let admitted = dispatcher.admit(model, &request)?;
    record.accepted(request.id, admitted);
    let result = dispatcher.infer(model, request, mailbox).await;
    record.ended(&result);
    result
}

/// The classes that the caller wants of outputs.
///
/// # Errors
///
/// A worker of the model runs an older program, which cannot read a job with classes.
fn class_counts(wanted: &[WantedOutput], model: &Model) -> Result<Vec<ClassCount>, Problem> {
    let classes: Vec<_> = wanted
        .iter()
        .filter(|output| output.classes > 0)
        .map(|output| ClassCount { output: output.name.clone(), count: output.classes })
        .collect();
    if classes.is_empty() || model.classifies() {
        return Ok(classes);
    }
    Err(Problem::unsupported(
        "classification: a worker of this model runs an older version of Batchfleet that does not \
         support it; it is supported once every worker runs this version",
    ))
}

/// The names of the wanted outputs for the job; empty if all outputs are wanted.
fn output_names(wanted: &[WantedOutput], model: &Model) -> Vec<String> {
    if wanted.len() == model.spec.outputs.len() {
        return Vec::new();
    }
    wanted.iter().map(|output| output.name.clone()).collect()
}
