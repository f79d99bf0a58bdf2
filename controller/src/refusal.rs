//! Tells users which request of the controller the API server did not take, and why. Pure.

use crate::{error::ControlError, problem::Problem};

/// Status codes with which the API server refuses an object for its content or by a policy.
const REFUSALS: [u16; 3] = [400, 403, 422];

/// Describes a failed write of an object.
pub(crate) fn of_write(error: &ControlError) -> Problem {
    let why = error.cause();
    let ControlError::Write { what, source } = error else {
        return Problem::new("ApplyFailed", format!("an object was not written: {why}"));
    };
    let code = if let kube::Error::Api(refusal) = &**source { refusal.code } else { 0 };
    let is_refusal = REFUSALS.contains(&code);
    let lacks_right = is_refusal && why.contains("forbidden: User \"");
    if is_refusal && why.contains("because it is being terminated") {
        let message = format!("the namespace is being deleted, so nothing is created in it: {why}");
        return Problem::new("NamespaceTerminating", message);
    }
    if is_refusal && !lacks_right {
        let message = format!("the API server refuses the {what}: {why}");
        return Problem::new("SpecRefused", message);
    }
    let again = "the controller tries again at least once a minute";
    let message = if lacks_right {
        format!("the controller lacks the right to write the {what}, and {again}: {why}")
    } else {
        format!("the API server did not take the {what}, and {again}: {why}")
    };
    Problem::new("ApplyFailed", message)
}

/// Describes a failed read of the fleet's objects.
pub(crate) fn of_read(error: &ControlError) -> Problem {
    let what: &str =
        if let ControlError::Watch { plural, .. } = error { plural } else { "objects" };
    let message = format!(
        "the controller cannot read the {what} of the namespace, and changes nothing of the fleet \
         meanwhile: {}",
        error.cause()
    );
    Problem::new("ClusterUnreadable", message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::Status;

    use super::*;

    fn failed(code: u16, message: &str) -> ControlError {
        let refusal = Status::failure(message, "Any").with_code(code);
        let source = Arc::new(kube::Error::Api(Box::new(refusal)));
        ControlError::Write { what: "Deployment".to_owned(), source }
    }

    #[test]
    fn each_failed_write_has_a_reason_and_the_words_of_the_api_server() {
        let denied = "admission webhook \"policy\" denied the request: no team label";
        let called = "failed calling webhook \"policy\": connection refused";
        let right = "deployments.apps \"m\" is forbidden: User \"c\" cannot patch resource";
        let ends = "unable to create new content in namespace ml because it is being terminated";
        for (code, words, reason, begins) in [
            (
                422,
                "quantities must match",
                "SpecRefused",
                "the API server refuses the Deployment: ",
            ),
            (403, denied, "SpecRefused", "the API server refuses the Deployment: "),
            (403, right, "ApplyFailed", "the controller lacks the right to write the Deployment"),
            (403, ends, "NamespaceTerminating", "the namespace is being deleted"),
            (500, called, "ApplyFailed", "the API server did not take the Deployment"),
            (409, "try again", "ApplyFailed", "the API server did not take the Deployment"),
        ] {
            let problem = of_write(&failed(code, words));
            assert_eq!(problem.reason, reason, "{words}");
            let message = problem.message;
            assert!(message.starts_with(begins) && message.ends_with(words), "{message}");
        }
    }
}
