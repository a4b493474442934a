//! Files: read without following links out of a base folder, replaced whole or not at all.
//!
//! The only place that writes. A file is staged beside its target under a unique private name
//! (owner and mode set by descriptor before the first byte), read back, synchronised, and then
//! exchanged with the target in one step; until [`Staged::finish`] the old file still exists and
//! [`Staged::roll_back`] brings it back. Paths below a [`Base`] are opened component by component
//! without following links, so a folder swapped for a link between check and use is an error, not
//! a way out.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, XattrFlags, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, fstat, fsync, linkat, mkdirat, open, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::secret::SecretBytes;

/// What the names of staging files start with; sixteen hexadecimal digits follow.
pub const STAGING_PREFIX: &str = ".secrets-staging-";

/// An input or output error with the path it happened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// The target was changed by somebody else between looking and writing.
    #[error("{}: changed while this run was at work", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, in words.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The target is a mount point of its own (a single file mounted into a container).
    #[error("{}: cannot be replaced, it is mounted as a single file", path.display())]
    Mounted {
        /// The file.
        path: PathBuf,
    },
    /// A component of the path leads out of the base folder.
    #[error("{}: leads out of {}", path.display(), base.display())]
    Outside {
        /// The path as asked for.
        path: PathBuf,
        /// The base folder.
        base: PathBuf,
    },
    /// What was written did not come back as it was.
    #[error("{}: what was written does not read back as it was", path.display())]
    NotReadBack {
        /// The staging file's target.
        path: PathBuf,
    },
}

/// Returns a closure that turns a system error into an [`FsError`] for `path`.
fn failed<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl Fn(E) -> FsError {
    let path = path.to_owned();
    move |error| FsError::Io {
        path: path.clone(),
        action,
        source: error.into(),
    }
}

/// Resolves `.` and `..` by name, without looking at the file system.
pub fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Reads a whole file.
///
/// # Errors
/// The system's reason.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Reads a whole file that must be a regular one; a named pipe does not make it wait.
///
/// # Errors
/// The system's reason, or that it is no regular file.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = open(path, flags, Mode::empty())?;
    if let Some(kind) = kind_in_words(&fstat(&descriptor)?) {
        return Err(io::Error::other(format!(
            "it is {kind}, not a regular file"
        )));
    }
    let mut content = Vec::new();
    File::from(descriptor).read_to_end(&mut content)?;
    Ok(content)
}

/// What a path that should be a folder is.
#[derive(Debug)]
pub enum FolderState {
    /// Nothing is there.
    Absent,
    /// A folder that can be looked at.
    Present,
    /// Something else, or nothing can be told; why, in words.
    Unusable(String),
}

/// Looks at a path that should be a folder, following links.
pub fn folder_state(path: &Path) -> FolderState {
    match path.metadata() {
        Ok(found) if found.is_dir() => FolderState::Present,
        Ok(_) => FolderState::Unusable("it is not a folder".to_owned()),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_ok() =>
        {
            FolderState::Unusable("it is a link to nothing".to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => FolderState::Absent,
        Err(error) => FolderState::Unusable(error.to_string()),
    }
}

/// Returns the path with all links resolved; `None` where it does not exist.
pub fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// Returns whether something stands at `path`, a link counted as such.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Returns whether `path` is a regular file, links not followed.
pub fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}

/// Returns whether `path` is a folder, following links.
pub fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

/// Returns whether something stands at `path`, following links.
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// What is known of a file besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    device: u64,
    inode: u64,
    /// Length in bytes.
    pub len: u64,
    /// Permission bits (at most `0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    #[expect(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_possible_wrap,
        reason = "field types differ between systems"
    )]
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            mode: u32::from(stat.st_mode) & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Returns whether both describe the same file, whatever is in it.
    fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What stands at a path.
#[derive(Debug)]
pub enum Found {
    /// A regular file and its content.
    File(FileState, SecretBytes),
    /// Nothing.
    Missing,
    /// Something that is not a regular file, in words (`a symbolic link`, `a directory`, …).
    Other(&'static str),
    /// A regular file longer than the limit.
    TooLarge(u64),
    /// Something that cannot be read.
    Unreadable(io::Error),
}

/// A folder below which everything stays: the repository, or the root on the server.
#[derive(Clone)]
pub struct Base {
    path: PathBuf,
    directory: Arc<OwnedFd>,
}

/// Where a file is or would be: the deepest folder that exists, what is missing below it, and the
/// file's name.
#[derive(Clone)]
pub struct Place {
    directory: Arc<OwnedFd>,
    folder: PathBuf,
    missing: Vec<OsString>,
    name: OsString,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Base {
    /// Opens a folder; it may itself be reached through links.
    ///
    /// # Errors
    /// `Io` when it does not exist or is not a folder.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let canonical = path
            .canonicalize()
            .map_err(failed(path, "open the folder"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            open(&canonical, flags, Mode::empty()).map_err(failed(path, "open the folder"))?;
        Ok(Self {
            path: canonical,
            directory: Arc::new(directory),
        })
    }

    /// Returns the folder's path with all links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the owner and group of the folder.
    ///
    /// # Errors
    /// `Io`.
    pub fn owner(&self) -> Result<(u32, u32), FsError> {
        let stat = fstat(&*self.directory).map_err(failed(&self.path, "look at the folder"))?;
        Ok((stat.st_uid, stat.st_gid))
    }

    /// Finds the place of a file. Links to folders inside the base are followed, others refused.
    ///
    /// # Errors
    /// `Outside`, or `Io` when a component is not a folder or may not be entered.
    pub fn place(&self, relative: &Path) -> Result<Place, FsError> {
        let full = self.path.join(relative);
        let outside = || FsError::Outside {
            path: full.clone(),
            base: self.path.clone(),
        };
        if relative
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            return Err(outside());
        }
        let (Some(name), Some(parent)) = (relative.file_name(), relative.parent()) else {
            return Err(outside());
        };
        let mut folder = self.path.clone();
        let mut missing = Vec::new();
        for part in parent.components() {
            let next = folder.join(part);
            if !missing.is_empty() {
                missing.push(part.as_os_str().to_owned());
                continue;
            }
            match next.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing.push(part.as_os_str().to_owned());
                }
                Err(error) => return Err(failed(&next, "enter the folder")(error)),
                Ok(found) if found.is_symlink() => {
                    let target = next
                        .canonicalize()
                        .map_err(failed(&next, "follow the link"))?;
                    if !target.starts_with(&self.path) {
                        return Err(outside());
                    }
                    folder = target;
                }
                Ok(_) => folder = next,
            }
        }
        let directory = self.open_folder(&folder)?;
        Ok(Place {
            directory,
            folder,
            missing,
            name: name.to_owned(),
        })
    }

    /// Opens a folder known to be below the base, one component after the other, no links.
    fn open_folder(&self, folder: &Path) -> Result<Arc<OwnedFd>, FsError> {
        let mut directory = Arc::clone(&self.directory);
        let below = folder.strip_prefix(&self.path).unwrap_or(Path::new(""));
        for part in below.components() {
            let next = openat(
                &*directory,
                part.as_os_str(),
                OFlags::RDONLY | DIRECTORY,
                Mode::empty(),
            );
            // A folder that may be entered but not listed can still be worked in.
            #[cfg(target_os = "linux")]
            let next = next.or_else(|error| match error {
                Errno::ACCESS => openat(
                    &*directory,
                    part.as_os_str(),
                    OFlags::PATH | DIRECTORY,
                    Mode::empty(),
                ),
                other => Err(other),
            });
            directory = Arc::new(next.map_err(failed(folder, "enter the folder"))?);
        }
        Ok(directory)
    }
}

impl Place {
    /// Returns the full path, for messages.
    pub fn path(&self) -> PathBuf {
        let mut path = self.folder.clone();
        path.extend(&self.missing);
        path.join(&self.name)
    }

    /// Reads what stands there; links are not followed, special files not opened for long.
    pub fn read(&self, limit: u64) -> Found {
        if !self.missing.is_empty() {
            return Found::Missing;
        }
        match self.open_existing(OFlags::RDONLY) {
            Err(found) => found,
            Ok((file, state)) if state.len > limit => {
                drop(file);
                Found::TooLarge(state.len)
            }
            Ok((mut file, state)) => {
                let length = usize::try_from(state.len).unwrap_or(0);
                let mut content = SecretBytes::new(Vec::with_capacity(length + 1));
                match file.read_to_end(content.expose_mut()) {
                    Ok(_) => Found::File(state, content),
                    Err(error) => Found::Unreadable(error),
                }
            }
        }
    }

    /// Opens the file that was seen for reading.
    ///
    /// # Errors
    /// `Changed` when it is another one now.
    pub fn reopen(&self, seen: &FileState) -> Result<File, FsError> {
        match self.open_existing(OFlags::RDONLY) {
            Ok((file, state)) if state == *seen => Ok(file),
            _ => Err(FsError::Changed { path: self.path() }),
        }
    }

    /// Looks at what stands there without reading it. `Found::File` then has no content.
    pub fn look(&self) -> Found {
        if !self.missing.is_empty() {
            return Found::Missing;
        }
        match statat(&*self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Found::Missing,
            Err(error) => Found::Unreadable(error.into()),
            Ok(stat) => match kind_in_words(&stat) {
                None => Found::File(FileState::of(&stat), SecretBytes::default()),
                Some(kind) => Found::Other(kind),
            },
        }
    }

    fn open_existing(&self, flags: OFlags) -> Result<(File, FileState), Found> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match self.look() {
            Found::File(..) => {}
            other => return Err(other),
        }
        let descriptor = openat(&*self.directory, &self.name, flags, Mode::empty()).map_err(
            |error| match error {
                Errno::NOENT => Found::Missing,
                Errno::LOOP => Found::Other("a symbolic link"),
                other => Found::Unreadable(other.into()),
            },
        )?;
        let stat = fstat(&descriptor).map_err(|error| Found::Unreadable(error.into()))?;
        match kind_in_words(&stat) {
            None => Ok((File::from(descriptor), FileState::of(&stat))),
            Some(kind) => Err(Found::Other(kind)),
        }
    }

    /// Returns whether what stands there is still what was seen: the same file, length and times,
    /// and for short files, whose times may be too coarse to tell, the same content.
    pub fn is_unchanged(&self, seen: Option<&FileState>, content: &[u8]) -> bool {
        const COMPARED_BYTES: u64 = 1 << 20;
        match (self.look(), seen) {
            (Found::Missing, None) => true,
            (Found::File(now, _), Some(seen)) if now == *seen => {
                now.len > COMPARED_BYTES
                    || matches!(self.read(COMPARED_BYTES), Found::File(_, found) if found.expose() == content)
            }
            _ => false,
        }
    }

    /// Returns every path that [`Place::create_parents`] and [`Staged::write`] may make under the
    /// name `temporary`, for the journal.
    pub fn staging_paths(&self, temporary: &OsStr) -> Vec<PathBuf> {
        let mut folder = self.folder.clone();
        let mut paths = vec![folder.join(temporary)];
        for part in &self.missing {
            folder.push(part);
            paths.push(folder.join(temporary));
        }
        paths
    }

    /// Creates the folders that are missing, `0755`, each with `owner` where given. Each is made
    /// under the name `temporary` and gets its own name when owner and mode are set. The paths made
    /// are added to `made`, outermost first, also when a later one fails.
    ///
    /// # Errors
    /// `Io`.
    pub fn create_parents(
        &mut self,
        owner: Ownership,
        temporary: &OsStr,
        made: &mut Vec<PathBuf>,
    ) -> Result<(), FsError> {
        for part in std::mem::take(&mut self.missing) {
            let path = self.folder.join(&part);
            let enter = || {
                openat(
                    &*self.directory,
                    &part,
                    OFlags::RDONLY | DIRECTORY,
                    Mode::empty(),
                )
            };
            let directory = match enter() {
                // Another file of this run needed the same folder.
                Ok(directory) => directory,
                Err(Errno::NOENT) => {
                    if make_folder(&self.directory, temporary, &part, owner)
                        .map_err(failed(&path, "create the folder"))?
                    {
                        made.push(path.clone());
                    }
                    enter().map_err(failed(&path, "enter the folder"))?
                }
                Err(error) => return Err(failed(&path, "enter the folder")(error)),
            };
            self.directory = Arc::new(directory);
            self.folder = path;
        }
        Ok(())
    }

    /// Returns owner and group of the folder the file stands in.
    ///
    /// # Errors
    /// `Io`.
    pub fn folder_owner(&self) -> Result<(u32, u32), FsError> {
        let stat = fstat(&*self.directory).map_err(failed(&self.folder, "look at the folder"))?;
        Ok((stat.st_uid, stat.st_gid))
    }

    /// Returns whether others than owner and root may replace files in the folder.
    pub fn is_folder_open_to_others(&self) -> bool {
        fstat(&*self.directory).is_ok_and(|stat| {
            let mode = FileState::of(&stat).mode;
            mode & 0o002 != 0 && mode & 0o1000 == 0
        })
    }

    /// Changes owner and mode of the file that stands there, without touching its content.
    ///
    /// # Errors
    /// `Changed` when it is not the file that was seen, `Io`.
    pub fn set_attributes(
        &self,
        seen: &FileState,
        owner: Ownership,
        mode: u32,
    ) -> Result<(), FsError> {
        let path = self.path();
        let (file, state) = self
            .open_existing(OFlags::RDONLY)
            .map_err(|_| FsError::Changed { path: path.clone() })?;
        if !state.is_same_file(seen) {
            return Err(FsError::Changed { path });
        }
        owner
            .apply(file.as_fd())
            .map_err(failed(&path, "set the owner"))?;
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed(&path, "set the mode"))?;
        file.sync_all().map_err(failed(&path, "write to disk"))
    }
}

/// Makes a folder that is complete when it appears under its name. Returns whether it was made;
/// somebody else may have been faster.
fn make_folder(
    parent: &OwnedFd,
    temporary: &OsStr,
    name: &OsStr,
    owner: Ownership,
) -> Result<bool, Errno> {
    mkdirat(parent, temporary, Mode::from_raw_mode(0o700))?;
    let complete = || {
        let directory = openat(parent, temporary, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
        owner.apply(directory.as_fd())?;
        fchmod(&directory, Mode::from_raw_mode(0o755))?;
        match renameat_with(parent, temporary, parent, name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                renameat(parent, temporary, parent, name)
            }
            renamed => renamed,
        }
    };
    complete().map(|()| true).or_else(|error| {
        let _ = unlinkat(parent, temporary, AtFlags::REMOVEDIR);
        if error == Errno::EXIST {
            Ok(false)
        } else {
            Err(error)
        }
    })
}

/// Returns what a file is when it is not a regular one.
fn kind_in_words(stat: &Stat) -> Option<&'static str> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return None,
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "not a regular file",
    })
}

/// Owner and group to give a file; `None` leaves what the system chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Ownership {
    fn apply(self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        let stat = fstat(descriptor)?;
        let uid = self
            .uid
            .filter(|&uid| uid != stat.st_uid)
            .map(Uid::from_raw);
        let gid = self
            .gid
            .filter(|&gid| gid != stat.st_gid)
            .map(Gid::from_raw);
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        fchown(descriptor, uid, gid)
    }
}

/// How a file is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Owner and group.
    pub owner: Ownership,
    /// Permission bits.
    pub mode: u32,
    /// Whether access lists of the replaced file are kept (they are not where a mode is declared).
    pub keep_access_list: bool,
}

/// A file written beside its target, ready to take its place.
pub struct Staged {
    place: Place,
    temporary: OsString,
    written: FileState,
    expected: Option<FileState>,
    step: Replacement,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replacement {
    /// Not yet: the staging name holds the new file.
    Pending,
    /// The target did not exist and does now.
    Created,
    /// New and old have changed places: the staging name holds the old file.
    Exchanged,
    /// The staging name plus `-old` is a second name of the old file.
    Linked,
}

/// Returns a staging name that nobody else uses.
pub fn staging_name(fill: &mut dyn FnMut(&mut [u8])) -> OsString {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    format!("{STAGING_PREFIX}{:016x}", u64::from_be_bytes(bytes)).into()
}

fn is_staging_name(name: &OsStr) -> bool {
    let digits = name
        .to_str()
        .and_then(|name| name.strip_prefix(STAGING_PREFIX));
    let digits = digits.map(|digits| digits.strip_suffix("-old").unwrap_or(digits));
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl Staged {
    /// Writes `content` under `temporary` beside `place` and reads it back. `expected` is what was
    /// seen at the target; its security attributes are kept.
    ///
    /// # Errors
    /// `Io`, `NotReadBack`; nothing is left behind.
    pub fn write(
        place: Place,
        temporary: OsString,
        content: &[u8],
        attributes: Attributes,
        expected: Option<FileState>,
    ) -> Result<Self, FsError> {
        let path = place.path();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = openat(
            &*place.directory,
            &temporary,
            flags,
            Mode::from_raw_mode(0o600),
        )
        .map_err(failed(&path, "create a file beside it"))?;
        let file = File::from(descriptor);
        let fill = || -> Result<FileState, FsError> {
            attributes
                .owner
                .apply(file.as_fd())
                .map_err(failed(&path, "set owner and group"))?;
            if expected.is_some() {
                copy_security(&place, &file, attributes.keep_access_list);
            }
            fchmod(&file, Mode::from_raw_mode(attributes.mode))
                .map_err(failed(&path, "set the mode"))?;
            (&file).write_all(content).map_err(failed(&path, "write"))?;
            if !reads_back(&file, content).map_err(failed(&path, "read back"))? {
                return Err(FsError::NotReadBack { path: path.clone() });
            }
            let stat = fstat(&file).map_err(failed(&path, "look at the file"))?;
            Ok(FileState::of(&stat))
        };
        match fill() {
            Ok(written) => Ok(Self {
                place,
                temporary,
                written,
                expected,
                step: Replacement::Pending,
            }),
            Err(error) => {
                let _ = unlinkat(&*place.directory, &temporary, AtFlags::empty());
                Err(error)
            }
        }
    }

    /// Writes the content to disk.
    ///
    /// # Errors
    /// `Io`: fatal, never to be tried again.
    pub fn synchronize(&self) -> Result<(), FsError> {
        let path = self.place.path();
        let file = openat(
            &*self.place.directory,
            &self.temporary,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .or_else(|_| {
            openat(
                &*self.place.directory,
                &self.temporary,
                OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
        })
        .map_err(failed(&path, "write to disk"))?;
        fsync(&file).map_err(failed(&path, "write to disk"))
    }

    /// Returns the path of the target.
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// Returns the full path of the staging file, for the journal.
    pub fn temporary_path(&self) -> PathBuf {
        self.place.folder.join(&self.temporary)
    }

    /// Puts the staged file in the place of its target, in one step.
    ///
    /// # Errors
    /// `Changed` when the target is not what was seen, `Mounted`, `Io`; the target is as it was.
    pub fn replace(&mut self) -> Result<(), FsError> {
        let path = self.place.path();
        let (directory, name, temporary) =
            (&*self.place.directory, &self.place.name, &self.temporary);
        let changed = || FsError::Changed { path: path.clone() };
        let refused = |error: Errno| match error {
            Errno::BUSY => FsError::Mounted { path: path.clone() },
            Errno::EXIST | Errno::NOENT => changed(),
            other => failed(&path, "replace")(other),
        };
        let unsupported =
            |error: Errno| matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP);
        let Some(expected) = self.expected else {
            match renameat_with(
                directory,
                temporary,
                directory,
                name,
                RenameFlags::NOREPLACE,
            ) {
                Ok(()) => {}
                Err(error) if unsupported(error) => {
                    linkat(directory, temporary, directory, name, AtFlags::empty())
                        .map_err(refused)?;
                    let _ = unlinkat(directory, temporary, AtFlags::empty());
                }
                Err(error) => return Err(refused(error)),
            }
            self.step = Replacement::Created;
            return Ok(());
        };
        match renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE) {
            Ok(()) => {
                let old = statat(directory, temporary, AtFlags::SYMLINK_NOFOLLOW);
                if !old.is_ok_and(|stat| FileState::of(&stat).is_same_file(&expected)) {
                    let _ =
                        renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE);
                    return Err(changed());
                }
                self.step = Replacement::Exchanged;
            }
            Err(error) if unsupported(error) => {
                linkat(
                    directory,
                    name,
                    directory,
                    self.old_name(),
                    AtFlags::empty(),
                )
                .map_err(refused)?;
                self.step = Replacement::Linked;
                if let Err(error) = renameat(directory, temporary, directory, name) {
                    let _ = unlinkat(directory, self.old_name(), AtFlags::empty());
                    self.step = Replacement::Pending;
                    return Err(refused(error));
                }
            }
            Err(error) => return Err(refused(error)),
        }
        Ok(())
    }

    fn old_name(&self) -> OsString {
        let mut name = self.temporary.clone();
        name.push("-old");
        name
    }

    /// Brings back what stood at the target before [`Staged::replace`] and removes the staging
    /// file.
    ///
    /// # Errors
    /// `Io` with the path where the old content still is, in the rare case that this fails too.
    pub fn roll_back(&mut self) -> Result<(), FsError> {
        let path = self.place.path();
        let (directory, name, temporary) =
            (&*self.place.directory, &self.place.name, &self.temporary);
        let failed = failed(&path, "bring back the old file");
        match self.step {
            Replacement::Pending => {}
            Replacement::Created => {
                let now = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
                if FileState::of(&now).is_same_file(&self.written) {
                    unlinkat(directory, name, AtFlags::empty()).map_err(&failed)?;
                }
                return Ok(());
            }
            Replacement::Exchanged => {
                renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE)
                    .map_err(&failed)?;
            }
            Replacement::Linked => {
                return renameat(directory, self.old_name(), directory, name).map_err(&failed);
            }
        }
        self.step = Replacement::Pending;
        unlinkat(directory, temporary, AtFlags::empty()).map_err(failed)
    }

    /// Removes the old file after a successful replacement.
    ///
    /// # Errors
    /// `Io`: the new file is in place, the old one remains under its staging name.
    pub fn finish(&self) -> Result<(), FsError> {
        let path = self.temporary_path();
        let old = match self.step {
            Replacement::Exchanged => self.temporary.clone(),
            Replacement::Linked => self.old_name(),
            Replacement::Created | Replacement::Pending => return Ok(()),
        };
        unlinkat(&*self.place.directory, &old, AtFlags::empty()).map_err(failed(&path, "remove"))
    }

    /// Writes the folder entry to disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn synchronize_folder(&self) -> Result<(), FsError> {
        match fsync(&*self.place.directory) {
            // A folder that may not be read cannot be synchronised, nor on every file system.
            Ok(()) | Err(Errno::BADF | Errno::INVAL) => Ok(()),
            Err(error) => Err(failed(&self.place.folder, "write to disk")(error)),
        }
    }

    /// Returns which folder the file stands in, to synchronise each folder once.
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// Returns the number of the file system.
    pub fn device(&self) -> u64 {
        self.written.device
    }

    /// Writes everything on the file system to disk: one call instead of one a file.
    ///
    /// # Errors
    /// `Io`: fatal, never to be tried again.
    pub fn synchronize_file_system(&self) -> Result<(), FsError> {
        #[cfg(target_os = "linux")]
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = open(&self.place.folder, flags, Mode::empty());
            if let Ok(directory) = directory {
                return rustix::fs::syncfs(directory)
                    .map_err(failed(&self.place.folder, "write to disk"));
            }
        }
        self.synchronize()
    }
}

/// Compares a file with what it should hold, in pieces.
fn reads_back(file: &File, content: &[u8]) -> io::Result<bool> {
    if file.metadata()?.len() != content.len() as u64 {
        return Ok(false);
    }
    let mut piece = SecretBytes::new(vec![0; content.len().min(256 << 10)]);
    let mut at = 0;
    for expected in content.chunks(256 << 10) {
        let buffer = &mut piece.expose_mut()[..expected.len()];
        file.read_exact_at(buffer, at)?;
        if buffer != expected {
            return Ok(false);
        }
        at += expected.len() as u64;
    }
    Ok(true)
}

/// Copies access lists and security labels of the file being replaced. What the file system does
/// not have, or a plain user may not set, is left out.
fn copy_security(place: &Place, new: &File, keep_access_list: bool) {
    let Ok((old, _)) = place.open_existing(OFlags::RDONLY) else {
        return;
    };
    let mut names = vec![0_u8; 4096];
    let Ok(length) = flistxattr(&old, &mut names[..]) else {
        return;
    };
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let is_access_list = name == b"system.posix_acl_access";
        let is_label = name.starts_with(b"security.") && name != b"security.capability";
        let is_kept = is_label || (is_access_list && keep_access_list);
        if !is_kept {
            continue;
        }
        let name = OsStr::new(std::str::from_utf8(name).unwrap_or_default());
        let mut value = vec![0_u8; 4096];
        if let Ok(length) = fgetxattr(&old, name, &mut value[..]) {
            let _ = fsetxattr(new, name, &value[..length], XattrFlags::empty());
        }
    }
}

/// A file opened for writing in place: for a target that is mounted as a single file, where a
/// rename would not be seen. Not atomic.
pub struct InPlace {
    file: File,
    path: PathBuf,
}

impl InPlace {
    /// Opens the file that was seen.
    ///
    /// # Errors
    /// `Changed` when it is another one now, `Io` when it may not be written.
    pub fn open(place: &Place, seen: &FileState) -> Result<Self, FsError> {
        let path = place.path();
        match place.open_existing(OFlags::RDWR) {
            Ok((file, state)) if state.is_same_file(seen) => Ok(Self { file, path }),
            Err(Found::Unreadable(source)) => Err(FsError::Io {
                path,
                action: "open for writing",
                source,
            }),
            Ok(_) | Err(_) => Err(FsError::Changed { path }),
        }
    }

    /// Replaces the content, reads it back and writes it to disk.
    ///
    /// # Errors
    /// `Io`, `NotReadBack`; the content is then undefined.
    pub fn write(&self, content: &[u8], attributes: Attributes) -> Result<(), FsError> {
        let path = &self.path;
        attributes
            .owner
            .apply(self.file.as_fd())
            .map_err(failed(path, "set owner and group"))?;
        fchmod(&self.file, Mode::from_raw_mode(attributes.mode))
            .map_err(failed(path, "set the mode"))?;
        self.file
            .write_all_at(content, 0)
            .map_err(failed(path, "write"))?;
        self.file
            .set_len(content.len() as u64)
            .map_err(failed(path, "write"))?;
        if !reads_back(&self.file, content).map_err(failed(path, "read back"))? {
            return Err(FsError::NotReadBack { path: path.clone() });
        }
        self.file.sync_all().map_err(failed(path, "write to disk"))
    }
}

/// Removes a staging file or folder of an earlier run: only what has a staging name. Returns
/// whether there was one.
///
/// # Errors
/// `Io`.
pub fn remove_staging_file(path: &Path) -> Result<bool, FsError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(false);
    };
    if !is_staging_name(name) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match open(folder, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed(folder, "enter the folder")(error)),
    };
    let flags = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if kind_in_words(&stat).is_none() => AtFlags::empty(),
        // A folder that never got its name; one that holds something is not removed.
        Ok(stat) if kind_in_words(&stat) == Some("a directory") => AtFlags::REMOVEDIR,
        _ => return Ok(false),
    };
    unlinkat(&directory, name, flags).map_err(failed(path, "remove"))?;
    Ok(true)
}

/// Creates a folder and its parents: `0700` each, or `0755` where `open` to others.
///
/// # Errors
/// `Io`.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), FsError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(mode);
    builder
        .create(path)
        .map_err(failed(path, "create the folder"))
}

/// Creates a private folder, or makes sure that one that exists is ours alone.
///
/// # Errors
/// `Io`, also when it belongs to another user.
pub fn own_folder(path: &Path) -> Result<(), FsError> {
    create_folder(path, 0o700)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty()).map_err(failed(path, "open the folder"))?;
    let stat = fstat(&directory).map_err(failed(path, "look at the folder"))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(failed(path, "use the folder")(io::Error::other(
            "it belongs to another user",
        )));
    }
    if FileState::of(&stat).mode & 0o077 != 0 {
        fchmod(&directory, Mode::from_raw_mode(0o700))
            .map_err(failed(path, "make the folder private"))?;
    }
    Ok(())
}

/// Removes a folder made by this run, if nothing else was put into it meanwhile.
#[expect(clippy::disallowed_methods, reason = "folders are removed here")]
pub fn remove_empty_folder(path: &Path) {
    drop(std::fs::remove_dir(path));
}

/// Writes a new private file (`0600`) and synchronises it.
///
/// # Errors
/// `Io`, also when it exists.
pub fn write_new_private(path: &Path, content: &[u8]) -> Result<File, FsError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor =
        open(path, flags, Mode::from_raw_mode(0o600)).map_err(failed(path, "create"))?;
    let mut file = File::from(descriptor);
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed(path, "write"))?;
    Ok(file)
}

/// Removes a file.
///
/// # Errors
/// `Io`.
#[expect(clippy::disallowed_methods, reason = "files are removed here")]
pub fn remove(path: &Path) -> Result<(), FsError> {
    std::fs::remove_file(path).map_err(failed(path, "remove"))
}
