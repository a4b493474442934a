//! `encrypt`: captures the plaintext files of the server into the repository.

use std::collections::BTreeSet;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::place::Ownership;
use crate::os::staging::Attributes;
use crate::os::{process, users};
use crate::project::error::Refusal;
use crate::project::manifest::Entry;
use crate::project::plan::Action;
use crate::ui::report::{Backup, Report};

use super::apply::{self, Failure, Job, Watched, Work};
use super::capture::{self, CaptureOptions, Captured};
use super::drift::{self, Agreed};
use super::gather::gather;
use super::hints;
use super::open::{leads_out_of_repository, stock_command};
use super::reversal::{self, Side, Undoable};
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, in_parallel};

/// Capture the plaintext files of the server into the repository
///
/// Only what changed is written: one changed value of an environment file is three changed lines.
/// Sources that are missing, empty, damaged or would not survive stock `sops` are refused.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets encrypt                  capture every file that changed\n  secrets encrypt -n shared/.env   say which keys of one file would be captured"
)]
pub struct EncryptArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Bring the files in line with their rule: recipients and selection options. Who is added can
    /// read the file; where somebody is removed, everything is encrypted under a new data key
    #[arg(long)]
    update_recipients: bool,
    /// Write files that no identity here can open, unchecked (for machines that may only write)
    #[arg(long)]
    allow_unreadable: bool,
    /// Capture the server's file also where the repository moved; an encrypted backup of what is
    /// replaced is kept, and `undo` brings it back
    #[arg(short, long)]
    force: bool,
    /// Capture also files that match a pattern on the server and are not in the repository yet
    #[arg(long)]
    new: bool,
    /// Refuse sources longer than this (bytes, or with KiB, MiB, GiB)
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = parse_size)]
    max_size: u64,
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &EncryptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, args.write.owner)?;
    let root = workspace.require_root()?;
    let entries = workspace.select_to_capture(&args.entries, args.new)?;
    let _locks = apply::begin(cx, &workspace, args.write)?;
    warn_of_other_rules(cx, &workspace, &entries);

    let now = cx.env.now();
    let options = CaptureOptions {
        update_recipients: args.update_recipients,
        allow_unreadable: args.allow_unreadable,
        force: args.force,
        max_size: args.max_size,
    };
    let mut problems = Vec::new();
    workspace.check_distinct(&entries, &mut problems);
    let results = in_parallel(&entries, workspace.jobs, |entry| {
        capture::capture(&workspace, root, entry, options, &now)
    });
    let (mut plan, captured) = gather(cx, &workspace, results, &mut problems, |one, refusal| {
        explain(&workspace, one, refusal)
    });

    let mut backups = Vec::new();
    let outcome = apply::carry_out(
        &workspace,
        &captured,
        args.write,
        &mut plan,
        &mut problems,
        |good| write(cx, &workspace, good, args, &mut backups),
    );
    cx.ui.report(&Report {
        command: "encrypt",
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &backups,
    });
    Ok(Outcome::default().with_problems(&problems))
}

/// Warns once of a rules file that stock `sops`, called from here, would use instead.
fn warn_of_other_rules(cx: &mut Context, workspace: &Workspace, entries: &[&Entry]) {
    let ours: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| Some(workspace.rules_for(entry)?.path.clone()))
        .collect();
    if let Some(other) = ours
        .iter()
        .find_map(|path| workspace.other_rules_file(path))
    {
        let ours: Vec<_> = ours.iter().map(|path| path.display().to_string()).collect();
        cx.ui.warning(&format!(
            "stock `sops` called in this folder would use {}, the entries are governed by {}",
            other.display(),
            ours.join(", ")
        ));
    }
}

/// Writes the encrypted files.
fn write(
    cx: &mut Context,
    workspace: &Workspace,
    captured: &[&Captured<'_>],
    args: &EncryptArgs,
    backups: &mut Vec<Backup>,
) -> Result<(), Failure> {
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
        let owner = repository_owner(owner, args);
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
    if work.jobs.is_empty() {
        remember(cx, workspace, captured);
        return Ok(());
    }
    let kept = keep_replaced(cx, workspace, captured)?;
    let done = apply::run(cx, workspace, &work);
    match &done {
        // Nothing was replaced: what was kept is still there.
        Err(failure) if failure.is_undone => {
            for (_, path) in &kept {
                let state = workspace.state.iter();
                state.for_each(|state| state.drop_backup(path.as_ref()));
            }
        }
        Err(_) => {}
        Ok(()) => {
            let undoable = kept.iter().filter_map(|(one, path)| undoable(one, path));
            reversal::note(cx, workspace, "encrypt", undoable.collect());
            remember(cx, workspace, captured);
        }
    }
    if !done.as_ref().is_err_and(|failure| failure.is_undone) {
        backups.extend(kept.iter().map(|(one, path)| Backup {
            entry: one.entry.repository_path.clone(),
            path: path.clone(),
            command: stock_command(
                workspace,
                one.stored_format,
                &one.recipients,
                &hints::quoted(path),
            ),
        }));
    }
    done
}

/// Returns what brings back the encrypted file that an entry's capture replaced.
fn undoable<'a>(one: &'a Captured<'_>, backup: &'a str) -> Option<Undoable<'a>> {
    let (state, _) = one.target_seen.as_ref()?;
    let (source, ..) = one.source.as_ref()?;
    Some(Undoable {
        entry: &one.entry.repository_path,
        side: Side::Repository,
        target: one.target.path(),
        backup,
        state: *state,
        written: &one.sealed,
        record_target: source.path(),
    })
}

/// Notes what agrees now.
fn remember(cx: &mut Context, workspace: &Workspace, captured: &[&Captured<'_>]) {
    let agreed = captured.iter().filter_map(|one| {
        let (place, state, content) = one.source.as_ref()?;
        let agrees = one.step.writes() || one.step.action == Action::Keep;
        agrees.then(|| Agreed {
            entry: one.entry,
            target: place.path(),
            content: content.expose(),
            mac: &one.mac,
            state: *state,
        })
    });
    let agreed: Vec<_> = agreed.collect();
    drift::remember(cx, workspace, &agreed);
}

/// Files of the repository belong to whom they belonged, also when root runs; a plain user can
/// only make files of their own.
fn repository_owner((uid, gid): (u32, u32), args: &EncryptArgs) -> Ownership {
    if args.write.owner.no_owner || !users::may_give_to_user(uid) {
        return Ownership::default();
    }
    let gid = users::may_give_to_group(gid).then_some(gid);
    Ownership {
        uid: Some(uid),
        gid,
    }
}

/// Keeps a copy of each encrypted file that is about to be replaced and is not in `HEAD`, as it may
/// hold values that are nowhere else, or is replaced by force. Returns the copies.
fn keep_replaced<'c, 'w>(
    cx: &Context,
    workspace: &Workspace,
    captured: &[&'c Captured<'w>],
) -> Result<Vec<(&'c Captured<'w>, String)>, Problem> {
    let mut kept = Vec::new();
    for one in captured
        .iter()
        .filter(|one| one.step.action == Action::Replace)
    {
        let file = workspace.repository_file(one.entry);
        // A history that cannot be read holds nothing that can be relied on.
        let checkout = workspace.checkout().unwrap_or(None);
        let is_committed =
            checkout.is_some_and(|checkout| checkout.is_committed(&file).unwrap_or(false));
        if is_committed && !one.step.needs_backup {
            continue;
        }
        let state = workspace.state.as_ref().ok_or_else(|| {
            Problem::new(ErrorKind::Option(
                "there is no state directory for the backup".to_owned(),
            ))
            .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
        })?;
        let label = one.entry.path_without_suffix();
        let path = state
            .keep_backup_of(label, &cx.env.now(), &file)
            .map_err(apply::state_problem)?;
        kept.push((*one, path.display().to_string()));
    }
    Ok(kept)
}

fn explain(workspace: &Workspace, one: &Captured<'_>, refusal: &Refusal) -> Problem {
    let entry = one.entry;
    let is_stored = one.target_seen.is_some();
    let name = &entry.repository_path;
    let hints = &workspace.hints;
    let server = workspace.server_file(entry);
    let server = server.display();
    let binary = "`format = \"binary\"` in its row stores the file byte for byte";
    let restore = hints.ours("decrypt --force", name);
    let help = match refusal {
        Refusal::SourceMissing { .. } if !is_stored => {
            "put the file there, or take its row out of the manifest".to_owned()
        }
        Refusal::Empty | Refusal::Blank | Refusal::CommentsOnly | Refusal::AlreadyEncrypted
            if !is_stored =>
        {
            "put the plaintext there, or take its row out of the manifest".to_owned()
        }
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
        Refusal::MultiLineValue { .. } => binary.to_owned(),
        Refusal::Unrepresentable { .. } => format!("mend the line in {server}, or {binary}"),
        Refusal::NotRegular { .. } => format!("put a regular file in the place of {server}"),
        Refusal::Unreadable { .. } => "run as a user who may read it".to_owned(),
        Refusal::TooLarge { .. } => "`--max-size SIZE` raises the limit".to_owned(),
        Refusal::NoRulesFile => {
            "write a `.sops.yaml` with `creation_rules` and `age: RECIPIENT` beside the manifest"
                .to_owned()
        }
        Refusal::NoRule {
            suggestion: Some(pattern),
            ..
        } => format!("a rule matches the name without `.enc`; write it as `path_regex: {pattern}`"),
        Refusal::NoRule { path, .. } => {
            format!(
                "add a rule whose `path_regex` matches `{path}`, such as `path_regex: '\\.enc$'`"
            )
        }
        Refusal::RecipientsDiffer { .. } | Refusal::SelectionDiffers { .. } => {
            format!(
                "if that is meant: {}",
                hints.ours("encrypt --update-recipients", name)
            )
        }
        Refusal::NotOpenable => {
            "name your identity with `-i FILE`; `--allow-unreadable` writes it unchecked".to_owned()
        }
        Refusal::TwoRules {
            suggestion: Some(pattern),
            without,
            ..
        } => format!(
            "write creation rule {without} as `path_regex: {pattern}`, or take it out if the other one is meant"
        ),
        Refusal::TwoRules { without, .. } => {
            format!(
                "let creation rule {without} match the name with `.enc` too, or take it out if the other one is meant"
            )
        }
        Refusal::BreakGlassMissing { .. } => {
            "add the recipient to the rule in `.sops.yaml`".to_owned()
        }
        Refusal::RepositoryAhead { .. } => format!(
            "{} brings the server up to date; {} writes the server's old values over the repository's and keeps a backup",
            hints.ours("decrypt", name),
            hints.ours("encrypt --force", name)
        ),
        Refusal::BothMoved { .. } => format!(
            "{} shows it; {} takes the server's version, {restore} the repository's; both keep what they replace",
            hints.ours("diff", name),
            hints.ours("encrypt --force", name)
        ),
        Refusal::UnknownDirection { .. } => format!(
            "{} asks which side to take; {} shows the difference; {} takes the server's and keeps a backup",
            hints.ours("adopt", name),
            hints.ours("diff", name),
            hints.ours("encrypt --force", name)
        ),
        Refusal::DeletedInRepository => format!(
            "{}; or take the entry out with {}",
            hints.restore(name),
            hints.ours("remove", name)
        ),
        Refusal::ServerAhead { .. }
        | Refusal::ChangedSince { .. }
        | Refusal::RootChanged { .. }
        | Refusal::TrackedTarget { .. } => {
            format!(
                "{} explains the guards",
                hints.ours_for_all("encrypt --help")
            )
        }
    };
    Problem::of(name, refusal.clone()).with_help(help)
}

/// Reads a size: bytes, or a number with KiB, MiB or GiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err("not a size such as 512MiB".to_owned()),
    };
    let number: u64 = digits
        .trim()
        .parse()
        .map_err(|_| "not a size such as 512MiB".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "too large".to_owned())
}
