//! Admission: arithmetic on the number of rows that are waiting or running.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::EngineError;

#[derive(Debug)]
pub(super) struct Admission {
    capacity: usize,
    taken: AtomicUsize,
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
        self.admission.taken.fetch_sub(self.rows, Ordering::Relaxed);
    }
}

impl Admission {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, taken: AtomicUsize::new(0) }
    }

    /// Places that are taken now.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// All rows of a request or none: a part of an answer helps nobody.
    pub(super) fn reserve(admission: &Arc<Self>, rows: usize) -> Result<Permit, EngineError> {
        let capacity = admission.capacity;
        if rows > capacity {
            return Err(EngineError::TooManyRows { rows, capacity });
        }
        let fits = |taken: usize| Some(taken + rows).filter(|sum| *sum <= capacity);
        let reserved = admission.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        reserved.map_err(|_| EngineError::Overloaded)?;
        Ok(Permit { _places: Arc::new(Places { admission: Arc::clone(admission), rows }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_when_the_last_clone_of_a_permit_is_dropped() {
        let admission = Arc::new(Admission::new(3));
        let first = Admission::reserve(&admission, 2).unwrap();
        let clone = first.clone();
        drop(first);
        assert!(matches!(Admission::reserve(&admission, 2), Err(EngineError::Overloaded)));
        drop(clone);
        assert!(Admission::reserve(&admission, 3).is_ok());
    }

    #[test]
    fn a_request_larger_than_the_queue_is_refused_for_good() {
        let admission = Arc::new(Admission::new(3));
        assert!(matches!(Admission::reserve(&admission, 4), Err(EngineError::TooManyRows { rows: 4, capacity: 3 })));
    }
}
