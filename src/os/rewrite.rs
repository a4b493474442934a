//! Writing a file that somebody named: whole or not at all, whatever it is.
//!
//! For outputs on the command line, which may be links, pipes and devices, too. Files of a manifest go
//! through [`super::staging`] with a plan.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, access, open, stat};
use sha2::{Digest, Sha256};

use crate::secret::SecretBytes;

use super::RandomPool;
use super::fs::{FsError, failed, is_same_file, read_any};
use super::place::{Base, FileState, Found, Ownership, Place};
use super::signal::{Watch, die_of};
use super::staging::{
    Attributes, InPlace, Staged, remove_abandoned, staging_name, staging_name_of,
};

/// Up to this length a file is compared by its content.
const COMPARED_BYTES: u64 = 1 << 20;
/// How many links are followed to a file that does not exist yet.
const MOST_LINKS: usize = 40;

/// A file as it was when it was read: what is written is made of that.
pub struct Seen {
    state: Option<FileState>,
    /// Of a short file, as its times may be too coarse to tell.
    digest: Option<[u8; 32]>,
}

impl Seen {
    /// Reads whatever can be read at a path, as [`super::fs::read_any`] does, and remembers how it was.
    ///
    /// # Errors
    /// As [`super::fs::read_any`].
    pub fn read(path: &Path, limit: u64) -> io::Result<(SecretBytes, Self)> {
        let state = stat(path).ok().map(|stat| FileState::of(&stat));
        let content = SecretBytes::new(read_any(path, limit)?);
        let is_short = content.len() as u64 <= COMPARED_BYTES;
        let digest = is_short.then(|| Sha256::digest(content.expose()).into());
        Ok((content, Self { state, digest }))
    }

    /// Returns whether what stands there still is what was read; `now` was looked at before.
    fn is_still(&self, place: &Place, now: &FileState) -> bool {
        match (self.digest, place.read(COMPARED_BYTES)) {
            (Some(digest), Found::File(_, content)) => {
                let now: [u8; 32] = Sha256::digest(content.expose()).into();
                digest == now
            }
            (Some(_), _) => false,
            (None, _) => self.state.as_ref() == Some(now),
        }
    }
}

/// Replaces the content of a file, following links; owner and mode stay. A new file gets `mode`. A pipe
/// or a device is written to. Where no file can be made beside it, or it has other names, it is written
/// over, which is not atomic. Where the content was made of what was `seen` there, it must be that still. A signal ends this process when the file is whole and nothing lies beside it;
/// what a killed one left there is removed. `tell` is told of leftovers.
///
/// # Errors
/// `Io`, also for a file that may not be written; `NotReadBack`; `Changed`.
pub fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    seen: Option<&Seen>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), FsError> {
    let watch = Watch::start();
    let done = write_whole(path, content, mode, seen, tell);
    if let Some(signal) = watch.received() {
        die_of(signal);
    }
    done
}

/// Removes what a killed run left beside a file that is going to be written, where it was there, links
/// followed. Returns whether there was something.
pub fn clean_up(path: &Path) -> bool {
    let target = resolved(path);
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return false;
    };
    let place = Base::open(folder).and_then(|base| base.place(name.as_ref()));
    place.is_ok_and(|place| remove_abandoned(&place, &staging_name_of(name)).0)
}

fn write_whole(
    path: &Path,
    content: &[u8],
    mode: u32,
    seen: Option<&Seen>,
    tell: &mut dyn FnMut(&str),
) -> Result<(), FsError> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return write_through(path, content);
    }
    let target = resolved(path);
    // What `/dev/stdout` leads to may have no name any more.
    if path.exists() && !is_same_file(path, &target) {
        return write_through(path, content);
    }
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return write_through(&target, content);
    };
    let place = Base::open(folder).and_then(|base| base.place(name.as_ref()));
    let place = place.map_err(|error| match error {
        FsError::Io { source, .. } => failed(&target, "open for writing")(source),
        other => other,
    })?;
    let own_name = staging_name_of(name);
    let (was_there, is_free) = remove_abandoned(&place, &own_name);
    if was_there {
        tell("removed 1 staging file that an interrupted run left behind");
    }
    let temporary = if is_free {
        own_name
    } else {
        staging_name(&mut |buffer| RandomPool::new().fill(buffer))
    };
    match place.look() {
        Found::File(now, _) => {
            // Another file in its place would need the folder only.
            access(&target, Access::WRITE_OK).map_err(failed(&target, "open for writing"))?;
            if seen.is_some_and(|seen| !seen.is_still(&place, &now)) {
                return Err(FsError::Changed { path: target });
            }
            replace(&place, temporary, &now, content, tell)
        }
        Found::Missing if seen.is_none() => create(place, temporary, content, mode, tell),
        Found::Unreadable(error) => Err(failed(&target, "open for writing")(error)),
        Found::Missing | Found::Other(_) | Found::TooLarge(_) => {
            Err(FsError::Changed { path: target })
        }
    }
}

/// Returns where a path leads, its links followed; also where nothing is there yet.
fn resolved(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(link) = path.read_link() else { break };
        path = path
            .parent()
            .map_or_else(|| link.clone(), |folder| folder.join(&link));
    }
    path
}

fn create(
    place: Place,
    temporary: OsString,
    content: &[u8],
    mode: u32,
    tell: &mut dyn FnMut(&str),
) -> Result<(), FsError> {
    let attributes = Attributes {
        owner: Ownership::default(),
        mode,
        keep_access_list: false,
    };
    let staged = Staged::write_held(place, temporary, content, attributes, None)?;
    exchange(staged, tell)
}

fn replace(
    place: &Place,
    temporary: OsString,
    seen: &FileState,
    content: &[u8],
    tell: &mut dyn FnMut(&str),
) -> Result<(), FsError> {
    let attributes = Attributes {
        owner: Ownership {
            uid: Some(seen.uid),
            gid: Some(seen.gid),
        },
        mode: seen.mode,
        keep_access_list: true,
    };
    let has_other_names = place
        .path()
        .symlink_metadata()
        .is_ok_and(|found| found.nlink() > 1);
    if !has_other_names {
        let staged = Staged::write_held(place.clone(), temporary, content, attributes, Some(*seen));
        match staged.and_then(|staged| exchange(staged, tell)) {
            Err(error) if is_barred(&error) => {}
            done => return done,
        }
    }
    let as_is = Attributes {
        owner: Ownership::default(),
        ..attributes
    };
    let old = match place.read(u64::MAX) {
        Found::File(_, old) => old,
        Found::Unreadable(error) => return Err(failed(&place.path(), "read")(error)),
        _ => return Err(FsError::Changed { path: place.path() }),
    };
    let file = InPlace::open(place, seen)?;
    file.write(content, as_is).inspect_err(|_| {
        if let Err(failure) = file.put_back(old.expose(), as_is) {
            tell(&format!("{failure}: the file is neither old nor new"));
        }
    })
}

/// Returns whether no file can be put in the place of this one: its folder cannot be written, its owner not
/// be given, or it is mounted by itself. A full disk is none of that.
fn is_barred(error: &FsError) -> bool {
    match error {
        FsError::Mounted { .. } => true,
        FsError::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::ResourceBusy
                | ErrorKind::CrossesDevices
        ),
        _ => false,
    }
}

fn exchange(mut staged: Staged, tell: &mut dyn FnMut(&str)) -> Result<(), FsError> {
    let done = staged
        .synchronize()
        .and_then(|()| staged.replace())
        .and_then(|()| staged.synchronize_folder())
        .and_then(|()| {
            // What was written meanwhile went into the old file and would be lost.
            let path = staged.path();
            let is_untouched = staged.is_old_untouched();
            is_untouched.then_some(()).ok_or(FsError::Changed { path })
        });
    if let Err(error) = done {
        if let Err(failure) = staged.roll_back() {
            let old = staged.temporary_path();
            tell(&format!(
                "{failure}; {} is removed by the next run that writes the file: move it away if you need it",
                old.display()
            ));
        }
        return Err(error);
    }
    if let Err(failure) = staged.finish() {
        tell(&format!("{failure}; the next run removes it"));
    }
    Ok(())
}

/// Writes to what is no regular file.
fn write_through(path: &Path, content: &[u8]) -> Result<(), FsError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let descriptor =
        open(path, flags, Mode::from_raw_mode(0o600)).map_err(failed(path, "open for writing"))?;
    let mut file = File::from(descriptor);
    file.write_all(content).map_err(failed(path, "write"))
}
