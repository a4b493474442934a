//! `add`: takes a file of the server into the manifest and into the repository.

use std::path::Path;

use clap::{Args, ValueEnum};

use crate::error::{Error, ErrorKind, Problem};
use crate::os::access_list;
use crate::os::fs;
use crate::os::place::{FileState, Found};
use crate::os::users::{self, Database};
use crate::project::edit::{self, Row, quoted};
use crate::project::error::Refusal;
use crate::project::manifest::{ENCRYPTED_SUFFIX, Entry, Kind, Manifest};
use crate::project::placement::{check_repository_path, check_server_path};
use crate::project::plan::Action;
use crate::sops;
use crate::sops::store::Format;
use crate::ui::report::{Applied, Report};

use super::apply;
use super::capture::{self, Allowances, CaptureOptions, Captured};
use super::gather::gather;
use super::open::leads_out;
use super::repository::{RepositoryFile, check_rest, ignore_lists_for};
use super::reversal;
use super::settle;
use super::storing;
use super::workspace::{Workspace, find_manifest};
use super::{Context, Outcome, OwnerArgs, StepArgs, in_parallel};

/// Take files of the server into the manifest, and encrypt them
///
/// Writes the row, the encrypted file, and, where git would see the plaintext, a line of
/// `.gitignore`: all of it or nothing.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets add /opt/docker/shared/.env          as shared/.env.enc\n  secrets add nginx/.htpasswd --as web/htpasswd  as web/htpasswd.enc"
)]
pub struct AddArgs {
    /// Files on the server: absolute, from the working directory, or from the root
    #[arg(required = true, value_name = "SERVER_PATH")]
    paths: Vec<String>,
    /// The encrypted file in the repository [default: the server path with `.enc`]
    #[arg(long = "as", value_name = "REPO_PATH")]
    repository_path: Option<String>,
    /// The stored form [default: by the name]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<StoredForm>,
    #[command(flatten)]
    step: StepArgs,
}

/// A stored form, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoredForm {
    /// A file as the `age` program writes it
    Age,
    /// Any bytes, in a JSON envelope
    Binary,
    /// `KEY=value` lines
    Dotenv,
    /// Sections of `key = value` lines
    Ini,
    /// One JSON object
    Json,
    /// YAML documents
    Yaml,
}

/// Runs the command.
///
/// # Errors
/// What stands against it; nothing is written then.
pub fn run(args: &AddArgs, cx: &mut Context) -> Result<Outcome, Error> {
    if args.repository_path.is_some() && args.paths.len() > 1 {
        let message = "`--as` names one file, and several are added".to_owned();
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help("add them one by one, each with its `--as`")
            .into());
    }
    let before = Workspace::open_to_write(cx, args.step.write_args())?;
    before.require_root()?;
    let _locks = apply::begin(cx, &before, args.step.write_args())?;
    let manifest_path = find_manifest(cx)?;
    let manifest_name = manifest_path.file_name().unwrap_or_default();
    let mut manifest = RepositoryFile::read(&before.repository, &manifest_name.to_string_lossy())?;
    let text = manifest.text()?;
    let rows = rows(&before, args)?;
    let text = edit::add_rows(&text, Kind::Secret, &rows);
    let files: Vec<String> = rows.iter().map(|row| row.repository_path.clone()).collect();
    let opened = Workspace::open_text(
        cx,
        OwnerArgs::default(),
        manifest_path.clone(),
        &text,
        &files,
    );
    let workspace = opened.map_err(|error| not_added(&rows, &error))?;
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    check_rest(&before.manifest, &workspace.manifest, &names)?;
    let root = workspace.require_root()?;
    let entries: Vec<&Entry> = workspace
        .manifest
        .entries
        .iter()
        .filter(|entry| {
            let mut rows = rows.iter();
            rows.any(|row| row.repository_path == entry.repository_path)
        })
        .collect();

    let now = cx.env.now();
    let options = CaptureOptions {
        new_data_key: false,
        // Who names a file means the rule that it has.
        update_recipients: true,
        allow_unreadable: false,
        force: false,
        is_new: true,
        max_size: u64::MAX,
        allowed: &Allowances::default(),
    };
    let mut problems = Vec::new();
    let mut results = in_parallel(&entries, workspace.jobs, |entry| {
        check_sealed(&workspace, entry)?;
        capture::capture(&workspace, root, entry, options, &now)
    });
    settle::sources(&workspace, &mut results);
    let (plan, captured) = gather(cx, &workspace, results, &mut problems, |one, refusal| {
        explain(&workspace, one, refusal)
    });
    for one in &captured {
        check_new(one, &mut problems);
    }
    let captured: Vec<_> = captured.iter().collect();
    manifest.content = Some(text.into_bytes());
    let lists = ignore_lists_for(&workspace, &entries)?;

    let mut backups = Vec::new();
    let outcome = if args.step.dry_run {
        Applied::DryRun
    } else if problems.is_empty() {
        let mut work = storing::work(&captured, OwnerArgs::default())?;
        work.jobs.extend(manifest.job()?);
        for list in &lists {
            work.jobs.extend(list.job()?);
        }
        storing::keep_backups(cx, &workspace, &captured, &mut backups)?;
        apply::run(cx, &workspace, &work).map_err(|failure| failure.problem)?;
        storing::remember(cx, &workspace, &captured);
        mark(cx, &workspace, &captured);
        Applied::Done
    } else {
        Applied::Nothing
    };
    if outcome == Applied::Done {
        let shown = manifest_path.display();
        cx.ui.status(&format!(
            "added to {shown}: {} of [files]",
            counted(rows.len())
        ));
        for list in &lists {
            cx.ui.status(&format!(
                "added to {}: what keeps git from the plaintext",
                list.name
            ));
        }
    }
    cx.ui.report(&Report {
        command: "add",
        plan: &plan,
        problems: &problems,
        outcome,
        backups: &backups,
        recovery: None,
    });
    Ok(Outcome::default().with_problems(&problems))
}

/// Notes the run, so that `undo` takes back no older one.
fn mark(cx: &mut Context, workspace: &Workspace, captured: &[&Captured<'_>]) {
    let names = captured.iter().map(|one| &*one.entry.repository_path);
    reversal::mark(cx, workspace, "add", &names.collect::<Vec<_>>());
}

/// Returns the error of a manifest that could not be read with the new rows: they are not in it yet,
/// so its line numbers mean nothing to the user.
pub fn not_added(rows: &[Row], error: &Error) -> Error {
    let words = |problem: &Problem| match &*problem.kind {
        ErrorKind::Manifest(error) => {
            let messages: Vec<_> = error
                .problems
                .iter()
                .map(|problem| problem.message.as_str())
                .collect();
            messages.join("; ")
        }
        other => other.to_string(),
    };
    let message: Vec<_> = error.problems.iter().map(words).collect();
    let lines: Vec<_> = rows.iter().map(|row| row.to_line(0)).collect();
    let reason = message.join("; ");
    let help = if reason.contains("duplicate key") {
        format!(
            "the tables of the manifest are laid out in another way: write the row by hand: {}",
            lines.join("; ")
        )
    } else {
        "choose other paths".to_owned()
    };
    Problem::new(Refusal::NotARow { reason })
        .with_help(help)
        .into()
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    }
}

/// Returns the problem of a refusal: there is no row yet that could be changed.
fn explain(workspace: &Workspace, one: &Captured<'_>, refusal: &Refusal) -> Problem {
    let name = &one.entry.repository_path;
    let help = match refusal {
        Refusal::SourceMissing { .. } => "name a file that exists on the server",
        Refusal::Empty | Refusal::Blank | Refusal::CommentsOnly => {
            "write its content first, then add it"
        }
        Refusal::NeedsNote { .. } => {
            "mend the line, or `--format binary` stores the file byte for byte; with `layout = \"note\"` or `\"stock\"` in a row of its own, `encrypt` captures it"
        }
        Refusal::MultiLineValue { .. }
        | Refusal::NameInClear { .. }
        | Refusal::Unrepresentable { .. } => "`--format binary` stores the file byte for byte",
        Refusal::NotOpenable => {
            "name your identity with `-i FILE`, or add its recipient to the rule"
        }
        _ => return storing::explain(workspace, "encrypt", one, refusal),
    };
    Problem::of(name, refusal.clone()).with_help(help)
}

/// Makes the row of each file.
fn rows(workspace: &Workspace, args: &AddArgs) -> Result<Vec<Row>, Error> {
    let root = workspace.require_root()?;
    let mut rows: Vec<Row> = Vec::new();
    for typed in &args.paths {
        let server_path = workspace.path_in_root(typed).ok_or_else(|| {
            let message = format!(
                "{typed}: is not below the root {}",
                workspace.root_path.display()
            );
            Problem::new(ErrorKind::Option(message))
                .with_help("name a file below the root, or another root with `--root DIR`")
        })?;
        let known = workspace.manifest.entries.iter();
        let mut known = known.filter(|entry| entry.server_path == server_path);
        if let Some(entry) = known.next() {
            let path = format!("the row of `{server_path}` (line {})", entry.line);
            let help = format!(
                "{} captures it",
                workspace.hints.ours("encrypt", &entry.repository_path)
            );
            return Err(
                Problem::of(&entry.repository_path, Refusal::AlreadyThere { path })
                    .with_help(help)
                    .into(),
            );
        }
        let found = workspace.found_on_server.iter();
        let mut found = found.filter(|entry| entry.server_path == server_path);
        if let Some(entry) = found.next() {
            let pattern = entry.family.clone().unwrap_or_default();
            let path = format!("the pattern of `{server_path}`, `{pattern}`,");
            let help = format!(
                "{} captures it",
                workspace.hints.ours("encrypt", &server_path)
            );
            return Err(
                Problem::of(&entry.repository_path, Refusal::AlreadyThere { path })
                    .with_help(help)
                    .into(),
            );
        }
        check_server_path(&server_path).map_err(|reason| {
            Problem::new(ErrorKind::Option(format!("{server_path}: {reason}")))
                .with_help("name another file")
        })?;
        let default = format!("{server_path}{ENCRYPTED_SUFFIX}");
        let repository_path = match &args.repository_path {
            Some(path) if path.ends_with(ENCRYPTED_SUFFIX) => path.clone(),
            Some(path) => format!("{path}{ENCRYPTED_SUFFIX}"),
            None => default,
        };
        if rows.iter().any(|row| row.server_path == server_path) {
            continue;
        }
        check_repository_path(&repository_path).map_err(|reason| {
            Problem::new(ErrorKind::Option(format!("{repository_path}: {reason}")))
                .with_help("name a path in the repository with `--as`")
        })?;
        check_own_path(workspace, &repository_path, &repository_path)?;
        let named = workspace.manifest.entries.iter();
        let mut named = named.filter(|entry| entry.repository_path == repository_path);
        if let Some(entry) = named.next() {
            let path = format!("the row of `{repository_path}` (line {})", entry.line);
            return Err(Problem::new(Refusal::AlreadyThere { path })
                .with_help("choose another name with `--as`")
                .into());
        }
        let place = root.place(Path::new(&server_path));
        if let Ok(place) = &place {
            workspace.check_target(&Entry::named(&repository_path, &server_path), place)?;
        }
        let place = place.map_err(|error| leads_out(&repository_path, error))?;
        let state = match place.look() {
            Found::File(mut state, _) => {
                state.mode = access_list::mode_alone(&place.path(), state.mode);
                Some(state)
            }
            Found::Unreadable(source) => {
                let path = place.path();
                let kind = ErrorKind::Unreadable { path, source };
                return Err(Problem::of(&repository_path, kind)
                    .with_help("run as a user who may read it")
                    .into());
            }
            // What is wrong with it is said when it is captured.
            _ => None,
        };
        let mut row = Row {
            repository_path,
            server_path,
            fields: Vec::new(),
        };
        row.fields = fields(&workspace.manifest, &row, state.as_ref(), args.format);
        rows.push(row);
    }
    Ok(rows)
}

/// Returns what a row must say beyond its paths: owner, group and mode where they are not the
/// defaults, and a format where the name's own cannot be stored.
pub fn fields(
    manifest: &Manifest,
    row: &Row,
    state: Option<&FileState>,
    format: Option<StoredForm>,
) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    let usual = Entry::named(&row.repository_path, &row.server_path).format_for_new();
    let wanted = match format {
        Some(StoredForm::Age) => Format::Age,
        Some(StoredForm::Binary) => Format::Binary,
        Some(StoredForm::Dotenv) => Format::Dotenv,
        Some(StoredForm::Ini) => Format::Ini,
        Some(StoredForm::Json) => Format::Json,
        Some(StoredForm::Yaml) => Format::Yaml,
        None => usual,
    };
    if usual != wanted {
        fields.push(("format", quoted(wanted.name())));
    }
    let Some(state) = state else { return fields };
    let defaults = &manifest.defaults;
    let mut account = |field, database, default: &Option<String>, own: u32, have: u32| {
        let usual = match default {
            Some(name) => users::find_id(database, name),
            None => Some(own),
        };
        if usual != Some(have) {
            fields.push((field, quoted(&users::name_of(database, have))));
        }
    };
    let (uid, gid) = users::own_ids();
    account("owner", Database::Passwd, &defaults.owner, uid, state.uid);
    account("group", Database::Group, &defaults.group, gid, state.gid);
    let mode = state.mode & 0o775;
    if defaults.mode.unwrap_or(0o600) != mode {
        fields.push(("mode", quoted(&format!("{mode:04o}"))));
    }
    fields
}

/// Refuses a name that a file has which is not encrypted.
fn check_sealed(workspace: &Workspace, entry: &Entry) -> Result<(), Problem> {
    let file = workspace.repository_file(entry);
    let content = fs::read_regular(&file);
    let is_free = match content {
        Ok(content) => sops::parse_sealed(content).is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    let path = file.display().to_string();
    Err(
        Problem::of(&entry.repository_path, Refusal::AlreadyThere { path })
            .with_help("choose another name with `--as`"),
    )
}

/// Refuses a file that is in the repository already with another content: it may be another secret's
/// only copy.
fn check_new(one: &Captured<'_>, problems: &mut Vec<Problem>) {
    let name = &one.entry.repository_path;
    if one.target_seen.is_none() || one.step.action == Action::Keep {
        return;
    }
    problems.retain(|problem| problem.entry.as_deref() != Some(name));
    let path = one.target.path().display().to_string();
    problems.push(Problem::of(name, Refusal::AlreadyThere { path }).with_help(
        "choose another name with `--as`; or write the row by hand, where it is this file's",
    ));
}

/// Refuses an encrypted file beside a file that git tracks under its name without `.enc`: that would be
/// taken for its plaintext.
///
/// # Errors
/// The refusal.
pub fn check_own_path(
    workspace: &Workspace,
    name: &str,
    repository_path: &str,
) -> Result<(), Problem> {
    let own = repository_path
        .strip_suffix(ENCRYPTED_SUFFIX)
        .unwrap_or(repository_path);
    let file = workspace.repository.path().join(own);
    let checkout = workspace.checkout().unwrap_or(None);
    let is_tracked = checkout.is_some_and(|checkout| checkout.is_tracked(&file).unwrap_or(true));
    if !is_tracked {
        return Ok(());
    }
    let path = file.display().to_string();
    Err(Problem::of(name, Refusal::TrackedTarget { path })
        .with_help("choose another name in the repository"))
}
