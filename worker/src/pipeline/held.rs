//! Held jobs, which are claimed but have not run, and the choice of the next batch. Pure.
//!
//! A job with more rows than a batch is large: it runs in parts. Large jobs and whole jobs take
//! turns to lead a batch, and the other kind fills it up. So of the jobs of one priority class,
//! whole jobs never wait for two batches in a row that large jobs lead, and large jobs never wait
//! for two batches in a row without any of their rows.

use std::{cmp::Reverse, collections::VecDeque, mem, time::Duration};

use batchfleet_broker::{EntryId, Job, Priority, Release};
use batchfleet_policy::WaitingRows;
use tokio::time::Instant;

use crate::{
    batch::Batch,
    job::HeldJob,
    layout::Layout,
    limit::{BatchLimit, whole_units},
};

/// Maximum number of batches that overtake a job of a rare shape, while more jobs of its shape
/// gather.
const MOST_OVERTAKEN: u32 = 3;

/// Which deadlines are near.
#[derive(Clone, Copy, Debug)]
pub(super) struct Urgency {
    /// Jobs with earlier deadlines cannot wait for another batch.
    pub(super) soon: Instant,
    /// How long a unit takes. A job that runs in parts is urgent that much earlier for each of its units.
    pub(super) unit: Duration,
}

impl Urgency {
    fn is_urgent(&self, job: &HeldJob) -> bool {
        job.delivery.deadline <= self.soon
    }

    fn is_urgent_in_parts(&self, job: &HeldJob) -> bool {
        job.delivery.deadline <= self.soon + self.unit.mul_f64(job.units_left())
    }
}

/// Jobs that wait for their batch.
#[derive(Debug)]
pub(super) struct HeldJobs {
    layout: Layout,
    /// In the order they were claimed; large jobs that have begun first.
    jobs: VecDeque<HeldJob>,
    /// How many batches in a row have overtaken the oldest whole job.
    overtaken: u32,
    /// How many batches in a row had no rows of the large jobs.
    large_waited: u32,
    mixed: bool,
}

impl HeldJobs {
    /// Starts without jobs.
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, jobs: VecDeque::new(), overtaken: 0, large_waited: 0, mixed: false }
    }

    /// Whether no jobs are held.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// What all rows cost that have not run, in units.
    pub(super) fn units(&self) -> u32 {
        whole_units(self.iter().map(HeldJob::units_left).sum())
    }

    /// What the jobs cost that fit into a batch of `limit`, in units.
    pub(super) fn whole_units(&self, limit: BatchLimit) -> u32 {
        let whole = self.iter().filter(|job| !job.is_large(limit));
        whole_units(whole.map(HeldJob::units_left).sum())
    }

    /// The number of jobs that do not fit into a batch of `limit`.
    pub(super) fn large(&self, limit: BatchLimit) -> usize {
        self.iter().filter(|job| job.is_large(limit)).count()
    }

    /// All jobs, oldest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &HeldJob> {
        self.jobs.iter()
    }

    /// All jobs, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut HeldJob> {
        self.jobs.iter_mut()
    }

    /// Appends jobs, which should be younger than all held jobs.
    pub(super) fn extend(&mut self, jobs: impl IntoIterator<Item = HeldJob>) {
        self.jobs.extend(jobs);
    }

    /// Takes back jobs of the last batch, of which rows are left.
    pub(super) fn put_back(&mut self, jobs: Vec<HeldJob>) {
        for mut job in jobs.into_iter().rev() {
            job.uncut();
            self.jobs.push_front(job);
        }
    }

    /// Takes the jobs at these indices of [`iter`](Self::iter), which ascend.
    pub(super) fn take_at(&mut self, indices: &[usize]) -> Vec<HeldJob> {
        let taken = indices.iter().enumerate();
        // Each removal moves the later jobs forward.
        taken.filter_map(|(removed, index)| self.jobs.remove(index - removed)).collect()
    }

    /// Takes all jobs.
    pub(super) fn take_all(&mut self) -> Vec<HeldJob> {
        mem::take(&mut self.jobs).into()
    }

    /// Whether some held jobs could not have joined the last batch.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// Whether all held jobs fit into one batch below `limit`, and none has begun.
    pub(super) fn has_room(&self, limit: BatchLimit) -> bool {
        let Some(first) = self.jobs.front() else { return true };
        let fits = |job: &HeldJob| {
            !job.has_begun() && self.layout.can_join(&first.delivery.job, &job.delivery.job)
        };
        let rows: u32 = self.iter().map(HeldJob::rows_left).sum();
        rows < limit.rows && f64::from(self.units()) < limit.units && self.iter().all(fits)
    }

    /// Whether the oldest job that fits into a batch of `limit` should lead the next batch: it
    /// has been overtaken often enough, or its deadline is near.
    pub(super) fn oldest_is_next(&self, limit: BatchLimit, urgency: Urgency) -> bool {
        let oldest = self.iter().find(|job| !job.is_large(limit));
        oldest.is_some_and(|job| urgency.is_urgent(job)) || self.overtaken >= MOST_OVERTAKEN
    }

    /// Takes the next batch, at most as large as `limit`. `companions` chooses, among jobs that may be
    /// padded, the indices of those that run together with the first.
    pub(super) fn take_batch(
        &mut self,
        limit: BatchLimit,
        urgency: Urgency,
        companions: impl FnOnce(&[WaitingRows]) -> Vec<usize>,
    ) -> Option<Batch> {
        let lead = self.lead(limit, urgency)?;
        let oldest = self.oldest_whole(limit);
        let chosen_from = self.units();
        let batch = if self.layout.pads() {
            self.take_padded(lead, limit, companions)?
        } else {
            self.take(lead, limit)?
        };
        let is_overtaken = oldest.is_some() && self.oldest_whole(limit) == oldest;
        self.overtaken = if is_overtaken { self.overtaken + 1 } else { 0 };
        let large_ran = batch.jobs.iter().any(|job| job.is_large(limit));
        let large_wait = !large_ran && self.large(limit) > 0;
        self.large_waited = if large_wait { self.large_waited + 1 } else { 0 };
        let lost_to_shapes = self.lost_to_shapes(&batch, limit);
        self.mixed = !self.all_join(&batch);
        Some(Batch { lost_to_shapes, chosen_from, ..batch })
    }

    /// Adds jobs to a batch that has been taken, as far as `limit` allows. Jobs that may be padded
    /// are chosen once for each batch and not added.
    pub(super) fn add_to(&mut self, batch: &mut Batch, limit: BatchLimit) {
        let units = f64::from(batch.units);
        if self.layout.pads() || batch.rows >= limit.rows || units >= limit.units {
            return;
        }
        let mut jobs = mem::take(&mut batch.jobs);
        let row_units = jobs[0].row_units();
        let mut room = limit.beside(batch.rows, units);
        let is_left_out = self.fill(&mut jobs, &mut room, limit, false);
        self.fill(&mut jobs, &mut room, limit, true);
        let is_full = !room.holds(row_units) || is_left_out;
        *batch = Batch::new(jobs, if is_full { Release::Full } else { batch.release });
        self.mixed = !self.all_join(batch);
    }

    /// The rows of held jobs that fit into the batch but cannot be joined with it.
    fn lost_to_shapes(&self, batch: &Batch, limit: BatchLimit) -> u32 {
        let room = limit.rows_of(batch.row_units()).saturating_sub(batch.rows);
        let Some(first) = batch.jobs.first().filter(|_| room > 0) else { return 0 };
        let others =
            self.iter().filter(|job| !self.layout.can_join(&first.delivery.job, &job.delivery.job));
        others.map(HeldJob::rows_left).fold(0, u32::saturating_add).min(room)
    }

    /// Whether all held jobs can be joined with the batch.
    fn all_join(&self, batch: &Batch) -> bool {
        let Some(first) = batch.jobs.first() else { return true };
        self.iter().all(|left| self.layout.can_join(&first.delivery.job, &left.delivery.job))
    }

    fn oldest_whole(&self, limit: BatchLimit) -> Option<EntryId> {
        let job = self.iter().find(|job| !job.is_large(limit))?;
        Some(job.delivery.entry)
    }

    /// The index of the job that the next batch must contain.
    ///
    /// A large job leads if it is of a higher priority class than all whole jobs, or if the last
    /// batch had no rows of large jobs; a large job of a lower class has to wait longer. It also leads
    /// if it would be late otherwise, and no whole job is urgent. Otherwise a whole job leads, if there
    /// is one.
    fn lead(&self, limit: BatchLimit, urgency: Urgency) -> Option<usize> {
        let priority = |job: &HeldJob| job.delivery.job.priority;
        let (large, whole): (Vec<_>, Vec<_>) =
            self.iter().enumerate().partition(|(_, job)| job.is_large(limit));
        let is_urgent = self.oldest_is_next(limit, urgency);
        let class = whole.iter().map(|(_, job)| priority(job)).min();
        let leads = |job: &HeldJob| {
            let Some(class) = class else { return true };
            let patience = if priority(job) > class { MOST_OVERTAKEN } else { 1 };
            let comes_first = priority(job) < class
                || (priority(job) == class && urgency.is_urgent_in_parts(job));
            self.large_waited >= patience || (comes_first && !is_urgent)
        };
        let large = large.into_iter().min_by_key(|&(index, job)| (priority(job), index));
        match large {
            Some((index, job)) if leads(job) => Some(index),
            _ => self.whole_lead(&whole, is_urgent),
        }
    }

    /// The index of the whole job that the next batch must contain: the oldest if this `is_urgent`,
    /// otherwise the oldest of the shape with the most rows.
    ///
    /// Only shapes with a job of the highest priority class are considered. Batches take about the
    /// same time, so running the most rows first minimizes the total wait of all rows (Smith's
    /// rule: least time per weight first; W. E. Smith, 1956).
    fn whole_lead(&self, whole: &[(usize, &HeldJob)], is_urgent: bool) -> Option<usize> {
        struct Shape<'a> {
            first: usize,
            job: &'a Job,
            rows: u32,
            class: Priority,
        }
        if is_urgent {
            return whole.first().map(|&(index, _)| index);
        }
        let mut shapes: Vec<Shape> = Vec::with_capacity(1);
        for &(first, held) in whole {
            let (job, rows) = (&held.delivery.job, held.rows_left());
            match shapes.iter_mut().find(|shape| self.layout.can_join(shape.job, job)) {
                Some(shape) => {
                    shape.rows += rows;
                    shape.class = shape.class.min(job.priority);
                }
                None => shapes.push(Shape { first, job, rows, class: job.priority }),
            }
        }
        let order = |shape: &&Shape| (shape.class, Reverse(shape.rows), shape.first);
        shapes.iter().min_by_key(order).map(|shape| shape.first)
    }

    /// Takes the job at `lead`, and jobs that can be joined with it and fit into `limit` together:
    /// first whole jobs, oldest first, then parts of large jobs. The first whole job that
    /// does not fit ends the whole jobs of the batch, so that no job is overtaken by a younger job
    /// of its shape.
    fn take(&mut self, lead: usize, limit: BatchLimit) -> Option<Batch> {
        let mut first = self.jobs.remove(lead)?;
        first.cut(limit);
        let is_oversize = first.part_rows() > limit.rows_of(first.row_units());
        let row_units = first.row_units();
        let mut room = limit.beside(first.part_rows(), first.part_units());
        let mut batch = vec![first];
        let is_left_out = self.fill(&mut batch, &mut room, limit, false);
        self.fill(&mut batch, &mut room, limit, true);
        let release = if is_oversize {
            Release::Oversize
        } else if !room.holds(row_units) || is_left_out {
            Release::Full
        } else if self.jobs.is_empty() {
            Release::Drained
        } else {
            Release::Shape
        };
        Some(Batch::new(batch, release))
    }

    /// Takes the job at `lead`, and the `companions` among the jobs of any length that can be joined
    /// with it: whole jobs, and of each large job the part that fits.
    fn take_padded(
        &mut self,
        lead: usize,
        limit: BatchLimit,
        companions: impl FnOnce(&[WaitingRows]) -> Vec<usize>,
    ) -> Option<Batch> {
        let first = self.jobs.get(lead)?;
        let joins = |&index: &usize| {
            index != lead
                && self.layout.can_join(&first.delivery.job, &self.jobs[index].delivery.job)
        };
        let mut may_join = vec![lead];
        may_join.extend((0..self.jobs.len()).filter(joins));
        for &index in &may_join {
            self.jobs[index].cut(limit);
        }
        let waiting: Vec<WaitingRows> =
            may_join.iter().map(|&index| self.jobs[index].waiting_rows()).collect();
        let chosen = companions(&waiting);
        let all_join = chosen.len() == may_join.len();
        let mut taken: Vec<usize> = chosen.into_iter().map(|at| may_join[at]).collect();
        taken.sort_unstable();
        let batch = Batch::new(self.take_at(&taken), Release::Shape);
        for job in &mut self.jobs {
            job.uncut();
        }
        let row_units = batch.row_units();
        let rows_of_limit = limit.rows_of(row_units);
        let release = if batch.rows > rows_of_limit {
            Release::Oversize
        } else if batch.rows == rows_of_limit {
            Release::Full
        } else if all_join && self.jobs.is_empty() {
            Release::Drained
        } else {
            Release::Shape
        };
        Some(Batch { release, ..batch })
    }

    /// Adds jobs that can be joined with the batch until `room` is filled, oldest first: parts of
    /// `large` jobs, or whole jobs. Returns whether a whole job did not fit.
    fn fill(
        &mut self,
        batch: &mut Vec<HeldJob>,
        room: &mut BatchLimit,
        limit: BatchLimit,
        large: bool,
    ) -> bool {
        let row_units = batch[0].row_units();
        let mut index = 0;
        while room.holds(row_units)
            && let Some(next) = self.jobs.get_mut(index)
        {
            let is_alike = self.layout.can_join(&batch[0].delivery.job, &next.delivery.job);
            if !is_alike || next.is_large(limit) != large {
                index += 1;
                continue;
            }
            if large {
                next.cut(*room);
            }
            if next.part_rows() > room.rows_of(row_units) {
                return true;
            }
            *room = room.beside(next.part_rows(), next.part_units());
            batch.extend(self.jobs.remove(index));
        }
        false
    }
}

#[cfg(test)]
mod tests;
