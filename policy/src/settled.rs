//! The rows of settled jobs, estimated by one of several gateways.

/// Counts the rows of all settled jobs of a queue. A gateway knows the rows of its own requests, but of
/// the requests of other gateways only their number. Where rows differ in length, they count as
/// [units](crate::LengthCost).
#[derive(Clone, Copy, Debug, Default)]
pub struct SettledRows {
    rows: f64,
    last: Option<SettledSample>,
    /// The largest number of jobs of other gateways so far. The counts of a sample are taken one after
    /// the other, so that jobs of this gateway may count as those of others for a moment.
    others: i64,
}

/// What a gateway knows of the settled jobs of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SettledSample {
    /// Counter of the jobs of all gateways.
    pub jobs: u64,
    /// Counter of this gateway's requests that have ended.
    pub own_jobs: u64,
    /// Counter of their rows.
    pub own_rows: f64,
    /// The mean rows of a request.
    pub rows_per_job: f64,
}

impl SettledSample {
    fn others(&self) -> i64 {
        self.jobs.cast_signed().wrapping_sub(self.own_jobs.cast_signed())
    }
}

impl SettledRows {
    /// Adds a sample, and returns the rows of all jobs that have settled since the first sample.
    pub fn observe(&mut self, sample: SettledSample) -> f64 {
        let others = sample.others();
        // The counter restarts when the queue has lost its data.
        let Some(last) = self.last.replace(sample).filter(|last| last.jobs <= sample.jobs) else {
            self.others = others;
            return self.rows;
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of jobs between two samples")]
        let more = others.saturating_sub(self.others).max(0) as f64;
        self.others = self.others.max(others);
        self.rows += (sample.own_rows - last.own_rows).max(0.0) + more * sample.rows_per_job;
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(jobs: u64, own_jobs: u64, own_rows: u32) -> SettledSample {
        SettledSample { jobs, own_jobs, own_rows: own_rows.into(), rows_per_job: 10.0 }
    }

    fn after(samples: &[SettledSample]) -> f64 {
        let mut settled = SettledRows::default();
        samples.iter().map(|&sample| settled.observe(sample)).last().unwrap()
    }

    #[test]
    fn own_rows_are_known_and_those_of_other_gateways_estimated() {
        let rows = after(&[sample(500, 100, 1000), sample(502, 102, 1065), sample(505, 103, 1066)]);
        assert!((rows - 86.0).abs() < 1e-9, "66 own rows and two other jobs: {rows}");
    }

    #[test]
    fn a_job_counts_once_although_its_reply_arrives_later() {
        let mut samples = vec![sample(0, 0, 0)];
        for own in 0..100 {
            samples.push(sample(own + 1, own, u32::try_from(own).unwrap() * 64));
        }
        // The first job counts as one of another gateway.
        let rows = after(&samples);
        assert!((rows - (99.0 * 64.0 + 10.0)).abs() < 1e-9, "{rows}");
    }

    #[test]
    fn a_queue_that_lost_its_data_settles_nothing() {
        let rows = after(&[sample(500, 100, 1000), sample(3, 101, 1064), sample(4, 102, 1128)]);
        assert!((rows - 64.0).abs() < 1e-9, "{rows}");
    }
}
