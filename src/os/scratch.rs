//! Private folders for plaintext that another program has to read, gone when they are dropped.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdir, mknodat, open};

use crate::secret::SecretBytes;

use super::fs::{FsError, failed, is_folder, read_regular};
use super::{Env, fill_random};

/// Where files are in memory only.
const MEMORY: &str = "/dev/shm";

/// A folder that nobody else may enter.
pub struct Scratch {
    path: PathBuf,
    /// What was made in it.
    files: RefCell<Vec<PathBuf>>,
}

impl Scratch {
    /// Makes a folder in `TMPDIR`; where that is not set in `/dev/shm`, else in `/tmp`. Its name is
    /// `prefix` and random digits.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(env: &Env, prefix: &str) -> Result<Self, FsError> {
        let parent = env.path_var("TMPDIR").unwrap_or_else(|| {
            let memory = Path::new(MEMORY);
            let is_usable = is_folder(memory) && super::fs::may_write(memory);
            PathBuf::from(if is_usable { MEMORY } else { "/tmp" })
        });
        let mut bytes = [0; 8];
        fill_random(&mut bytes);
        let path = parent.join(format!("{prefix}{}", u64::from_be_bytes(bytes)));
        mkdir(&path, Mode::from_raw_mode(0o700)).map_err(failed(&path, "make the folder"))?;
        Ok(Self {
            path,
            files: RefCell::default(),
        })
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
