//! `dynamic_batching`: how long requests wait for others.

use std::time::Duration;

use super::{Message, Mistake};

/// The time that a batch waits for more jobs; `None` if the config has no `dynamic_batching`, or
/// leaves the time to the settings.
pub(super) fn linger(message: &Message) -> Option<Duration> {
    let delay = message.dynamic_batching.as_ref()?.max_queue_delay_microseconds;
    (delay > 0).then(|| Duration::from_micros(delay))
}

/// The preferred sizes, ascending.
pub(super) fn preferred_sizes(message: &Message) -> Result<Vec<u32>, Mistake> {
    let Some(batching) = &message.dynamic_batching else { return Ok(Vec::new()) };
    let field = "dynamic_batching";
    let size = |&size: &i32| {
        let problem = || format!("preferred_batch_size {size} is not a number of rows");
        let size = u32::try_from(size).ok().filter(|&size| size > 0);
        size.ok_or_else(|| Mistake::new(field, problem()))
    };
    let mut sizes: Vec<u32> =
        batching.preferred_batch_size.iter().map(size).collect::<Result<_, _>>()?;
    sizes.sort_unstable();
    sizes.dedup();
    let most = message.max_batch_size.and_then(|most| u32::try_from(most).ok());
    match (sizes.last(), most) {
        (Some(largest), Some(most)) if *largest > most => Err(Mistake::new(
            field,
            format!("preferred_batch_size {largest} is larger than max_batch_size {most}"),
        )),
        _ => Ok(sizes),
    }
}
