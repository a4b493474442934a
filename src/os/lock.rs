//! One writing run at a time: advisory locks on directories.
//!
//! The directories themselves are locked (the repository's and the root's), so there is no lock
//! file to own, to leave behind or to explain. Where a file system locks no directories (NFS wants a
//! descriptor that may write, which a directory has not; some have no locks at all), a file of the state
//! directory is locked in its place, which keeps runs of one user on one host apart.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::state::StateDir;

/// How long a second run waits for the first.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// A lock on a directory, held until dropped.
pub struct DirectoryLock {
    _descriptor: OwnedFd,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another run holds it.
    #[error("{}: another run is writing here ({holder})", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// Program and process number, as far as the system tells.
        holder: String,
    },
    /// The directory cannot be opened or the file system has no locks.
    #[error("{}: cannot be locked: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Locks a directory, or where that cannot be, a file of `state` for it. Waits up to ten seconds for another run unless `wait` is false; `waiting`
/// is told once who holds it.
///
/// # Errors
/// `Held` when the other run does not end in time, `Io`.
pub fn lock_directory(
    path: &Path,
    state: Option<&StateDir>,
    wait: bool,
    mut waiting: impl FnMut(&str),
) -> Result<DirectoryLock, LockError> {
    let failed = |source: Errno| LockError::Io {
        path: path.to_owned(),
        source: source.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty()).map_err(failed)?;
    match lock(directory, path, path, wait, &mut waiting) {
        Err(LockError::Io { source, .. })
            if Errno::from_io_error(&source).is_some_and(has_no_locks) =>
        {
            let file = state.and_then(|state| state.lock_file(path).ok());
            let Some((file, name)) = file else {
                return Err(LockError::Io {
                    path: path.to_owned(),
                    source,
                });
            };
            lock(file, &name, path, wait, &mut waiting)
        }
        other => other,
    }
}

/// Returns whether an error says that a file system does not lock a directory.
pub(super) fn has_no_locks(error: Errno) -> bool {
    let codes = [
        Errno::BADF,
        Errno::NOLCK,
        Errno::NOSYS,
        Errno::OPNOTSUPP,
        Errno::INVAL,
        Errno::ISDIR,
    ];
    codes.contains(&error)
}

/// Locks a descriptor of `file`, which stands for the directory `path`.
fn lock(
    descriptor: OwnedFd,
    file: &Path,
    path: &Path,
    wait: bool,
    waiting: &mut dyn FnMut(&str),
) -> Result<DirectoryLock, LockError> {
    let failed = |source: Errno| LockError::Io {
        path: path.to_owned(),
        source: source.into(),
    };
    let started = Instant::now();
    let mut told = false;
    loop {
        match flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                return Ok(DirectoryLock {
                    _descriptor: descriptor,
                });
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(error)),
        }
        let holder = holder_of(file);
        if !wait || started.elapsed() >= PATIENCE {
            return Err(LockError::Held {
                path: path.to_owned(),
                holder,
            });
        }
        if !told {
            waiting(&holder);
            told = true;
        }
        thread::sleep(PAUSE);
    }
}

/// Names the process that holds the lock, from the kernel's table of locks.
fn holder_of(path: &Path) -> String {
    let find = || -> Option<String> {
        let inode = File::open(path).ok()?.metadata().ok()?.ino();
        let table = std::fs::read_to_string("/proc/locks").ok()?;
        let suffix = format!(":{inode}");
        let line = table.lines().find(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(1) == Some(&"FLOCK")
                && fields.get(5).is_some_and(|field| field.ends_with(&suffix))
        })?;
        let pid = line.split_whitespace().nth(4)?;
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = program.trim().replace('\n', " ");
        Some(format!("{program} with process number {pid}"))
    };
    // The table is not read in one moment: a line may be missed while others come and go.
    let found = (0..5).find_map(|_| find());
    found.unwrap_or_else(|| "its process could not be found out".to_owned())
}
