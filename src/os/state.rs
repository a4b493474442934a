//! The state directory: what one user's runs on one host keep for themselves.
//!
//! `SECRETS_STATE_DIR`, else `/var/lib/secrets` for root, else `$XDG_STATE_HOME/secrets`
//! (`~/.local/state/secrets`), made `0700`. It holds the journals of running writers,
//! encrypted backups, and small files: records and their key, what can be undone, what is trusted. A journal lists staging files and is locked while its writer lives, so that
//! the next run can tell leftovers of a killed one from files in use.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, Mode, OFlags, accessat, flock, open};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::secret::SecretBytes;

use super::fs::{self, FsError};
use super::journal::{Journal, Listing, TakenBack};
use super::lock::has_no_locks;
use super::{Env, fill_random, staging};

/// The key of digests, and its length.
const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
/// What fails with a file of the directory that is damaged.
pub const UNDERSTAND: &str = "understand";
/// What fails with a killed run whose folder is away.
pub const OUT_OF_REACH: &str = "find the folder of an interrupted run";
/// So much of a file's path stands in the name of its backup.
const MOST_LABEL_CHARACTERS: usize = 120;
/// So often a command that only reads looks whether the journals are free, with pauses of this length.
const LOOKS: usize = 40;
const PAUSE: Duration = Duration::from_millis(50);
/// Ends the name of a backup that is being written.
const PARTIAL: &str = ".partial";

/// The state directory of a user; created when first needed.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// What was found of killed runs.
#[derive(Debug, Default)]
pub struct CleanedUp {
    /// What was removed.
    pub removed: Vec<PathBuf>,
    /// What was taken back of a run that was killed between two files.
    pub taken_back: TakenBack,
    /// Why something stays that should not.
    pub failed: Vec<FsError>,
    /// What cannot be taken back, or may have to be: nothing may be written over it.
    pub stuck: Vec<Stuck>,
    /// Files that a killed run was writing into, and which are not what they were.
    pub written_over: Vec<PathBuf>,
    /// Repositories or roots that are not there now, with the journal that lists what lies in them.
    pub out_of_reach: Vec<(PathBuf, PathBuf)>,
}

/// What killed runs have left, before anything of it is taken back or removed.
#[derive(Debug, Default)]
pub struct Traces {
    /// Files that are replaced, or written into, while the whole of the run is not done.
    pub half_done: Vec<PathBuf>,
    /// Staging files.
    pub staging: Vec<PathBuf>,
    /// Files that somebody changed since they were replaced, and where their old content is.
    pub kept: Vec<(PathBuf, PathBuf)>,
    /// Why that cannot be told of a journal.
    pub trouble: Option<FsError>,
}

/// A journal of a killed run that cannot be read or carried out.
#[derive(Debug)]
pub struct Stuck {
    /// The journal.
    pub journal: PathBuf,
    /// Where its files are; empty where that is not known.
    pub bases: Vec<PathBuf>,
    /// Why.
    pub error: FsError,
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

    /// Makes a folder of our own in the directory. One that existed before keeps its mode.
    fn own_folder(&self, name: &str) -> Result<PathBuf, FsError> {
        fs::create_folder(&self.path, 0o700)?;
        let folder = self.path.join(name);
        fs::own_folder(&folder)?;
        Ok(folder)
    }

    /// Opens the file that is locked for a directory which cannot be locked itself: one for each, by its path.
    ///
    /// # Errors
    /// `Io` when the directory cannot be written.
    pub fn lock_file(&self, directory: &Path) -> Result<(OwnedFd, PathBuf), FsError> {
        let folder = self.own_folder("locks")?;
        let digest = Sha256::digest(directory.as_os_str().as_bytes());
        let number = digest[..8]
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        let path = folder.join(format!("{number:016x}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::from_raw_mode(0o600));
        Ok((file.map_err(fs::failed(&path, "open"))?, path))
    }

    /// Opens a journal for staging files that are about to be written below `bases`.
    ///
    /// # Errors
    /// `Io` when the directory cannot be written.
    pub fn begin_journal(
        &self,
        bases: &[&Path],
        staging_files: &[PathBuf],
    ) -> Result<Journal, FsError> {
        let folder = self.own_folder("journal")?;
        let has_staging = |base: &&&Path| staging_files.iter().any(|path| path.starts_with(**base));
        let bases = bases.iter().filter(has_staging);
        let listing = Listing {
            bases: bases.map(|&base| base.to_owned()).collect(),
            staging: staging_files.to_owned(),
            ..Listing::default()
        };
        let path = folder.join(unique_name(""));
        let file = create_locked(&folder, &path, &listing.text())?;
        Ok(Journal::of(path, file))
    }

    /// Returns where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the directory can be used, without making anything: whether it, or the folder
    /// it would be made in, may be written by this user.
    ///
    /// # Errors
    /// `Io`: what [`StateDir::begin_journal`] would meet.
    pub fn check_usable(&self) -> Result<(), FsError> {
        let nearest = self.path.ancestors().find(|folder| fs::is_there(folder));
        let folder = nearest.unwrap_or(&self.path);
        let access = Access::WRITE_OK | Access::EXEC_OK;
        let usable = if folder.is_dir() {
            accessat(CWD, folder, access, AtFlags::EACCESS)
        } else {
            Err(Errno::NOTDIR)
        };
        usable.map_err(|error| FsError::Io {
            path: folder.to_owned(),
            action: "write into the folder",
            source: error.into(),
        })?;
        let folders = ["journal", "backups"].map(|name| self.path.join(name));
        let mut there = folders.iter().filter(|folder| fs::is_there(folder));
        there.try_for_each(|folder| fs::check_own_folder(folder))
    }

    /// Reads a file of the directory; `None` where there is none.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FsError> {
        let path = self.path.join(name);
        match fs::read_regular(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FsError::Io {
                path,
                action: "read",
                source,
            }),
        }
    }

    /// Returns the error of a file of the directory that holds nothing sensible.
    pub fn damaged(&self, name: &str) -> FsError {
        FsError::Io {
            path: self.path.join(name),
            action: UNDERSTAND,
            source: io::Error::other(format!(
                "it is damaged; encrypted backups are in {}",
                self.path.join("backups").display()
            )),
        }
    }

    /// Gives a damaged file of the directory another name, so that nothing of it is lost.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_aside(&self, name: &str) -> Result<(), FsError> {
        let path = self.path.join(name);
        let aside = self.path.join(unique_name(&format!("{name}.damaged-")));
        fs::rename(&path, &aside).map_err(fs::failed(&path, "set aside"))
    }

    /// Replaces a file of the directory by what `change` makes of it, whole or not at all; other runs
    /// that update meanwhile wait.
    ///
    /// # Errors
    /// `Io`.
    pub fn update(
        &self,
        name: &str,
        change: impl FnOnce(Option<Vec<u8>>) -> Vec<u8>,
    ) -> Result<(), FsError> {
        fs::create_folder(&self.path, 0o700)?;
        let _guard = lock_folder(&self.path, FlockOperation::LockExclusive);
        let path = self.path.join(name);
        let content = change(self.read(name)?);
        let partial = self.path.join(format!("{name}{PARTIAL}"));
        if fs::is_there(&partial) {
            fs::remove(&partial)?;
        }
        let written = fs::write_new_private(&partial, &content)
            .and_then(|_| fs::rename(&partial, &path).map_err(fs::failed(&path, "replace")));
        if written.is_err() {
            drop(fs::remove(&partial));
        } else {
            fs::synchronize_folder(&self.path);
        }
        written
    }

    /// Returns the key of the directory's digests, 32 bytes; `None` where none was made yet.
    ///
    /// # Errors
    /// `Io`, also for one that is damaged: what was digested with it is not known any more.
    pub fn key(&self) -> Result<Option<SecretBytes>, FsError> {
        match self.read(KEY_FILE)?.map(SecretBytes::new) {
            Some(key) if key.len() != KEY_BYTES => Err(self.damaged(KEY_FILE)),
            key => Ok(key),
        }
    }

    /// Returns the key of the directory's digests, 32 bytes; makes it where there is none. A damaged one is set aside.
    ///
    /// # Errors
    /// `Io`.
    pub fn make_key(&self) -> Result<SecretBytes, FsError> {
        match self.read(KEY_FILE)?.map(SecretBytes::new) {
            Some(key) if key.len() == KEY_BYTES => return Ok(key),
            Some(_) => self.set_aside(KEY_FILE)?,
            None => {}
        }
        self.update(KEY_FILE, |old| {
            // Another run may have made it meanwhile.
            old.unwrap_or_else(|| {
                let mut key = vec![0; KEY_BYTES];
                fill_random(&mut key);
                key
            })
        })?;
        self.key()?.ok_or_else(|| self.damaged(KEY_FILE))
    }

    /// Takes back what runs that were killed had done by half, and removes their staging files and journals. Runs
    /// that begin meanwhile wait. What cannot be taken back or removed stays in its journal, and does not keep the others.
    pub fn clean_up(&self) -> CleanedUp {
        let mut cleaned = CleanedUp::default();
        let folder = self.path.join("backups");
        let guard = lock_folder(&folder, FlockOperation::LockExclusive);
        for (path, file) in abandoned(&folder, is_partial) {
            match file.and_then(|_file| fs::remove(&path)) {
                Ok(()) => cleaned.removed.push(path),
                Err(error) => cleaned.failed.push(error),
            }
        }
        drop(guard);
        let folder = self.path.join("journal");
        let _guard = lock_folder(&folder, FlockOperation::LockExclusive);
        for (path, file) in abandoned(&folder, is_journal) {
            clean_up_one(&path, file, &mut cleaned);
        }
        cleaned.removed.sort();
        cleaned
    }

    /// Returns what killed runs have left below one of `folders`.
    pub fn traces(&self, folders: &[&Path]) -> Traces {
        let mut traces = Traces::default();
        let folder = self.path.join("journal");
        // What is locked while it is read would be taken for a living run's. Another run that holds the folder for long has
        // been stopped: it is not waited for.
        let mut guard = None;
        for _ in 0..LOOKS {
            guard = lock_folder(&folder, FlockOperation::NonBlockingLockExclusive);
            if guard.is_some() {
                break;
            }
            thread::sleep(PAUSE);
        }
        if guard.is_none() && File::open(&folder).is_ok() {
            let error = io::Error::from(io::ErrorKind::WouldBlock);
            traces.trouble = Some(fs::failed(&folder, "lock")(error));
            return traces;
        }
        for (path, file) in abandoned(&folder, is_journal) {
            let read = read_journal(&path, file).and_then(|journal| {
                Ok((journal.half_done(folders)?, journal.kept(folders)?, journal))
            });
            match read {
                Ok((files, kept, journal)) => {
                    let mut left = journal.left(folders);
                    left.retain(|path| kept.iter().all(|(_, old)| old != path));
                    traces.half_done.extend(files);
                    traces.staging.extend(left);
                    traces.kept.extend(kept);
                }
                Err(error) => traces.trouble = Some(error),
            }
        }
        traces.half_done.sort();
        traces.staging.sort();
        traces
    }

    /// Forgets that killed runs were writing into a file: it is whole again, or its owner says that it is.
    pub fn settle(&self, written: &[PathBuf]) {
        let folder = self.path.join("journal");
        let _guard = lock_folder(&folder, FlockOperation::LockExclusive);
        for (path, file) in abandoned(&folder, is_journal) {
            let Ok(listing) = read_journal(&path, file) else {
                continue;
            };
            // What else it lists, as staging files, is for the next run to look after.
            let is_over_alone = listing.steps.is_empty()
                && listing.staging.is_empty()
                && listing.folders.is_empty()
                && !listing.written_over.is_empty();
            let mut over = listing.written_over.iter();
            if is_over_alone && over.all(|(file, _)| written.contains(file)) {
                drop(fs::remove(&path));
            }
        }
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

    /// Returns the backups, the oldest first.
    pub fn backups(&self) -> Vec<PathBuf> {
        let folder = self.path.join("backups");
        let mut names = fs::names(&folder);
        names.retain(|name| name.ends_with(".enc"));
        names.sort();
        names.into_iter().map(|name| folder.join(name)).collect()
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
        let folder = self.own_folder("backups")?;
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                c
            } else {
                '_'
            }
        };
        let label: Vec<char> = label.chars().map(plain).collect();
        // The end of a long path tells more than its beginning.
        let label = &label[label.len().saturating_sub(MOST_LABEL_CHARACTERS)..];
        let label = String::from_iter(label);
        let time = now.replace([':', '-'], "");
        let path = folder.join(format!("{time}-{}-{label}.enc", &unique_name("")[..6]));
        // A run that is killed here leaves no half backup that looks like a whole one.
        let partial = with_suffix(&path, PARTIAL);
        let mut file = create_locked(&folder, &partial, b"")?;
        let mut source = Digesting::of(content);
        let kept = io::copy(&mut source, &mut file)
            .and_then(|_| file.sync_all())
            .and_then(|()| {
                // It may be the only copy from here on.
                let mut back = Digesting::of(&mut file);
                back.inner.rewind()?;
                io::copy(&mut back, &mut io::sink())?;
                let is_same = back.digest.finalize() == source.digest.finalize();
                is_same
                    .then_some(())
                    .ok_or_else(|| io::Error::other("it does not read back as it was"))
            })
            .and_then(|()| fs::rename(&partial, &path));
        if let Err(source) = kept {
            drop(fs::remove(&partial));
            return Err(FsError::Io {
                path,
                action: "write",
                source,
            });
        }
        if let Ok(folder) = File::open(&folder) {
            drop(folder.sync_all());
        }
        Ok(path)
    }
}

/// Creates a file that is locked before another run can take it for abandoned: creating and
/// looking for abandoned files exclude each other by a lock on the folder.
fn create_locked(folder: &Path, path: &Path, content: &[u8]) -> Result<File, FsError> {
    let _guard = lock_folder(folder, FlockOperation::LockExclusive);
    let file = fs::write_new_private(path, content)?;
    // Without a lock another run would take it for one that nobody holds.
    // A command that only reads may hold it for a moment.
    match rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive)) {
        Ok(()) => {
            fs::synchronize_folder(folder);
            Ok(file)
        }
        Err(error) => {
            drop(fs::remove(path));
            Err(fs::failed(path, "lock")(error))
        }
    }
}

fn read_journal(path: &Path, file: Result<File, FsError>) -> Result<Listing, FsError> {
    let mut text = Vec::new();
    let read = file?.read_to_end(&mut text);
    read.map_err(fs::failed(path, "read"))?;
    let listing = Listing::parse(&text);
    if listing.is_damaged {
        let error = io::Error::other("it is damaged");
        return Err(fs::failed(path, UNDERSTAND)(error));
    }
    Ok(listing)
}

/// Cleans up after one killed run.
fn clean_up_one(path: &Path, file: Result<File, FsError>, cleaned: &mut CleanedUp) {
    let stuck = |bases, error| Stuck {
        journal: path.to_owned(),
        bases,
        error,
    };
    let listing = match read_journal(path, file) {
        Ok(listing) => listing,
        Err(error) => return cleaned.stuck.push(stuck(Vec::new(), error)),
    };
    // While a part of it cannot be reached nothing may be built on the part that can.
    let is_half_done = |listing: &Listing| {
        let bases: Vec<_> = listing.bases.iter().map(PathBuf::as_path).collect();
        listing
            .half_done(&bases)
            .map_or(true, |files| !files.is_empty())
    };
    let out_of_reach = |folder: &Path| FsError::Io {
        path: folder.to_owned(),
        action: OUT_OF_REACH,
        source: io::ErrorKind::NotFound.into(),
    };
    if let Some(base) = listing.bases.iter().find(|base| !base.is_dir()) {
        let error = out_of_reach(base);
        cleaned.out_of_reach.push((base.clone(), path.to_owned()));
        if is_half_done(&listing) {
            cleaned.stuck.push(stuck(listing.bases, error));
        }
        return;
    }
    let taken_back = match listing.take_back() {
        Ok(taken_back) => taken_back,
        Err(error) => return cleaned.stuck.push(stuck(listing.bases, error)),
    };
    if let Some(folder) = taken_back.out_of_reach {
        let error = out_of_reach(&folder);
        cleaned.out_of_reach.push((folder, path.to_owned()));
        if is_half_done(&listing) {
            cleaned.stuck.push(stuck(listing.bases, error));
        }
        return;
    }
    let kept: HashSet<PathBuf> = taken_back.kept.iter().map(|path| resolved(path)).collect();
    cleaned.taken_back.add(taken_back);
    if let Err(error) = remove_leftovers(path, listing, &kept, cleaned) {
        cleaned.failed.push(error);
    }
}

/// Removes what a killed run left that is not needed, and in the end its journal.
fn remove_leftovers(
    path: &Path,
    mut listing: Listing,
    kept: &HashSet<PathBuf>,
    cleaned: &mut CleanedUp,
) -> Result<(), FsError> {
    for staged in &listing.staging {
        for leftover in [staged.clone(), with_suffix(staged, "-old")] {
            if !kept.contains(&resolved(&leftover)) && staging::remove_staging_file(&leftover)? {
                cleaned.removed.push(leftover);
            }
        }
    }
    listing.remove_folders()?;
    let over = listing.changed_in_place();
    if over.is_empty() {
        return fs::remove(path);
    }
    // It is told of until the files are whole.
    cleaned.written_over.extend(over);
    listing.steps.clear();
    listing.staging.clear();
    listing.folders.clear();
    let partial = with_suffix(path, PARTIAL);
    // One that was killed here left it.
    drop(fs::remove(&partial));
    fs::write_new_private(&partial, &listing.text())?;
    fs::rename(&partial, path).map_err(fs::failed(path, "replace"))
}

/// Returns a path with the links of its folder resolved.
fn resolved(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => fs::resolved(folder).join(name),
        _ => path.to_owned(),
    }
}

/// Returns the wanted files of a folder that is locked which no living run holds, each locked, or why that cannot be told.
fn abandoned(folder: &Path, is_wanted: fn(&Path) -> bool) -> Vec<(PathBuf, Result<File, FsError>)> {
    let is_nothing = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::NotFound => true,
        // Where the whole directory is closed, nothing is known of the last sync either, and nothing replaced.
        io::ErrorKind::PermissionDenied => folder
            .parent()
            .is_none_or(|state| std::fs::read_dir(state).is_err()),
        _ => false,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_nothing(&error) => return Vec::new(),
        Err(error) => {
            let error = fs::failed(folder, "read the folder")(error);
            return vec![(folder.to_owned(), Err(error))];
        }
    };
    let open = |path: &Path| -> Result<Option<File>, io::Error> {
        // A network file system locks what is opened for writing. Who waits for the other end of a pipe waits for ever.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut options = File::options();
        let options = options.read(true).write(true).custom_flags(flags);
        let file = match options.open(path) {
            Ok(file) if file.metadata()?.is_file() => file,
            Ok(_) => return Err(io::Error::other("it is not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match rustix::io::retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                let error = fs::failed(folder, "read the folder")(error);
                found.push((folder.to_owned(), Err(error)));
                continue;
            }
        };
        if !is_wanted(&path) {
            continue;
        }
        match open(&path) {
            Ok(None) => {}
            Ok(Some(file)) => found.push((path, Ok(file))),
            Err(error) => {
                let error = fs::failed(&path, "open")(error);
                found.push((path, Err(error)));
            }
        }
    }
    found
}

/// Locks a folder; `None` where that cannot be, or somebody else has it.
fn lock_folder(folder: &Path, how: FlockOperation) -> Option<File> {
    let lock = |file: &File| rustix::io::retry_on_intr(|| flock(file, how));
    let folder_itself = File::open(folder).ok()?;
    match lock(&folder_itself) {
        Ok(()) => Some(folder_itself),
        Err(error) if has_no_locks(error) => {
            // A network file system locks no folders.
            let name = with_suffix(folder, ".lock");
            let file = File::options().create(true).append(true).open(name).ok()?;
            lock(&file).ok().map(|()| file)
        }
        Err(_) => None,
    }
}

fn is_journal(path: &Path) -> bool {
    !is_partial(path)
}

fn is_partial(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(PARTIAL.as_bytes())
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

/// Digests what is read through it.
struct Digesting<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Digesting<R> {
    fn of(inner: R) -> Self {
        Self {
            inner,
            digest: Sha256::new(),
        }
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.digest.update(&buffer[..length]);
        Ok(length)
    }
}
