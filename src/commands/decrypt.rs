//! `decrypt`: puts the plaintext files in place on the server.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age;
use crate::os::fs::{Attributes, Base, FileState, Found, Ownership, Place};
use crate::os::{RandomPool, fs};
use crate::project::diff::{self, Differences};
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, WriteMode};
use crate::project::plan::{self, Action, DecryptOptions, Plan, Step, Target};
use crate::secret::SecretBytes;
use crate::sops::data_key::DataKey;
use crate::sops::metadata::Metadata;
use crate::sops::store::Format;
use crate::sops::{self, Reuse};
use crate::ui::report::{Applied, Report};

use super::apply::{self, Job, Mending, Work};
use super::open::{Lookup, check_format, open, read_encrypted, stock_command};
use super::workspace::{Workspace, attribute_drift, lost_owner};
use super::{Context, Outcome, WriteArgs, in_parallel};

/// Put the plaintext files in place on the server
///
/// Every entry is decrypted, verified and compared before the first file is written: all of them
/// are placed, or none. A file on the server that differs from the repository is refused.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets decrypt                         place every file\n  secrets decrypt --dry-run 'envs/*'      say what would be placed for some of them"
)]
pub struct DecryptArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
    /// Replace files that differ; an encrypted backup of each is kept
    #[arg(short, long)]
    force: bool,
    /// Place only what is missing, leave every file that exists
    #[arg(long, conflicts_with = "force")]
    missing_only: bool,
    /// Create the root folder when it does not exist
    #[arg(long)]
    create_root: bool,
}

/// One entry, decrypted and compared.
struct Prepared<'w> {
    entry: &'w Entry,
    step: Step,
    /// `None` where the root is yet to be made.
    place: Option<Place>,
    plaintext: SecretBytes,
    seen: Option<(FileState, SecretBytes)>,
    owner: Ownership,
    recipients: Vec<String>,
    format: Format,
}

/// What became of one entry.
enum Transformed<'w> {
    Prepared(Box<Prepared<'w>>),
    Skipped(Step),
}

/// Runs the command.
///
/// # Errors
/// What stands against the whole run; problems of entries are reported.
pub fn run(args: &DecryptArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx)?;
    let entries = workspace.select_secret(&args.entries)?;
    if !args.write.dry_run {
        apply::clean_up(cx, &workspace);
    }
    if workspace.root.is_none() && (!args.create_root || workspace.root_path.as_os_str().is_empty())
    {
        return Err(workspace.not_the_server().into());
    }

    let mut problems = Vec::new();
    let owners = if args.write.no_owner {
        HashMap::new()
    } else {
        workspace.resolve_owners(&entries, &mut problems)
    };
    let mut plan = Plan::default();
    let mut prepared = Vec::new();
    let transformed = in_parallel(&entries, workspace.jobs, |entry| {
        let owner = owners
            .get(&entry.repository_path)
            .copied()
            .unwrap_or_default();
        transform(&workspace, entry, owner, args)
    });
    for result in transformed {
        match result {
            Err(problem) => problems.push(problem),
            Ok((Transformed::Skipped(step), warnings)) => {
                warnings.iter().for_each(|warning| cx.ui.warning(warning));
                plan.steps.push(step);
            }
            Ok((Transformed::Prepared(one), warnings)) => {
                warnings.iter().for_each(|warning| cx.ui.warning(warning));
                plan.steps.push(one.step.clone());
                prepared.push(*one);
            }
        }
    }
    for one in &prepared {
        problems.extend(
            one.step
                .refusals
                .iter()
                .map(|refusal| explain(one.entry, refusal)),
        );
        if one.step.action != Action::Keep {
            let command = stock_command(one.format, &one.entry.repository_path);
            cx.ui.detail(&format!("the stock way: {command}"));
        }
    }

    let mut backups = Vec::new();
    let outcome = if args.write.dry_run {
        Applied::DryRun
    } else if problems.is_empty() || args.write.keep_going {
        let is_bad = |one: &Prepared<'_>| {
            problems
                .iter()
                .any(|problem| problem.entry.as_ref() == Some(&one.entry.repository_path))
        };
        let mut good: Vec<_> = prepared.iter().filter(|one| !is_bad(one)).collect();
        loop {
            let Err(problem) = carry_out(cx, &workspace, &good, &mut backups, args) else {
                break Applied::Done;
            };
            let failed = problem.entry.clone();
            problems.push(problem);
            let before = good.len();
            good.retain(|one| failed.as_ref() != Some(&one.entry.repository_path));
            if !args.write.keep_going || good.len() == before {
                break Applied::Nothing;
            }
            plan.forget(failed.as_deref());
        }
    } else {
        Applied::Nothing
    };
    cx.ui.report(&Report {
        command: "decrypt",
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &backups,
    });
    Ok(Outcome::default().with_problems(&problems))
}

/// Decrypts one entry and compares it with what is on the server.
fn transform<'w>(
    workspace: &Workspace,
    entry: &'w Entry,
    owner: Ownership,
    args: &DecryptArgs,
) -> Result<(Transformed<'w>, Vec<String>), Problem> {
    let name = &entry.repository_path;
    check_format(entry)?;
    let encrypted = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => encrypted,
        Lookup::Missing(_) if entry.optional => {
            let step = plan::skip(
                name,
                workspace.server_file(entry),
                "optional, and not in the repository",
            );
            return Ok((Transformed::Skipped(step), Vec::new()));
        }
        Lookup::Missing(_) => {
            return Err(Problem::of(name, ErrorKind::EncryptedMissing)
                .with_help(format!("`git checkout -- '{name}'` brings back the committed file; `secrets encrypt '{name}'` makes it from the server's")));
        }
    };
    let opened = open(workspace, entry, &encrypted)?;
    let recipients = encrypted
        .sealed
        .metadata
        .age_recipients()
        .iter()
        .map(|key| (*key).to_owned())
        .collect();
    let format = encrypted.format;
    drop(encrypted);
    let mut warnings: Vec<String> = opened
        .warnings
        .iter()
        .map(|warning| format!("{name}: {warning}"))
        .collect();
    let plaintext = opened.plaintext;

    // The root is to be made (`--create-root`): everything is missing in it.
    let Some(root) = &workspace.root else {
        let path = workspace.server_file(entry);
        let step = plan::decrypt(name, path, &Target::Missing, DecryptOptions::default());
        let prepared = Prepared {
            entry,
            step,
            place: None,
            plaintext,
            seen: None,
            owner,
            recipients,
            format,
        };
        return Ok((Transformed::Prepared(Box::new(prepared)), warnings));
    };
    workspace.check_target(entry, root)?;
    let place = root.place(entry.server_path.as_ref()).map_err(|error| {
        Problem::of(name, error).with_help(
            "give the row a server path that stays below the root, through no link that leaves it",
        )
    })?;
    if place.is_folder_open_to_others() {
        warnings.push(format!(
            "{name}: everybody may write the folder of {}",
            place.path().display()
        ));
    }
    let (target, seen) = compare(workspace, entry, &place, &plaintext, owner)?;
    let options = DecryptOptions {
        force: args.force,
        missing_only: args.missing_only,
    };
    let step = plan::decrypt(name, workspace.server_file(entry), &target, options);
    if let (Action::Replace, Some((state, _)), false) = (step.action, &seen, args.write.no_owner)
        && let Some(what) = lost_owner(state, owner)
    {
        return Err(Problem::of(name, ErrorKind::NoRightToGive { what })
            .with_help("run as root, or `--no-owner` to let the file become yours"));
    }
    let prepared = Prepared {
        entry,
        step,
        place: Some(place),
        plaintext,
        seen,
        owner,
        recipients,
        format,
    };
    Ok((Transformed::Prepared(Box::new(prepared)), warnings))
}

/// Compares the plaintext with what stands at the target.
fn compare(
    workspace: &Workspace,
    entry: &Entry,
    place: &Place,
    plaintext: &SecretBytes,
    owner: Ownership,
) -> Result<(Target, Option<(FileState, SecretBytes)>), Problem> {
    Ok(match place.read(u64::MAX) {
        Found::Missing => (Target::Missing, None),
        Found::Other(kind) => (Target::NotRegular(kind), None),
        Found::File(state, content) if content == *plaintext => (
            Target::Same(attribute_drift(&state, owner, entry.mode)),
            Some((state, content)),
        ),
        Found::File(state, content) => {
            let differences: Differences =
                diff::between(plaintext.expose(), content.expose(), entry.is_env());
            (Target::Differs(differences), Some((state, content)))
        }
        Found::Unreadable(source) => {
            let path = workspace.server_file(entry);
            return Err(Problem::of(
                &entry.repository_path,
                ErrorKind::Unreadable { path, source },
            )
            .with_help("run as a user who may read it"));
        }
        Found::TooLarge(_) => (Target::NotRegular("a file longer than can be"), None),
    })
}

fn carry_out(
    cx: &mut Context,
    workspace: &Workspace,
    prepared: &[&Prepared<'_>],
    backups: &mut Vec<(String, String)>,
    args: &DecryptArgs,
) -> Result<(), Problem> {
    if !prepared.iter().any(|one| one.step.writes()) {
        return Ok(());
    }
    let new_root = match &workspace.root {
        Some(_) => None,
        None => Some(create_root(workspace)?),
    };
    let done = carry_out_in(cx, workspace, new_root.as_ref(), prepared, backups, args);
    if done.is_err() && new_root.is_some() {
        fs::remove_empty_folder(&workspace.root_path);
    }
    done
}

fn create_root(workspace: &Workspace) -> Result<Base, Problem> {
    fs::create_folder(&workspace.root_path, 0o755)
        .and_then(|()| Base::open(&workspace.root_path))
        .map_err(|error| Problem::new(error).with_help("create the root by hand, or run as root"))
}

fn carry_out_in(
    cx: &mut Context,
    workspace: &Workspace,
    new_root: Option<&Base>,
    prepared: &[&Prepared<'_>],
    backups: &mut Vec<(String, String)>,
    args: &DecryptArgs,
) -> Result<(), Problem> {
    let mut work = Work::default();
    for one in prepared.iter().filter(|one| one.step.writes()) {
        let name = one.entry.repository_path.as_str();
        let place = match (&one.place, new_root) {
            (Some(place), _) => place.clone(),
            (None, Some(root)) => root
                .place(one.entry.server_path.as_ref())
                .map_err(|error| Problem::of(name, error))?,
            (None, None) => continue,
        };
        let existing = one.seen.as_ref().map(|(state, _)| *state);
        let kept_mode = existing.map(|state| state.mode & 0o777);
        let mode = one.entry.mode.or(kept_mode).unwrap_or(0o600);
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
                    owner: target_owner(one, args),
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
    let _locks = apply::lock(cx, workspace, new_root, !args.write.no_wait)?;
    for one in prepared.iter().filter(|one| one.step.needs_backup) {
        let name = &one.entry.repository_path;
        if !backups.iter().any(|(entry, _)| entry == name) {
            let path = keep_backup(cx, workspace, one)?;
            backups.push((name.clone(), path.display().to_string()));
        }
    }
    apply::run(cx, workspace, &work)
}

/// Owner and group the placed file gets: declared, else those of the file it replaces.
fn target_owner(one: &Prepared<'_>, args: &DecryptArgs) -> Ownership {
    if args.write.no_owner {
        return Ownership::default();
    }
    let existing = one.seen.as_ref().map(|(state, _)| state);
    Ownership {
        uid: one.owner.uid.or(existing.map(|state| state.uid)),
        gid: one.owner.gid.or(existing.map(|state| state.gid)),
    }
}

/// Keeps what is about to be replaced, encrypted to the entry's recipients in the binary form.
fn keep_backup(
    cx: &Context,
    workspace: &Workspace,
    one: &Prepared<'_>,
) -> Result<PathBuf, Problem> {
    let name = &one.entry.repository_path;
    let Some((_, content)) = &one.seen else {
        return Ok(PathBuf::new());
    };
    let state = workspace.state.as_ref().ok_or_else(|| {
        Problem::of(
            name,
            ErrorKind::Option("there is no state directory for the backup".to_owned()),
        )
        .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
    })?;
    let mut pool = RandomPool::new();
    let mut fill = |buffer: &mut [u8]| pool.fill(buffer);
    let key = DataKey::generate(&mut fill);
    let mut wrapped = Vec::new();
    for recipient in &one.recipients {
        // A recipient of a kind not supported yet cannot open this backup; the others can.
        if let Ok(enc) = age::wrap(&key, recipient) {
            wrapped.push((recipient.clone(), enc));
        }
    }
    if wrapped.is_empty() {
        return Err(Problem::of(
            name,
            ErrorKind::Option("no recipient of the entry can be given a backup".to_owned()),
        )
        .with_help("move the server's file away by hand, then decrypt again"));
    }
    let mut metadata = Metadata::new(None);
    metadata.set_age_keys(&wrapped);
    let mut seal = || {
        let document = Format::Binary.store().parse(content.expose())?;
        sops::seal(
            Format::Binary,
            &document,
            &key,
            &metadata,
            &Reuse::Nothing,
            &cx.env.now(),
            &mut fill,
        )
    };
    let sealed = seal().map_err(|error| Problem::of(name, error))?;
    state
        .keep_backup(&one.entry.server_path, &cx.env.now(), &sealed.bytes)
        .map_err(apply::state_problem)
}

fn explain(entry: &Entry, refusal: &Refusal) -> Problem {
    let name = &entry.repository_path;
    let help = match refusal {
        Refusal::Differs { .. } => format!(
            "`secrets diff '{name}'` shows it; `secrets encrypt '{name}'` captures the server's file, `secrets decrypt --force '{name}'` replaces it and keeps an encrypted backup"
        ),
        Refusal::NotRegular { .. } => {
            format!(
                "put a regular file in the place of {}, or give the row another server path",
                entry.server_path
            )
        }
        _ => "`secrets decrypt --help` explains the guards".to_owned(),
    };
    Problem::of(name, refusal.clone()).with_help(help)
}
