//! Files and folders by their full path: the few that are no place below a base, such as the
//! manifest and what stands in the state directory. Entries go through [`super::place`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, accessat, fchmod, fstat,
    linkat, open, renameat_with,
};

use rustix::io::Errno;

use crate::secret::SecretBytes;

use super::place::Ownership;

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
    /// The target was changed by somebody else while its old file was to come back.
    #[error("{}: somebody changed it while this run was at work, so it was left as it is{}", path.display(), kept_in_words(kept.as_deref()))]
    NotBroughtBack {
        /// The file.
        path: PathBuf,
        /// Where the old one is, if there was one.
        kept: Option<PathBuf>,
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
    /// A run that was killed was writing into the file.
    #[error("{}: an interrupted run was writing into it, so it may be part old and part new", path.display())]
    HalfWritten {
        /// The file.
        path: PathBuf,
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
    /// A component of the path is a link with which its owner leads into a folder of somebody else.
    #[error("{}: {} is a link of the user {owner} to a folder of the user {target_owner}", path.display(), link.display())]
    ForeignLink {
        /// The path as asked for.
        path: PathBuf,
        /// The link.
        link: PathBuf,
        /// The link's owner.
        owner: u32,
        /// The owner of what it leads to.
        target_owner: u32,
    },
    /// What was written did not come back as it was.
    #[error("{}: what was written does not read back as it was", path.display())]
    NotReadBack {
        /// The staging file's target.
        path: PathBuf,
    },
}

fn kept_in_words(kept: Option<&Path>) -> String {
    kept.map(|path| format!("; the old file is {}", path.display()))
        .unwrap_or_default()
}

/// Returns a closure that turns a system error into an [`FsError`] for `path`.
pub fn failed<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl Fn(E) -> FsError {
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

/// Reads a whole file that must be a regular one; a named pipe does not make it wait.
///
/// # Errors
/// The system's reason, or that it is no regular file.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    read_regular_bounded(path, u64::MAX)
}

/// As [`read_regular`], of at most `limit` bytes.
///
/// # Errors
/// As it, or that it is longer.
pub fn read_regular_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = open(path, flags, Mode::empty())?;
    if let Some(kind) = kind_in_words(&fstat(&descriptor)?) {
        return Err(io::Error::other(format!(
            "it is {kind}, not a regular file"
        )));
    }
    let mut content = Vec::new();
    let mut file = File::from(descriptor).take(limit.saturating_add(1));
    file.read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(content)
}

/// Reads whatever can be read at a path, of at most `limit` bytes: files, pipes, devices.
///
/// # Errors
/// The system's reason, or that it is longer.
pub fn read_any(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let descriptor = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let file = File::from(descriptor);
    let length = file.metadata()?.len().clamp(4096, limit);
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(4096) + 1);
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(content)
}

/// Reads a whole file of at most `limit` bytes. A pipe counts as one, as a key may come through it, but
/// nobody is waited for longer than ten seconds.
///
/// # Errors
/// The system's reason, that it is longer, or that nothing came.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    // Reserved, so that no copy of a key is left behind by growing.
    let length = file.metadata()?.len().clamp(4096, limit);
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(4096) + 1);
    let mut reader = (&file).take(limit + 1);
    loop {
        match reader.read_to_end(&mut content) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_input(&file)?,
            Err(error) => return Err(error),
        }
    }
    if content.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(content)
}

/// Waits until something can be read from a pipe.
fn wait_for_input(file: &File) -> io::Result<()> {
    let ten_seconds = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut waiting = [PollFd::new(file, PollFlags::IN)];
    if poll(&mut waiting, Some(&ten_seconds))? == 0 {
        return Err(io::Error::other("nothing came through it in ten seconds"));
    }
    Ok(())
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

/// Returns a path with all links resolved, as far as it exists; the rest of it as it is.
pub fn resolved(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    for folder in path.ancestors() {
        if let Ok(found) = folder.canonicalize() {
            let rest = rest.into_iter().rev();
            return rest.fold(found, |found: PathBuf, part: &OsStr| found.join(part));
        }
        rest.extend(folder.file_name());
    }
    path.to_owned()
}

/// Returns whether two paths lead to one file, under whatever names.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
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

/// Returns what a file is when it is not a regular one.
pub(super) fn kind_in_words(stat: &Stat) -> Option<&'static str> {
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

/// Returns the names in a folder, sorted; none where it cannot be read. Names that are not UTF-8 are
/// left out.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Returns every regular file below a folder, relative to it. Links are not followed, and `.git`
/// folders and repositories of their own, such as submodules, are left out. Names that are not UTF-8 are left out.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), String::new())];
    while let Some((path, inside)) = open.pop() {
        for name in names(&path) {
            let path = path.join(&name);
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() && name != ".git" && !is_there(&path.join(".git")) {
                open.push((path, format!("{inside}{name}/")));
            } else if metadata.is_file() {
                found.push(format!("{inside}{name}"));
            }
        }
    }
    found
}

/// Returns everything below a folder that is no folder, relative to it and in order; links are not folders.
/// Names that are not UTF-8 are left out.
///
/// # Errors
/// `Io` for a folder that cannot be read.
pub fn names_below(folder: &Path) -> Result<Vec<String>, FsError> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), String::new())];
    while let Some((path, inside)) = open.pop() {
        for entry in std::fs::read_dir(&path).map_err(failed(&path, "read the folder"))? {
            let entry = entry.map_err(failed(&path, "read the folder"))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let kind = entry.file_type();
            if kind.map_err(failed(&path, "read the folder"))?.is_dir() {
                open.push((entry.path(), format!("{inside}{name}/")));
            } else {
                found.push(format!("{inside}{name}"));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
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
    let (directory, stat) = opened_own_folder(path)?;
    if stat.st_mode & 0o077 != 0 {
        fchmod(&directory, Mode::from_raw_mode(0o700))
            .map_err(failed(path, "make the folder private"))?;
    }
    Ok(())
}

/// Makes sure that a folder is ours, and changes nothing.
///
/// # Errors
/// `Io`, also when it belongs to another user.
pub fn check_own_folder(path: &Path) -> Result<(), FsError> {
    opened_own_folder(path).map(drop)
}

fn opened_own_folder(path: &Path) -> Result<(OwnedFd, Stat), FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(path, flags, Mode::empty()).map_err(failed(path, "open the folder"))?;
    let stat = fstat(&directory).map_err(failed(path, "look at the folder"))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(failed(path, "use the folder")(io::Error::other(
            "it belongs to another user",
        )));
    }
    Ok((directory, stat))
}

/// Writes the names of a folder to disk, where it can be.
pub fn synchronize_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        drop(folder.sync_all());
    }
}

/// Removes a folder made by this run, if nothing else was put into it meanwhile.
#[expect(clippy::disallowed_methods, reason = "folders are removed here")]
pub fn remove_empty_folder(path: &Path) {
    drop(std::fs::remove_dir(path));
}

/// Compares a file with what it should hold, in pieces.
pub(super) fn reads_back(file: &File, content: &[u8]) -> io::Result<bool> {
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

/// Writes a new private file (`0600`), synchronises it and reads it back.
///
/// # Errors
/// `Io`, also when it exists; `NotReadBack`. A file that was made is gone then.
pub fn write_new_private(path: &Path, content: &[u8]) -> Result<File, FsError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor =
        open(path, flags, Mode::from_raw_mode(0o600)).map_err(failed(path, "create"))?;
    let mut file = File::from(descriptor);
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed(path, "write"))
        .and_then(|()| {
            let is_same = reads_back(&file, content).map_err(failed(path, "read back"))?;
            is_same.then_some(()).ok_or_else(|| FsError::NotReadBack {
                path: path.to_owned(),
            })
        });
    match written {
        Ok(()) => Ok(file),
        Err(error) => {
            drop(remove(path));
            Err(error)
        }
    }
}

/// Writes a new file with owner and mode, and synchronises it. Owner and mode are set before the first
/// byte; a file that could not be written whole is removed.
///
/// # Errors
/// `Io`, also when it exists.
pub fn write_new(path: &Path, content: &[u8], owner: Ownership, mode: u32) -> Result<(), FsError> {
    let file = write_new_private(path, b"")?;
    let filled = owner
        .apply(file.as_fd())
        .and_then(|()| fchmod(&file, Mode::from_raw_mode(mode)))
        .map_err(io::Error::from)
        .and_then(|()| (&file).write_all(content))
        .and_then(|()| file.sync_all())
        .and_then(|()| {
            let is_same = reads_back(&file, content)?;
            is_same
                .then_some(())
                .ok_or_else(|| io::Error::other("it does not read back as it was"))
        });
    if let Err(source) = filled {
        drop(remove(path));
        return Err(failed(path, "write")(source));
    }
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        drop(folder.sync_all());
    }
    Ok(())
}

/// Gives a file a second name.
///
/// # Errors
/// What the system says.
pub fn link(file: &Path, name: &Path) -> io::Result<()> {
    linkat(CWD, file, CWD, name, AtFlags::empty()).map_err(io::Error::from)
}

/// Renames a file of our own, replacing what has the name.
///
/// # Errors
/// What the system says.
#[expect(clippy::disallowed_methods, reason = "files are renamed here")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Returns whether everybody may read a file: its mode says so, and every folder on the way lets everybody through.
pub fn may_be_read_by_all(path: &Path) -> bool {
    let has = |path: &Path, bit: u32| path.metadata().is_ok_and(|found| found.mode() & bit != 0);
    has(path, 0o004) && path.ancestors().skip(1).all(|folder| has(folder, 0o001))
}

/// Renames a file of our own to a name that nothing has.
///
/// # Errors
/// What the system says; `AlreadyExists`.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            link(from, to)?;
            remove(from).map_err(io::Error::other)
        }
        renamed => renamed.map_err(io::Error::from),
    }
}

/// Returns whether this user may write into a folder.
pub fn may_write(folder: &Path) -> bool {
    let access = Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, folder, access, AtFlags::EACCESS).is_ok()
}

/// Removes a file.
///
/// # Errors
/// `Io`.
#[expect(clippy::disallowed_methods, reason = "files are removed here")]
pub fn remove(path: &Path) -> Result<(), FsError> {
    std::fs::remove_file(path).map_err(failed(path, "remove"))
}
