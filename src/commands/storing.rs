//! Writing captured files into the repository: what `encrypt`, `adopt` and `add` do alike.

use crate::error::Problem;
use crate::os::place::Ownership;
use crate::os::staging::Attributes;
use crate::os::{process, users};
use crate::project::error::Refusal;
use crate::project::plan::Action;
use crate::ui::report::Backup;

use super::apply::{self, Failure, Job, Watched, Work};
use super::backup;
use super::capture::Captured;
use super::delivering::{self, drop_backups};
use super::foreign_key::ForeignKey;
use super::govern::rule_help;
use super::hints::quoted;
use super::lost_key;
use super::memory::{self, Agreed};
use super::open::{Lookup, leads_out_of_repository, read_encrypted};
use super::reversal::{self, Before, Side, Undoable};
use super::workspace::Workspace;
use super::{Context, OwnerArgs};

/// Writes the encrypted files.
///
/// # Errors
/// What failed; everything is as it was then.
pub fn write(
    cx: &mut Context,
    workspace: &Workspace,
    captured: &[&Captured<'_>],
    owner: OwnerArgs,
    backups: &mut Vec<Backup>,
) -> Result<(), Failure> {
    let work = work(captured, owner)?;
    if work.jobs.is_empty() {
        remember(cx, workspace, captured);
        return Ok(());
    }
    let kept = keep_backups(cx, workspace, captured, backups);
    kept.inspect_err(|_| drop_backups(workspace, backups))?;
    let head = workspace.head();
    let noted = reversal::note(cx, workspace, "encrypt", undoable(captured, backups, head));
    let done = apply::run(cx, workspace, &work);
    if done.as_ref().is_err_and(|failure| failure.is_undone) {
        // Nothing was replaced: what was kept is still there.
        reversal::take_back(workspace, noted);
        drop_backups(workspace, backups);
    }
    if done.is_ok() {
        remember(cx, workspace, captured);
    }
    done
}

/// Returns what is to be written.
///
/// # Errors
/// A target that cannot be reached.
pub fn work<'c>(captured: &[&'c Captured<'_>], owner: OwnerArgs) -> Result<Work<'c>, Problem> {
    let no_owner = owner.no_owner;
    let mut work = Work::default();
    for one in captured.iter().filter(|one| one.step.writes()) {
        let name = one.entry.repository_path.as_str();
        let seen = one
            .target_seen
            .as_ref()
            .map(|(state, content)| (*state, content.as_slice()));
        let owner = match seen {
            Some((state, _)) => (state.uid, state.gid),
            None => one
                .target
                .folder_owner()
                .map_err(|error| leads_out_of_repository(name, error))?,
        };
        let owner = repository_owner(owner, no_owner);
        let mode = seen.map_or(0o644 & !process::umask(), |(state, _)| state.mode & 0o777);
        work.jobs.push(Job {
            name,
            place: one.target.clone(),
            content: &one.sealed,
            attributes: Attributes {
                owner,
                mode,
                keep_access_list: true,
            },
            folder_owner: owner,
            seen,
            in_place: false,
        });
        if let Some((place, state, content)) = &one.source {
            work.watched.push(Watched {
                name,
                place: place.clone(),
                state: *state,
                content: content.expose(),
            });
        }
    }
    Ok(work)
}

/// Returns what brings back the files that were replaced.
pub fn undoable<'a>(
    captured: &'a [&Captured<'_>],
    backups: &'a [Backup],
    head: Option<&'a str>,
) -> Vec<Undoable<'a>> {
    let all = captured.iter();
    all.filter_map(|one| undoable_one(one, backups, head))
        .collect()
}

/// Returns what brings back the encrypted file that an entry's capture replaced.
fn undoable_one<'a>(
    one: &'a Captured<'_>,
    backups: &'a [Backup],
    head: Option<&'a str>,
) -> Option<Undoable<'a>> {
    let name = &one.entry.repository_path;
    let kept = backups
        .iter()
        .find(|backup| backup.entry == *name && backup.side == Side::Repository);
    let (source, ..) = one.source.as_ref()?;
    let before = match (one.step.action, kept, head) {
        (Action::Create, ..) => Before::Nothing,
        (Action::Replace, Some(backup), _) => Before::Backup(&backup.path),
        // What has no backup is in `HEAD` as it is.
        (Action::Replace, None, Some(commit)) => Before::Commit(commit),
        _ => return None,
    };
    Some(Undoable {
        entry: name,
        side: Side::Repository,
        target: one.target.path(),
        before,
        state: one.target_seen.as_ref().map(|(state, _)| *state),
        written: &one.sealed,
        record_target: source.path(),
    })
}

/// Notes what agrees now.
pub fn remember(cx: &mut Context, workspace: &Workspace, captured: &[&Captured<'_>]) {
    let agreed = captured.iter().filter_map(|one| {
        let (place, state, content) = one.source.as_ref()?;
        let agrees = one.step.writes() || one.step.action == Action::Keep;
        agrees.then(|| Agreed {
            entry: one.entry,
            target: place.path(),
            content: one.merged.as_ref().unwrap_or(content).expose(),
            mac: &one.mac,
            seal: &one.seal,
            state: *state,
            is_placed: false,
            data_key: one.data_key.as_ref(),
            pinned: None,
        })
    });
    let agreed: Vec<_> = agreed.collect();
    memory::remember(cx, workspace, &agreed);
}

/// Files of the repository belong to whom they belonged, also when root runs; a plain user can
/// only make files of their own.
fn repository_owner((uid, gid): (u32, u32), no_owner: bool) -> Ownership {
    if no_owner || !users::may_give_to_user(uid) {
        return Ownership::default();
    }
    let gid = users::may_give_to_group(gid).then_some(gid);
    Ownership {
        uid: Some(uid),
        gid,
    }
}

/// Keeps a copy of each encrypted file that is about to be replaced and is not in `HEAD`, as it may
/// hold values that are nowhere else, or is replaced by force.
///
/// # Errors
/// When one cannot be kept; nothing may be replaced then.
pub fn keep_backups(
    cx: &Context,
    workspace: &Workspace,
    captured: &[&Captured<'_>],
    backups: &mut Vec<Backup>,
) -> Result<(), Problem> {
    for one in captured
        .iter()
        .filter(|one| one.step.action == Action::Replace)
    {
        let file = workspace.repository_file(one.entry);
        if backup::is_committed(workspace, &file) && !one.step.needs_backup {
            continue;
        }
        let name = &one.entry.repository_path;
        let kept = backup::keep_encrypted(
            cx,
            workspace,
            name,
            &file,
            one.stored_format,
            &one.stored_readers,
        )?;
        backups.push(kept);
    }
    Ok(())
}

/// Returns the problem of a refusal, with the way on.
pub fn explain(
    workspace: &Workspace,
    command: &str,
    one: &Captured<'_>,
    refusal: &Refusal,
) -> Problem {
    let entry = one.entry;
    let is_stored = one.target_seen.is_some();
    let name = &entry.repository_path;
    let hints = &workspace.hints;
    let server = workspace.server_file(entry);
    let server = server.display();
    let binary = "`format = \"binary\"` in its row stores the file byte for byte";
    let restore = hints.ours("decrypt --force", name);
    let updated = hints.ours(&format!("{command} --update-recipients"), name);
    if let (Refusal::UnknownDirection { .. }, true) = (refusal, workspace.memory().is_unusable) {
        return apply::unusable_state(name, refusal);
    }
    let help = match refusal {
        Refusal::SourceMissing { .. } if !is_stored => {
            "put the file there, or take its row out of the manifest".to_owned()
        }
        Refusal::Empty | Refusal::Blank | Refusal::CommentsOnly | Refusal::AlreadyEncrypted
            if !is_stored =>
        {
            "put the plaintext there, or take its row out of the manifest".to_owned()
        }
        Refusal::SourceMissing { .. } if is_lost(workspace, one) => format!(
            "its values are lost with the key: write new ones into {server}, and change them where they are used"
        ),
        Refusal::SourceMissing { .. } => format!(
            "{} restores it; `optional = true` in its row makes a missing source fine",
            hints.ours("decrypt", name)
        ),
        Refusal::Empty | Refusal::Blank | Refusal::CommentsOnly => {
            format!("{restore} restores it from the repository")
        }
        Refusal::ConflictMarker { .. } => {
            format!("resolve the merge in {server}, then encrypt again")
        }
        Refusal::AlreadyEncrypted => format!("{restore} puts the plaintext there"),
        Refusal::MultiLineValue { .. } | Refusal::NameInClear { .. } => binary.to_owned(),
        Refusal::NeedsNote { .. } => format!(
            "mend the line in {server}, or add to its row `layout = \"note\"` (the spelling travels in an encrypted note, which stock `sops` ignores), `layout = \"stock\"` (it comes back as stock `sops` spells it) or `format = \"binary\"`"
        ),
        Refusal::Unrepresentable { .. } => format!("mend the line in {server}, or {binary}"),
        Refusal::NotRegular { .. } => format!("put a regular file in the place of {server}"),
        Refusal::Unreadable { .. } => "run as a user who may read it".to_owned(),
        Refusal::TooLarge { .. } => "`--max-size SIZE` raises the limit".to_owned(),
        Refusal::TermsUnknown { .. } if one.foreign.as_ref().is_some_and(ForeignKey::has_terms) => {
            format!(
                "if that is meant: {} agrees to it, then run the command again",
                hints.ours("trust", name)
            )
        }
        Refusal::RecipientsDiffer { .. }
        | Refusal::SelectionDiffers { .. }
        | Refusal::TermsUnknown { .. } => format!("if that is meant: {updated}"),
        Refusal::Shrunk { .. } | Refusal::RequiredMissing { .. } | Refusal::Placeholder { .. } => {
            let meant = hints.ours(&format!("{command} {}", allowing(one)), name);
            let back = format!("{restore} brings back the whole file from the repository");
            let mend = if is_stored {
                back
            } else {
                format!("mend {server}")
            };
            format!("{mend}; if that is meant: {meant}")
        }
        Refusal::BeingWritten { .. } => {
            "run the command again when whatever writes it has ended".to_owned()
        }
        Refusal::NotOpenable => {
            "name your identity with `-i FILE`; `--allow-unreadable` writes it unchecked".to_owned()
        }
        Refusal::NoRulesFile
        | Refusal::NoRule { .. }
        | Refusal::TwoRules { .. }
        | Refusal::BreakGlassMissing { .. } => rule_help(refusal).unwrap_or_default(),
        Refusal::RepositoryAhead { .. }
        | Refusal::Conflict { .. }
        | Refusal::Entangled { .. }
        | Refusal::Pinned { .. }
        | Refusal::Rollback { .. }
        | Refusal::BothMoved { .. }
        | Refusal::UnknownDirection { .. }
        | Refusal::DeletedInRepository => explain_direction(workspace, name, refusal),
        Refusal::AlreadyThere { .. }
        | Refusal::OnlyCopy { .. }
        | Refusal::NotARow { .. }
        | Refusal::ServerAhead { .. }
        | Refusal::ChangedSince { .. }
        | Refusal::RootChanged { .. }
        | Refusal::RootOfAnother { .. }
        | Refusal::NotUndone { .. }
        | Refusal::OwnerSince { .. }
        | Refusal::PlaintextAsPlain { .. }
        | Refusal::UntrackedPlain { .. }
        | Refusal::TrackedTarget { .. } => {
            format!(
                "{} explains the guards",
                hints.ours_for_all("encrypt --help")
            )
        }
    };
    Problem::of(name, refusal.clone()).with_help(help)
}

/// Returns the options that let everything pass that content guards have against an entry.
fn allowing(one: &Captured<'_>) -> String {
    let mut options = Vec::new();
    for refusal in &one.step.refusals {
        match refusal {
            Refusal::Shrunk { .. } | Refusal::RequiredMissing { .. } => {
                options.push(format!(
                    "--allow-shrink {}",
                    quoted(&one.entry.repository_path)
                ));
            }
            Refusal::Placeholder { keys } => options.extend(
                keys.split(", ")
                    .map(|key| format!("--allow-placeholder {}", quoted(key))),
            ),
            _ => {}
        }
    }
    options.dedup();
    options.join(" ")
}

/// Returns whether nobody can open an entry's file any more.
fn is_lost(workspace: &Workspace, one: &Captured<'_>) -> bool {
    let found = read_encrypted(workspace, one.entry);
    matches!(found, Ok(Lookup::Found(encrypted)) if lost_key::is_lost(workspace, &encrypted.sealed.metadata))
}

/// Says which commands go on where the repository moved.
fn explain_direction(workspace: &Workspace, name: &str, refusal: &Refusal) -> String {
    let hints = &workspace.hints;
    let restore = hints.ours("decrypt --force", name);
    match refusal {
        Refusal::RepositoryAhead { .. } => format!(
            "{} brings the server up to date; {} writes the server's old values over the repository's and keeps a backup",
            hints.ours("decrypt", name),
            hints.ours("encrypt --force", name)
        ),
        Refusal::BothMoved { .. } => format!(
            "{} takes both where they do not touch the same key, and asks where they do; {} takes the server's version, {restore} the repository's; both keep what they replace",
            hints.ours("merge", name),
            hints.ours("encrypt --force", name)
        ),
        Refusal::Pinned { .. } => format!(
            "{} makes the server's version the repository's and keeps a backup; {restore} goes back to the repository's",
            hints.ours("encrypt --force", name)
        ),
        Refusal::Conflict { .. } => format!(
            "{} asks for each; `--server` or `--repository` answer for all, `--key KEY=server` for one",
            hints.ours("merge", name)
        ),
        Refusal::Entangled { .. } => entangled_help(workspace, name),
        Refusal::Rollback { .. } => delivering::rollback_help(workspace, "decrypt", name),
        Refusal::UnknownDirection { .. } => format!(
            "{} asks which side to take; {} shows the difference; {} takes the server's and keeps a backup",
            hints.ours("adopt", name),
            hints.ours("diff", name),
            hints.ours("encrypt --force", name)
        ),
        _ => deleted_help(workspace, name),
    }
}

/// Says what to do about two versions of a tree that cannot be put together.
pub fn entangled_help(workspace: &Workspace, name: &str) -> String {
    let hints = &workspace.hints;
    format!(
        "{} shows both; write the repository's changes into the server's file and {}; or take one whole: that command takes the server's, {} the repository's",
        hints.ours("diff --show-values", name),
        hints.ours("encrypt --force", name),
        hints.ours("decrypt --force", name)
    )
}

/// Says how to go on where an encrypted file was in the repository and is gone: bring it back, or
/// finish the removal here.
pub fn deleted_help(workspace: &Workspace, name: &str) -> String {
    let remove = workspace.hints.ours("remove", name);
    let file = workspace.repository.path().join(name);
    let checkout = workspace.checkout().unwrap_or(None);
    let is_in_head = checkout.is_some_and(|checkout| checkout.is_in_head(&file).unwrap_or(false));
    if is_in_head {
        let restore = workspace.hints.restore(name);
        return format!("{restore}; {remove} takes the entry out, then commit");
    }
    let history = checkout.and_then(|checkout| checkout.file_history(&file, None).ok());
    if history.is_none_or(|versions| versions.is_empty()) {
        let add = workspace.entry_named(name).map(|entry| {
            let path = workspace.server_file(entry);
            workspace.hints.ours("add", &path.to_string_lossy())
        });
        let add = add.unwrap_or_default();
        return format!(
            "git has no version of it: {remove}, then {add} stores the server's file anew"
        );
    }
    let older = workspace.hints.older_version(name);
    format!("{remove} takes the entry out here too, the server keeps its file; {older}")
}
