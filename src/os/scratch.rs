//! Private folders for plaintext that another program has to read, gone when they are dropped.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, FlockOperation, Mode, OFlags, flock, fstat, mkdir, mknodat, open, rename,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use crate::secret::SecretBytes;

use super::fs::{FsError, failed, is_folder, read_regular};
use super::lock::has_no_locks;
use super::{Env, fill_random};

/// Where files are in memory only.
const MEMORY: &str = "/dev/shm";
/// Where they are else.
const TEMPORARY: &str = "/tmp";

/// What the names of the folders begin with, by what they are for; sixteen hexadecimal digits follow.
const PREFIXES: [&str; 2] = ["secrets-edit-", ".secrets-exec-"];
/// Begins the name of a folder before it is locked.
const UNLOCKED: &str = ".new-";

/// What a folder is for.
#[derive(Clone, Copy)]
pub enum Use {
    /// A file in the editor.
    Edit,
    /// A file for another program.
    Exec,
}

/// A folder that nobody else may enter.
pub struct Scratch {
    path: PathBuf,
    /// Locked while this process lives, and those that it started: what is locked by none is left over.
    _lock: OwnedFd,
    /// What was made in it.
    files: RefCell<Vec<PathBuf>>,
}

impl Scratch {
    /// Makes a folder in `TMPDIR`; where that is not set in `/dev/shm`, else in `/tmp`.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(env: &Env, purpose: Use) -> Result<Self, FsError> {
        let parent = env.path_var("TMPDIR").unwrap_or_else(|| {
            let memory = Path::new(MEMORY);
            let is_usable = is_folder(memory) && super::fs::may_write(memory);
            PathBuf::from(if is_usable { MEMORY } else { TEMPORARY })
        });
        let mut bytes = [0; 8];
        fill_random(&mut bytes);
        let prefix = PREFIXES[purpose as usize];
        let name = format!("{prefix}{:016x}", u64::from_be_bytes(bytes));
        let path = parent.join(&name);
        // Under another name until it is locked, so that nobody takes it for left over.
        let unlocked = parent.join(format!("{UNLOCKED}{name}"));
        let failed = failed(&path, "make the folder");
        mkdir(&unlocked, Mode::from_raw_mode(0o700)).map_err(&failed)?;
        let make = || -> Result<OwnedFd, Errno> {
            // Those that this process starts inherit it.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let lock = open(&unlocked, flags, Mode::empty())?;
            match retry_on_intr(|| flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
                // Where folders cannot be locked nobody takes one for left over.
                Err(error) if has_no_locks(error) => {}
                locked => locked?,
            }
            rename(&unlocked, &path)?;
            Ok(lock)
        };
        match make() {
            Ok(lock) => Ok(Self {
                path: path.clone(),
                _lock: lock,
                files: RefCell::default(),
            }),
            Err(error) => {
                super::fs::remove_empty_folder(&unlocked);
                Err(failed(error))
            }
        }
    }

    /// Removes what killed runs of this user left, with the plaintext in it. Returns how many folders.
    #[expect(
        clippy::disallowed_methods,
        reason = "folders of our own are removed here"
    )]
    pub fn clean_up(env: &Env) -> usize {
        let parents = env.path_var("TMPDIR").into_iter();
        let parents: BTreeSet<PathBuf> = parents.chain([MEMORY.into(), TEMPORARY.into()]).collect();
        let mut removed = 0;
        for parent in parents {
            let names = super::fs::names(&parent);
            for name in names.iter().filter(|name| is_ours(name)) {
                let path = parent.join(name);
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Ok(folder) = open(&path, flags, Mode::empty()) else {
                    continue;
                };
                let is_own = fstat(&folder).is_ok_and(|stat| {
                    stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o7777 == 0o700
                });
                if is_own && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    removed += usize::from(std::fs::remove_dir_all(&path).is_ok());
                }
            }
        }
        removed
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it, `0600`.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, name: &Path, content: &[u8]) -> Result<PathBuf, FsError> {
        let path = self.path.join(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let descriptor =
            open(&path, flags, Mode::from_raw_mode(0o600)).map_err(failed(&path, "create"))?;
        let mut file = File::from(descriptor);
        self.files.borrow_mut().push(path.clone());
        file.write_all(content).map_err(failed(&path, "write"))?;
        drop(file);
        if read_regular(&path)
            .map(SecretBytes::new)
            .is_ok_and(|read| read.expose() == content)
        {
            return Ok(path);
        }
        Err(FsError::NotReadBack { path })
    }

    /// Makes a named pipe in it, `0600`.
    ///
    /// # Errors
    /// `Io`.
    pub fn make_pipe(&self, name: &Path) -> Result<PathBuf, FsError> {
        let path = self.path.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(failed(&path, "make a named pipe"))?;
        Ok(path)
    }
}

fn is_ours(name: &str) -> bool {
    let digits = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl Drop for Scratch {
    #[expect(clippy::disallowed_methods, reason = "its own folder is removed here")]
    fn drop(&mut self) {
        // By name first: that needs no folder to be read.
        for file in self.files.get_mut().drain(..) {
            drop(std::fs::remove_file(file));
        }
        drop(std::fs::remove_dir_all(&self.path));
    }
}
