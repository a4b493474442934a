//! SIGINT, SIGTERM and SIGHUP while files are being written.
//!
//! Reading commands die at once, as the system has it. While a plan is carried out the signals are
//! only noted, and the run stops at the next moment at which every file is whole; afterwards they end the
//! process again.

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{SigId, flag, low_level};

/// Notes signals from its creation until it is dropped.
pub struct Watch {
    received: Arc<AtomicUsize>,
    registered: Vec<SigId>,
    _held: Held,
}

/// The signals that would end this process, each once it is caught.
struct Caught {
    signals: Vec<i32>,
    /// Whether they still end it: while nobody holds them back.
    ends: Arc<AtomicBool>,
    holders: Mutex<usize>,
}

/// Returns what is caught. What catches a signal cannot let go of it again, so its default is kept for the time in which
/// nobody wants it; what is ignored, as `nohup` has it, stays ignored.
fn caught() -> &'static Caught {
    static CAUGHT: OnceLock<Caught> = OnceLock::new();
    CAUGHT.get_or_init(|| {
        let ends = Arc::new(AtomicBool::new(false));
        let signals = [SIGINT, SIGTERM, SIGHUP].into_iter();
        let signals = signals.filter(|&signal| !is_ignored(signal));
        let catch =
            |&signal: &i32| flag::register_conditional_default(signal, Arc::clone(&ends)).is_ok();
        Caught {
            signals: signals.filter(catch).collect(),
            ends: Arc::clone(&ends),
            holders: Mutex::default(),
        }
    })
}

/// Returns whether a signal was to be ignored when this process began.
#[expect(
    unsafe_code,
    reason = "no crate at hand asks for the disposition of a signal"
)]
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and what is written fits where it goes.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zero bytes are a value of it, whether or not the call has written another.
    let action = unsafe { action.assume_init() };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Holds back what signals do by default.
pub(super) struct Held(&'static Caught);

impl Held {
    /// Returns the signals that are held back: those that are not ignored.
    pub(super) fn signals(&self) -> &'static [i32] {
        &self.0.signals
    }

    /// Holds back until it is dropped.
    pub(super) fn new() -> Self {
        let caught = caught();
        let mut holders = caught
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *holders += 1;
        caught.ends.store(false, Ordering::SeqCst);
        Self(caught)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self
            .0
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *holders -= 1;
        self.0.ends.store(*holders == 0, Ordering::SeqCst);
    }
}

impl Watch {
    /// Starts noting SIGINT, SIGTERM and SIGHUP instead of dying from them.
    pub fn start() -> Self {
        let held = Held::new();
        let received = Arc::new(AtomicUsize::new(0));
        let register = |&signal: &i32| {
            flag::register_usize(
                signal,
                Arc::clone(&received),
                usize::try_from(signal).unwrap_or(0),
            )
        };
        let registered = held.signals().iter();
        Self {
            registered: registered
                .filter_map(|signal| register(signal).ok())
                .collect(),
            received,
            _held: held,
        }
    }

    /// Lets no signal end this process any more.
    pub fn for_good(self) {
        let _: &'static mut Self = Box::leak(Box::new(self));
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
    _held: Held,
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
        let held = Held::new();
        let mut signals = Signals::new(held.signals())?;
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
            _held: held,
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
