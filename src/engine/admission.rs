//! Admission: bounds the number of rows in work, and estimates from recent completions how long the
//! queue takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::EngineError;

/// The fewest completed rows from which the completion rate is estimated.
const ROWS_TO_ESTIMATE: f64 = 4.0;

/// The weight that earlier completions keep with each further row.
const DECAY: f64 = 0.97;

#[derive(Debug)]
pub(super) struct Admission {
    capacity: usize,
    queue: Mutex<Queue>,
}

/// The rows in work, and the recent completion rate.
#[derive(Debug, Default)]
struct Queue {
    taken: usize,
    /// The time of the last completion; of the first reservation, if the queue was empty before it.
    last: Option<Instant>,
    /// Completed rows; older ones count less.
    ended: f64,
    /// The time in which they were completed, without idle times; older time counts less.
    busy: Duration,
}

impl Queue {
    /// Records that `rows` rows were completed.
    fn end(&mut self, rows: usize, now: Instant) {
        let took = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let decay = DECAY.powf(rows as f64);
        self.busy = self.busy.mul_f64(decay) + took;
        self.ended = self.ended.mul_add(decay, rows as f64);
        self.taken -= rows;
        self.last = Some(now).filter(|_| self.taken > 0);
    }

    /// Estimates the time until `rows` rows are completed; `None` before there is an estimate.
    fn time_for(&self, rows: usize) -> Option<Duration> {
        (self.ended >= ROWS_TO_ESTIMATE).then(|| self.busy.div_f64(self.ended).mul_f64(rows as f64))
    }
}

/// The reservation of one request's rows. It ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Permit {
    _reservation: Arc<Reservation>,
}

#[derive(Debug)]
struct Reservation {
    admission: Arc<Admission>,
    rows: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.admission.queue.lock().end(self.rows, Instant::now());
    }
}

impl Admission {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, queue: Mutex::default() }
    }

    /// Returns the number of rows in work.
    pub(super) fn taken(&self) -> usize {
        self.queue.lock().taken
    }

    /// Reserves all rows of a request, or none: a partial answer is useless.
    ///
    /// Also refuses when, at the recent completion rate, the rows already in work would outlast the
    /// deadline: an error now is better than a timeout later.
    pub(super) fn reserve(admission: &Arc<Self>, rows: usize, deadline: Instant) -> Result<Permit, EngineError> {
        const SHORTEST_WAIT: Duration = Duration::from_secs(1);
        let capacity = admission.capacity;
        let now = Instant::now();
        if rows > capacity {
            return Err(EngineError::TooManyRows { rows, capacity });
        }
        let mut queue = admission.queue.lock();
        let overloaded = |wait: Duration| EngineError::Overloaded { retry_after: wait.max(SHORTEST_WAIT) };
        let missing = (queue.taken + rows).saturating_sub(capacity);
        if missing > 0 {
            return Err(overloaded(queue.time_for(missing).unwrap_or_default()));
        }
        let time_left = deadline.saturating_duration_since(now);
        if queue.taken > 0
            && let Some(queue_time) = queue.time_for(queue.taken)
            && let Some(late) = queue_time.checked_sub(time_left)
        {
            return Err(overloaded(late));
        }
        queue.last.get_or_insert(now);
        queue.taken += rows;
        drop(queue);
        Ok(Permit { _reservation: Arc::new(Reservation { admission: Arc::clone(admission), rows }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(admission: &Arc<Admission>, rows: usize) -> Result<Permit, EngineError> {
        Admission::reserve(admission, rows, Instant::now() + Duration::from_secs(3600))
    }

    #[test]
    fn reservation_ends_when_the_last_clone_of_the_permit_is_dropped() {
        let admission = Arc::new(Admission::new(3));
        let first = reserve(&admission, 2).unwrap();
        let clone = first.clone();
        drop(first);
        assert!(matches!(reserve(&admission, 2), Err(EngineError::Overloaded { .. })));
        drop(clone);
        assert!(reserve(&admission, 3).is_ok());
    }

    #[test]
    fn request_larger_than_the_queue_is_rejected_for_good() {
        let admission = Arc::new(Admission::new(3));
        assert!(matches!(reserve(&admission, 4), Err(EngineError::TooManyRows { rows: 4, capacity: 3 })));
    }

    /// A queue of `taken` rows in which `ended` others were completed, one every `seconds` seconds.
    fn paced(taken: usize, ended: u64, seconds: u64) -> Queue {
        let start = Instant::now();
        let mut queue = Queue { taken: taken + ended as usize, last: Some(start), ..Queue::default() };
        (1..=ended).for_each(|number| queue.end(1, start + Duration::from_secs(number * seconds)));
        queue
    }

    #[test]
    fn estimate_follows_the_recent_completion_rate() {
        assert_eq!(paced(5, 3, 2).time_for(1), None, "too few have ended");
        let close = |queue: &Queue, rows, seconds: f64| {
            let time = queue.time_for(rows).unwrap().as_secs_f64();
            assert!((time - seconds).abs() < 0.01 * seconds, "{time}");
        };
        close(&paced(5, 40, 2), 3, 6.0);
        let mut faster = paced(200, 40, 2);
        let start = Instant::now() + Duration::from_secs(80);
        faster.last = Some(start);
        (1..=190).for_each(|number| faster.end(1, start + Duration::from_secs(number)));
        close(&faster, 1, 1.0);
        let mut bursts = Queue { taken: 100, last: Some(start), ..Queue::default() };
        (1..=10).for_each(|number| bursts.end(8, start + Duration::from_secs(8 * number)));
        assert!((0.9..1.2).contains(&bursts.time_for(1).unwrap().as_secs_f64()));
    }

    #[test]
    fn idle_time_does_not_count_in_the_estimate() {
        let start = Instant::now();
        let mut queue = Queue::default();
        for number in 0..8 {
            queue.taken = 1;
            queue.last.get_or_insert(start + Duration::from_secs(100 * number));
            queue.end(1, start + Duration::from_secs(100 * number + 1));
        }
        assert!((0.99..1.01).contains(&queue.time_for(1).unwrap().as_secs_f64()));
    }

    #[test]
    fn refusal_says_when_to_retry_at_the_recent_completion_rate() {
        let admission = Arc::new(Admission { capacity: 10, queue: Mutex::new(paced(9, 40, 4)) });
        let refused =
            |rows, seconds| match Admission::reserve(&admission, rows, Instant::now() + Duration::from_secs(seconds))
                .unwrap_err()
            {
                EngineError::Overloaded { retry_after } => retry_after.as_secs_f64().round(),
                other => panic!("{other}"),
            };
        assert_eq!(refused(3, 3600), 8.0, "two rows too many");
        assert_eq!(refused(1, 30), 6.0, "nine rows before it, which take 36 seconds");
        assert!(Admission::reserve(&admission, 1, Instant::now() + Duration::from_secs(40)).is_ok());
    }
}
