//! Rewrites ONNX Runtime's errors on loading a model: what the user can change, with names and
//! numbers.

/// Explains why ONNX Runtime did not load a model. `message` is the runtime's own message, which is
/// returned as far as it is not known.
pub(super) fn explain(message: &str) -> String {
    ir_version(message)
        .or_else(|| opset(message))
        .or_else(|| unregistered(message))
        .or_else(|| no_import(message))
        .or_else(|| no_operator(message))
        .or_else(|| python_library(message))
        .unwrap_or_else(|| message.trim_end().to_owned())
}

fn ir_version(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Unsupported model IR version: ")?;
    let (found, rest) = rest.split_once(", max supported IR version: ")?;
    let most = digits(rest)?;
    Some(format!(
        "the model has IR version {found}, but this ONNX Runtime reads up to {most}: export the \
         model with ir_version={most}, or use a newer library (--onnxruntime)"
    ))
}

fn opset(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(" onnx opset versions. Opset ")?;
    let (found, rest) = rest.split_once(" is under development")?;
    let (_, rest) = rest.split_once("Current official support for domain ")?;
    let (domain, rest) = rest.split_once(" is till opset ")?;
    let most = digits(rest)?;
    Some(format!(
        "the model has opset {found} of {domain}, but this ONNX Runtime knows up to {most}: export \
         the model with opset_version={most}, or use a newer library (--onnxruntime)"
    ))
}

/// An operator of another domain that no library has registered.
fn unregistered(message: &str) -> Option<String> {
    let (before, _) = message.split_once(" is not a registered function/op")?;
    let name = before.rsplit([' ', '\n']).next()?;
    let (domain, operator) = name.rsplit_once(':')?;
    let operator = operator.split('(').next()?;
    Some(custom_operator(operator, domain))
}

/// A domain that is used by an operator, but not listed in the model.
fn no_import(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Error No opset import for domain '")?;
    let domain = rest.split('\'').next()?;
    Some(format!(
        "the model uses operators of domain {domain}, but does not list this domain: add it to the \
         model's opset_import"
    ))
}

/// An operator that the model's opset does not have.
fn no_operator(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("No Op registered for ")?;
    let (operator, rest) = rest.split_once(" with domain_version of ")?;
    let version = digits(rest)?;
    Some(format!(
        "ONNX Runtime has no operator {operator} in opset {version}: export the model with another \
         opset_version, or use a newer library (--onnxruntime)"
    ))
}

/// A library of operators that was built as a module of Python.
fn python_library(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Failed to load library ")?;
    let (library, problem) = rest.split_once(" with error: ")?;
    problem.contains("undefined symbol: Py").then(|| {
        format!(
            "the operator library {library} is a module of Python: start the worker with LD_PRELOAD=\
             libpython3.X.so of the same version, or use a library that needs no Python, such as that \
             of the NuGet package Microsoft.ML.OnnxRuntime.Extensions"
        )
    })
}

fn custom_operator(operator: &str, domain: &str) -> String {
    let library = match domain {
        "ai.onnx.contrib" => " (the Python package onnxruntime-extensions contains it)",
        _ => "",
    };
    format!(
        "operator {operator} of domain {domain} is not part of ONNX Runtime: name the library with \
         this operator{library} in the config.pbtxt, as model_operations {{ op_library_filename: \
         \"FILE\" }}"
    )
}

fn digits(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).filter(|digits| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_with_the_limit_of_the_library() {
        let ir = "/onnxruntime_src/onnxruntime/core/graph/model.cc:256 onnxruntime::Model::Model(\
                  onnx::ModelProto&&, const onnxruntime::ModelOptions&) Unsupported model IR \
                  version: 99, max supported IR version: 14\n";
        assert!(explain(ir).starts_with(
            "the model has IR version 99, but this ONNX Runtime reads \
                                           up to 14: export"
        ));
        let opset = "model_load_utils.h:46 ONNX Runtime only *guarantees* support for models stamped \
                     with official released onnx opset versions. Opset 99 is under development and \
                     support for this is limited. Current official support for domain ai.onnx is \
                     till opset 28.\n";
        assert!(explain(opset).starts_with(
            "the model has opset 99 of ai.onnx, but this ONNX \
                                              Runtime knows up to 28: export"
        ));
    }

    #[test]
    fn an_unknown_operator_is_named_with_the_way_out() {
        let text = explain(
            "Fatal error: ai.onnx.contrib:BertTokenizer(-1) is not a registered \
                              function/op",
        );
        assert!(
            text.starts_with("operator BertTokenizer of domain ai.onnx.contrib is not part of")
        );
        assert!(text.contains("onnxruntime-extensions") && text.contains("op_library_filename"));
        let text = explain("Fatal error: my.own:Op(1) is not a registered function/op");
        assert!(text.starts_with("operator Op of domain my.own") && !text.contains("extensions"));
        let text = explain(
            "This is an invalid model. In Node, (\"\", Fooo, \"\", -1) : , Error No \
                              Op registered for Fooo with domain_version of 17",
        );
        assert!(text.starts_with("ONNX Runtime has no operator Fooo in opset 17: "), "{text}");
        let text = explain("In Node, (\"\") , Error No opset import for domain 'ai.onnx.contrib'");
        assert!(text.starts_with("the model uses operators of domain ai.onnx.contrib"), "{text}");
    }

    #[test]
    fn an_operator_library_of_python_is_named_with_the_way_out() {
        let text = explain(
            "Failed to load library /a/ext.so with error: /a/ext.so: undefined symbol: PyDict_New",
        );
        assert!(text.starts_with("the operator library /a/ext.so is a module of Python: start"));
        let missing = "Failed to load library /a/b.so with error: /a/b.so: invalid ELF header";
        assert_eq!(explain(missing), missing);
    }

    #[test]
    fn other_messages_stay_as_they_are() {
        assert_eq!(explain("Protobuf parsing failed.\n"), "Protobuf parsing failed.");
    }
}
