//! What a caller reads of ONNX Runtime's errors: the operator and the reason, without the places in
//! the library's source. Pure.

/// The beginning of the error of a failed operator.
const OPERATOR: &str = "Non-zero status code returned while running ";

/// Whether the error is that of an operator which failed while the model ran.
pub(super) fn is_of_operator(text: &str) -> bool {
    text.contains(OPERATOR)
}

/// The error in one line, without paths, functions and addresses of the library.
pub(super) fn readable(text: &str) -> String {
    let text: Vec<&str> = text.split_whitespace().collect();
    let text = text.join(" ");
    let text = text.replace(" Please fix either the inputs/outputs or the model.", "");
    let Some((operator, reason)) = operator(&text) else { return without_source(&text) };
    let reason = match without_source(reason) {
        // The functions of C++ that convert strings have no other message.
        reason
            if ["stoi", "stol", "stoll", "stoul", "stoull", "stof", "stod"].contains(&&*reason) =>
        {
            "a string is not a number".to_owned()
        }
        reason => reason,
    };
    format!("{operator}: {reason}")
}

/// The failed operator, with the name of its node, and the reason.
fn operator(text: &str) -> Option<(String, &str)> {
    let (_, rest) = text.split_once(OPERATOR)?;
    let (kind, rest) = rest.split_once(" node.")?;
    let (name, reason) = rest.split_once("Status Message:")?;
    let name = name.trim().strip_prefix("Name:").unwrap_or_default().trim_matches('\'');
    let operator = if name.is_empty() { kind.to_owned() } else { format!("{kind} {name:?}") };
    Some((operator, reason.trim()))
}

/// Removes the place in the library's source in front of a reason, and addresses.
///
/// A place is `/path/file.h:91 type function(arguments) const [with T = float]`, or `file.h:59
/// function`. The condition that a check found to be false is dropped if a reason follows.
fn without_source(text: &str) -> String {
    let Some((start, place)) = places(text).next() else { return without_addresses(text) };
    let rest = text[start + place.len()..].trim_start();
    let rest = if place.starts_with('/') { after_signature(rest) } else { after_word(rest) };
    let rest = match rest.split_once(" was false.") {
        Some((_, reason)) if !reason.trim().is_empty() => reason.trim(),
        _ => rest,
    };
    let reason = without_source(rest);
    match text[..start].trim() {
        "" => reason,
        before => format!("{before} {reason}"),
    }
}

/// The words that name a line in a source file, with their positions.
fn places(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_place = |word: &str| {
        let Some((file, line)) = word.rsplit_once(':') else { return false };
        let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
        let is_number = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
        is_number && ["cc", "cpp", "cu", "cuh", "h", "hpp"].contains(&ending)
    };
    let at = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split(' ').filter(move |word| is_place(word)).map(move |word| (at(word), word))
}

/// The text after the signature of a function.
fn after_signature(text: &str) -> &str {
    let Some(rest) = after_brackets(text, ['(', ')']) else { return text };
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("const ").unwrap_or(rest).trim_start();
    match rest.strip_prefix("[with ") {
        Some(_) => after_brackets(rest, ['[', ']']).unwrap_or(rest).trim_start(),
        None => rest,
    }
}

/// The text after the first pair of these brackets.
fn after_brackets(text: &str, [open, close]: [char; 2]) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        if letter == open {
            depth += 1;
        } else if letter == close {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(&text[at + letter.len_utf8()..]);
            }
        }
    }
    None
}

fn after_word(text: &str) -> &str {
    text.split_once(' ').map_or("", |(_, rest)| rest)
}

fn without_addresses(text: &str) -> String {
    let words = text.split(' ').filter(|word| !word.starts_with("0x"));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_read_the_operator_and_the_reason() {
        for (text, expected) in [
            (
                "Non-zero status code returned while running Gather node. Name:'emb' Status \
                 Message: indices element out of data bounds, idx=99 must be within the inclusive \
                 range [-10,9]",
                "Gather \"emb\": indices element out of data bounds, idx=99 must be within the \
                 inclusive range [-10,9]",
            ),
            (
                "Non-zero status code returned while running Reshape node. Name:'' Status Message: \
                 /onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91 \
                 onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, \
                 onnxruntime::TensorShapeVector&, bool) input_shape_size == requested_shape_size was \
                 false. The input tensor cannot be reshaped to the requested shape. Input \
                 shape:{1,3}, requested shape:{4}\n",
                "Reshape: The input tensor cannot be reshaped to the requested shape. Input \
                 shape:{1,3}, requested shape:{4}",
            ),
            (
                "Non-zero status code returned while running Cast node. Name:'' Status Message: stoll",
                "Cast: a string is not a number",
            ),
            (
                "Non-zero status code returned while running MatMul node. Name:'' Status Message: \
                 matmul_helper.h:59 Compute MatMul dimension mismatch",
                "MatMul: MatMul dimension mismatch",
            ),
            (
                "Non-zero status code returned while running GatherElements node. Name:'' Status \
                 Message: /onnxruntime_src/onnxruntime/core/providers/cpu/tensor/gather_elements.cc:150 \
                 void onnxruntime::core_impl(const Tensor*, const Tensor*, Tensor*, int64_t, \
                 concurrency::ThreadPool*) [with Tin = long int; int64_t = long int] GatherElements \
                 op: Out of range value in index tensor\n",
                "GatherElements: GatherElements op: Out of range value in index tensor",
            ),
            (
                "Got invalid dimensions for input: X for the following indices\n index: 1 Got: 4 \
                 Expected: 3\n Please fix either the inputs/outputs or the model.",
                "Got invalid dimensions for input: X for the following indices index: 1 Got: 4 \
                 Expected: 3",
            ),
        ] {
            assert_eq!(readable(text), expected);
        }
    }

    #[test]
    fn a_condition_without_a_reason_and_a_torn_text_are_kept() {
        let check =
            "/src/a.cc:7 void f(int (*)(int)) const [with T = std::vector<int>] x == 1 was false.";
        assert_eq!(readable(check), "x == 1 was false.");
        assert_eq!(readable("/src/a.cc:7 void f(int"), "void f(int");
        assert_eq!(readable("a.h:9"), "");
        assert_eq!(readable("node 0x7f3a12 of C++ at 10:30"), "node of C++ at 10:30");
        assert_eq!(readable("é: /é.cc:1 ü() ö"), "é: ö");
    }

    #[test]
    fn no_text_makes_it_fail() {
        for text in
            ["", " ", ")(", "a.cc:1 )", "/b.cc:2 ]", OPERATOR, "/a.cc:1 /b.cc:2 f() /c.h:3 x"]
        {
            let readable = readable(text);
            assert!(!readable.contains(".cc:"), "{readable}");
        }
    }
}
