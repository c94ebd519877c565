//! How far the image worker may run ahead of the decoder worker: a picture encoded long before a slot is free for it helps
//! nobody, and takes the cores from the rows that run.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Pictures that may be encoded and not yet begun with: the next one, and the one after it.
const MOST: usize = 2;

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
    /// Waits until a further picture is wanted.
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
        let tickets = [Ahead::wait(&ahead), Ahead::wait(&ahead)];
        let (send, passed) = mpsc::channel();
        let waiting = Arc::clone(&ahead);
        thread::spawn(move || send.send(Ahead::wait(&waiting)));
        assert!(passed.recv_timeout(Duration::from_millis(30)).is_err());
        drop(tickets);
        assert!(passed.recv_timeout(Duration::from_secs(20)).is_ok());
    }
}
