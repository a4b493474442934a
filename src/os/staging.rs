//! Replacing files whole or not at all.
//!
//! The only place that writes targets. A file is staged beside its target under a unique private
//! name (owner and mode set by descriptor before the first byte), read back, synchronised, and then
//! exchanged with the target in one step; until [`Staged::finish`] the old file still exists and
//! [`Staged::roll_back`] brings it back.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags, fallocate,
    fchmod, fgetxattr, flistxattr, flock, fremovexattr, fsetxattr, fstat, fsync, linkat, open,
    openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::access_list::{self, whole};
use super::fs::kind_in_words;
use super::fs::{self, FsError, failed, reads_back};
use super::journal::{Mark, Step};
use super::place::{FileState, Found, Ownership, Place};

/// What the names of staging files start with; sixteen hexadecimal digits follow.
pub const STAGING_PREFIX: &str = ".secrets-staging-";

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
    /// Holds the lock that tells that its writer lives, where it was made with one.
    _held: Option<File>,
    /// Whether the staging name is there still although the target has the new file, or the name for the
    /// old file although the target has it too.
    has_spare_name: bool,
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

/// What stands under a name when a replacement is taken back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Nothing,
    /// The new file, as it was written.
    New,
    /// Something that somebody put there, or wrote into, since.
    Other,
}

/// Returns a staging name that nobody else uses.
pub fn staging_name(fill: &mut dyn FnMut(&mut [u8])) -> OsString {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    format!("{STAGING_PREFIX}{:016x}", u64::from_be_bytes(bytes)).into()
}

/// Returns the staging name that belongs to a file's name: where no journal tells of leftovers, they are found
/// by it.
pub fn staging_name_of(name: &OsStr) -> OsString {
    let digest = Sha256::digest(name.as_encoded_bytes());
    let number = digest[..8]
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte));
    format!("{STAGING_PREFIX}{number:016x}").into()
}

/// Returns whether a name is one of ours for a file that is being written.
pub fn is_staging_name(name: &OsStr) -> bool {
    let digits = name
        .to_str()
        .and_then(|name| name.strip_prefix(STAGING_PREFIX));
    let digits = digits.map(|digits| digits.strip_suffix("-old").unwrap_or(digits));
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl Staged {
    /// As [`Staged::write`], and keeps the new file locked as long as this lives, so that nobody takes it for
    /// a leftover.
    ///
    /// # Errors
    /// As [`Staged::write`].
    pub fn write_held(
        place: Place,
        temporary: OsString,
        content: &[u8],
        attributes: Attributes,
        expected: Option<FileState>,
    ) -> Result<Self, FsError> {
        Self::make(place, temporary, content, attributes, expected, true)
    }

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
        Self::make(place, temporary, content, attributes, expected, false)
    }

    fn make(
        place: Place,
        temporary: OsString,
        content: &[u8],
        attributes: Attributes,
        expected: Option<FileState>,
        is_held: bool,
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
        if is_held {
            // Without locks a leftover is only found later.
            let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        let fill = || -> Result<FileState, FsError> {
            attributes
                .owner
                .apply(file.as_fd())
                .map_err(failed(&path, "set owner and group"))?;
            if expected.is_some() {
                copy_security(&place, &file, attributes.keep_access_list)?;
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
                _held: is_held.then_some(file),
                has_spare_name: false,
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

    /// Returns what [`Staged::replace`] does, for the journal.
    pub fn step(&self) -> Step {
        Step {
            target: self.place.path(),
            temporary: self.temporary.clone(),
            old: self.expected.as_ref().map(Mark::of),
            new: Some(Mark::of(&self.written)),
        }
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
                    self.has_spare_name = unlinkat(directory, temporary, AtFlags::empty()).is_err();
                }
                Err(error) => return Err(refused(error)),
            }
            self.step = Replacement::Created;
            return Ok(());
        };
        match renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE) {
            Ok(()) => {
                // From here on the staging name holds the old file, until it was brought back.
                let old = statat(directory, temporary, AtFlags::SYMLINK_NOFOLLOW);
                let is_same = old.is_ok_and(|stat| FileState::of(&stat).is_same_file(&expected));
                self.step = Replacement::Exchanged;
                if !is_same {
                    if renameat_with(directory, temporary, directory, name, RenameFlags::EXCHANGE)
                        .is_ok()
                    {
                        self.step = Replacement::Pending;
                    }
                    return Err(FsError::Changed { path });
                }
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
                    self.has_spare_name =
                        unlinkat(directory, self.old_name(), AtFlags::empty()).is_err();
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
        let action = "bring back the old file, which is still there under its staging name";
        let failed = failed(&path, action);
        let somebodys = |kept: Option<OsString>| FsError::NotBroughtBack {
            path: path.clone(),
            kept: kept.map(|name| self.place.folder.join(name)),
        };
        match self.step {
            Replacement::Pending => {}
            Replacement::Created => {
                match self.stands(name).map_err(&failed)? {
                    Stands::Nothing => {}
                    Stands::New => unlinkat(directory, name, AtFlags::empty()).map_err(&failed)?,
                    Stands::Other => return Err(somebodys(None)),
                }
                self.step = Replacement::Pending;
                if self.has_spare_name {
                    unlinkat(directory, temporary, AtFlags::empty()).map_err(&failed)?;
                }
                return Ok(());
            }
            Replacement::Exchanged => {
                let swap = |flags| renameat_with(directory, temporary, directory, name, flags);
                let is_swapped = swap(RenameFlags::EXCHANGE).is_ok();
                let new_name = if is_swapped { temporary } else { name };
                match self.stands(new_name).map_err(&failed)? {
                    Stands::New if is_swapped => {}
                    Stands::Other if is_swapped => {
                        // What somebody put there meanwhile gets its name again.
                        swap(RenameFlags::EXCHANGE).map_err(&failed)?;
                        return Err(somebodys(Some(temporary.clone())));
                    }
                    Stands::Other => return Err(somebodys(Some(temporary.clone()))),
                    Stands::New => {
                        // What is new may go.
                        renameat(directory, temporary, directory, name).map_err(&failed)?;
                        self.step = Replacement::Pending;
                        return Ok(());
                    }
                    Stands::Nothing => {
                        move_to_free_name(directory, temporary, name).map_err(&failed)?;
                        self.step = Replacement::Pending;
                        return Ok(());
                    }
                }
            }
            Replacement::Linked => {
                if self.stands(name).map_err(&failed)? == Stands::Other {
                    return Err(somebodys(Some(self.old_name())));
                }
                renameat(directory, self.old_name(), directory, name).map_err(&failed)?;
                self.step = Replacement::Pending;
                return Ok(());
            }
        }
        self.step = Replacement::Pending;
        let temporary_path = self.temporary_path();
        let failed = fs::failed(&temporary_path, "remove");
        if self.has_spare_name {
            unlinkat(directory, self.old_name(), AtFlags::empty()).map_err(&failed)?;
        }
        unlinkat(directory, temporary, AtFlags::empty()).map_err(failed)
    }

    /// Returns what has a name beside the target, or its own.
    fn stands(&self, name: &OsStr) -> Result<Stands, Errno> {
        let now = match statat(&*self.place.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileState::of(&stat),
            Err(Errno::NOENT) => return Ok(Stands::Nothing),
            Err(error) => return Err(error),
        };
        let is_new = now.is_same_file(&self.written) && now.has_same_content_as(&self.written);
        Ok(if is_new { Stands::New } else { Stands::Other })
    }

    /// Returns whether the target is what it was, after a [`Staged::roll_back`] that failed.
    pub fn is_back(&self) -> bool {
        self.step == Replacement::Pending
    }

    /// Returns whether nobody wrote into the old file after it was looked at, as somebody may have had it
    /// open, and nobody moved the folder.
    pub fn is_old_untouched(&self) -> bool {
        if !self.place.is_where_it_was() {
            return false;
        }
        let old = match self.step {
            Replacement::Exchanged => self.temporary.clone(),
            Replacement::Linked => self.old_name(),
            Replacement::Created | Replacement::Pending => return true,
        };
        let now = statat(&*self.place.directory, &old, AtFlags::SYMLINK_NOFOLLOW);
        let now = now.map(|stat| FileState::of(&stat));
        self.expected
            .is_none_or(|expected| now.is_ok_and(|now| now.has_same_content_as(&expected)))
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
            Replacement::Created if self.has_spare_name => self.temporary.clone(),
            Replacement::Created | Replacement::Pending => return Ok(()),
        };
        match unlinkat(&*self.place.directory, &old, AtFlags::empty()) {
            // Another run took it for a leftover, which it is from here on.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(&path, "remove")(error)),
        }
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
    #[cfg(target_os = "linux")]
    pub fn synchronize_file_system(&self) -> Result<(), FsError> {
        let failed = failed(&self.place.folder, "write to disk");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A folder that may not be listed cannot be opened: any file on the file system does.
        let opened = open(&self.place.folder, flags, Mode::empty()).or_else(|_| {
            let name = match self.step {
                Replacement::Pending => &self.temporary,
                _ => &self.place.name,
            };
            let open = |access: OFlags| {
                let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&*self.place.directory, name, flags, Mode::empty())
            };
            open(OFlags::RDONLY).or_else(|_| open(OFlags::WRONLY))
        });
        rustix::fs::syncfs(opened.map_err(&failed)?).map_err(failed)
    }
}

/// A file taken out of its place, not yet gone.
pub struct Removed {
    place: Place,
    temporary: OsString,
    seen: FileState,
}

impl Removed {
    /// Returns what [`Removed::take`] does, for the journal.
    pub fn step(place: &Place, temporary: &OsStr, seen: &FileState) -> Step {
        Step {
            target: place.path(),
            temporary: temporary.to_owned(),
            old: Some(Mark::of(seen)),
            new: None,
        }
    }

    /// Takes the file that was seen out of its place, under the name `temporary`.
    ///
    /// # Errors
    /// `Changed` when it is another one now, `Mounted`, `Io`; it is where it was then.
    pub fn take(place: Place, temporary: OsString, seen: &FileState) -> Result<Self, FsError> {
        let path = place.path();
        let directory = &*place.directory;
        renameat(directory, &place.name, directory, &temporary).map_err(|error| match error {
            Errno::BUSY => FsError::Mounted { path: path.clone() },
            Errno::NOENT => FsError::Changed { path: path.clone() },
            other => failed(&path, "remove")(other),
        })?;
        let now = statat(directory, &temporary, AtFlags::SYMLINK_NOFOLLOW);
        let mut removed = Self {
            place,
            temporary,
            seen: *seen,
        };
        if now.is_ok_and(|stat| FileState::of(&stat).is_same_file(seen)) && removed.is_untouched() {
            return Ok(removed);
        }
        removed.roll_back()?;
        Err(FsError::Changed { path })
    }

    /// Returns where the file was.
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// Returns whether nobody wrote into the file since it was looked at.
    pub fn is_untouched(&self) -> bool {
        let now = statat(
            &*self.place.directory,
            &self.temporary,
            AtFlags::SYMLINK_NOFOLLOW,
        );
        now.is_ok_and(|stat| FileState::of(&stat).has_same_content_as(&self.seen))
    }

    /// Brings the file back.
    ///
    /// # Errors
    /// `Io`: it is still there under its staging name.
    pub fn roll_back(&mut self) -> Result<(), FsError> {
        let path = self.place.path();
        match move_to_free_name(&self.place.directory, &self.temporary, &self.place.name) {
            Err(Errno::EXIST) => Err(FsError::NotBroughtBack {
                path,
                kept: Some(self.place.folder.join(&self.temporary)),
            }),
            moved => moved.map_err(failed(&path, "bring back the file")),
        }
    }

    /// Removes the file for good.
    ///
    /// # Errors
    /// `Io`: it is still there under its staging name.
    pub fn finish(&self) -> Result<(), FsError> {
        let path = self.place.folder.join(&self.temporary);
        match unlinkat(&*self.place.directory, &self.temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(&path, "remove")(error)),
        }
    }
}

/// Gives a file another name in its folder, where nothing has it.
fn move_to_free_name(directory: &OwnedFd, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match statat(directory, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => renameat(directory, from, directory, to),
                Ok(_) => Err(Errno::EXIST),
                Err(error) => Err(error),
            }
        }
        moved => moved,
    }
}

/// What fails with an access list that cannot be read.
const LOOK: &str = "look at its access list";

/// Copies access list and security labels of the file being replaced. Labels that the file system does not have, or
/// a plain user may not set, are left out; without its access list, a file could be read by its group.
fn copy_security(place: &Place, new: &File, keep_access_list: bool) -> Result<(), FsError> {
    let path = place.path();
    let (old, _) = place
        .open_existing(OFlags::RDONLY)
        .map_err(|found| match found {
            Found::Unreadable(error) => failed(&path, LOOK)(error),
            _ => FsError::Changed { path: path.clone() },
        })?;
    // The new file may have one by its folder's default, which its mode would open.
    if access_list::of(new).map_err(failed(&path, LOOK))?.is_some() {
        fremovexattr(new, access_list::NAME).map_err(failed(&path, "leave out an access list"))?;
    }
    if keep_access_list && let Some(list) = access_list::of(&old).map_err(failed(&path, LOOK))? {
        fsetxattr(new, access_list::NAME, &list, XattrFlags::empty())
            .map_err(failed(&path, "keep its access list"))?;
    }
    let Ok(names) = whole(|names| flistxattr(&old, names)) else {
        return Ok(());
    };
    for name in names.split(|&byte| byte == 0) {
        if !name.starts_with(b"security.") || name == b"security.capability" {
            continue;
        }
        let name = OsStr::from_bytes(name);
        if let Ok(label) = whole(|label| fgetxattr(&old, name, label)) {
            let _ = fsetxattr(new, name, &label, XattrFlags::empty());
        }
    }
    Ok(())
}

/// A file opened for writing in place: for a target that is mounted as a single file, where a
/// rename would not be seen. Not atomic.
pub struct InPlace {
    file: File,
    path: PathBuf,
    /// How it was when it was written whole.
    written: Cell<Option<FileState>>,
}

impl InPlace {
    /// Opens the file that was seen.
    ///
    /// # Errors
    /// `Changed` when it is another one now, `Io` when it may not be written.
    pub fn open(place: &Place, seen: &FileState) -> Result<Self, FsError> {
        let path = place.path();
        match place.open_existing(OFlags::RDWR) {
            Ok((file, state)) if state.is_same_file(seen) => Ok(Self {
                file,
                path,
                written: Cell::new(None),
            }),
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
        // Before the first byte, as the new mode may be the stricter one.
        self.set_attributes(attributes)?;
        self.fill(content)
    }

    fn state(&self) -> Result<FileState, Errno> {
        fstat(&self.file).map(|stat| FileState::of(&stat))
    }

    /// Brings back the old content, then owner and mode: the content counts most.
    ///
    /// # Errors
    /// The first that failed; the others were tried. `NotBroughtBack` where somebody wrote into it since.
    pub fn put_back(&self, content: &[u8], attributes: Attributes) -> Result<(), FsError> {
        let is_same = |written: FileState| {
            let now = self.state();
            now.is_ok_and(|now| now.has_same_content_as(&written))
        };
        if self.written.get().is_some_and(|written| !is_same(written)) {
            return Err(FsError::NotBroughtBack {
                path: self.path.clone(),
                kept: None,
            });
        }
        let filled = self.fill(content);
        filled.and(self.set_attributes(attributes))
    }

    fn set_attributes(&self, attributes: Attributes) -> Result<(), FsError> {
        let path = &self.path;
        attributes
            .owner
            .apply(self.file.as_fd())
            .map_err(failed(path, "set owner and group"))?;
        fchmod(&self.file, Mode::from_raw_mode(attributes.mode))
            .map_err(failed(path, "set the mode"))
    }

    fn fill(&self, content: &[u8]) -> Result<(), FsError> {
        let path = &self.path;
        self.make_room(content.len() as u64)
            .map_err(failed(path, "write"))?;
        self.file
            .write_all_at(content, 0)
            .map_err(failed(path, "write"))?;
        self.file
            .set_len(content.len() as u64)
            .map_err(failed(path, "write"))?;
        // What somebody writes from here on is seen.
        self.written.set(self.state().ok());
        if !reads_back(&self.file, content).map_err(failed(path, "read back"))? {
            return Err(FsError::NotReadBack { path: path.clone() });
        }
        self.file.sync_all().map_err(failed(path, "write to disk"))
    }

    /// Takes the room that a longer content needs before a byte is written: a full disk must not leave half
    /// of it.
    fn make_room(&self, length: u64) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        if length <= before {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            // Not every file system can.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(error) => {
                self.file.set_len(before)?;
                Err(error.into())
            }
        }
    }
}

/// Removes what a killed run of this user left under the name `temporary` beside `place`; a file of a living
/// one stays. Returns whether there was something and whether the name is free now.
pub fn remove_abandoned(place: &Place, temporary: &OsStr) -> (bool, bool) {
    let directory = &*place.directory;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, temporary, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(error) => return (false, error == Errno::NOENT),
    };
    let is_ours = || {
        let stat = fstat(&file).ok()?;
        // It was given to the owner of the file it was made for.
        let target = statat(directory, &place.name, AtFlags::SYMLINK_NOFOLLOW);
        let owner = rustix::process::geteuid();
        let is_own = stat.st_uid == owner.as_raw()
            || (owner.is_root() && target.is_ok_and(|target| target.st_uid == stat.st_uid));
        (is_own && kind_in_words(&stat).is_none()).then_some(())
    };
    if is_ours().is_none() {
        return (false, false);
    }
    // Between making and locking it a file is nobody's for a moment.
    thread::sleep(Duration::from_millis(20));
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return (false, false);
    }
    // Another run may have removed it, and made its own.
    let there = statat(directory, temporary, AtFlags::SYMLINK_NOFOLLOW);
    let is_same = there.is_ok_and(|there| {
        fstat(&file).is_ok_and(|stat| FileState::of(&stat).is_same_file(&FileState::of(&there)))
    });
    if !is_same {
        return (false, false);
    }
    let is_removed = unlinkat(directory, temporary, AtFlags::empty()).is_ok();
    (is_removed, is_removed)
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
        Ok(_) | Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed(path, "look at the file")(error)),
    };
    unlinkat(&directory, name, flags).map_err(failed(path, "remove"))?;
    Ok(true)
}
