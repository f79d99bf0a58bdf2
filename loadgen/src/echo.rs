//! Load on a model that returns its input. Unique inputs reveal an answer to another request.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;

use crate::{
    HttpAnswer, LoadError, Prepared, Workload,
    infer::{Call, Encoding, Input, outputs},
};

/// Bytes that identify a request: the nonce of the run and the number of the request.
const NONCE: usize = 24;

/// Sends inputs that start with a random nonce of the run and the number of the request. The answer
/// must be equal to the input.
pub struct Echo {
    call: Call,
    encoding: Encoding,
    size: usize,
    nonce: u128,
    mark: Option<(Bytes, Chosen)>,
}

/// Selects requests by number.
type Chosen = Box<dyn Fn(u64) -> bool + Send + Sync>;

impl Echo {
    /// Load on `model` with the input `input` of type `UINT8` and shape [rows, `row_size`], at
    /// least 24 bytes in total.
    pub fn new(
        model: &str,
        input: &str,
        rows: u64,
        row_size: u64,
        encoding: Encoding,
    ) -> Result<Self, LoadError> {
        let size = usize::try_from(rows * row_size).unwrap_or(usize::MAX);
        if size < NONCE {
            return Err(LoadError::Plan(format!(
                "an echo of {size} bytes is too short for the nonce of {NONCE} bytes"
            )));
        }
        let shape = vec![rows, row_size];
        let input = Input { name: input.to_owned(), datatype: "UINT8".to_owned(), shape };
        Ok(Self {
            call: Call::new(model, vec![input])?,
            encoding,
            size,
            nonce: rand::random(),
            mark: None,
        })
    }

    /// Puts `mark`, cut to the input's size, after the nonce of requests whose number is `chosen`.
    /// A test model can react to the mark.
    #[must_use]
    pub fn marked(
        self,
        mark: impl Into<Bytes>,
        chosen: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { mark: Some((mark.into(), Box::new(chosen))), ..self }
    }

    /// The nonce at the start of every input of this run, little-endian, before the 64-bit number
    /// of the request.
    pub fn nonce(&self) -> u128 {
        self.nonce
    }

    fn data(&self, index: u64) -> Bytes {
        let mut data = BytesMut::with_capacity(self.size);
        data.put_u128_le(self.nonce);
        data.put_u64_le(index);
        if let Some((mark, chosen)) = &self.mark
            && chosen(index)
        {
            data.put_slice(&mark[..mark.len().min(self.size - NONCE)]);
        }
        data.put_bytes(b'.', self.size - data.len());
        data.freeze()
    }
}

impl Workload for Echo {
    fn request(&self, index: u64) -> Prepared {
        let data = self.data(index);
        match self.encoding {
            Encoding::Binary => self.call.binary(&[&data]),
            Encoding::Grpc => self.call.grpc(&[&data]),
            Encoding::Json => self.call.json([json!(&data[..])]),
        }
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        let outputs = outputs(answer)?;
        let output = outputs.first().ok_or("no output")?;
        let (got, sent) = (output.u8s()?, self.data(index));
        if got == sent {
            return Ok(());
        }
        Err(match got.first_chunk::<NONCE>() {
            Some(chunk) if chunk[..16] == sent[..16] => {
                let number =
                    chunk[16..].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
                format!("got the answer to request {number}, or a damaged one")
            }
            _ => format!("got {} bytes that this run never sent", got.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn answer(data: &[u8]) -> HttpAnswer {
        let output = json!({ "name": "y", "datatype": "UINT8", "shape": [1, 32], "data": data });
        let body = json!({ "model_name": "echo", "outputs": [output] }).to_string();
        HttpAnswer { headers: HeaderMap::new(), body: body.into() }
    }

    #[test]
    fn only_the_input_of_the_request_is_a_right_answer() {
        let echo = Echo::new("echo", "x", 1, 32, Encoding::Json).unwrap();
        let other_run = Echo::new("echo", "x", 1, 32, Encoding::Json).unwrap();
        assert_eq!(echo.check(7, &answer(&echo.data(7))), Ok(()));
        let mixed_up = echo.check(7, &answer(&echo.data(300))).unwrap_err();
        assert!(mixed_up.contains("answer to request 300"), "{mixed_up}");
        let stale = echo.check(7, &answer(&other_run.data(7))).unwrap_err();
        assert!(stale.contains("never sent"), "{stale}");
        assert!(echo.check(7, &answer(&[])).is_err());
    }

    #[test]
    fn an_echo_shorter_than_its_nonce_is_an_error() {
        assert!(Echo::new("echo", "x", 1, 23, Encoding::Binary).is_err());
    }
}
