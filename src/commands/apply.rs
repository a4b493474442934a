//! Carrying out a plan: lock, journal, stage everything, look again, replace everything or nothing.
//!
//! Nothing at a target changes before every file is staged, read back and on disk. A failure or a
//! signal in between brings back what was there. What a killed run leaves behind are staging files
//! named in its journal; the next writing run removes them and says so.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, Problem};
use crate::os::fs::{self, FsError};
use crate::os::journal::{Journal, Mark};
use crate::os::lock::{self, DirectoryLock, LockError};
use crate::os::place::{Base, FileState, Ownership, Place};
use crate::os::scratch::Scratch;
use crate::os::signal::Watch;
use crate::os::staging::{self, Attributes, InPlace, Removed, Staged};
use crate::os::state::{CleanedUp, OUT_OF_REACH, StateDir, Stuck, UNDERSTAND};
use crate::os::{self};

use crate::project::error::Refusal;
use crate::project::plan::{Action, Plan};
use crate::secret::SecretBytes;
use crate::ui::report::Applied;

use super::gather::Prospect;
use super::hints;
use super::trust;
use super::workspace::Workspace;
use super::{Context, Jobs, WriteArgs, in_parallel};

/// Up to this many files are synchronised one by one, more by one call a file system.
const SYNCHRONISED_SINGLY: usize = 4;

/// A file to be created or replaced.
pub struct Job<'a> {
    /// The entry's name.
    pub name: &'a str,
    /// Where.
    pub place: Place,
    /// What.
    pub content: &'a [u8],
    /// Owner, group and mode.
    pub attributes: Attributes,
    /// Owner of folders that must be made.
    pub folder_owner: Ownership,
    /// What was seen there: state and content.
    pub seen: Option<(FileState, &'a [u8])>,
    /// Write into the file that is there.
    pub in_place: bool,
}

/// A file whose owner, group or mode are set.
pub struct Mending<'a> {
    /// The entry's name.
    pub name: &'a str,
    /// Where.
    pub place: Place,
    /// What was seen there.
    pub seen: FileState,
    /// Owner and group.
    pub owner: Ownership,
    /// Mode.
    pub mode: u32,
}

/// A file to be removed.
pub struct Removal<'a> {
    /// The entry's name.
    pub name: &'a str,
    /// Where.
    pub place: Place,
    /// What was seen there: state and content.
    pub seen: (FileState, &'a [u8]),
}

/// A file that must still be what was read from it.
pub struct Watched<'a> {
    /// The entry's name.
    pub name: &'a str,
    /// Where.
    pub place: Place,
    /// What was seen there.
    pub state: FileState,
    /// What was read.
    pub content: &'a [u8],
}

/// Everything a run does at once.
#[derive(Default)]
pub struct Work<'a> {
    /// Files to write.
    pub jobs: Vec<Job<'a>>,
    /// Attributes to set.
    pub mendings: Vec<Mending<'a>>,
    /// Files to remove, once all others are in place.
    pub removals: Vec<Removal<'a>>,
    /// Files that must not have changed.
    pub watched: Vec<Watched<'a>>,
}

/// What has been done so far, to be undone when something fails.
#[derive(Default)]
struct Done<'a> {
    made_folders: Vec<PathBuf>,
    staged: Vec<Staged>,
    removed: Vec<Removed>,
    written_in_place: Vec<(InPlace, FileState, &'a [u8])>,
    mended: Vec<(Place, FileState)>,
}

/// Takes back what killed runs had done by half and removes what they left, and says so; before a writing command
/// looks at anything. A dry run does not.
pub fn clean_up(cx: &mut Context, args: WriteArgs) -> CleanedUp {
    let state = StateDir::locate(&cx.env).filter(|_| !args.dry_run);
    state
        .map(|state| tidy(cx, &state, true))
        .unwrap_or_default()
}

/// Begins a writing run: locks out other writers, then cleans up after those that were killed meanwhile. A dry run
/// does neither.
///
/// # Errors
/// Who holds a lock, that the manifest's root is another one than was trusted, or that something was taken back
/// that this run had looked at.
pub fn begin(
    cx: &mut Context,
    workspace: &Workspace,
    args: WriteArgs,
) -> Result<Vec<DirectoryLock>, Problem> {
    trust::check(workspace, args.dry_run)?;
    if args.dry_run {
        warn_of_traces(cx, workspace);
        return Ok(Vec::new());
    }
    let locks = lock(cx, workspace, !args.no_wait)?;
    workspace.head();
    let cleaned = workspace.state.as_ref().map(|state| tidy(cx, state, false));
    let cleaned = cleaned.unwrap_or_default();
    let mut folders = vec![workspace.repository.path(), &workspace.root_path];
    folders.extend(workspace.root.as_ref().map(Base::path));
    let is_here = |base: &PathBuf| {
        folders
            .iter()
            .any(|folder| base.starts_with(folder) || folder.starts_with(base))
    };
    let mut stuck = cleaned.stuck.into_iter();
    if let Some(stuck) =
        stuck.find(|stuck| stuck.bases.is_empty() || stuck.bases.iter().any(is_here))
    {
        let help = stuck_help(&stuck);
        return Err(Problem::new(stuck.error).with_help(help));
    }
    let restored = cleaned.taken_back.restored.into_iter().next();
    let changed = restored.or_else(|| workspace.changed_manifest());
    if let Some(path) = changed {
        return Err(Problem::new(FsError::Changed { path })
            .with_help("run the command again: it will look at everything as it is now"));
    }
    for line in leftovers(workspace) {
        cx.ui.warning(&line);
    }
    warn_of_memory(cx, workspace);
    Ok(locks)
}

/// Carries out the plan for the entries without a problem, unless it is a dry run or a problem
/// stands against everything. With `--keep-going` an entry that fails while it is written is left
/// out, and the others are tried again. A dry run also tells that the state directory cannot be used
/// where the run would need it.
pub fn carry_out<T: Prospect>(
    workspace: &Workspace,
    entries: &[T],
    args: WriteArgs,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
    mut write: impl FnMut(&[&T]) -> Result<(), Failure>,
) -> Applied {
    if args.dry_run {
        if plan.count(&[Action::Replace]) > 0 {
            let usable = state_of(workspace).and_then(StateDir::check_usable);
            problems.extend(usable.err().map(state_problem));
        }
        return Applied::DryRun;
    }
    if !problems.is_empty() && !args.keep_going {
        return Applied::Nothing;
    }
    let bad = problems
        .iter()
        .filter_map(|problem| problem.entry.as_deref());
    let bad: HashSet<&str> = bad.collect();
    let is_good = |one: &&T| !bad.contains(&*one.entry().repository_path);
    let mut good: Vec<&T> = entries.iter().filter(is_good).collect();
    loop {
        let Err(failure) = write(&good) else {
            return Applied::Done;
        };
        let outcome = failure.outcome();
        let failed = failure.problem.entry.clone();
        problems.push(failure.problem);
        let before = good.len();
        good.retain(|one| failed.as_ref() != Some(&one.entry().repository_path));
        if !args.keep_going || good.len() == before || outcome == Applied::Partly {
            return outcome;
        }
        plan.forget(failed.as_deref());
    }
}

/// Says what killed runs have half done, where nothing is taken back now: what is seen of both sides is partly what they
/// wrote.
fn half_done(workspace: &Workspace) -> Vec<String> {
    let Some(state) = &workspace.state else {
        return Vec::new();
    };
    let mut folders = vec![workspace.repository.path()];
    folders.extend(workspace.root.as_ref().map(Base::path));
    let traces = state.traces(&folders);
    let mut lines = Vec::new();
    if let Some(error) = &traces.trouble {
        lines.push(format!(
            "whether an interrupted run is half done cannot be told: {error}; no command writes until it can"
        ));
    }
    let named = |files: &[PathBuf]| match files {
        [] => String::new(),
        [file] => file.display().to_string(),
        [first, ..] => format!("{} files, {} among them", files.len(), first.display()),
    };
    for (file, old) in &traces.kept {
        lines.push(format!(
            "{} was changed while a run was taken back: it is left as it is, and its old content is in {}",
            file.display(),
            old.display()
        ));
    }
    if !traces.half_done.is_empty() {
        let files = named(&traces.half_done);
        lines.push(format!(
            "an interrupted run is half done ({files}); the next writing run takes it back, or says what is to be done"
        ));
    } else if !traces.staging.is_empty() {
        let files = named(&traces.staging);
        lines.push(format!(
            "an interrupted run left its staging files, which may be plaintext ({files}); the next writing run removes them"
        ));
    }
    lines
}

/// Returns what killed runs have half done, else what they left beside the targets; and whether this user's next run takes
/// something of it back.
pub fn traces(workspace: &Workspace) -> (Vec<String>, bool) {
    let half_done = half_done(workspace);
    if half_done.is_empty() {
        (leftovers(workspace), false)
    } else {
        (half_done, true)
    }
}

/// Warns of [`traces`]. Returns whether this user's next run takes something of it back.
pub fn warn_of_traces(cx: &mut Context, workspace: &Workspace) -> bool {
    warn_of_memory(cx, workspace);
    let (lines, is_ours) = traces(workspace);
    for line in lines {
        cx.ui.warning(&line);
    }
    is_ours
}

/// Warns that nothing is remembered where something should be, and that earlier runs are not known.
fn warn_of_memory(cx: &mut Context, workspace: &Workspace) {
    let memory = workspace.memory();
    if let Some(trouble) = memory.trouble.as_ref().filter(|_| !memory.is_unusable) {
        cx.ui.warning(&format!(
            "{trouble}: who could read the files then is not known, so a reader that was added since is not told"
        ));
    }
    if let Err(error) = super::reversal::list(workspace) {
        cx.ui.warning(&format!(
            "{error}; what this run replaces begins a new list, and `undo` does not know of the runs before"
        ));
    }
}

/// Tells of staging files beside the targets that are not ours to remove: runs of another user, or
/// with another state directory, left them, or are writing them now.
fn leftovers(workspace: &Workspace) -> Vec<String> {
    let Some(root) = &workspace.root else {
        return Vec::new();
    };
    let entries = workspace.manifest.entries.iter();
    let folders: BTreeSet<PathBuf> = entries
        .filter_map(|entry| {
            let file = root.path().join(&entry.server_path);
            file.parent().map(Path::to_owned)
        })
        .collect();
    let told = |folder: PathBuf| {
        let staged = fs::names(&folder);
        let staged: Vec<_> = staged
            .iter()
            .filter(|name| staging::is_staging_name(name.as_ref()))
            .collect();
        let files = if staged.len() == 1 { "file" } else { "files" };
        let pattern = folder.join(staging::STAGING_PREFIX);
        let remove = format!("`rm {}*`", hints::quoted(&pattern.to_string_lossy()));
        let is_kept = |name: &&String| is_beside(&folder, name);
        let what = if staged.iter().all(is_kept) {
            format!("{remove} when none is")
        } else {
            format!(
                "what one of them holds is in no file beside it: look whether it is needed, then {remove}"
            )
        };
        let line = format!(
            "{} staging {files} in {}, plaintext of a run that was interrupted or is still writing; {what}",
            staged.len(),
            folder.display()
        );
        (!staged.is_empty()).then_some(line)
    };
    folders.into_iter().filter_map(told).collect()
}

/// Returns whether a file beside a staging file holds the same.
fn is_beside(folder: &Path, staged: &str) -> bool {
    let length = |name: &str| {
        let found = std::fs::symlink_metadata(folder.join(name)).ok()?;
        found.is_file().then_some(found.len())
    };
    let Some(wanted) = length(staged) else {
        return true;
    };
    let content = fs::read_regular(&folder.join(staged)).map(SecretBytes::new);
    let others = fs::names(folder);
    let mut others = others
        .iter()
        .filter(|name| !staging::is_staging_name(name.as_ref()) && length(name) == Some(wanted));
    others.any(|name| {
        let other = fs::read_regular(&folder.join(name)).map(SecretBytes::new);
        matches!((&content, other), (Ok(content), Ok(other)) if *content == other)
    })
}

/// Cleans up after killed runs. The second time in a run nothing is said again of what stays.
fn tidy(cx: &mut Context, state: &StateDir, is_first: bool) -> CleanedUp {
    let cleaned = state.clean_up();
    let CleanedUp {
        removed,
        taken_back,
        written_over,
        failed,
        stuck,
        out_of_reach,
    } = &cleaned;
    for error in failed.iter().filter(|_| is_first) {
        cx.ui.warning(&format!(
            "cannot clean up after an interrupted run: {error}; mend the cause, the next writing run tries again"
        ));
    }
    for stuck in stuck.iter().filter(|_| is_first) {
        let error = &stuck.error;
        cx.ui.warning(&format!(
            "cannot clean up after an interrupted run, which may be half done: {error}"
        ));
    }
    let restored = match &taken_back.restored[..] {
        [] => None,
        [file] => Some(format!("{} is as it was", file.display())),
        [file, rest @ ..] => Some(format!(
            "{} and {} more are as they were",
            file.display(),
            rest.len()
        )),
    };
    if let Some(files) = restored {
        cx.ui.status(&format!(
            "took back what an interrupted run had half done: {files} before it"
        ));
    }
    if let Some(changed) = taken_back.changed.first() {
        let kept = match &taken_back.kept[..] {
            [] => String::new(),
            [first] => format!(
                "; the old file is in {}, remove it when it is not needed",
                first.display()
            ),
            [first, rest @ ..] => format!(
                "; the old files are in {} and {} more beside their places, remove them when they are not needed",
                first.display(),
                rest.len()
            ),
        };
        cx.ui.warning(&format!(
            "an interrupted run was half done, and {} was changed since: nothing of it is taken back{kept}",
            changed.display(),
        ));
    }
    for path in written_over.iter().filter(|_| is_first) {
        cx.ui.warning(&format!(
            "{}: an interrupted run was writing into it, so it may be part old and part new; `secrets undo --list` names the backup of what it held",
            path.display()
        ));
    }
    if !removed.is_empty() {
        let files = if removed.len() == 1 { "file" } else { "files" };
        cx.ui.status(&format!(
            "removed {} staging {files} that an interrupted run left behind",
            removed.len()
        ));
    }
    let folders = if is_first {
        Scratch::clean_up(&cx.env)
    } else {
        0
    };
    if folders > 0 {
        let what = if folders == 1 { "folder" } else { "folders" };
        cx.ui.status(&format!(
            "removed {folders} temporary {what} that an interrupted run left behind"
        ));
    }
    for (base, journal) in out_of_reach.iter().filter(|_| is_first) {
        let journal = hints::quoted(&journal.to_string_lossy());
        let what = if fs::is_folder(base) {
            "and neither the old ones nor the new ones are there"
        } else {
            "which is not there now"
        };
        let base = base.display();
        cx.ui.warning(&format!("an interrupted run left files in {base}, {what}; they are taken back or removed when they are back: `rm {journal}` when they are gone for good"));
    }
    cleaned
}

/// Says how to go on where a killed run cannot be taken back.
fn stuck_help(stuck: &Stuck) -> String {
    let journal = hints::quoted(&stuck.journal.to_string_lossy());
    match &stuck.error {
        FsError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied && stuck.bases.is_empty() =>
        {
            "a run of another user is at work there, or was interrupted: run as that user"
                .to_owned()
        }
        FsError::Io {
            action: UNDERSTAND, ..
        } => format!(
            "what an interrupted run had half done cannot be told: look for `{}*` beside your files, which are old or new ones, then remove {journal}",
            staging::STAGING_PREFIX
        ),
        FsError::Io {
            path,
            action: OUT_OF_REACH,
            ..
        } => format!(
            "an interrupted run may be half done: bring {} back, which was moved or is not mounted, and run the command again; where it is gone for good, `rm {journal}` lets runs go on, and old files stay beside the new ones under `{}` names",
            path.display(),
            staging::STAGING_PREFIX
        ),
        _ if stuck.bases.is_empty() => {
            "an interrupted run may be half done: make it readable and run the command again"
                .to_owned()
        }
        _ => format!(
            "an interrupted run may be half done: mend the cause and run the command again; `strings {journal}` tells which old file is kept under which `{}` name, should you have to put them back by hand and remove it",
            staging::STAGING_PREFIX
        ),
    }
}

/// Locks repository and root against other runs.
///
/// # Errors
/// Who holds one of them.
fn lock(
    cx: &mut Context,
    workspace: &Workspace,
    wait: bool,
) -> Result<Vec<DirectoryLock>, Problem> {
    let mut folders = vec![workspace.repository.path().to_owned()];
    folders.extend(workspace.root.as_ref().map(|root| root.path().to_owned()));
    folders.dedup();
    folders
        .iter()
        .map(|folder| {
            let waiting =
                |holder: &str| cx.ui.status(&format!("waiting for another run ({holder})"));
            let state = workspace.state.as_ref();
            lock::lock_directory(folder, state, wait, waiting).map_err(|error| {
                let help = match &error {
                    LockError::Held { .. } => "try again when it has ended",
                    LockError::Io { .. } => {
                        "name a folder on a file system with locks with `SECRETS_STATE_DIR=DIR`"
                    }
                };
                Problem::new(error).with_help(help)
            })
        })
        .collect()
}

/// What a run leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing.
    Clean,
    /// Staging files that may go.
    Leftovers,
    /// Old files that are under a staging name, or a target that is not as it was.
    Stuck,
}

/// Why the work was not done.
pub struct Failure {
    /// What failed.
    pub problem: Problem,
    /// Whether every file is as it was.
    pub is_undone: bool,
}

impl Failure {
    /// Returns what became of the plan.
    pub fn outcome(&self) -> Applied {
        if self.is_undone {
            Applied::Nothing
        } else {
            Applied::Partly
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            is_undone: true,
        }
    }
}

/// Carries out the work: everything, or nothing.
///
/// # Errors
/// The first thing that failed.
pub fn run(cx: &mut Context, workspace: &Workspace, work: &Work<'_>) -> Result<(), Failure> {
    let watch = Watch::start();
    let names: Vec<_> = work
        .jobs
        .iter()
        .map(|_| staging::staging_name(&mut os::fill_random))
        .collect();
    let removal_names: Vec<_> = work
        .removals
        .iter()
        .map(|_| staging::staging_name(&mut os::fill_random))
        .collect();
    let places = work.jobs.iter().map(|job| &job.place);
    let removed = work.removals.iter().map(|removal| &removal.place);
    let staging: Vec<PathBuf> = places
        .zip(&names)
        .chain(removed.zip(&removal_names))
        .flat_map(|(place, name)| place.staging_paths(name))
        .collect();
    let mut journal = open_journal(cx, workspace, work, &staging)?;

    let mut done = Done::default();
    let attempt = panic::catch_unwind(AssertUnwindSafe(|| {
        stage(workspace, work, names, journal.as_mut(), &mut done)
            .and_then(|()| note(journal.as_mut(), work, &done, &removal_names))
            .and_then(|()| synchronize(workspace, journal.as_ref(), &done))
            .and_then(|()| look_again(work))
            .and_then(|()| replace(work, &mut done, &watch))
            // What is new is on disk before what is old goes.
            .and_then(|()| synchronize_folders(&done))
            .and_then(|()| remove(work, &removal_names, &mut done))
            .and_then(|()| look_back(work, &done))
            .and_then(|()| {
                journal
                    .as_mut()
                    .map_or(Ok(()), Journal::note_done)
                    .map_err(state_problem)
            })
    }));
    let result = attempt.unwrap_or_else(|_| Err(Problem::new(ErrorKind::Internal)));
    let ending = if result.is_ok() {
        finish(cx, &done)
    } else {
        let folders = replaced_folders(&done);
        let ending = undo(cx, done, &staging);
        // Before the journal goes, which could lie on another disk.
        for folder in folders {
            fs::synchronize_folder(&folder);
        }
        ending
    };
    // What could not be brought back or removed stays in the journal for the next run.
    match (journal, ending) {
        (Some(journal), Ending::Clean) => journal.close(),
        // Everything is as it was, or as it is to be.
        (Some(mut journal), Ending::Leftovers) => drop(journal.note_done()),
        _ => {}
    }
    if let (Ok(()), Some(state), false) =
        (&result, &workspace.state, workspace.half_written.is_empty())
    {
        let written = work.jobs.iter().map(|job| job.place.path());
        state.settle(&written.collect::<Vec<_>>());
    }
    // What is remembered of it is written too, and the run is said to be done when it is.
    watch.for_good();
    let is_undone = ending != Ending::Stuck;
    let result = result.map_err(|mut problem| {
        if is_undone {
            return problem;
        }
        if let ErrorKind::Interrupted { signal, .. } = *problem.kind {
            *problem.kind = ErrorKind::Interrupted { signal, is_undone };
        }
        problem.with_help("not every file could be brought back, the warnings name them; mend the cause, then run the command again")
    });
    result.map_err(|problem| Failure { problem, is_undone })
}

/// Returns the folders in which something was replaced or taken away so far, each once.
fn replaced_folders(done: &Done<'_>) -> BTreeSet<PathBuf> {
    let replaced = done.staged.iter().filter(|staged| !staged.is_back());
    let replaced = replaced.map(|staged| staged.folder().to_owned());
    let removed = done.removed.iter().map(Removed::path);
    let removed = removed.filter_map(|path| path.parent().map(Path::to_owned));
    replaced.chain(removed).collect()
}

/// Opens the journal. Without a state directory a run may still make new files, where nothing can
/// be lost.
fn open_journal(
    cx: &mut Context,
    workspace: &Workspace,
    work: &Work<'_>,
    staging: &[PathBuf],
) -> Result<Option<Journal>, Problem> {
    if staging.is_empty() {
        return Ok(None);
    }
    let opened = state_of(workspace).and_then(|state| {
        let bases = [
            workspace.repository.path(),
            workspace.root_path.as_path(),
            workspace
                .root
                .as_ref()
                .map_or(&*workspace.root_path, |root| root.path()),
        ];
        state.begin_journal(&bases, staging)
    });
    match opened {
        Ok(journal) => Ok(Some(journal)),
        Err(source)
            if work.removals.is_empty() && work.jobs.iter().all(|job| job.seen.is_none()) =>
        {
            cx.ui.warning(&format!("the state directory cannot be used, going on without it since nothing is replaced: {source}"));
            Ok(None)
        }
        Err(source) => Err(state_problem(source)),
    }
}

/// Returns the state directory.
///
/// # Errors
/// Where there can be none.
pub fn state_of(workspace: &Workspace) -> Result<&StateDir, FsError> {
    workspace.state.as_ref().ok_or_else(|| FsError::Io {
        path: PathBuf::from("~"),
        action: "find the home directory for the state directory",
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Returns the problem of a state directory that cannot be used.
pub fn state_problem(source: FsError) -> Problem {
    if let FsError::Io { path, action, .. } = &source
        && *action == UNDERSTAND
    {
        let path = hints::quoted(&path.to_string_lossy());
        let help = format!("`mv {path} {path}.damaged` lets runs go on without it");
        return Problem::new(ErrorKind::State { source }).with_help(help);
    }
    let help = state_help(&source);
    Problem::new(ErrorKind::State { source }).with_help(help)
}

/// Says what to do about a state directory that cannot be used.
fn state_help(source: &FsError) -> &'static str {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match source {
        FsError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
            "make room on its disk, `secrets undo --prune` may; another folder (`SECRETS_STATE_DIR=DIR`) knows nothing of earlier runs"
        }
        _ => {
            "name a folder you may write with `SECRETS_STATE_DIR=DIR`; it knows nothing of earlier runs"
        }
    }
}

/// Returns the problem that nothing is known of the last sync because the state directory cannot be
/// read.
pub fn unusable_state(name: &str, refusal: &Refusal) -> Problem {
    Problem::of(
        name,
        ErrorKind::StateUnreadable {
            reason: refusal.to_string(),
        },
    )
    .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
}

fn problem(name: &str, error: FsError) -> Problem {
    let help = match &error {
        // An encrypted file, which is known by its name in the repository.
        FsError::Mounted { path } if path.ends_with(name) => {
            "mount the folder that it lies in, not the file: it is replaced as a whole"
        }
        FsError::Mounted { .. } => "add `write = \"in-place\"` to its row in the manifest",
        FsError::Changed { .. } => "run the command again: it will look at the file as it is now",
        FsError::Outside { .. } | FsError::ForeignLink { .. } => {
            "give the row a server path that stays below the root, through no link of another user"
        }
        _ => "every file is as it was; mend the cause and run the command again",
    };
    Problem::of(name, error).with_help(help)
}

fn stage<'a>(
    workspace: &Workspace,
    work: &Work<'a>,
    names: Vec<OsString>,
    journal: Option<&mut Journal>,
    done: &mut Done<'a>,
) -> Result<(), Problem> {
    let mut prepared = Vec::with_capacity(work.jobs.len());
    let mut opened = HashMap::new();
    for (job, temporary) in work.jobs.iter().zip(names) {
        if job.in_place && job.seen.is_some() {
            continue;
        }
        let mut place = job.place.clone();
        place
            .create_parents(job.folder_owner, &temporary, &mut done.made_folders)
            .map_err(|error| problem(job.name, error))?;
        place.share(&mut opened);
        prepared.push((job, place, temporary));
    }
    if let Some(journal) = journal.filter(|_| !done.made_folders.is_empty()) {
        let noted = journal.note_folders(&done.made_folders);
        noted.map_err(state_problem)?;
    }
    let results = in_parallel(&prepared, workspace.jobs, |(job, place, temporary)| {
        let expected = job.seen.map(|(state, _)| state);
        Staged::write(
            place.clone(),
            temporary.clone(),
            job.content,
            job.attributes,
            expected,
        )
        .map_err(|error| problem(job.name, error))
    });
    let mut first = Ok(());
    for result in results {
        match result {
            Ok(staged) => done.staged.push(staged),
            Err(problem) => first = first.and(Err(problem)),
        }
    }
    first
}

/// Writes into the journal what is about to be put where and taken away.
fn note(
    journal: Option<&mut Journal>,
    work: &Work<'_>,
    done: &Done<'_>,
    removal_names: &[OsString],
) -> Result<(), Problem> {
    let Some(journal) = journal else {
        return Ok(());
    };
    let removals = work.removals.iter().zip(removal_names);
    let removals =
        removals.map(|(removal, name)| Removed::step(&removal.place, name, &removal.seen.0));
    let steps = done.staged.iter().map(Staged::step).chain(removals);
    let written_over = work.jobs.iter().filter(|job| job.in_place);
    let written_over = written_over.filter_map(|job| {
        let (state, _) = job.seen?;
        Some((job.place.path(), Mark::of(&state)))
    });
    journal
        .note(steps.collect(), written_over.collect())
        .map_err(state_problem)
}

/// Writes journal and staged files to disk. A failure here belongs to the run, not to one entry: nothing
/// is tried again.
fn synchronize(
    workspace: &Workspace,
    journal: Option<&Journal>,
    done: &Done<'_>,
) -> Result<(), Problem> {
    if has_many_files(done) {
        journal
            .map_or(Ok(()), Journal::synchronize)
            .map_err(disk_problem)?;
        return synchronize_file_systems(done);
    }
    // These wait for the disk, not for a processor.
    let files: Vec<Option<&Staged>> = done.staged.iter().map(Some).chain([None]).collect();
    let jobs = Jobs {
        threads: files.len().max(workspace.jobs.threads),
        ..workspace.jobs
    };
    let results = in_parallel(&files, jobs, |file| match *file {
        Some(staged) => staged.synchronize(),
        None => journal.map_or(Ok(()), Journal::synchronize),
    });
    let result: Result<(), _> = results.into_iter().collect();
    result.map_err(disk_problem)
}

/// Writes the replaced names to disk, while the old files can still be brought back.
fn synchronize_folders(done: &Done<'_>) -> Result<(), Problem> {
    if has_many_files(done) {
        return synchronize_file_systems(done);
    }
    let mut folders: Vec<&Path> = Vec::new();
    for staged in &done.staged {
        if !folders.contains(&staged.folder()) {
            folders.push(staged.folder());
            staged.synchronize_folder().map_err(disk_problem)?;
        }
    }
    for made in done.made_folders.iter().filter_map(|made| made.parent()) {
        if !folders.contains(&made) {
            folders.push(made);
            fs::synchronize_folder(made);
        }
    }
    Ok(())
}

/// Returns whether whole file systems are written to disk at once rather than file by file; Linux alone tells when one is.
fn has_many_files(done: &Done<'_>) -> bool {
    cfg!(target_os = "linux") && done.staged.len() > SYNCHRONISED_SINGLY
}

#[cfg(target_os = "linux")]
fn synchronize_file_systems(done: &Done<'_>) -> Result<(), Problem> {
    let mut devices: Vec<u64> = Vec::new();
    for staged in &done.staged {
        if !devices.contains(&staged.device()) {
            devices.push(staged.device());
            staged.synchronize_file_system().map_err(disk_problem)?;
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn synchronize_file_systems(_done: &Done<'_>) -> Result<(), Problem> {
    Ok(())
}

fn disk_problem(error: FsError) -> Problem {
    Problem::new(error)
        .with_help("every file is as it was; look after the disk, then run the command again")
}

/// Makes sure that nothing moved since it was looked at.
fn look_again(work: &Work<'_>) -> Result<(), Problem> {
    let changed =
        |name: &str, place: &Place| problem(name, FsError::Changed { path: place.path() });
    for job in &work.jobs {
        let (state, content) = job
            .seen
            .map_or((None, &[][..]), |(state, content)| (Some(state), content));
        if !job.place.is_unchanged(state.as_ref(), content) {
            return Err(changed(job.name, &job.place));
        }
    }
    for removal in &work.removals {
        let (state, content) = removal.seen;
        if !removal.place.is_unchanged(Some(&state), content) {
            return Err(changed(removal.name, &removal.place));
        }
    }
    for watched in &work.watched {
        if !watched
            .place
            .is_unchanged(Some(&watched.state), watched.content)
        {
            return Err(changed(watched.name, &watched.place));
        }
    }
    Ok(())
}

fn replace<'a>(work: &Work<'a>, done: &mut Done<'a>, watch: &Watch) -> Result<(), Problem> {
    let interrupted = || match watch.received() {
        Some(signal) => Err(Problem::new(ErrorKind::Interrupted {
            signal,
            is_undone: true,
        })),
        None => Ok(()),
    };
    let renamed: Vec<&str> = work
        .jobs
        .iter()
        .filter(|job| !(job.in_place && job.seen.is_some()))
        .map(|job| job.name)
        .collect();
    for (staged, name) in done.staged.iter_mut().zip(renamed) {
        interrupted()?;
        staged.replace().map_err(|error| problem(name, error))?;
    }
    for mending in &work.mendings {
        interrupted()?;
        let set = mending
            .place
            .set_attributes(&mending.seen, mending.owner, mending.mode);
        // It may have been done in part.
        done.mended.push((mending.place.clone(), mending.seen));
        set.map_err(|error| problem(mending.name, error))?;
    }
    for job in work.jobs.iter().filter(|job| job.in_place) {
        let Some((state, old)) = job.seen else {
            continue;
        };
        interrupted()?;
        let file = InPlace::open(&job.place, &state).map_err(|error| problem(job.name, error))?;
        let written = file.write(job.content, job.attributes);
        done.written_in_place.push((file, state, old));
        written.map_err(|error| problem(job.name, error))?;
    }
    Ok(())
}

/// Makes sure that nobody wrote into a file while it was replaced: what was written went into the old
/// one and would be lost.
fn look_back(work: &Work<'_>, done: &Done<'_>) -> Result<(), Problem> {
    let replaced = done.staged.iter();
    let replaced = replaced.filter(|staged| !staged.is_old_untouched());
    let removed = done.removed.iter();
    let removed = removed.filter(|removed| !removed.is_untouched());
    let mut written = replaced.map(Staged::path).chain(removed.map(Removed::path));
    let Some(path) = written.next() else {
        return Ok(());
    };
    let mut jobs = work.jobs.iter();
    let name = jobs
        .find(|job| job.place.path() == path)
        .map(|job| job.name)
        .or_else(|| work.removals.first().map(|removal| removal.name))
        .unwrap_or_default();
    Err(problem(name, FsError::Changed { path }))
}

/// Takes the files that are to go out of their places.
fn remove(work: &Work<'_>, names: &[OsString], done: &mut Done<'_>) -> Result<(), Problem> {
    for (removal, name) in work.removals.iter().zip(names) {
        let removed = Removed::take(removal.place.clone(), name.clone(), &removal.seen.0)
            .map_err(|error| problem(removal.name, error))?;
        done.removed.push(removed);
    }
    Ok(())
}

/// Removes the old files. The new ones are in place: what fails here is said, not undone.
fn finish(cx: &mut Context, done: &Done<'_>) -> Ending {
    let old = done.staged.iter().map(Staged::finish);
    let removed = done.removed.iter().map(Removed::finish);
    let failures: Vec<_> = old.chain(removed).filter_map(Result::err).collect();
    let removed = done.removed.iter().map(Removed::path);
    let folders: BTreeSet<_> = removed
        .filter_map(|path| path.parent().map(Path::to_owned))
        .collect();
    for folder in folders {
        fs::synchronize_folder(&folder);
    }
    for failure in &failures {
        cx.ui
            .warning(&format!("{failure}; the next run removes it"));
    }
    if failures.is_empty() {
        Ending::Clean
    } else {
        Ending::Leftovers
    }
}

/// Brings everything back, newest first. `staging` are all names that files were staged under.
fn undo(cx: &mut Context, mut done: Done<'_>, staging: &[PathBuf]) -> Ending {
    let mut failures = Vec::new();
    for mut removed in done.removed.drain(..).rev() {
        failures.extend(removed.roll_back().err());
    }
    for (file, state, old) in done.written_in_place.drain(..).rev() {
        let owner = Ownership {
            uid: Some(state.uid),
            gid: Some(state.gid),
        };
        let attributes = Attributes {
            owner,
            mode: state.mode,
            keep_access_list: false,
        };
        failures.extend(file.put_back(old, attributes).err());
    }
    for (place, state) in done.mended.drain(..).rev() {
        let owner = Ownership {
            uid: Some(state.uid),
            gid: Some(state.gid),
        };
        failures.extend(place.set_attributes(&state, owner, state.mode).err());
    }
    for mut staged in done.staged.drain(..).rev() {
        let failure = staged.roll_back().err();
        // A new file that cannot be removed is told of below.
        failures.extend(failure.filter(|_| !staged.is_back()));
    }
    for folder in done.made_folders.iter().rev() {
        fs::remove_empty_folder(folder);
    }
    for failure in &failures {
        cx.ui.warning(&failure.to_string());
    }
    if !failures.is_empty() {
        return Ending::Stuck;
    }
    let left: Vec<_> = staging.iter().filter(|path| fs::is_there(path)).collect();
    for path in &left {
        cx.ui.warning(&format!(
            "{}: cannot be removed; the next run removes it",
            path.display()
        ));
    }
    if left.is_empty() {
        Ending::Clean
    } else {
        Ending::Leftovers
    }
}
