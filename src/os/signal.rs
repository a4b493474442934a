//! SIGINT, SIGTERM and SIGHUP while files are being written.
//!
//! Reading commands die at once, as the system has it. While a plan is carried out the signals are
//! only noted, and the run stops at the next moment at which every file is whole.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{SigId, flag, low_level};

/// Notes signals from its creation until it is dropped.
pub struct Watch {
    received: Arc<AtomicUsize>,
    registered: Vec<SigId>,
}

impl Watch {
    /// Starts noting SIGINT, SIGTERM and SIGHUP instead of dying from them.
    pub fn start() -> Self {
        let received = Arc::new(AtomicUsize::new(0));
        let register = |signal| {
            flag::register_usize(
                signal,
                Arc::clone(&received),
                usize::try_from(signal).unwrap_or(0),
            )
        };
        let registered = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter_map(|signal| register(signal).ok())
            .collect();
        Self {
            received,
            registered,
        }
    }

    /// Forgets what came: another program was running, and it was its.
    pub fn forget(&self) {
        self.received.store(0, Ordering::SeqCst);
    }

    /// Returns the number of the signal that came, if one did.
    pub fn received(&self) -> Option<i32> {
        i32::try_from(self.received.load(Ordering::SeqCst))
            .ok()
            .filter(|&signal| signal != 0)
    }
}

/// Does some work, with signals noted, and ends this process when one came: what the work cleans up is cleaned up then.
pub fn watched<T>(work: impl FnOnce(&Watch) -> T) -> T {
    let watch = Watch::start();
    let result = work(&watch);
    if let Some(signal) = watch.received() {
        die_of(signal);
    }
    result
}

/// Removes a folder and ends this process when SIGINT, SIGTERM or SIGHUP come while it lives.
pub struct Cleanup {
    handle: Handle,
    waiting: Option<JoinHandle<()>>,
}

impl Cleanup {
    /// Starts waiting for a signal.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    #[expect(
        clippy::disallowed_methods,
        reason = "the caller's own folder is removed here"
    )]
    pub fn start(folder: &Path) -> io::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        let handle = signals.handle();
        let folder = folder.to_owned();
        let waiting = thread::Builder::new().spawn(move || {
            if let Some(signal) = signals.forever().next() {
                drop(std::fs::remove_dir_all(&folder));
                die_of(signal);
            }
        })?;
        Ok(Self {
            handle,
            waiting: Some(waiting),
        })
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.handle.close();
        drop(self.waiting.take().map(JoinHandle::join));
    }
}

/// Ends this process as a signal does by default.
pub fn die_of(signal: i32) {
    drop(low_level::emulate_default_handler(signal));
}

impl Drop for Watch {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
    }
}
