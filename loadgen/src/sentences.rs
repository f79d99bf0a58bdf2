//! Requests to text encoders: the token ids of sentences.

use std::{fs, path::Path};

use crate::{
    LoadError, Prepared, Sampled,
    infer::{Call, Input},
};

/// Reads a file written by `models/text.py`: the token ids of one sentence per line.
///
/// # Errors
///
/// The file cannot be read, or has a line without ids.
pub fn read(file: &Path) -> Result<Vec<Vec<i64>>, LoadError> {
    let wrong = |reason: String| LoadError::Data { file: file.display().to_string(), reason };
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let ids = |line: &str| line.split(',').map(|id| id.parse().ok()).collect();
    let sentences: Option<Vec<Vec<i64>>> = text.lines().map(ids).collect();
    sentences
        .filter(|sentences| !sentences.is_empty())
        .ok_or_else(|| wrong("expected the token ids of a sentence per line".to_owned()))
}

/// Makes a load with one of these sentences in each request, for an encoder with the inputs `input_ids`
/// and `attention_mask`. Only the outputs `wanted` are requested.
///
/// # Errors
///
/// The name of the model does not fit into a URL.
pub fn load(model: &str, wanted: &[&str], sentences: &[Vec<i64>]) -> Result<Sampled, LoadError> {
    let requests = sentences.iter().map(|sentence| request(model, wanted, sentence));
    Ok(Sampled::of(requests.collect::<Result<_, LoadError>>()?))
}

/// The request of one sentence, as for [`load`].
///
/// # Errors
///
/// The name of the model does not fit into a URL.
pub fn request(model: &str, wanted: &[&str], sentence: &[i64]) -> Result<Prepared, LoadError> {
    request_of(model, wanted, sentence, 1)
}

/// The request of `rows` times the same sentence, as for [`load`].
///
/// # Errors
///
/// The name of the model does not fit into a URL.
pub fn request_of(
    model: &str,
    wanted: &[&str],
    sentence: &[i64],
    rows: usize,
) -> Result<Prepared, LoadError> {
    let input = |name: &str| Input {
        name: name.to_owned(),
        datatype: "INT64".to_owned(),
        shape: vec![rows as u64, sentence.len() as u64],
    };
    let call = Call::new(model, vec![input("input_ids"), input("attention_mask")])?;
    let (ids, mask) = (sentence.repeat(rows), vec![1; sentence.len() * rows]);
    Ok(call.wanting(wanted).binary(&[&bytes(&ids), &bytes(&mask)]))
}

fn bytes(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::*;

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_file_has_a_sentence_per_line() {
        let sentences = read(file("101,7,102\n101,8,9,102\n").path()).unwrap();
        assert_eq!(sentences, [vec![101, 7, 102], vec![101, 8, 9, 102]]);
        assert!(load("text", &["embedding"], &sentences).is_ok());
        for wrong in ["", "101,x\n", "101\n\n102\n"] {
            assert!(read(file(wrong).path()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_request_has_the_ids_and_a_mask_of_ones() {
        let request = request("text", &["embedding"], &[101, 102]).unwrap();
        let numbers = bytes(&[101, 102, 1, 1]);
        assert!(request.body.ends_with(&numbers), "{:?}", request.body);
        let request = request_of("text", &["embedding"], &[101, 102], 2).unwrap();
        let numbers = bytes(&[101, 102, 101, 102, 1, 1, 1, 1]);
        assert!(request.body.ends_with(&numbers), "{:?}", request.body);
    }
}
