//! Writing prepared files onto the server: what `decrypt`, `deploy`, `adopt`, `merge`, `restore` and
//! `recover` do alike.

use crate::error::Problem;
use crate::os::fs;
use crate::os::git::{Branch, Checkout};
use crate::os::place::{Base, Found, Ownership};
use crate::os::staging::Attributes;
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind, WriteMode};
use crate::project::plan::Action;
use crate::ui::report::Backup;

use super::Context;
use super::apply::{self, Failure, Job, Mending, Work};
use super::backup;
use super::memory::{self, Agreed};
use super::open::leads_out;
use super::placing::Prepared;
use super::reversal::{self, Before, Side, Undoable};
use super::storing;
use super::workspace::Workspace;

/// Places the files, making the root first where it is to be made. When nothing was replaced, the
/// backups of this attempt hold what is still there and are dropped.
/// # Errors
/// What failed.
pub fn write(
    cx: &mut Context,
    workspace: &Workspace,
    command: &'static str,
    prepared: &[&Prepared<'_>],
    backups: &mut Vec<Backup>,
) -> Result<(), Failure> {
    if !prepared.iter().any(|one| one.step.writes()) {
        remember(cx, workspace, None, prepared);
        return Ok(());
    }
    let new_root = match &workspace.root {
        Some(_) => None,
        None => Some(create_root(workspace)?),
    };
    let done = place_below(cx, workspace, command, new_root.as_ref(), prepared, backups);
    if done.as_ref().is_err_and(|failure| failure.is_undone) {
        drop_backups(workspace, backups);
    }
    if done.is_err() && new_root.is_some() {
        fs::remove_empty_folder(&workspace.root_path);
    }
    if done.is_ok() {
        remember(cx, workspace, new_root.as_ref(), prepared);
    }
    done
}

/// Returns what takes back what is done with these entries.
pub fn undoable<'a>(
    workspace: &Workspace,
    new_root: Option<&Base>,
    prepared: &'a [&Prepared<'_>],
    backups: &'a [Backup],
) -> Vec<Undoable<'a>> {
    let all = prepared.iter();
    all.filter_map(|one| undoable_one(workspace, new_root, one, backups))
        .collect()
}

/// Returns what takes back what is done with an entry.
fn undoable_one<'a>(
    workspace: &Workspace,
    new_root: Option<&Base>,
    one: &'a Prepared<'_>,
    backups: &'a [Backup],
) -> Option<Undoable<'a>> {
    let name = &one.entry.repository_path;
    let place = match (&one.place, new_root.or(workspace.root.as_ref())) {
        (Some(place), _) => place.clone(),
        (None, Some(root)) => root.place(one.entry.server_path.as_ref()).ok()?,
        (None, None) => return None,
    };
    let kept = backups
        .iter()
        .find(|backup| backup.entry == *name && backup.side == Side::Server);
    let before = match (one.step.action, kept, &one.kept_in) {
        (Action::Create, ..) => Before::Nothing,
        (Action::Mend, ..) => Before::Attributes,
        (Action::Replace, Some(backup), _) => Before::Backup(&backup.path),
        (Action::Replace, None, Some(commit)) => Before::Commit(commit),
        _ => return None,
    };
    Some(Undoable {
        entry: name,
        side: Side::Server,
        target: place.path(),
        before,
        state: one.seen.as_ref().map(|(state, _)| *state),
        written: one.plaintext.expose(),
        record_target: place.path(),
    })
}

/// Notes what agrees now.
pub fn remember(
    cx: &mut Context,
    workspace: &Workspace,
    new_root: Option<&Base>,
    prepared: &[&Prepared<'_>],
) {
    let agreed = prepared.iter().filter_map(|one| {
        let place = match (&one.place, new_root) {
            (Some(place), _) => place.clone(),
            (None, Some(root)) => root.place(one.entry.server_path.as_ref()).ok()?,
            (None, None) => return None,
        };
        let is_kept = one.step.action == Action::Keep;
        if !is_kept && !one.step.writes() {
            return None;
        }
        // What was written has a state of its own; folders on the way may be new.
        let place = match &workspace.root {
            _ if is_kept => place,
            Some(root) => root.place(one.entry.server_path.as_ref()).ok()?,
            None => place,
        };
        let Found::File(state, _) = place.look() else {
            return None;
        };
        Some(Agreed {
            entry: one.entry,
            target: place.path(),
            content: one.plaintext.expose(),
            mac: &one.mac,
            seal: &one.seal,
            state,
            is_placed: one.step.writes(),
            data_key: one.data_key.as_ref(),
            pinned: one.pinned.as_deref(),
        })
    });
    let agreed: Vec<_> = agreed.collect();
    memory::remember(cx, workspace, &agreed);
}

/// Drops backups of what is still there.
pub fn drop_backups(workspace: &Workspace, backups: &mut Vec<Backup>) {
    for backup in backups.drain(..) {
        let path = backup.path.as_ref();
        let state = workspace.state.iter();
        state.for_each(|state| state.drop_backup(path));
    }
}

fn create_root(workspace: &Workspace) -> Result<Base, Problem> {
    fs::create_folder(&workspace.root_path, 0o755)
        .and_then(|()| Base::open(&workspace.root_path))
        .map_err(|error| Problem::new(error).with_help("create the root by hand, or run as root"))
}

fn place_below(
    cx: &mut Context,
    workspace: &Workspace,
    command: &str,
    new_root: Option<&Base>,
    prepared: &[&Prepared<'_>],
    backups: &mut Vec<Backup>,
) -> Result<(), Failure> {
    let work = work(workspace, new_root, prepared)?;
    keep_backups(cx, workspace, prepared, backups)?;
    let noted = reversal::note(
        cx,
        workspace,
        command,
        undoable(workspace, new_root, prepared, backups),
    );
    let done = apply::run(cx, workspace, &work);
    if done.as_ref().is_err_and(|failure| failure.is_undone) {
        reversal::take_back(workspace, noted);
    }
    done
}

/// Returns what is to be written.
///
/// # Errors
/// A target that cannot be reached or may not be one.
pub fn work<'p>(
    workspace: &Workspace,
    new_root: Option<&Base>,
    prepared: &[&'p Prepared<'_>],
) -> Result<Work<'p>, Problem> {
    let mut work = Work::default();
    for one in prepared.iter().filter(|one| one.step.writes()) {
        let name = one.entry.repository_path.as_str();
        let place = match (&one.place, new_root) {
            (Some(place), _) => place.clone(),
            (None, Some(root)) => {
                let place = root
                    .place(one.entry.server_path.as_ref())
                    .map_err(|error| leads_out(name, error))?;
                workspace.check_target(one.entry, &place)?;
                place
            }
            (None, None) => continue,
        };
        let existing = one.seen.as_ref().map(|(state, _)| *state);
        // What everybody could write is no mode to keep.
        let kept_mode = existing.map(|state| state.mode & 0o775);
        let usual_mode = match one.entry.kind {
            Kind::Plain => 0o644,
            Kind::Secret => 0o600,
        };
        let mode = one.entry.mode.or(kept_mode).unwrap_or(usual_mode);
        match (one.step.action, existing) {
            (Action::Mend, Some(seen)) => work.mendings.push(Mending {
                name,
                place,
                seen,
                owner: one.owner,
                mode,
            }),
            _ => work.jobs.push(Job {
                name,
                place,
                content: one.plaintext.expose(),
                attributes: Attributes {
                    owner: Ownership {
                        uid: one.owner.uid.or(existing.map(|state| state.uid)),
                        gid: one.owner.gid.or(existing.map(|state| state.gid)),
                    },
                    mode,
                    keep_access_list: one.entry.mode.is_none(),
                },
                folder_owner: one.owner,
                seen: one
                    .seen
                    .as_ref()
                    .map(|(state, content)| (*state, content.expose())),
                in_place: one.entry.write == WriteMode::InPlace,
            }),
        }
    }
    Ok(work)
}

/// Keeps encrypted backups of what is about to be replaced and is kept nowhere else.
///
/// # Errors
/// When one cannot be kept; nothing may be replaced then.
pub fn keep_backups(
    cx: &Context,
    workspace: &Workspace,
    prepared: &[&Prepared<'_>],
    backups: &mut Vec<Backup>,
) -> Result<(), Problem> {
    for one in prepared.iter().filter(|one| one.step.needs_backup) {
        let (Some(place), Some((seen, _))) = (&one.place, &one.seen) else {
            continue;
        };
        let name = &one.entry.repository_path;
        let label = &one.entry.server_path;
        let kept = backup::keep_plaintext(cx, workspace, name, label, place, seen, &one.readers)?;
        backups.push(kept);
    }
    Ok(())
}

/// Returns the command that brings an older checkout up to date.
pub fn bring_up_to_date(workspace: &Workspace) -> String {
    let checkout = workspace.checkout().unwrap_or(None);
    match checkout.map(Checkout::branch) {
        Some(Ok(Branch::Detached)) => workspace.hints.git("checkout BRANCH"),
        Some(Ok(Branch::WithoutUpstream)) => workspace.hints.git("pull REMOTE BRANCH"),
        _ => workspace.hints.git("pull"),
    }
}

/// Says how to go on where the checkout is older than what was last applied.
pub fn rollback_help(workspace: &Workspace, command: &str, name: &str) -> String {
    let allow = workspace
        .hints
        .ours(&format!("{command} --allow-rollback"), name);
    let current = bring_up_to_date(workspace);
    format!("{current} brings this checkout up to date; {allow} places the older version")
}

/// Returns the problem of a refusal, with the way on.
pub fn explain(workspace: &Workspace, command: &str, entry: &Entry, refusal: &Refusal) -> Problem {
    let name = &entry.repository_path;
    let hints = &workspace.hints;
    let forced = hints.ours(&format!("{command} --force"), name);
    if let (Refusal::UnknownDirection { .. }, true) = (refusal, workspace.memory().is_unusable) {
        return apply::unusable_state(name, refusal);
    }
    let help = match refusal {
        // The other commands need the identity that is not installed yet.
        _ if command == "recover"
            && !matches!(
                refusal,
                Refusal::NotRegular { .. } | Refusal::DeletedInRepository
            ) =>
        {
            format!(
                "{} replaces what is there and keeps an encrypted backup; {} leaves it and does the rest",
                hints.ours_for_all("recover --force"),
                hints.ours_for_all("recover -k")
            )
        }
        _ if command == "restore" && !matches!(refusal, Refusal::NotRegular { .. }) => format!(
            "{} shows it; {} captures the server's file; `--force` replaces it and keeps an encrypted backup",
            hints.ours("diff", name),
            hints.ours("encrypt", name)
        ),
        Refusal::NotRegular { .. } => {
            let path = workspace.server_file(entry);
            format!(
                "put a regular file in the place of {}, or give the row another server path",
                path.display()
            )
        }
        Refusal::DeletedInRepository => storing::deleted_help(workspace, name),
        Refusal::BeingWritten { .. } => {
            "run the command again when whatever writes it has ended".to_owned()
        }
        _ if entry.kind == Kind::Plain => format!(
            "{} shows it; copy the server's file into the repository by hand, or {forced} replaces it and keeps an encrypted backup",
            hints.ours("diff", name)
        ),
        Refusal::Rollback { .. } => rollback_help(workspace, command, name),
        Refusal::Pinned { .. } => format!(
            "{forced} ends that with the repository's version and keeps a backup; {} makes the server's the repository's",
            hints.ours("encrypt --force", name)
        ),
        Refusal::UnknownDirection { .. } => format!(
            "{} asks which side to take; {} shows the difference; {forced} takes the repository's and keeps an encrypted backup",
            hints.ours("adopt", name),
            hints.ours("diff", name)
        ),
        Refusal::BothMoved { .. } => format!(
            "{} takes both where they do not touch the same key, and asks where they do; {} takes the server's version, {forced} the repository's; both keep what they replace",
            hints.ours("merge", name),
            hints.ours("encrypt --force", name)
        ),
        _ => format!(
            "{} shows it; {} captures the server's file, {forced} replaces it and keeps an encrypted backup",
            hints.ours("diff", name),
            hints.ours("encrypt", name)
        ),
    };
    Problem::of(name, refusal.clone()).with_help(help)
}
