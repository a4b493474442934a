//! The state directory: what one user's runs on one host keep for themselves.
//!
//! `SECRETS_STATE_DIR`, else `/var/lib/secrets` for root, else `$XDG_STATE_HOME/secrets`
//! (`~/.local/state/secrets`), always `0700`. It holds the journals of running writers and
//! encrypted backups. A journal lists staging files and is locked while its writer lives, so that
//! the next run can tell leftovers of a killed one from files in use.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::fs::{self, FsError};
use super::{Env, fill_random, staging};

/// The state directory of a user; created when first needed.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The journal of a running writer; removed when it ends in good order.
pub struct Journal {
    path: PathBuf,
    /// Held open for its lock.
    _file: File,
}

impl StateDir {
    /// Returns where the directory is, `None` when neither variables nor user database tell.
    pub fn locate(env: &Env) -> Option<Self> {
        let path = if let Some(path) = env.path_var("SECRETS_STATE_DIR") {
            path
        } else if rustix::process::geteuid().is_root() {
            PathBuf::from("/var/lib/secrets")
        } else if let Some(path) = env
            .var("XDG_STATE_HOME")
            .map(Path::new)
            .filter(|path| path.is_absolute())
        {
            path.join("secrets")
        } else {
            env.home()?.join(".local/state/secrets")
        };
        Some(Self { path })
    }

    /// Opens a journal for staging files that are about to be written.
    ///
    /// # Errors
    /// `Io` when the directory cannot be written.
    pub fn begin_journal(&self, staging_files: &[PathBuf]) -> Result<Journal, FsError> {
        fs::own_folder(&self.path)?;
        let folder = self.path.join("journal");
        fs::own_folder(&folder)?;
        let mut lines = Vec::new();
        for path in staging_files {
            lines.extend_from_slice(path.as_os_str().as_bytes());
            lines.push(b'\n');
        }
        let path = folder.join(unique_name(""));
        let file = fs::write_new_private(&path, &lines)?;
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Journal { path, _file: file })
    }

    /// Removes the staging files of runs that were killed, and their journals. Returns what was
    /// removed.
    ///
    /// # Errors
    /// `Io` when a leftover cannot be removed.
    pub fn clean_up(&self) -> Result<Vec<PathBuf>, FsError> {
        let mut removed = Vec::new();
        let Ok(entries) = std::fs::read_dir(self.path.join("journal")) else {
            return Ok(removed);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(mut file) = File::open(&path) else {
                continue;
            };
            // Held: its writer is alive.
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let mut lines = Vec::new();
            if file
                .rewind()
                .and_then(|()| file.read_to_end(&mut lines))
                .is_err()
            {
                continue;
            }
            for line in lines
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let staged = PathBuf::from(std::ffi::OsStr::from_bytes(line));
                for leftover in [staged.clone(), with_suffix(&staged, "-old")] {
                    if staging::remove_staging_file(&leftover)? {
                        removed.push(leftover);
                    }
                }
            }
            fs::remove(&path)?;
        }
        removed.sort();
        Ok(removed)
    }

    /// Keeps an encrypted backup under a name made of the time and `label`, and returns its path.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep_backup(
        &self,
        label: &str,
        now: &str,
        encrypted: &[u8],
    ) -> Result<PathBuf, FsError> {
        self.keep(label, now, &mut &encrypted[..])
    }

    /// Removes a backup that turned out not to be needed: nothing was replaced.
    pub fn drop_backup(&self, path: &Path) {
        if path.starts_with(self.path.join("backups")) {
            drop(fs::remove(path));
        }
    }

    /// Keeps a copy of an encrypted file, without reading it into memory, and returns its path.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep_backup_of(&self, label: &str, now: &str, file: &Path) -> Result<PathBuf, FsError> {
        let mut source = File::open(file).map_err(|source| FsError::Io {
            path: file.to_owned(),
            action: "read",
            source,
        })?;
        self.keep(label, now, &mut source)
    }

    fn keep(&self, label: &str, now: &str, content: &mut dyn Read) -> Result<PathBuf, FsError> {
        fs::own_folder(&self.path)?;
        let folder = self.path.join("backups");
        fs::own_folder(&folder)?;
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                c
            } else {
                '_'
            }
        };
        let label: String = label.chars().map(plain).collect();
        let time = now.replace([':', '-'], "");
        let path = folder.join(format!("{time}-{}-{label}.enc", &unique_name("")[..6]));
        let mut file = fs::write_new_private(&path, b"")?;
        let written = std::io::copy(content, &mut file).and_then(|_| file.sync_all());
        written.map_err(|source| FsError::Io {
            path: path.clone(),
            action: "write",
            source,
        })?;
        if let Ok(folder) = File::open(&folder) {
            drop(folder.sync_all());
        }
        Ok(path)
    }
}

impl Journal {
    /// Closes the journal: nothing is left that a later run must clean up.
    pub fn close(self) {
        // A journal that stays behind is harmless: the next run finds nothing of what it lists.
        drop(fs::remove(&self.path));
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn unique_name(prefix: &str) -> String {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    format!("{prefix}{:016x}", u64::from_be_bytes(bytes))
}
