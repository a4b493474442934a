//! What `undo` can take back: the files that each run made, replaced or mended, and where their old
//! content is: in an encrypted backup, or in a commit.
//!
//! A list in the state directory, the newest last. Backups are never removed with it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::os::access_list;
use crate::os::fill_random;
use crate::os::fs::{self, FsError};
use crate::os::place::FileState;
use crate::os::state::StateDir;
pub use crate::project::plan::Side;
use crate::project::record::{Digester, Record};

use super::Context;
use super::workspace::Workspace;

/// The name of the list in the state directory.
const UNDO_FILE: &str = "undo.json";
/// So many runs are listed, with so many files together; the newest in any case.
const LISTED_RUNS: usize = 200;
const LISTED_FILES: usize = 5000;

/// A file that a run replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replaced {
    /// The entry's name.
    pub entry: String,
    /// Which side it is on.
    pub side: Side,
    /// The file, absolute.
    pub target: String,
    /// The backup, absolute; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backup: String,
    /// The commit in whose version of the entry's file the old content stands, in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether only owner, group and mode were set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_mended: bool,
    /// Owner, group and permission bits of the file that was replaced.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Those that it has without its access list, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_alone: Option<u32>,
    /// Keyed digest of what was written in its place.
    pub written: String,
    /// The file on the server that the record belongs to, links resolved.
    pub record_target: String,
    /// The record as it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// A run that can be undone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reversal {
    /// Tells it of the others: 16 hexadecimal digits.
    #[serde(default)]
    pub id: String,
    /// When it ran, RFC 3339, UTC.
    pub time: String,
    /// The command.
    pub command: String,
    /// The manifest it was of.
    pub manifest: String,
    /// What it replaced; nothing of a run that `undo` does not take back.
    pub files: Vec<Replaced>,
    /// The entries of a run that `undo` does not take back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<String>,
}

/// Where the old content of a file is.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// Where it was: only owner, group and mode are set.
    Attributes,
    /// In an encrypted backup.
    Backup(&'a str),
    /// In a commit's version of the entry's file.
    Commit(&'a str),
    /// Nowhere: there was no file.
    Nothing,
}

/// A file that this run made, replaced or mended.
pub struct Undoable<'a> {
    /// The entry's name.
    pub entry: &'a str,
    /// Which side it is on.
    pub side: Side,
    /// The file, absolute.
    pub target: PathBuf,
    /// Where its old content is.
    pub before: Before<'a>,
    /// The state it had.
    pub state: Option<FileState>,
    /// What was written in its place.
    pub written: &'a [u8],
    /// The file on the server that the record belongs to, links resolved.
    pub record_target: PathBuf,
}

/// Notes what this run is about to replace, before the first file is: a run that is killed can be
/// undone too. That it cannot be noted is a warning: the backups are there.
pub fn note(
    cx: &mut Context,
    workspace: &Workspace,
    command: &str,
    files: Vec<Undoable<'_>>,
) -> Option<Reversal> {
    let state = workspace.state.as_ref().filter(|_| !files.is_empty())?;
    let time = cx.env.now();
    let noted = state.make_key().and_then(|key| {
        let digester = Digester::new(key);
        let replaced = |file: Undoable<'_>| Replaced {
            entry: file.entry.to_owned(),
            side: file.side,
            target: file.target.display().to_string(),
            backup: match file.before {
                Before::Backup(path) => path.to_owned(),
                _ => String::new(),
            },
            commit: match file.before {
                Before::Commit(commit) => Some(commit.to_owned()),
                _ => None,
            },
            is_mended: matches!(file.before, Before::Attributes),
            uid: file.state.map_or(0, |state| state.uid),
            gid: file.state.map_or(0, |state| state.gid),
            mode: file.state.map_or(0, |state| state.mode),
            mode_alone: file
                .state
                .map(|state| {
                    (
                        state.mode,
                        access_list::mode_alone(&file.target, state.mode),
                    )
                })
                .and_then(|(mode, alone)| (alone != mode).then_some(alone)),
            written: digester.content(file.written),
            record: workspace.memory().record_of(&file.record_target).cloned(),
            record_target: file.record_target.display().to_string(),
        };
        let reversal = Reversal {
            id: new_id(),
            time,
            command: command.to_owned(),
            manifest: manifest_name(workspace),
            files: files.into_iter().map(replaced).collect(),
            entries: Vec::new(),
        };
        change(state, |list| list.push(reversal.clone()))?;
        Ok(reversal)
    });
    noted
        .map_err(|error| {
            cx.ui
                .warning(&format!("`undo` will not know of this run: {error}"));
        })
        .ok()
}

/// Notes a run that changed entries and that `undo` does not take back, so that it takes back no older one instead.
pub fn mark(cx: &mut Context, workspace: &Workspace, command: &str, entries: &[&str]) {
    let Some(state) = &workspace.state else {
        return;
    };
    let run = Reversal {
        id: new_id(),
        time: cx.env.now(),
        command: command.to_owned(),
        manifest: manifest_name(workspace),
        files: Vec::new(),
        entries: entries.iter().map(|&entry| entry.to_owned()).collect(),
    };
    if let Err(error) = change(state, |list| list.push(run)) {
        let line = format!("`undo` will not know of this run: {error}");
        cx.ui.warning(&line);
    }
}

/// Takes back the note of a run that came to nothing.
pub fn take_back(workspace: &Workspace, noted: Option<Reversal>) {
    if let (Some(state), Some(noted)) = (&workspace.state, noted) {
        // An entry too much is harmless: `undo` finds the old content in place.
        drop(forget(state, &noted));
    }
}

/// Returns the runs of this manifest that can be undone, the newest last.
///
/// # Errors
/// When the list cannot be read, or is damaged.
pub fn list(workspace: &Workspace) -> Result<Vec<Reversal>, FsError> {
    let manifest = manifest_name(workspace);
    let mut list = list_all(workspace)?;
    list.retain(|one| one.manifest == manifest);
    Ok(list)
}

/// Returns the backups that runs of other manifests would bring back.
///
/// # Errors
/// When the list cannot be read, or is damaged.
pub fn backups_of_others(workspace: &Workspace) -> Result<Vec<String>, FsError> {
    let manifest = manifest_name(workspace);
    let list = list_all(workspace)?.into_iter();
    let others = list.filter(|one| one.manifest != manifest);
    Ok(others
        .flat_map(|one| one.files)
        .map(|file| file.backup)
        .collect())
}

fn list_all(workspace: &Workspace) -> Result<Vec<Reversal>, FsError> {
    let Some(state) = &workspace.state else {
        return Ok(Vec::new());
    };
    let Some(text) = state.read(UNDO_FILE)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&text).map_err(|_| state.damaged(UNDO_FILE))
}

/// Leaves only these files of a run to be undone; without any the run is off the list.
///
/// # Errors
/// When the list cannot be written.
pub fn keep(state: &StateDir, run: &Reversal, files: &[Replaced]) -> Result<(), FsError> {
    change(state, |list| {
        if let Some(one) = list.iter_mut().find(|one| one.is(run)) {
            one.files = files.to_vec();
        }
        list.retain(|one| !one.files.is_empty() || !one.is(run));
    })
}

/// Takes a run that was undone off the list.
///
/// # Errors
/// When the list cannot be written.
pub fn forget(state: &StateDir, undone: &Reversal) -> Result<(), FsError> {
    change(state, |list| list.retain(|one| !one.is(undone)))
}

impl Replaced {
    /// Returns where the backup is: where it was kept, else in the state directory as it is named now.
    pub fn backup_path(&self, workspace: &Workspace) -> PathBuf {
        let path = PathBuf::from(&self.backup);
        let backups = workspace
            .state
            .as_ref()
            .map(|state| state.path().join("backups"));
        match (backups, path.file_name()) {
            (Some(backups), Some(name)) if !fs::is_there(&path) => backups.join(name),
            _ => path,
        }
    }

    /// Returns the permission bits to bring back: without its access list a file gets none that were the list's.
    pub fn mode_now(&self) -> u32 {
        match self.mode_alone {
            Some(alone) if !access_list::is_there(Path::new(&self.target)) => alone,
            _ => self.mode,
        }
    }
}

impl Reversal {
    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.time == other.time && self.manifest == other.manifest
    }
}

fn new_id() -> String {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

fn change(state: &StateDir, change: impl FnOnce(&mut Vec<Reversal>)) -> Result<(), FsError> {
    if let Some(text) = state.read(UNDO_FILE)?
        && serde_json::from_slice::<Vec<Reversal>>(&text).is_err()
    {
        state.set_aside(UNDO_FILE)?;
    }
    state.update(UNDO_FILE, |old| {
        let mut list: Vec<Reversal> = old
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        change(&mut list);
        let mut files = 0;
        let fitting = list.iter().rev().take(LISTED_RUNS).take_while(|run| {
            files += run.files.len();
            files <= LISTED_FILES
        });
        let kept = fitting.count().max(1);
        let excess = list.len().saturating_sub(kept);
        list.drain(..excess);
        serde_json::to_vec(&list).unwrap_or_default()
    })
}

fn manifest_name(workspace: &Workspace) -> String {
    let path: &Path = &workspace.manifest_path;
    let path = fs::canonical(path).unwrap_or_else(|| path.to_owned());
    path.display().to_string()
}
