//! The bytes of a [`Job`] in the queue and of a batch of [`Reply`]s on a reply channel.
//!
//! Version 3, little-endian. `varint` is LEB128, so that no count or length can overflow its
//! field; `text` is a varint length and UTF-8; a list is a varint count and its items.
//!
//! ```text
//! job      version u8 · id u128 · gateway u128 · attempt u8 · priority u8 · ttl u32 (ms)
//!          · rows u32 · digest u64 · inputs [tensor] · outputs [text]
//!          and, for workers that trace, trace u128 · span u64
//!          and, for workers that classify, [output text · count varint]; the trace and span of an
//!          untraced job are then 0
//!          and, for workers that fetch, address text · key u128 · lengths [varint]; the classes may
//!          then be none, and if there are lengths, the data of all inputs is left out
//! replies  version u8 · [reply]
//! reply    id u128 · attempt u8 · digest u64 · queue, batch_wait, compute_input, compute_infer,
//!          compute_output varint (ns) · batch_rows, padded_rows varint · release u8, 0 for none
//!          · 0 u8 · outputs [tensor]   or   failure u8 · message text
//!          or, for gateways that have taken the data of the outputs, 255 u8 · outputs [tensor]
//!          without data · lengths [varint] · digest u64
//! tensor   name text · datatype u8 · shape [varint] · data: varint length, bytes as received
//! ```
//!
//! Decoding slices tensor data out of the received buffer; nothing is copied or re-encoded.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    ClassCount, Datatype, Failure, GatewayId, Job, Offer, OfferKey, Priority, Pushed, Release,
    Reply, ReplyError, RequestId, Tensor, Timing, TraceContext,
};

/// The version that this program writes, and the only version that it reads.
pub const VERSION: u8 = 3;

type Outcome = Result<Vec<Tensor>, ReplyError>;

/// Marks a reply with outputs. Any other value is the code of a [`Failure`].
const OUTPUTS: u8 = 0;
/// Marks a reply whose outputs the gateway has taken. Older gateways take none.
const PUSHED: u8 = u8::MAX;
/// The code in place of a [`Release`], for a job that never ran.
const NEVER_RAN: u8 = 0;

/// Why bytes cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes have another version of the wire format.
    #[error("wire version {0} is not known here, only version {VERSION} is")]
    Version(u8),
    /// The bytes end before a value is complete.
    #[error("the bytes end too early")]
    Truncated,
    /// Bytes follow the end of the last value.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A number does not fit its field.
    #[error("a number is too large")]
    TooLarge,
    /// A name or message is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText,
    /// No datatype has this code.
    #[error("unknown datatype code {0}")]
    Datatype(u8),
    /// No class has this code.
    #[error("unknown priority code {0}")]
    Priority(u8),
    /// No reason for the release of a batch has this code.
    #[error("unknown release code {0}")]
    Release(u8),
    /// The id of a trace or span is 0.
    #[error("the id of a trace or span is 0")]
    ZeroId,
    /// No failure has this code.
    #[error("unknown failure code {0}")]
    Failure(u8),
    /// The inputs are offered at no valid address, or lengths do not match inputs or outputs.
    #[error("the offer of the inputs, or the lengths of the outputs, are invalid")]
    Offer,
}

/// Encodes a job.
pub fn encode_job(job: &Job) -> Bytes {
    let mut out = BytesMut::with_capacity(job_size_hint(job));
    write_job(&mut out, job);
    out.freeze()
}

impl Job {
    /// Approximate size of the job in the queue, in bytes.
    pub fn size(&self) -> usize {
        job_size_hint(self)
    }
}

/// Upper bound of the encoded size of a job, in bytes, used to allocate memory once.
fn job_size_hint(job: &Job) -> usize {
    let outputs = job.outputs.iter().map(|output| output.len() + 4).sum::<usize>();
    let classes = job.classes.iter().map(|class| class.output.len() + 9).sum::<usize>();
    let offer = job.offer.as_ref().map_or(0, |offer| 80 + 10 * offer.lengths.len());
    let left_out = job.inputs.iter().map(|input| input.data.len()).sum::<usize>();
    let left_out = if has_data(job) { 0 } else { left_out };
    88 + tensors_size_hint(&job.inputs) - left_out + outputs + classes + offer
}

/// Whether the data of the inputs travels with the job.
fn has_data(job: &Job) -> bool {
    !job.offer.as_deref().is_some_and(Offer::has_inputs)
}

/// Appends an encoded job.
pub(crate) fn write_job(out: &mut impl BufMut, job: &Job) {
    out.put_u8(VERSION);
    out.put_u128_le(job.id.0);
    out.put_u128_le(job.gateway.0);
    out.put_u8(job.attempt);
    out.put_u8(job.priority.code());
    out.put_u32_le(u32::try_from(job.ttl.as_millis()).unwrap_or(u32::MAX));
    out.put_u32_le(job.rows);
    out.put_u64_le(job.digest);
    put_tensors(out, &job.inputs, if has_data(job) { Data::Included } else { Data::LeftOut });
    put_length(out, job.outputs.len());
    for output in &job.outputs {
        put_text(out, output);
    }
    if job.trace.is_none() && job.classes.is_empty() && job.offer.is_none() {
        return;
    }
    let ids = |TraceContext { trace, span }| (trace.get(), span.get());
    let (trace, span) = job.trace.map_or((0, 0), ids);
    out.put_u128_le(trace);
    out.put_u64_le(span);
    if job.classes.is_empty() && job.offer.is_none() {
        return;
    }
    put_length(out, job.classes.len());
    for ClassCount { output, count } in &job.classes {
        put_text(out, output);
        put_varint(out, (*count).into());
    }
    if let Some(Offer { address, key, lengths }) = job.offer.as_deref() {
        put_text(out, &address.to_string());
        out.put_u128_le(key.0);
        put_varints(out, lengths);
    }
}

/// Decodes a job. Its tensors share the memory of `bytes`. Inputs that are [offered](Offer) have no
/// data.
pub fn decode_job(bytes: Bytes) -> Result<Job, WireError> {
    let mut input = WireReader::new(bytes)?;
    let job = Job {
        id: RequestId(input.u128()?),
        gateway: GatewayId(input.u128()?),
        attempt: input.u8()?,
        priority: input.priority()?,
        ttl: Duration::from_millis(input.u32()?.into()),
        rows: input.u32()?,
        digest: input.u64()?,
        inputs: input.list(WireReader::tensor)?,
        outputs: input.list(WireReader::text)?,
        trace: input.trace()?,
        classes: input.classes()?,
        offer: input.offer()?.map(Box::new),
    };
    input.end()?;
    let lengths = job.offer.as_ref().map_or(0, |offer| offer.lengths.len());
    let is_valid = has_data(&job)
        || lengths == job.inputs.len() && job.inputs.iter().all(|input| input.data.is_empty());
    if !is_valid {
        return Err(WireError::Offer);
    }
    Ok(job)
}

/// Encodes the replies of one batch to one gateway.
pub fn encode_replies<'a, R>(replies: R) -> Bytes
where
    R: IntoIterator<Item = &'a Reply, IntoIter: ExactSizeIterator + Clone>,
{
    let replies = replies.into_iter();
    let mut out = BytesMut::with_capacity(replies_size_hint(replies.clone()));
    write_replies(&mut out, replies);
    out.freeze()
}

/// Upper bound of the encoded size of replies, in bytes, used to allocate memory once.
pub(crate) fn replies_size_hint<'a>(replies: impl Iterator<Item = &'a Reply>) -> usize {
    let size = |reply: &Reply| match &reply.outcome {
        Ok(outputs) => match &reply.pushed {
            None => 80 + tensors_size_hint(outputs),
            Some(pushed) => {
                let data = outputs.iter().map(|output| output.data.len()).sum::<usize>();
                100 + tensors_size_hint(outputs) - data + 10 * pushed.lengths.len()
            }
        },
        Err(error) => 80 + error.message.len(),
    };
    8 + replies.map(size).sum::<usize>()
}

/// Appends encoded replies.
pub(crate) fn write_replies<'a>(
    out: &mut impl BufMut,
    replies: impl ExactSizeIterator<Item = &'a Reply>,
) {
    out.put_u8(VERSION);
    put_length(out, replies.len());
    for reply in replies {
        out.put_u128_le(reply.id.0);
        out.put_u8(reply.attempt);
        out.put_u64_le(reply.digest);
        put_timing(out, &reply.timing);
        match (&reply.outcome, &reply.pushed) {
            (Ok(outputs), None) => {
                out.put_u8(OUTPUTS);
                put_tensors(out, outputs, Data::Included);
            }
            (Ok(outputs), Some(Pushed { lengths, digest })) => {
                out.put_u8(PUSHED);
                put_tensors(out, outputs, Data::LeftOut);
                put_varints(out, lengths);
                out.put_u64_le(*digest);
            }
            (Err(error), _) => {
                out.put_u8(error.failure.code());
                put_text(out, &error.message);
            }
        }
    }
}

/// Decodes replies. Their tensors share the memory of `bytes`.
pub fn decode_replies(bytes: Bytes) -> Result<Vec<Reply>, WireError> {
    let mut input = WireReader::new(bytes)?;
    let replies = input.list(|input| {
        let (id, attempt, digest) = (RequestId(input.u128()?), input.u8()?, input.u64()?);
        let timing = input.timing()?;
        let (outcome, pushed) = input.outcome()?;
        Ok(Reply { id, attempt, digest, timing, outcome, pushed })
    })?;
    input.end()?;
    Ok(replies)
}

/// Computes the digest of inputs: a hash of the name, datatype, shape and data of each, in order.
///
/// Each part is preceded by its length, so that moving a byte from one part to the next changes the
/// digest.
pub fn digest(inputs: &[Tensor]) -> u64 {
    let mut hasher = Xxh3::new();
    let frame = |hasher: &mut Xxh3, value: u64| hasher.update(&value.to_le_bytes());
    frame(&mut hasher, inputs.len() as u64);
    for input in inputs {
        frame(&mut hasher, input.name.len() as u64);
        hasher.update(input.name.as_bytes());
        hasher.update(&[input.datatype.code()]);
        frame(&mut hasher, input.shape.len() as u64);
        input.shape.iter().for_each(|&dimension| frame(&mut hasher, dimension));
        frame(&mut hasher, input.data.len() as u64);
        hasher.update(&input.data);
    }
    hasher.digest()
}

fn tensors_size_hint(tensors: &[Tensor]) -> usize {
    let size =
        |tensor: &Tensor| tensor.name.len() + tensor.data.len() + 10 * tensor.shape.len() + 16;
    8 + tensors.iter().map(size).sum::<usize>()
}

/// Whether the data of tensors is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    Included,
    LeftOut,
}

fn put_tensors(out: &mut impl BufMut, tensors: &[Tensor], data: Data) {
    put_length(out, tensors.len());
    for tensor in tensors {
        put_text(out, &tensor.name);
        out.put_u8(tensor.datatype.code());
        put_varints(out, &tensor.shape);
        let data = if data == Data::Included { &tensor.data[..] } else { &[] };
        put_length(out, data.len());
        out.put_slice(data);
    }
}

fn put_varints(out: &mut impl BufMut, values: &[u64]) {
    put_length(out, values.len());
    for &value in values {
        put_varint(out, value);
    }
}

fn put_timing(out: &mut impl BufMut, timing: &Timing) {
    let Timing { queue, batch_wait, compute_input, compute_infer, compute_output, .. } = timing;
    for part in [queue, batch_wait, compute_input, compute_infer, compute_output] {
        put_varint(out, u64::try_from(part.as_nanos()).unwrap_or(u64::MAX));
    }
    put_varint(out, timing.batch_rows.into());
    put_varint(out, timing.padded_rows.into());
    out.put_u8(timing.release.map_or(NEVER_RAN, Release::code));
}

fn put_text(out: &mut impl BufMut, text: &str) {
    put_length(out, text.len());
    out.put_slice(text.as_bytes());
}

fn put_length(out: &mut impl BufMut, length: usize) {
    put_varint(out, length as u64);
}

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

/// Reads values from the front of untrusted bytes.
struct WireReader(Bytes);

impl WireReader {
    /// Reads the version first, because bytes of an unknown version cannot be decoded.
    fn new(bytes: Bytes) -> Result<Self, WireError> {
        let mut input = Self(bytes);
        match input.u8()? {
            VERSION => Ok(input),
            other => Err(WireError::Version(other)),
        }
    }

    fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.0.try_get_u8().map_err(|_| WireError::Truncated)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.0.try_get_u32_le().map_err(|_| WireError::Truncated)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.0.try_get_u64_le().map_err(|_| WireError::Truncated)
    }

    fn u128(&mut self) -> Result<u128, WireError> {
        self.0.try_get_u128_le().map_err(|_| WireError::Truncated)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(WireError::TooLarge);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::TooLarge)
    }

    fn varint_u32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.varint()?).map_err(|_| WireError::TooLarge)
    }

    /// Reads a length or count. Fails if fewer bytes are left, so that invalid bytes cannot cause a
    /// large allocation.
    fn length(&mut self) -> Result<usize, WireError> {
        match usize::try_from(self.varint()?) {
            Ok(length) if length <= self.0.len() => Ok(length),
            _ => Err(WireError::Truncated),
        }
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.length()?;
        // Items are larger in memory than on the wire, so only a few are allocated in advance.
        let mut items = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn text(&mut self) -> Result<String, WireError> {
        let length = self.length()?;
        let text = str::from_utf8(&self.0[..length]).map_err(|_| WireError::NotText)?.to_owned();
        self.0.advance(length);
        Ok(text)
    }

    fn tensor(&mut self) -> Result<Tensor, WireError> {
        let name = self.text()?;
        let code = self.u8()?;
        let datatype = Datatype::from_code(code).ok_or(WireError::Datatype(code))?;
        let shape = self.list(Self::varint)?;
        let length = self.length()?;
        Ok(Tensor { name, datatype, shape, data: self.0.split_to(length) })
    }

    fn priority(&mut self) -> Result<Priority, WireError> {
        let code = self.u8()?;
        Priority::from_code(code).ok_or(WireError::Priority(code))
    }

    /// Reads the trace after a job, if the job is traced. Classes may follow; the ids of an untraced
    /// job are then 0.
    fn trace(&mut self) -> Result<Option<TraceContext>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        match (self.u128()?, self.u64()?) {
            (0, 0) if !self.0.is_empty() => Ok(None),
            (trace, span) => TraceContext::new(trace, span).ok_or(WireError::ZeroId).map(Some),
        }
    }

    /// Reads the classes at the end of a job, if the caller wants any.
    fn classes(&mut self) -> Result<Vec<ClassCount>, WireError> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        self.list(|input| Ok(ClassCount { output: input.text()?, count: input.varint_u32()? }))
    }

    /// Reads the offer at the end of a job, if the inputs are to be fetched.
    fn offer(&mut self) -> Result<Option<Offer>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let address: SocketAddr = self.text()?.parse().map_err(|_| WireError::Offer)?;
        let key = OfferKey(self.u128()?);
        Ok(Some(Offer { address, key, lengths: self.list(Self::varint)? }))
    }

    fn duration(&mut self) -> Result<Duration, WireError> {
        self.varint().map(Duration::from_nanos)
    }

    fn timing(&mut self) -> Result<Timing, WireError> {
        Ok(Timing {
            queue: self.duration()?,
            batch_wait: self.duration()?,
            compute_input: self.duration()?,
            compute_infer: self.duration()?,
            compute_output: self.duration()?,
            batch_rows: self.varint_u32()?,
            padded_rows: self.varint_u32()?,
            release: self.release()?,
        })
    }

    fn release(&mut self) -> Result<Option<Release>, WireError> {
        match self.u8()? {
            NEVER_RAN => Ok(None),
            code => Release::from_code(code).map(Some).ok_or(WireError::Release(code)),
        }
    }

    fn outcome(&mut self) -> Result<(Outcome, Option<Pushed>), WireError> {
        match self.u8()? {
            OUTPUTS => Ok((Ok(self.list(Self::tensor)?), None)),
            PUSHED => {
                let outputs = self.list(Self::tensor)?;
                let pushed = Pushed { lengths: self.list(Self::varint)?, digest: self.u64()? };
                let has_data = outputs.iter().any(|output| !output.data.is_empty());
                if has_data || outputs.len() != pushed.lengths.len() {
                    return Err(WireError::Offer);
                }
                Ok((Ok(outputs), Some(pushed)))
            }
            code => {
                let failure = Failure::from_code(code).ok_or(WireError::Failure(code))?;
                Ok((Err(ReplyError { failure, message: self.text()? }), None))
            }
        }
    }
}
