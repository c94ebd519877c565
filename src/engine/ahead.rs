//! How far the image worker may run ahead of the decoder worker: as many images as one turn of it takes. One encoded long
//! before a slot is free for it helps nobody, and takes the cores from the rows that run.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Images that may be encoded and not yet begun with. Their prompts are fed in one run, and the running rows wait for all
/// of them: more at a time give more answers a second and let each of them stutter longer (ADR 10).
const MOST: usize = 4;

/// Counts the jobs between the workers.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    count: Mutex<usize>,
    has_fallen: Condvar,
}

/// A job between the workers; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct AheadTicket(Arc<Ahead>);

impl Ahead {
    /// A ticket if a further image is wanted now.
    pub(super) fn try_take(ahead: &Arc<Self>) -> Option<AheadTicket> {
        let mut count = ahead.count.lock();
        let is_wanted = *count < MOST;
        *count += usize::from(is_wanted);
        is_wanted.then(|| AheadTicket(Arc::clone(ahead)))
    }

    /// Waits until a further image is wanted.
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
    fn who_comes_too_early_waits_until_another_has_begun() {
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
