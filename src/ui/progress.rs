//! How far a long run is: one line on the terminal, gone when the run goes on.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// Nothing is shown of work that ends within this time.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time between two looks at the count.
const INTERVAL: Duration = Duration::from_millis(100);

/// Shows `done` of `total` on standard error until every sender of `finished` is gone, then clears
/// the line. Nobody else may write there meanwhile.
pub fn show(finished: &Receiver<()>, done: &AtomicUsize, total: usize) {
    let mut wait = PATIENCE;
    while finished.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = INTERVAL;
        write(&format!(
            "\r{} of {total} entries\u{1b}[K",
            done.load(Ordering::Relaxed)
        ));
    }
    if wait == INTERVAL {
        write("\r\u{1b}[K");
    }
}

/// A terminal that is gone is no reason to stop.
fn write(text: &str) {
    let mut stream = io::stderr().lock();
    drop(
        stream
            .write_all(text.as_bytes())
            .and_then(|()| stream.flush()),
    );
}
