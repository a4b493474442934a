//! Journals of running writers: what a run is about to put where, so that the next one can take back what a
//! killed one had done by half.
//!
//! A journal is a list of words, each ended by a zero byte: the folders worked in (with a slash behind), the staging
//! files, three words for a folder that was made for them (`made`, path, what tells it), then five words a step (`step`, target, staging name, what stands there, what is to stand there), three for a
//! file that is written into (`over`, target, what stands there), and `done` once everything is in place. It is locked while its writer lives, and removed when it ends in good order.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, RenameFlags, Stat, fsync, lstat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::fs::{self, FsError, failed, kind_in_words};
use super::place::{Base, FileState, Place};
use super::staging;

/// Begins a step.
const STEP: &[u8] = b"step";
/// Names a file that is written into, and what stands there before.
const OVER: &[u8] = b"over";
/// Names a folder that was made.
const MADE: &[u8] = b"made";
/// Says that all steps are done, and that the old files may go.
const DONE: &[u8] = b"done";

/// What tells a file from others in its folder, and whether somebody wrote into it: the numbers of a file
/// system may be other ones after a restart, so there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

/// What tells a folder that a run made from another one under its name: numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    inode: u64,
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Made {
    fn of(stat: &Stat) -> Self {
        let state = FileState::of(stat);
        Self {
            inode: state.inode,
            uid: state.uid,
            gid: state.gid,
            mode: state.mode,
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.inode, self.uid, self.gid, self.mode)
    }
}

impl FromStr for Made {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.splitn(4, ' ');
        let mut next = || numbers.next().unwrap_or_default();
        Ok(Self {
            inode: next().parse()?,
            uid: next().parse()?,
            gid: next().parse()?,
            mode: next().parse()?,
        })
    }
}

/// One change of a folder: with both marks the file is replaced, without the old one made, without the new one
/// taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The file.
    pub target: PathBuf,
    /// The name beside it that has the new file before and the old one after.
    pub temporary: OsString,
    /// What stands there before.
    pub old: Option<Mark>,
    /// What stands there after.
    pub new: Option<Mark>,
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Folders that staging files and targets are below.
    pub bases: Vec<PathBuf>,
    /// Names that files are staged under, as full paths.
    pub staging: Vec<PathBuf>,
    /// Folders that were made, outer ones first.
    pub folders: Vec<(PathBuf, Made)>,
    /// What is changed, in this order.
    pub steps: Vec<Step>,
    /// Files that are written into, with what stands there before: nothing of that can be taken back.
    pub written_over: Vec<(PathBuf, Mark)>,
    /// Whether all of it was.
    pub is_done: bool,
    /// Whether there is something in it that no writer puts there.
    pub is_damaged: bool,
}

/// The journal of a running writer.
pub struct Journal {
    path: PathBuf,
    /// Held open for its lock.
    file: File,
}

/// What became of the steps of a killed run.
#[derive(Debug, Default)]
pub struct TakenBack {
    /// The files that are as they were before it.
    pub restored: Vec<PathBuf>,
    /// Files that were changed since, so that nothing was taken back.
    pub changed: Vec<PathBuf>,
    /// Where the old files are then.
    pub kept: Vec<PathBuf>,
    /// A folder that is not there, so that nothing was taken back yet.
    pub out_of_reach: Option<PathBuf>,
}

impl TakenBack {
    /// Adds what became of another run.
    pub fn add(&mut self, other: Self) {
        self.restored.extend(other.restored);
        self.changed.extend(other.changed);
        self.kept.extend(other.kept);
    }
}

impl Mark {
    /// Returns the mark of a file.
    pub fn of(state: &FileState) -> Self {
        Self {
            inode: state.inode,
            len: state.len,
            modified: state.modified,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = self.modified;
        write!(f, "{} {} {seconds} {nanoseconds}", self.inode, self.len)
    }
}

impl FromStr for Mark {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.splitn(4, ' ');
        let mut next = || numbers.next().unwrap_or_default();
        Ok(Self {
            inode: next().parse()?,
            len: next().parse()?,
            modified: (next().parse()?, next().parse()?),
        })
    }
}

impl Listing {
    /// Reads a journal as far as it goes: what was not written to its end was not begun.
    pub fn parse(text: &[u8]) -> Self {
        let mut listing = Self::default();
        let end = text.iter().rposition(|&byte| byte == 0).unwrap_or(0);
        // The beginning of a path, at most.
        listing.is_damaged =
            end == 0 && text.first().is_some_and(|&byte| byte != b'/' && byte != 0);
        let mut words = text[..end].split(|&byte| byte == 0);
        while let Some(word) = words.next() {
            let path = Path::new(OsStr::from_bytes(word));
            let is_read = match word {
                STEP => next_step(&mut words).map(|step| listing.steps.push(step)),
                OVER => next_over(&mut words).map(|over| listing.written_over.push(over)),
                MADE => next_folder(&mut words).map(|folder| listing.folders.push(folder)),
                DONE => {
                    listing.is_done = true;
                    Some(())
                }
                [b'/', .., b'/'] | b"/" => {
                    listing.bases.push(path.to_owned());
                    Some(())
                }
                [b'/', ..] => {
                    listing.staging.push(path.to_owned());
                    Some(())
                }
                _ => None,
            };
            if is_read.is_none() {
                // A system that stopped leaves the beginning of a step, or zero bytes for what was not on disk.
                let is_known = word.is_empty() || [STEP, OVER, MADE].contains(&word);
                listing.is_damaged = !is_known || !words.all(<[u8]>::is_empty);
                break;
            }
        }
        listing
    }

    /// Returns the listing as it stands in a file.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut word = |word: &[u8]| {
            text.extend_from_slice(word);
            text.push(0);
        };
        for base in &self.bases {
            let mut name = base.as_os_str().as_bytes().to_vec();
            if name.last() != Some(&b'/') {
                name.push(b'/');
            }
            word(&name);
        }
        for path in &self.staging {
            word(path.as_os_str().as_bytes());
        }
        for (path, made) in &self.folders {
            word(MADE);
            word(path.as_os_str().as_bytes());
            word(made.to_string().as_bytes());
        }
        for step in &self.steps {
            let mark = |mark: Option<Mark>| mark.map(|mark| mark.to_string()).unwrap_or_default();
            word(STEP);
            word(step.target.as_os_str().as_bytes());
            word(step.temporary.as_bytes());
            word(mark(step.old).as_bytes());
            word(mark(step.new).as_bytes());
        }
        for (target, before) in &self.written_over {
            word(OVER);
            word(target.as_os_str().as_bytes());
            word(before.to_string().as_bytes());
        }
        if self.is_done {
            word(DONE);
        }
        text
    }

    /// Takes back what a killed run had done of its steps, all of it, or nothing where somebody changed a file since. What
    /// was new is under its staging name afterwards, or under none.
    ///
    /// # Errors
    /// `Io`; the steps that are left can be taken back later.
    pub fn take_back(&self) -> Result<TakenBack, FsError> {
        let mut outcome = TakenBack::default();
        if self.is_done {
            return Ok(outcome);
        }
        let mut bases = Bases::default();
        let mut ways = Vec::new();
        let (mut replaced, mut nowhere) = (0, 0);
        for step in self.steps.iter().rev() {
            replaced += usize::from(step.old.is_some());
            let Some(place) = bases.place(self, &step.target)? else {
                nowhere += usize::from(step.old.is_some());
                continue;
            };
            let folder = || place.folder.clone();
            match step.standing(&place)? {
                Standing::NotDone => {}
                Standing::Done(way) => ways.push((step, folder(), way)),
                Standing::Nowhere => {
                    nowhere += 1;
                    outcome.changed.push(step.target.clone());
                }
                Standing::Changed(old) => {
                    outcome.changed.push(step.target.clone());
                    outcome.kept.extend(old.map(|name| folder().join(name)));
                }
            }
        }
        let missing = self.missing_folder();
        if let Some(folder) = missing.or_else(|| {
            let first = self.steps.iter().find(|step| step.old.is_some());
            let folder = first.and_then(|step| step.target.parent());
            folder.filter(|_| nowhere == replaced).map(Path::to_owned)
        }) {
            return Ok(TakenBack {
                out_of_reach: Some(folder),
                ..TakenBack::default()
            });
        }
        // Nothing of the run is there, whatever was changed since.
        if ways.is_empty() && outcome.kept.is_empty() {
            return Ok(TakenBack::default());
        }
        let mut ways = ways.into_iter();
        let mut folders: Vec<(PathBuf, Arc<OwnedFd>)> = Vec::new();
        while outcome.changed.is_empty()
            && let Some((step, folder, way)) = ways.next()
        {
            let Some(place) = bases.place(self, &step.target)? else {
                continue;
            };
            if step.go(&place)? {
                outcome.restored.push(step.target.clone());
            } else {
                outcome.changed.push(step.target.clone());
                outcome
                    .kept
                    .extend(way.old_name().map(|name| folder.join(name)));
            }
            if !folders.iter().any(|(known, _)| *known == folder) {
                folders.push((folder, place.directory));
            }
        }
        for (_, folder, way) in ways {
            outcome
                .kept
                .extend(way.old_name().map(|name| folder.join(name)));
        }
        for (folder, directory) in folders {
            match fsync(&*directory) {
                Ok(()) | Err(Errno::BADF | Errno::INVAL) => {}
                Err(error) => return Err(failed(&folder, "write to disk")(error)),
            }
        }
        outcome.restored.sort();
        Ok(outcome)
    }

    /// Removes the folders that a killed run made, where nothing is in them.
    ///
    /// # Errors
    /// `Io`; the folders that are left can be removed later.
    pub fn remove_folders(&self) -> Result<(), FsError> {
        let mut bases = Bases::default();
        for (folder, made) in self.folders.iter().rev().filter(|_| !self.is_done) {
            let place = match bases.place(self, folder) {
                Ok(Some(place)) => place,
                Ok(None) | Err(FsError::Outside { .. } | FsError::ForeignLink { .. }) => continue,
                Err(error) => return Err(error),
            };
            let failed = failed(folder, "remove the folder");
            match statat(&*place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if Made::of(&stat) == *made => {}
                // Somebody put another one there.
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
            }
            match unlinkat(&*place.directory, &place.name, AtFlags::REMOVEDIR) {
                // Somebody needs it.
                Ok(())
                | Err(
                    Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY,
                ) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Returns a folder that a file was replaced in, or taken from, and that is gone since.
    fn missing_folder(&self) -> Option<PathBuf> {
        let mut steps = self.steps.iter().filter(|step| step.old.is_some());
        let step =
            steps.find(|step| step.target.parent().is_some_and(|folder| !folder.is_dir()))?;
        step.target.parent().map(Path::to_owned)
    }

    /// Returns the files that a killed run was writing into and that are not what they were.
    pub fn changed_in_place(&self) -> Vec<PathBuf> {
        let files = self.written_over.iter().filter(|_| !self.is_done);
        let is_other = |(path, before): &&(PathBuf, Mark)| {
            lstat(path).is_ok_and(|stat| Mark::of(&FileState::of(&stat)) != *before)
        };
        files
            .filter(is_other)
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Returns the staging files below one of `folders` that a killed run left.
    pub fn left(&self, folders: &[&Path]) -> Vec<PathBuf> {
        let names = self.staging.iter();
        let names = names.filter(|path| folders.iter().any(|folder| path.starts_with(folder)));
        names.filter(|path| lstat(*path).is_ok()).cloned().collect()
    }

    /// Returns the files below one of `folders` that a killed run left replaced while the whole of it is not done, or was
    /// writing into.
    ///
    /// # Errors
    /// `Io`.
    pub fn half_done(&self, folders: &[&Path]) -> Result<Vec<PathBuf>, FsError> {
        let is_wanted = |path: &Path| folders.iter().any(|folder| path.starts_with(folder));
        if self.is_done || !self.bases.iter().any(|base| is_wanted(base)) {
            return Ok(Vec::new());
        }
        let mut bases = Bases::default();
        let mut found = self.changed_in_place();
        for step in self.steps.iter().filter(|step| is_wanted(&step.target)) {
            if let Some(place) = bases.place(self, &step.target)?
                && matches!(step.standing(&place)?, Standing::Done(_))
            {
                found.push(step.target.clone());
            }
        }
        Ok(found)
    }

    /// Returns the files below one of `folders` that somebody changed since they were replaced, each with where its
    /// old content is: it is not taken back.
    ///
    /// # Errors
    /// `Io`.
    pub fn kept(&self, folders: &[&Path]) -> Result<Vec<(PathBuf, PathBuf)>, FsError> {
        let is_wanted = |path: &Path| folders.iter().any(|folder| path.starts_with(folder));
        let mut bases = Bases::default();
        let mut found = Vec::new();
        for step in self.steps.iter().filter(|_| !self.is_done) {
            if is_wanted(&step.target)
                && let Some(place) = bases.place(self, &step.target)?
                && let Standing::Changed(Some(old)) = step.standing(&place)?
            {
                found.push((step.target.clone(), place.folder.join(old)));
            }
        }
        Ok(found)
    }
}

/// Folders that were opened, each once.
#[derive(Default)]
struct Bases(BTreeMap<PathBuf, Base>);

impl Bases {
    /// Returns where a file is; `None` where its folder is gone.
    fn place(&mut self, listing: &Listing, target: &Path) -> Result<Option<Place>, FsError> {
        let bases = listing.bases.iter();
        let bases = bases.filter(|base| target.starts_with(base));
        let longest = bases.max_by_key(|base| base.as_os_str().len());
        let Some(path) = longest.map(PathBuf::as_path).or(target.parent()) else {
            return Ok(None);
        };
        if !self.0.contains_key(path) {
            match std::fs::metadata(path) {
                Ok(found) if found.is_dir() => {}
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(path, "look at the folder")(error));
                }
                _ => return Ok(None),
            }
            self.0.insert(path.to_owned(), Base::open(path)?);
        }
        let relative = target.strip_prefix(path).unwrap_or(target);
        let place = self
            .0
            .get(path)
            .map(|base| base.place(relative))
            .transpose()?;
        Ok(place.filter(Place::has_folder))
    }
}

impl Journal {
    /// Begins a journal in a file that was written and locked.
    pub(super) fn of(path: PathBuf, file: File) -> Self {
        Self { path, file }
    }

    /// Notes what is about to be changed, and what is written into.
    ///
    /// # Errors
    /// `Io`: nothing may be changed then.
    pub fn note(
        &mut self,
        steps: Vec<Step>,
        written_over: Vec<(PathBuf, Mark)>,
    ) -> Result<(), FsError> {
        self.append(&Listing {
            steps,
            written_over,
            ..Listing::default()
        })
    }

    /// Notes which folders were made for what is about to be changed.
    ///
    /// # Errors
    /// `Io`.
    pub fn note_folders(&mut self, made: &[PathBuf]) -> Result<(), FsError> {
        let folders = made.iter().map(|path| {
            let stat = lstat(path).map_err(failed(path, "look at the folder"))?;
            Ok((path.clone(), Made::of(&stat)))
        });
        self.append(&Listing {
            folders: folders.collect::<Result<_, FsError>>()?,
            ..Listing::default()
        })
    }

    /// Notes that all is changed, so that nothing is taken back from here on.
    ///
    /// # Errors
    /// `Io`.
    pub fn note_done(&mut self) -> Result<(), FsError> {
        let failed = failed(&self.path, "look at the journal");
        let length = self.file.metadata().map_err(failed)?.len();
        let listing = Listing {
            is_done: true,
            ..Listing::default()
        };
        self.append(&listing)
            .and_then(|()| self.synchronize())
            .inspect_err(|_| {
                // The run is taken back: with the word in it the next one would remove old files that are still needed.
                drop(self.file.set_len(length));
                drop(self.file.seek(SeekFrom::Start(length)));
            })
    }

    fn append(&mut self, listing: &Listing) -> Result<(), FsError> {
        let failed = failed(&self.path, "write");
        let written = self.file.write_all(&listing.text());
        written.map_err(failed)
    }

    /// Writes the journal to disk.
    ///
    /// # Errors
    /// `Io`: fatal, never to be tried again.
    pub fn synchronize(&self) -> Result<(), FsError> {
        fsync(&self.file).map_err(failed(&self.path, "write to disk"))
    }

    /// Closes the journal: nothing is left that a later run must clean up.
    pub fn close(self) {
        // A journal that stays behind is harmless: the next run finds nothing of what it lists.
        drop(fs::remove(&self.path));
    }
}

fn next_folder<'t>(words: &mut impl Iterator<Item = &'t [u8]>) -> Option<(PathBuf, Made)> {
    let path = PathBuf::from(OsStr::from_bytes(words.next()?));
    let made = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    path.is_absolute().then_some((path, made))
}

fn next_over<'t>(words: &mut impl Iterator<Item = &'t [u8]>) -> Option<(PathBuf, Mark)> {
    let target = PathBuf::from(OsStr::from_bytes(words.next()?));
    let before = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    target.is_absolute().then_some((target, before))
}

fn next_step<'t>(words: &mut impl Iterator<Item = &'t [u8]>) -> Option<Step> {
    let target = PathBuf::from(OsStr::from_bytes(words.next()?));
    let temporary = OsStr::from_bytes(words.next()?).to_owned();
    let mut mark = || -> Option<Option<Mark>> {
        let text = std::str::from_utf8(words.next()?).ok()?;
        if text.is_empty() {
            return Some(None);
        }
        text.parse().ok().map(Some)
    };
    let (old, new) = (mark()?, mark()?);
    (target.is_absolute() && staging::is_staging_name(&temporary)).then_some(Step {
        target,
        temporary,
        old,
        new,
    })
}

/// How a step's folder is found.
enum Standing {
    /// As before the step, or nothing that the step is about.
    NotDone,
    /// As after the step.
    Done(Way),
    /// Somebody changed it since; the old file has this name.
    Changed(Option<OsString>),
    /// Neither the old file nor the new one is there.
    Nowhere,
}

/// How a step is taken back.
enum Way {
    /// The old file has this name and gets its own.
    Bring(OsString),
    /// The new file goes.
    Remove,
}

impl Step {
    fn standing(&self, place: &Place) -> Result<Standing, FsError> {
        let mut spare_name = self.temporary.clone();
        spare_name.push("-old");
        let there = look(place, &place.name)?;
        let staged = look(place, &self.temporary)?;
        let spare = look(place, &spare_name)?;
        let is = |found: &There, wanted: Option<Mark>| match (found.mark(), wanted) {
            (Some(found), Some(wanted)) => found.inode == wanted.inode,
            _ => false,
        };
        let is_untouched = |wanted: Option<Mark>| match (there, wanted) {
            (There::File(now), Some(wanted)) => now == wanted,
            (There::Nothing, None) => true,
            _ => false,
        };
        let old_name = if is(&staged, self.old) {
            Some(self.temporary.clone())
        } else if is(&spare, self.old) && !is(&there, self.old) {
            Some(spare_name)
        } else {
            None
        };
        if let Some(old) = old_name {
            return Ok(
                if matches!(there, There::Nothing) || (self.new.is_some() && is_untouched(self.new))
                {
                    Standing::Done(Way::Bring(old))
                } else {
                    Standing::Changed(Some(old))
                },
            );
        }
        // What has a staging name and is neither of the two files is somebody's copy of one of them.
        let copy = match staged {
            There::File(_) if !is(&staged, self.new) => Some(self.temporary.clone()),
            _ => None,
        };
        Ok(if copy.is_some() {
            Standing::Changed(copy)
        } else if is_untouched(self.old) {
            Standing::NotDone
        } else if self.old.is_none() && is_untouched(self.new) {
            Standing::Done(Way::Remove)
        } else if matches!((there, staged), (There::Nothing, There::Nothing)) {
            Standing::Nowhere
        } else {
            Standing::Changed(None)
        })
    }

    /// Takes the step back, if it still stands as it was left. Returns whether it is.
    fn go(&self, place: &Place) -> Result<bool, FsError> {
        let way = match self.standing(place)? {
            Standing::Done(way) => way,
            Standing::NotDone => return Ok(true),
            Standing::Changed(_) | Standing::Nowhere => return Ok(false),
        };
        let directory = &*place.directory;
        let failed = failed(&self.target, "take back what an interrupted run did");
        let swap =
            |from: &OsStr, to: &OsStr, flags| renameat_with(directory, from, directory, to, flags);
        let is_new = |name: &OsStr| Ok(look(place, name)?.mark() == self.new);
        let unsupported =
            |error: Errno| matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP);
        match way {
            Way::Bring(old) if old == self.temporary && self.new.is_some() => {
                match swap(&old, &place.name, RenameFlags::EXCHANGE) {
                    Ok(()) if is_new(&old)? => Ok(true),
                    // Somebody put another file there in this moment.
                    Ok(()) => {
                        swap(&old, &place.name, RenameFlags::EXCHANGE).map_err(failed)?;
                        Ok(false)
                    }
                    // What is new may go.
                    Err(error) if unsupported(error) => {
                        renameat(directory, &old, directory, &place.name).map_err(failed)?;
                        Ok(true)
                    }
                    Err(Errno::NOENT) => {
                        swap(&old, &place.name, RenameFlags::NOREPLACE).map_err(failed)?;
                        Ok(true)
                    }
                    Err(error) => Err(failed(error)),
                }
            }
            Way::Bring(old) => {
                let flags = if self.new.is_none() {
                    RenameFlags::NOREPLACE
                } else {
                    RenameFlags::empty()
                };
                match swap(&old, &place.name, flags) {
                    Err(error) if unsupported(error) => {
                        renameat(directory, &old, directory, &place.name).map_err(failed)?;
                    }
                    other => other.map_err(failed)?,
                }
                Ok(true)
            }
            // Under its staging name it is removed with the others.
            Way::Remove => {
                renameat(directory, &place.name, directory, &self.temporary).map_err(&failed)?;
                if is_new(&self.temporary)? {
                    return Ok(true);
                }
                renameat(directory, &self.temporary, directory, &place.name).map_err(failed)?;
                Ok(false)
            }
        }
    }
}

impl Way {
    fn old_name(&self) -> Option<&OsStr> {
        match self {
            Self::Bring(name) => Some(name),
            Self::Remove => None,
        }
    }
}

/// What stands under a name.
#[derive(Clone, Copy)]
enum There {
    Nothing,
    File(Mark),
    Other,
}

impl There {
    fn mark(self) -> Option<Mark> {
        match self {
            Self::File(mark) => Some(mark),
            Self::Nothing | Self::Other => None,
        }
    }
}

fn look(place: &Place, name: &OsStr) -> Result<There, FsError> {
    match statat(&*place.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if kind_in_words(&stat).is_none() => {
            Ok(There::File(Mark::of(&FileState::of(&stat))))
        }
        Ok(_) => Ok(There::Other),
        Err(Errno::NOENT) => Ok(There::Nothing),
        Err(error) => Err(failed(&place.folder.join(name), "look at the file")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_says_what_was_written_and_no_more() {
        let mark = |inode| Mark {
            inode,
            len: 7,
            modified: (-1, 999),
        };
        let made = |inode| Made {
            inode,
            uid: 0,
            gid: 5,
            mode: 0o2755,
        };
        let step = |old, new| Step {
            target: "/srv/app/a b.env".into(),
            temporary: ".secrets-staging-0123456789abcdef".into(),
            old,
            new,
        };
        let listing = Listing {
            bases: vec!["/srv/app/".into(), "/".into()],
            staging: vec!["/srv/app/.secrets-staging-0123456789abcdef".into()],
            folders: vec![
                ("/srv/app/n".into(), made(7)),
                ("/srv/app/n/m".into(), made(8)),
            ],
            steps: vec![
                step(Some(mark(1)), Some(mark(2))),
                step(None, Some(mark(3))),
                step(Some(mark(4)), None),
            ],
            written_over: vec![("/srv/app/c".into(), mark(5))],
            is_done: true,
            is_damaged: false,
        };
        let text = listing.text();
        assert_eq!(Listing::parse(&text), listing);
        for end in 0..text.len() {
            let cut = Listing::parse(&text[..end]);
            assert!(!cut.is_done, "{end}");
            assert!(listing.steps.starts_with(&cut.steps), "{end}");
            assert!(listing.staging.starts_with(&cut.staging), "{end}");
        }
    }

    #[test]
    fn a_step_without_a_staging_name_is_none() {
        let text = b"step\0/etc/passwd\0shadow\x001 2 3 4\x005 6 7 8\0done\0";
        let listing = Listing::parse(text);
        assert!(listing.is_damaged && listing.steps.is_empty());
        // What a system that stopped leaves is none.
        for text in [
            &b""[..],
            b"\0\0\0",
            b"step\0/srv/a\0.secrets-",
            b"step\0\0\0\0\0\0\0",
        ] {
            assert_eq!(Listing::parse(text), Listing::default());
        }
    }
}
