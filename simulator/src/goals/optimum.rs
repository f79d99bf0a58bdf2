//! The exact optimum for one worker with all arrivals known in advance.

use crate::curve::Curve;

/// Returns the largest number of `arrivals` (seconds, in ascending order) that can be answered
/// within `slo` seconds, in batches of up to `max_batch` rows.
///
/// Dynamic programming over the arrivals: free\[k\]\[p\] is the earliest time at which the worker
/// is free after the first p requests were served or dropped, k of them served on time. All
/// requests have the same deadline, so some optimal schedule serves them in order of arrival, in
/// batches of consecutive requests, and an earlier free time is never worse. In each state, either
/// the next request is dropped, or a batch of b requests starts once the worker is free and the
/// last of the b requests has arrived, provided that the first request is on time. O(arrivals² ·
/// batch sizes within the SLO).
pub(super) fn most_in_time(arrivals: &[f64], curve: &Curve, slo: f64, max_batch: u32) -> usize {
    let times: Vec<f64> = (1..=max_batch).map(|rows| curve.seconds(rows)).collect();
    let batches = times.iter().take_while(|&&time| time <= slo).count();
    let count = arrivals.len();
    let mut free = vec![vec![f64::INFINITY; count + 1]; count + 1];
    free[0][0] = 0.0;
    for served in 0..count {
        let (now, later) = free[served..].split_at_mut(1);
        let now = &mut now[0];
        for first in served..count {
            let is_free = now[first];
            if is_free.is_infinite() {
                continue;
            }
            now[first + 1] = now[first + 1].min(is_free);
            let due = arrivals[first] + slo;
            for (rows, &time) in (1..).zip(&times[..batches.min(count - first)]) {
                let ends = is_free.max(arrivals[first + rows - 1]) + time;
                if ends > due {
                    break;
                }
                let best = &mut later[rows - 1][first + rows];
                *best = best.min(ends);
            }
        }
    }
    (0..=count).rev().find(|&served| free[served].iter().any(|at| at.is_finite())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_cases_solved_by_hand() {
        let curve = Curve::affine(10.0, 10.0);
        // One row takes 20 ms, two rows take 30 ms.
        assert_eq!(most_in_time(&[0.0, 0.0, 0.0], &curve, 0.030, 8), 2);
        assert_eq!(most_in_time(&[0.0, 0.0, 0.0], &curve, 0.050, 8), 3);
        // Run one by one, the first two requests end at 40 ms. Run together once the second has
        // arrived, they end at 32 ms.
        assert_eq!(most_in_time(&[0.0, 0.002, 0.1], &curve, 0.033, 8), 3);
        assert_eq!(most_in_time(&[0.0, 0.005, 0.1], &curve, 0.033, 8), 2);
        assert_eq!(most_in_time(&[0.0, 0.0], &curve, 0.010, 8), 0);
    }
}
