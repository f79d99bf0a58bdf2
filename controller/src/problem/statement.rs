//! A problem in words.

/// What keeps a worker from serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The reason of the condition, for programs.
    pub(crate) reason: &'static str,
    /// The sentence for users: what is wrong, with the last words of the container.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Returns the problem that most pods share, and how many do. The first of equals counts, so that
/// the message stays the same from turn to turn.
pub(super) fn most_shared(problems: &[Problem]) -> Option<Problem> {
    let shared =
        |problem: &Problem| problems.iter().filter(|it| it.reason == problem.reason).count();
    let most = problems.iter().rev().max_by_key(|problem| shared(problem))?;
    let others = match shared(most) - 1 {
        0 => return Some(most.clone()),
        1 => "1 other pod has".to_owned(),
        others => format!("{others} other pods have"),
    };
    Some(Problem::new(most.reason, format!("{}; {others} the same problem", most.message)))
}
