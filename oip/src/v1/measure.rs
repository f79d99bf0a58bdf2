//! Finds the shape of nested arrays.

use crate::{json::Reader, problem::Problem, shape::check_rank};

/// The shape of the next value: the lengths of its nested arrays, from the outside to the inside.
///
/// # Errors
///
/// Arrays of the same depth have different lengths, or elements have different depths.
pub(super) fn measure(reader: &mut Reader<'_>) -> Result<Vec<u64>, Problem> {
    let mut found = Found::default();
    found.value(reader, 0)?;
    Ok(found.lengths.into_iter().map(|length| length.unwrap_or(0)).collect())
}

#[derive(Default)]
struct Found {
    /// The lengths of arrays by depth, once an array of this depth has ended.
    lengths: Vec<Option<u64>>,
    /// The depth of the elements, once there is one.
    elements: Option<usize>,
}

impl Found {
    fn value(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), Problem> {
        if !reader.at_array() {
            reader.skip()?;
            let depths_agree = *self.elements.get_or_insert(depth) == depth;
            // An array at this depth, which may be empty, counts in `lengths`.
            return if depths_agree && self.lengths.len() == depth {
                Ok(())
            } else {
                Err(ragged())
            };
        }
        if self.elements.is_some_and(|elements| elements <= depth) {
            return Err(ragged());
        }
        if self.lengths.len() == depth {
            self.lengths.push(None);
            check_rank(&vec![0; self.lengths.len()])?;
        }
        let mut length = 0;
        reader.array(|reader| {
            length += 1;
            self.value(reader, depth + 1)
        })?;
        if *self.lengths[depth].get_or_insert(length) == length { Ok(()) } else { Err(ragged()) }
    }
}

fn ragged() -> Problem {
    Problem::bad("bad_shape", "the nested arrays differ in length or depth")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Vec<u64>> {
        measure(&mut Reader::new(text.as_bytes()).unwrap()).ok()
    }

    #[test]
    fn regular_arrays_have_a_shape_and_others_have_none() {
        for (text, shape) in [
            ("7", vec![]),
            ("[]", vec![0]),
            ("[1,2]", vec![2]),
            (r#"["[[", "]"]"#, vec![2]),
            ("[[1],[2],[3]]", vec![3, 1]),
            ("[[[1,2]],[[3,4]]]", vec![2, 1, 2]),
            ("[[],[]]", vec![2, 0]),
        ] {
            assert_eq!(of(text), Some(shape), "{text}");
        }
        for text in ["[[1],[2,3]]", "[1,[2]]", "[[2],1]", "[[],[1]]", "[[[1]],[[1],[2]]]", "[[],1]"]
        {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(of(&["[".repeat(33), "]".repeat(33)].concat()), None);
    }
}
