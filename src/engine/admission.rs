//! Admission: arithmetic on the number of rows that are waiting or running, and on how fast they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::EngineError;

/// Rows that must have ended before their pace says anything.
const ROWS_TO_KNOW: f64 = 4.0;

/// How much the past still counts after a further row.
const DECAY: f64 = 0.97;

#[derive(Debug)]
pub(super) struct Admission {
    capacity: usize,
    queue: Mutex<Queue>,
}

/// Rows in work, and how fast rows have ended of late.
#[derive(Debug, Default)]
struct Queue {
    taken: usize,
    /// When a row ended the last time, or the first came.
    last: Option<Instant>,
    /// Rows that ended, and the time that took; the older, the less they count.
    ended: f64,
    busy: Duration,
}

impl Queue {
    /// Rows of a request end.
    fn end(&mut self, rows: usize, now: Instant) {
        let took = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let decay = DECAY.powf(rows as f64);
        self.busy = self.busy.mul_f64(decay) + took;
        self.ended = self.ended.mul_add(decay, rows as f64);
        self.taken -= rows;
        self.last = Some(now).filter(|_| self.taken > 0);
    }

    /// How long it takes until so many rows have ended; `None` while nothing is known.
    fn time_for(&self, rows: usize) -> Option<Duration> {
        (self.ended >= ROWS_TO_KNOW).then(|| self.busy.div_f64(self.ended).mul_f64(rows as f64))
    }
}

/// Places for the rows of one request. They are given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Permit {
    _places: Arc<Places>,
}

#[derive(Debug)]
struct Places {
    admission: Arc<Admission>,
    rows: usize,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.admission.queue.lock().end(self.rows, Instant::now());
    }
}

impl Admission {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, queue: Mutex::default() }
    }

    /// Places that are taken now.
    pub(super) fn taken(&self) -> usize {
        self.queue.lock().taken
    }

    /// All rows of a request or none: a part of an answer helps nobody. None either if, by the pace of late, those before
    /// them end only after the deadline: what cannot be answered in time is refused now.
    pub(super) fn reserve(admission: &Arc<Self>, rows: usize, deadline: Instant) -> Result<Permit, EngineError> {
        const SHORTEST_WAIT: Duration = Duration::from_secs(1);
        let (capacity, now) = (admission.capacity, Instant::now());
        if rows > capacity {
            return Err(EngineError::TooManyRows { rows, capacity });
        }
        let mut queue = admission.queue.lock();
        let refuse = |time: Option<Duration>| {
            Err(EngineError::Overloaded { retry_after: time.unwrap_or_default().max(SHORTEST_WAIT) })
        };
        let missing = (queue.taken + rows).saturating_sub(capacity);
        if missing > 0 {
            return refuse(queue.time_for(missing));
        }
        let (before, left) = (queue.time_for(queue.taken), deadline.saturating_duration_since(now));
        if let Some(late) = before.and_then(|before| before.checked_sub(left)).filter(|_| queue.taken > 0) {
            return refuse(Some(late));
        }
        queue.last.get_or_insert(now);
        queue.taken += rows;
        drop(queue);
        Ok(Permit { _places: Arc::new(Places { admission: Arc::clone(admission), rows }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(admission: &Arc<Admission>, rows: usize) -> Result<Permit, EngineError> {
        Admission::reserve(admission, rows, Instant::now() + Duration::from_secs(3600))
    }

    #[test]
    fn places_are_given_back_when_the_last_clone_of_a_permit_is_dropped() {
        let admission = Arc::new(Admission::new(3));
        let first = reserve(&admission, 2).unwrap();
        let clone = first.clone();
        drop(first);
        assert!(matches!(reserve(&admission, 2), Err(EngineError::Overloaded { .. })));
        drop(clone);
        assert!(reserve(&admission, 3).is_ok());
    }

    #[test]
    fn a_request_larger_than_the_queue_is_refused_for_good() {
        let admission = Arc::new(Admission::new(3));
        assert!(matches!(reserve(&admission, 4), Err(EngineError::TooManyRows { rows: 4, capacity: 3 })));
    }

    /// A queue in which so many rows have ended, one every so many seconds.
    fn paced(taken: usize, ended: u64, seconds: u64) -> Queue {
        let start = Instant::now();
        let mut queue = Queue { taken: taken + ended as usize, last: Some(start), ..Queue::default() };
        (1..=ended).for_each(|number| queue.end(1, start + Duration::from_secs(number * seconds)));
        queue
    }

    #[test]
    fn the_time_for_some_rows_follows_the_pace_of_those_before() {
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
    fn time_in_which_nobody_waits_does_not_count() {
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
    fn who_asks_too_much_learns_when_to_ask_again() {
        let admission = Arc::new(Admission { capacity: 10, queue: Mutex::new(paced(9, 40, 4)) });
        let refused =
            |rows, seconds| match Admission::reserve(&admission, rows, Instant::now() + Duration::from_secs(seconds))
                .unwrap_err()
            {
                EngineError::Overloaded { retry_after } => retry_after.as_secs_f64().round(),
                other => panic!("{other}"),
            };
        assert_eq!(refused(3, 3600), 8.0, "two places are missing");
        assert_eq!(refused(1, 30), 6.0, "nine are before it, which takes 36 seconds");
        assert!(Admission::reserve(&admission, 1, Instant::now() + Duration::from_secs(40)).is_ok());
    }
}
