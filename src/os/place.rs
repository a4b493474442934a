//! Places below a base folder: what stands there, read without following links out of it.
//!
//! Paths below a [`Base`] are opened component by component without following links, so a folder
//! swapped for a link between check and use is an error, not a way out. Folders that are missing
//! appear complete or not at all; files are replaced by [`super::staging`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, fchmod, fchown, fstat,
    lstat, mkdirat, open, openat, readlink, renameat, renameat_with, stat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::secret::SecretBytes;

use super::fs::{FsError, failed, kind_in_words};

/// What is known of a file besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Length in bytes.
    pub len: u64,
    /// Permission bits (at most `0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// Returns whether nothing was written between the two states of one file, by length and time.
    pub(super) fn has_same_content_as(&self, other: &Self) -> bool {
        (self.len, self.modified) == (other.len, other.modified)
    }

    /// Returns when the content was last changed, in seconds since 1970.
    pub fn modified_seconds(&self) -> i64 {
        self.modified.0
    }

    /// Returns whether the content was changed at most `span` ago, or in the future.
    #[expect(
        clippy::disallowed_methods,
        reason = "the times of files are the system's, whatever clock a run has"
    )]
    pub fn was_modified_within(&self, span: Duration) -> bool {
        let seconds = Duration::from_secs(u64::try_from(self.modified.0).unwrap_or(0));
        let nanoseconds = Duration::from_nanos(u64::try_from(self.modified.1).unwrap_or(0));
        let modified = UNIX_EPOCH + seconds + nanoseconds;
        SystemTime::now()
            .duration_since(modified)
            .map_or(true, |age| age <= span)
    }

    #[expect(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_possible_wrap,
        reason = "field types differ between systems"
    )]
    pub(super) fn of(stat: &Stat) -> Self {
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
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
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
    /// Folders below it that places have open, so that many files of one folder take one descriptor.
    opened: Arc<Mutex<HashMap<PathBuf, Weak<OwnedFd>>>>,
}

/// Where a file is or would be: the deepest folder that exists, what is missing below it, and the
/// file's name.
#[derive(Clone)]
pub struct Place {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) folder: PathBuf,
    missing: Vec<OsString>,
    pub(super) name: OsString,
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
        let directory = open(&canonical, flags, Mode::empty());
        // One that may be entered but not listed can still be worked in.
        #[cfg(target_os = "linux")]
        let directory = directory.or_else(|error| match error {
            Errno::ACCESS => open(&canonical, OFlags::PATH | DIRECTORY, Mode::empty()),
            other => Err(other),
        });
        let directory = directory.map_err(failed(path, "open the folder"))?;
        Ok(Self {
            path: canonical,
            directory: Arc::new(directory),
            opened: Arc::default(),
        })
    }

    /// Returns the folder's path with all links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the place of a file. Links to folders inside the base are followed, others refused; those of other users
    /// than root and this one only to folders of their own.
    ///
    /// # Errors
    /// `Outside`, `ForeignLink`, or `Io` when a component is not a folder or may not be entered.
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
                    check_links(&next, &full, MOST_LINKS)?;
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
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(folder).and_then(Weak::upgrade)
            && is_at(&known, folder)
        {
            return Ok(known);
        }
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
        opened.insert(folder.to_owned(), Arc::downgrade(&directory));
        Ok(directory)
    }
}

/// The longest file that is read, in bytes: whoever may write a target must not make a run fill the memory.
const LONGEST: u64 = 8 << 30;
/// So many links in a row, at most, as the system has it.
const MOST_LINKS: usize = 40;

/// Makes sure that every link on the way along a path, and on the ways that they lead, is one of root, of this user, or of
/// the owner of the folder it leads to: whoever may write one folder does not choose another one. `full` is what it is for.
fn check_links(path: &Path, full: &Path, depth: usize) -> Result<(), FsError> {
    let follow = |path: &Path| {
        let failed = failed(path, "follow the link");
        path.canonicalize().map_err(failed)
    };
    if depth == 0 {
        return follow(path).map(drop);
    }
    let mut at = PathBuf::from("/");
    for part in path.components() {
        let next = match part {
            Component::Normal(name) => at.join(name),
            Component::ParentDir => {
                at.pop();
                continue;
            }
            _ => continue,
        };
        let link = lstat(&next).map_err(failed(&next, "follow the link"))?;
        if FileType::from_raw_mode(link.st_mode) != FileType::Symlink {
            at = next;
            continue;
        }
        let target = follow(&next)?;
        let target_owner = stat(&target)
            .map_err(failed(&next, "follow the link"))?
            .st_uid;
        let trusted = [0, geteuid().as_raw(), target_owner];
        if !trusted.contains(&link.st_uid) {
            return Err(FsError::ForeignLink {
                path: full.to_owned(),
                link: next,
                owner: link.st_uid,
                target_owner,
            });
        }
        let way = readlink(&next, Vec::new()).map_err(failed(&next, "follow the link"))?;
        check_links(
            &at.join(Path::new(OsStr::from_bytes(way.as_bytes()))),
            full,
            depth - 1,
        )?;
        at = target;
    }
    Ok(())
}

/// Returns whether a folder that was opened is where the path says.
fn is_at(opened: &OwnedFd, folder: &Path) -> bool {
    match (stat(folder), fstat(opened)) {
        (Ok(there), Ok(opened)) => (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino),
        _ => false,
    }
}

impl Place {
    /// Returns the full path, for messages.
    pub fn path(&self) -> PathBuf {
        let mut path = self.folder.clone();
        path.extend(&self.missing);
        path.join(&self.name)
    }

    /// Returns whether its folder exists.
    pub fn has_folder(&self) -> bool {
        self.missing.is_empty()
    }

    /// Reads what stands there; links are not followed, special files not opened for long.
    pub fn read(&self, limit: u64) -> Found {
        if !self.missing.is_empty() {
            return Found::Missing;
        }
        match self.open_existing(OFlags::RDONLY) {
            Err(found) => found,
            Ok((file, state)) if state.len > limit.min(LONGEST) => {
                drop(file);
                Found::TooLarge(state.len)
            }
            Ok((file, state)) => {
                let length = usize::try_from(state.len).unwrap_or(0);
                let mut content = Vec::new();
                if content.try_reserve_exact(length + 1).is_err() {
                    return Found::TooLarge(state.len);
                }
                let mut content = SecretBytes::new(content);
                match file.take(LONGEST).read_to_end(content.expose_mut()) {
                    Ok(length) if length as u64 >= LONGEST => Found::TooLarge(state.len),
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

    /// Returns whether a program has the file open for writing, by asking for a lease (`fcntl(2)`), which is
    /// not given then. What cannot be told, as on a file of somebody else, counts as no.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "no crate at hand has leases")]
    pub fn has_writer(&self) -> bool {
        static IGNORED: Once = Once::new();
        let Ok((file, _)) = self.open_existing(OFlags::RDONLY) else {
            return false;
        };
        let descriptor = file.as_raw_fd();
        IGNORED.call_once(|| {
            // SAFETY: the disposition of a signal that nothing here uses; it comes when somebody opens the
            // file in the moment between the two calls below, and would end the process.
            let _ = unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        });
        // SAFETY: both calls take a descriptor that `file` keeps open, and a number.
        let given = unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK) };
        if given == 0 {
            // SAFETY: as above.
            let _ = unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_UNLCK) };
            return false;
        }
        io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    }

    /// Leases are Linux's.
    #[cfg(not(target_os = "linux"))]
    pub fn has_writer(&self) -> bool {
        false
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

    pub(super) fn open_existing(&self, flags: OFlags) -> Result<(File, FileState), Found> {
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
        if !self.is_where_it_was() {
            return false;
        }
        match (self.look(), seen) {
            (Found::Missing, None) => true,
            (Found::File(now, _), Some(seen)) if now == *seen => {
                now.len > COMPARED_BYTES
                    || matches!(self.read(COMPARED_BYTES), Found::File(_, found) if found.expose() == content)
            }
            _ => false,
        }
    }

    /// Returns whether its folder is still where its path says: it may have been moved away, or a link been put
    /// in its place, since it was opened.
    pub fn is_where_it_was(&self) -> bool {
        is_at(&self.directory, &self.folder)
    }

    /// Returns every path that [`Place::create_parents`] and [`super::staging::Staged::write`] may make under the
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

    /// Uses the folder that another place has open already, so that many files of one folder take one descriptor.
    pub fn share(&mut self, opened: &mut HashMap<PathBuf, Arc<OwnedFd>>) {
        match opened.get(&self.folder) {
            Some(known) if is_at(known, &self.folder) => self.directory = Arc::clone(known),
            _ => drop(opened.insert(self.folder.clone(), Arc::clone(&self.directory))),
        }
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
        // Whoever owns the folder around it may have put another one there, which must not be opened or given away.
        if !is_empty(&directory)? || (owner.differs(&directory)? && !is_ours(&directory)?) {
            return Err(Errno::PERM);
        }
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

/// Returns whether a folder is of this user, and closed to others.
fn is_ours(directory: &OwnedFd) -> Result<bool, Errno> {
    let stat = fstat(directory)?;
    let is_closed = Mode::from_raw_mode(stat.st_mode) & (Mode::RWXG | Mode::RWXO);
    Ok(stat.st_uid == geteuid().as_raw() && is_closed.is_empty())
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
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
    /// Returns whether applying it would change something.
    fn differs(self, file: &OwnedFd) -> Result<bool, Errno> {
        let stat = fstat(file)?;
        let is_other_user = self.uid.is_some_and(|uid| uid != stat.st_uid);
        Ok(is_other_user || self.gid.is_some_and(|gid| gid != stat.st_gid))
    }

    pub(super) fn apply(self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
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
