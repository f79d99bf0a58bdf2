//! Requests joined into a batch's tensors, and a batch's outputs split into requests again.
//!
//! Bytes are copied once on the way in, and only if there is more than one request; outputs are
//! shared slices of the batch's own.

use batchfleet_broker::{Datatype, Tensor};
use bytes::Bytes;

use crate::engine::EngineError;

/// One input of a batch, still in parts.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// The input's name.
    pub(crate) name: String,
    /// Its element type.
    pub(crate) datatype: Datatype,
    /// Its shape once joined.
    pub(crate) shape: Vec<u64>,
    /// Each request's share, in order.
    pub(crate) parts: Vec<Bytes>,
}

/// So many zeros, or empty strings.
pub(crate) fn zeros(datatype: Datatype, elements: u64) -> Bytes {
    // An empty string is its length alone: four zero bytes.
    let bytes = elements.saturating_mul(datatype.size().unwrap_or(4) as u64);
    Bytes::from(vec![0; usize::try_from(bytes).unwrap_or_default()])
}

/// Joins the parts of every column.
pub(crate) fn join(columns: Vec<Column>) -> Vec<Tensor> {
    columns
        .into_iter()
        .map(|Column { name, datatype, shape, parts }| {
            let data = match <[Bytes; 1]>::try_from(parts) {
                Ok([only]) => only,
                Err(parts) => parts.concat().into(),
            };
            Tensor { name, datatype, shape, data }
        })
        .collect()
}

/// Splits outputs along their first dimension: `rows` of each request, in order.
pub(crate) fn split(outputs: Vec<Tensor>, rows: &[u32]) -> Result<Vec<Vec<Tensor>>, EngineError> {
    let total: u32 = rows.iter().sum();
    let mut requests: Vec<Vec<Tensor>> =
        rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        if output.shape.first() != Some(&u64::from(total)) {
            let Tensor { name, shape, .. } = output;
            return Err(EngineError::Rows { name, shape, rows: total });
        }
        if let [request] = requests.as_mut_slice() {
            request.push(output);
            continue;
        }
        let per_row: u64 = output.shape[1..].iter().product();
        let mut rest = output.data.clone();
        for (request, &rows) in requests.iter_mut().zip(rows) {
            let length = bytes_of(output.datatype, &rest, u64::from(rows) * per_row);
            let data = rest.split_to(length.min(rest.len()));
            let mut shape = output.shape.clone();
            shape[0] = u64::from(rows);
            let (name, datatype) = (output.name.clone(), output.datatype);
            request.push(Tensor { name, datatype, shape, data });
        }
    }
    Ok(requests)
}

/// How many bytes the first `elements` of `data` take.
fn bytes_of(datatype: Datatype, data: &[u8], elements: u64) -> usize {
    let elements = usize::try_from(elements).unwrap_or(usize::MAX);
    match datatype.size() {
        Some(size) => elements.saturating_mul(size),
        None => strings(data).take(elements).flatten().map(|string| 4 + string.len()).sum(),
    }
}

/// The elements of a [`Datatype::Bytes`] tensor; an error ends it where a length overruns the data.
pub(crate) fn strings(mut data: &[u8]) -> impl Iterator<Item = Result<&[u8], Overrun>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let Some((string, rest)) = data
            .split_first_chunk()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize))
        else {
            data = &[];
            return Some(Err(Overrun));
        };
        data = rest;
        Some(Ok(string))
    })
}

/// A string's length goes beyond the tensor's data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// The bytes of a [`Datatype::Bytes`] tensor of these elements; none is longer than 4 GiB.
pub(crate) fn encode_strings<S: AsRef<[u8]>>(strings: &[S]) -> Bytes {
    let mut data = Vec::with_capacity(strings.iter().map(|s| 4 + s.as_ref().len()).sum());
    for string in strings {
        let string = string.as_ref();
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(&string[..length as usize]);
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(datatype: Datatype, shape: &[u64], data: Bytes) -> Tensor {
        Tensor { name: "X".to_owned(), datatype, shape: shape.to_vec(), data }
    }

    /// Requests of one shape but any number of rows: each an id repeated over its rows.
    fn requests() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..5),
            1..12,
        )
    }

    proptest! {
        #[test]
        fn every_row_of_numbers_comes_back_to_its_owner(
            requests in prop::collection::vec(prop::collection::vec(any::<[u8; 12]>(), 1..5), 1..12)
        ) {
            let rows: Vec<u32> = requests.iter().map(|r| u32::try_from(r.len()).unwrap()).collect();
            let parts: Vec<Bytes> = requests.iter().map(|r| Bytes::from(r.concat())).collect();
            let total = u64::from(rows.iter().sum::<u32>());
            let column = Column {
                name: "X".to_owned(),
                datatype: Datatype::Fp32,
                shape: vec![total, 3],
                parts: parts.clone(),
            };
            let split = split(join(vec![column]), &rows).unwrap();
            for ((request, rows), part) in split.iter().zip(&rows).zip(parts) {
                let expected = tensor(Datatype::Fp32, &[u64::from(*rows), 3], part);
                prop_assert_eq!(request, &vec![expected]);
            }
        }

        #[test]
        fn every_string_comes_back_to_its_owner(requests in requests()) {
            let rows: Vec<u32> = requests.iter().map(|r| u32::try_from(r.len()).unwrap()).collect();
            let parts: Vec<Bytes> = requests.iter().map(|r| encode_strings(r)).collect();
            let total = u64::from(rows.iter().sum::<u32>());
            let column = Column {
                name: "X".to_owned(),
                datatype: Datatype::Bytes,
                shape: vec![total],
                parts: parts.clone(),
            };
            let split = split(join(vec![column]), &rows).unwrap();
            for ((request, rows), part) in split.iter().zip(&rows).zip(parts) {
                let expected = tensor(Datatype::Bytes, &[u64::from(*rows)], part);
                prop_assert_eq!(request, &vec![expected]);
            }
        }

        #[test]
        fn no_bytes_make_reading_strings_panic(data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(strings(&data).count() <= data.len());
        }
    }

    #[test]
    fn an_output_without_the_rows_of_its_batch_is_an_error() {
        for shape in [vec![], vec![1, 4], vec![4]] {
            let output = tensor(Datatype::Uint8, &shape, Bytes::from_static(&[0; 4]));
            assert!(matches!(split(vec![output], &[1, 2]), Err(EngineError::Rows { rows: 3, .. })));
        }
    }

    #[test]
    fn one_request_is_not_copied() {
        let part = Bytes::from_static(b"abcd");
        let column = Column {
            name: "X".to_owned(),
            datatype: Datatype::Uint8,
            shape: vec![1, 4],
            parts: vec![part.clone()],
        };
        assert_eq!(join(vec![column])[0].data.as_ptr(), part.as_ptr());
    }
}
