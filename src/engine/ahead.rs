//! Bounds how far the image worker runs ahead of the decoder worker: by as many images as one turn
//! of the latter takes. An image encoded long before a slot is free speeds up no answer, and takes
//! the cores from the active rows.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// The most images that are encoded and whose jobs have not begun. Their prompts are prefilled in
/// one run, for which the active rows wait: a higher limit gives more answers per second, and
/// longer pauses in each of them (ADR 10).
const MOST: usize = 4;

/// Counts the jobs between the workers.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    count: Mutex<usize>,
    has_fallen: Condvar,
}

/// The permission for a job to be between the workers. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct AheadTicket(Arc<Ahead>);

impl Ahead {
    /// Returns a ticket if another image is wanted now.
    pub(super) fn try_take(ahead: &Arc<Self>) -> Option<AheadTicket> {
        let mut count = ahead.count.lock();
        let is_wanted = *count < MOST;
        *count += usize::from(is_wanted);
        is_wanted.then(|| AheadTicket(Arc::clone(ahead)))
    }

    /// Waits until another image is wanted.
    pub(super) fn wait(ahead: &Arc<Self>) -> AheadTicket {
        let mut count = ahead.count.lock();
        ahead.has_fallen.wait_while(&mut count, |count| *count >= MOST);
        *count += 1;
        AheadTicket(Arc::clone(ahead))
    }
}

impl Drop for AheadTicket {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.has_fallen.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn image_beyond_the_limit_waits_until_another_job_has_begun() {
        let ahead = Arc::default();
        let tickets = [(); MOST].map(|()| Ahead::wait(&ahead));
        assert!(Ahead::try_take(&ahead).is_none());
        let (send, passed) = mpsc::channel();
        let waiting = Arc::clone(&ahead);
        thread::spawn(move || send.send(Some(Ahead::wait(&waiting))));
        assert!(passed.recv_timeout(Duration::from_millis(30)).is_err());
        drop(tickets);
        let ticket = passed.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
        let others = [(); MOST - 1].map(|()| Ahead::try_take(&ahead));
        assert!(others.iter().all(Option::is_some) && Ahead::try_take(&ahead).is_none());
        drop(ticket);
    }
}
