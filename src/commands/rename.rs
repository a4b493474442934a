//! `mv`: gives an entry another encrypted file, or another file on the server.

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::access_list;
use crate::os::fs;
use crate::os::place::{FileState, Found, Ownership, Place};
use crate::os::staging::Attributes;
use crate::project::edit::{self, Row};
use crate::project::error::Refusal;
use crate::project::manifest::{ENCRYPTED_SUFFIX, Entry, Kind};
use crate::project::placement::{check_repository_path, check_server_path};
use crate::project::plan::{self, Action, Plan};
use crate::secret::SecretBytes;
use crate::ui::report::{Applied, Report};

use super::add::{check_own_path, not_added};
use super::apply::{self, Job, Removal, Work};
use super::govern::{govern, rule_help};
use super::memory;
use super::open::{Lookup, leads_out, place_in_repository, read_encrypted};
use super::repository::{IGNORE_FILE, RepositoryFile, check_rest, ignore_lists_for};
use super::reversal;
use super::workspace::{Workspace, find_manifest};
use super::{Context, Outcome, OwnerArgs, StepArgs};

/// Give an entry another name in the repository, or another path on the server
///
/// Moves the encrypted file and changes the row; with `--server`, the file on the server is moved
/// too. All of it or nothing.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets mv shared/.env common/.env                         the encrypted file is common/.env.enc now\n  secrets mv shared/.env common/.env --server common/.env    and the server's file common/.env"
)]
pub struct MvArgs {
    /// The entry, by repository path, path without `.enc`, or server path
    #[arg(value_name = "ENTRY")]
    entry: String,
    /// Its new path in the repository; `.enc` is added
    #[arg(value_name = "NEW")]
    new: String,
    /// Its new path on the server, from the root
    #[arg(long, value_name = "SERVER_PATH")]
    server: Option<String>,
    #[command(flatten)]
    step: StepArgs,
}

/// A file on its way.
struct Moving {
    from: Place,
    to: Place,
    state: FileState,
    content: SecretBytes,
    /// Its mode without an access list, which does not move.
    mode: u32,
    has_access_list: bool,
}

impl Moving {
    fn job<'a>(&'a self, name: &'a str) -> Job<'a> {
        let owner = Ownership {
            uid: Some(self.state.uid),
            gid: Some(self.state.gid),
        };
        Job {
            name,
            place: self.to.clone(),
            content: self.content.expose(),
            attributes: Attributes {
                owner,
                mode: self.mode,
                keep_access_list: false,
            },
            folder_owner: owner,
            seen: None,
            in_place: false,
        }
    }

    fn warn(&self, cx: &mut Context) {
        if self.has_access_list {
            let (from, to) = (self.from.path(), self.to.path());
            cx.ui.warning(&format!(
                "{}: its access list does not move: give {} one with `setfacl` where others than its owner and group need the file",
                from.display(),
                to.display()
            ));
        }
    }

    fn removal<'a>(&'a self, name: &'a str) -> Removal<'a> {
        Removal {
            name,
            place: self.from.clone(),
            seen: (self.state, self.content.expose()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What stands against it; nothing is changed then.
pub fn run(args: &MvArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let before = Workspace::open_to_write(cx, args.step.write_args())?;
    let entry = before.select_one(&args.entry)?;
    let name = &entry.repository_path;
    if let Some(pattern) = &entry.family {
        let message = format!("it is a member of the pattern `{pattern}`, which says where it is");
        return Err(Problem::of(name, ErrorKind::Option(message))
            .with_help(
                "move the files by hand to names that the pattern gives, or change the pattern",
            )
            .into());
    }
    let _locks = apply::begin(cx, &before, args.step.write_args())?;
    let new_name = match entry.kind {
        Kind::Secret if !args.new.ends_with(ENCRYPTED_SUFFIX) => {
            format!("{}{ENCRYPTED_SUFFIX}", args.new)
        }
        _ => args.new.clone(),
    };
    let manifest_path = find_manifest(cx)?;
    let manifest_name = manifest_path.file_name().unwrap_or_default();
    let mut manifest = RepositoryFile::read(&before.repository, &manifest_name.to_string_lossy())?;
    let text = manifest.text()?;
    let text = edit::move_row(&text, entry.kind, name, &new_name, args.server.as_deref())
        .ok_or_else(|| Problem::of(name, ErrorKind::Internal))?;
    check_paths(&before, entry, &new_name, args)?;
    let further = [new_name.clone()];
    let opened = Workspace::open_text(
        cx,
        OwnerArgs::default(),
        manifest_path.clone(),
        &text,
        &further,
    );
    let row = Row {
        repository_path: new_name.clone(),
        server_path: args
            .server
            .clone()
            .unwrap_or_else(|| entry.server_path.clone()),
        fields: Vec::new(),
    };
    let after = opened.map_err(|error| not_added(std::slice::from_ref(&row), &error))?;
    check_rest(&before.manifest, &after.manifest, &[name, &new_name])?;
    let moved = after
        .manifest
        .entries
        .iter()
        .find(|entry| entry.repository_path == new_name)
        .ok_or_else(|| Problem::of(name, ErrorKind::Internal))?;

    let in_repository = move_in_repository(&before, entry, &new_name)?;
    let on_server = match &args.server {
        Some(path) if *path != entry.server_path => move_on_server(&before, entry, moved, &after)?,
        _ => None,
    };
    warn_of_rule(cx, &before, entry, &after, moved);
    let both = [&in_repository, &on_server];
    both.into_iter().flatten().for_each(|one| one.warn(cx));
    let plan = plan_of(
        &before,
        entry,
        moved,
        in_repository.as_ref(),
        on_server.as_ref(),
    );
    manifest.content = Some(text.into_bytes());
    let lists = ignore_lists(&before, entry, &after, moved)?;

    let outcome = if args.step.dry_run {
        Applied::DryRun
    } else {
        let mut work = Work::default();
        for moving in [&in_repository, &on_server].into_iter().flatten() {
            work.jobs.push(moving.job(name));
            work.removals.push(moving.removal(name));
        }
        work.jobs.extend(manifest.job()?);
        for list in &lists {
            work.jobs.extend(list.job()?);
        }
        apply::run(cx, &before, &work).map_err(|failure| failure.problem)?;
        move_record(cx, &before, entry, moved);
        reversal::mark(cx, &before, "mv", &[name]);
        Applied::Done
    };
    for list in lists.iter().filter(|list| list.content.is_some()) {
        cx.ui
            .status(&format!("{}: the line of the plaintext follows", list.name));
    }
    cx.ui.report(&Report {
        command: "mv",
        plan: &plan,
        problems: &[],
        outcome,
        backups: &[],
        recovery: None,
    });
    Ok(Outcome::default())
}

fn move_in_repository(
    workspace: &Workspace,
    entry: &Entry,
    new_name: &str,
) -> Result<Option<Moving>, Problem> {
    let name = &entry.repository_path;
    if name == new_name {
        return Ok(None);
    }
    let from = place_in_repository(workspace, name)?;
    let to = place_in_repository(workspace, new_name)?;
    moving(name, from, to)
}

fn move_on_server(
    workspace: &Workspace,
    entry: &Entry,
    moved: &Entry,
    after: &Workspace,
) -> Result<Option<Moving>, Error> {
    let name = &entry.repository_path;
    let root = workspace.require_root()?;
    let outside = |error| leads_out(name, error);
    let from = root.place(entry.server_path.as_ref()).map_err(outside)?;
    let to = root.place(moved.server_path.as_ref()).map_err(outside)?;
    workspace.check_source(entry, &from)?;
    after.check_target(moved, &to)?;
    Ok(moving(name, from, to)?)
}

fn moving(name: &str, from: Place, to: Place) -> Result<Option<Moving>, Problem> {
    if fs::is_there(&to.path()) {
        let path = to.path().display().to_string();
        return Err(Problem::of(name, Refusal::AlreadyThere { path })
            .with_help("move it away, or choose another name"));
    }
    match from.read(u64::MAX) {
        Found::File(state, content) => Ok(Some(Moving {
            mode: access_list::mode_alone(&from.path(), state.mode),
            has_access_list: access_list::is_there(&from.path()),
            from,
            to,
            state,
            content,
        })),
        Found::Missing => Ok(None),
        Found::Unreadable(source) => {
            let path = from.path();
            Err(Problem::of(name, ErrorKind::Unreadable { path, source })
                .with_help("run as a user who may read it"))
        }
        Found::Other(kind) => {
            let path = from.path();
            Err(Problem::of(name, ErrorKind::NotRegular { path, kind })
                .with_help("put a regular file in its place"))
        }
        Found::TooLarge(_) => {
            let (path, kind) = (from.path(), super::sides::TOO_LONG);
            Err(Problem::of(name, ErrorKind::NotRegular { path, kind })
                .with_help("move it by hand"))
        }
    }
}

/// Refuses new paths that cannot be, or are taken.
fn check_paths(
    workspace: &Workspace,
    entry: &Entry,
    new_name: &str,
    args: &MvArgs,
) -> Result<(), Problem> {
    let name = &entry.repository_path;
    let wrong = |path: &str, reason: &str| {
        Problem::of(name, ErrorKind::Option(format!("{path}: {reason}")))
            .with_help("name another path")
    };
    check_repository_path(new_name).map_err(|reason| wrong(new_name, reason))?;
    check_own_path(workspace, name, new_name)?;
    if let Some(path) = &args.server {
        check_server_path(path).map_err(|reason| wrong(path, reason))?;
    }
    let mut others = workspace.manifest.entries.iter();
    let taken = others.find(|other| other.repository_path == new_name && *other != entry);
    match taken {
        Some(other) => {
            let path = format!("the row of `{new_name}` (line {})", other.line);
            Err(Problem::of(name, Refusal::AlreadyThere { path }).with_help("choose another name"))
        }
        None => Ok(()),
    }
}

/// Lets the line of `.gitignore` follow a plaintext inside the repository.
fn ignore_lists(
    before: &Workspace,
    entry: &Entry,
    after: &Workspace,
    moved: &Entry,
) -> Result<Vec<RepositoryFile>, Problem> {
    let mut lists = ignore_lists_for(after, &[moved])?;
    let old = before.server_file(entry);
    let inside = old.strip_prefix(before.repository.path()).ok();
    if let Some(inside) = inside.and_then(|path| path.to_str())
        && entry.server_path != moved.server_path
    {
        let line = edit::ignore_line(inside);
        let mut top = match lists.iter().position(|list| list.name == IGNORE_FILE) {
            Some(at) => lists.remove(at),
            None => RepositoryFile::read(&before.repository, IGNORE_FILE)?,
        };
        let text = match &top.content {
            Some(content) => String::from_utf8_lossy(content).into_owned(),
            None => top.text()?,
        };
        if let Some(without) = edit::remove_line(&text, &line) {
            top.content = Some(without.into_bytes());
        }
        lists.push(top);
    }
    Ok(lists)
}

/// The rule of the new name may say something else: the file stays as it is, and that is said.
fn warn_of_rule(
    cx: &mut Context,
    before: &Workspace,
    entry: &Entry,
    after: &Workspace,
    moved: &Entry,
) {
    if moved.kind == Kind::Plain {
        return;
    }
    let name = &moved.repository_path;
    let mut refusals = Vec::new();
    match govern(after, moved, &mut refusals) {
        Ok(governing) => {
            if let (Some(governing), Ok(Lookup::Found(encrypted))) =
                (governing, read_encrypted(before, entry))
            {
                let update = after.hints.ours("encrypt --update-recipients", name);
                for difference in governing.differences(after, &encrypted) {
                    cx.ui
                        .warning(&format!("{name}: {difference}; {update} brings it in line"));
                }
            }
            for refusal in refusals {
                let help = rule_help(&refusal).unwrap_or_default();
                cx.ui.warning(&format!("{name}: {refusal}; {help}"));
            }
        }
        Err(problem) => {
            let help = problem.help.unwrap_or_default();
            cx.ui.warning(&format!("{name}: {}; {help}", problem.kind));
        }
    }
}

fn plan_of(
    workspace: &Workspace,
    entry: &Entry,
    moved: &Entry,
    in_repository: Option<&Moving>,
    on_server: Option<&Moving>,
) -> Plan {
    let name = &entry.repository_path;
    let mut plan = Plan::default();
    let mut step = |path: std::path::PathBuf, from: String| {
        let mut step = plan::skip(name, path, &format!("moved from {from}"));
        step.action = Action::Create;
        plan.steps.push(step);
    };
    let manifest = workspace.manifest_path.clone();
    if in_repository.is_some() {
        step((&moved.repository_path).into(), name.clone());
    }
    if on_server.is_some() {
        let from = workspace.server_file(entry).display().to_string();
        step(workspace.server_file(moved), from);
    }
    let mut row = plan::skip(name, manifest, "its row");
    row.action = Action::Replace;
    plan.steps.push(row);
    plan
}

/// Lets the record of the last sync follow the file.
fn move_record(cx: &mut Context, workspace: &Workspace, entry: &Entry, moved: &Entry) {
    let (Some(root), Some(state)) = (&workspace.root, &workspace.state) else {
        return;
    };
    let target = |entry: &Entry| {
        let place = root.place(entry.server_path.as_ref()).ok()?;
        place.path().to_str().map(str::to_owned)
    };
    let (Some(old), Some(new)) = (target(entry), target(moved)) else {
        return;
    };
    let Some(record) = workspace.memory().record_of(old.as_ref()).cloned() else {
        return;
    };
    let record = crate::project::record::Record {
        entry: moved.repository_path.clone(),
        ..record
    };
    let gone = (old != new).then_some((old.as_str(), None));
    let changes = gone
        .into_iter()
        .chain(std::iter::once((new.as_str(), Some(record))));
    if let Err(error) = memory::restore(state, changes) {
        cx.ui.warning(&format!(
            "the record of its last sync did not follow: {error}"
        ));
    }
}
