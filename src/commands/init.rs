//! `init`: the manifest of a repository, new or from a Makefile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::place::Base;
use crate::os::users::{self, Database};
use crate::project::edit::{self, Row, quoted};
use crate::project::error::Refusal;
use crate::project::fold::fold;
use crate::project::makefile::{self, Migration, Root};
use crate::project::manifest::{ENCRYPTED_SUFFIX, Entry, Kind, MANIFEST_FILE};
use crate::project::placement::{check_repository_path, check_server_path};
use crate::rules::RULES_FILE;
use crate::sops;
use crate::sops::store::Format;
use crate::ui::init::{InitReport, RuleNote, UnreadNote};

use super::apply::{self, Work};
use super::govern::{govern, rule_help};
use super::repository::{ATTRIBUTES_FILE, RepositoryFile, ignore_lists_for};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs, StepArgs};

/// Keeps git from changing line ends in encrypted files.
const ATTRIBUTES: &str = "*.enc -text";

/// Write the manifest of this repository, new or from a Makefile
///
/// Without a Makefile: a commented manifest with a row for each encrypted file that is there. Adds
/// `.sops.yaml` where there is none, and lines to `.gitignore` and `.gitattributes`. A manifest that
/// exists is never overwritten.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets init                            a new manifest\n  secrets init --from-makefile --fold     from SECRET_FILES and INFRA_FILES of ./Makefile, families as patterns"
)]
pub struct InitArgs {
    /// Take the rows from the lists of a Makefile [default: `GNUmakefile`, `makefile`, `Makefile`]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = ".")]
    from_makefile: Option<PathBuf>,
    /// The Makefile's variables that list secret files (repeatable) [default: `SECRET_FILES`]
    #[arg(long = "secret-var", value_name = "NAME", requires = "from_makefile")]
    secret_variables: Vec<String>,
    /// The Makefile's variables that list plain files (repeatable) [default: `INFRA_FILES`]
    #[arg(long = "plain-var", value_name = "NAME", requires = "from_makefile")]
    plain_variables: Vec<String>,
    /// Write rows that differ only in a folder or an environment as one pattern
    #[arg(long)]
    fold: bool,
    #[command(flatten)]
    step: StepArgs,
}

/// What the manifest will say.
#[derive(Default)]
struct Draft {
    root: Option<String>,
    root_note: String,
    identity: Option<String>,
    owner: Option<String>,
    group: Option<String>,
    mode: Option<String>,
    secret: Vec<Row>,
    plain: Vec<Row>,
    /// Rows that this version could not work with, and why.
    aside: Vec<(Row, String)>,
    unread: Vec<UnreadNote>,
    notes: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A manifest that exists, a Makefile that does not, a folder that cannot be written.
pub fn run(args: &InitArgs, cx: &mut Context) -> Result<Outcome, Error> {
    apply::clean_up(cx, args.step.write_args());
    let path = manifest_path(cx);
    let shown = path.display().to_string();
    if fs::is_there(&path) {
        return Err(Problem::new(Refusal::AlreadyThere { path: shown })
            .with_help(
                "edit it, or `secrets add SERVER_PATH` adds a row; to begin anew, move it away",
            )
            .into());
    }
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let repository = Base::open(&folder).map_err(|error| {
        Problem::new(error).with_help("go into the repository, or name it with `-C DIR`")
    })?;
    let files = fs::files_below(repository.path());
    let mut draft = match &args.from_makefile {
        Some(named) => from_makefile(cx, args, named, &repository)?,
        None => from_files(&repository, &files),
    };
    if args.fold {
        draft.secret = fold(&draft.secret, &files);
        draft.plain = fold(&draft.plain, &files);
    }
    let text = draft.text();
    let workspace = Workspace::open_text(cx, OwnerArgs::default(), path.clone(), &text, &[])?;
    let _locks = apply::begin(cx, &workspace, args.step.write_args())?;

    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut changed = vec![RepositoryFile::read(&workspace.repository, &name)?];
    changed[0].content = Some(text.clone().into_bytes());
    let mut written = vec![name.into_owned()];
    let entries: Vec<&Entry> = workspace.manifest.entries.iter().collect();
    for list in ignore_lists_for(&workspace, &entries)? {
        written.push(list.name.clone());
        changed.push(list);
    }
    for (name, content) in beside(&workspace, &files)? {
        written.push(name.to_owned());
        let mut file = RepositoryFile::read(&workspace.repository, name)?;
        file.content = Some(content.into_bytes());
        changed.push(file);
    }
    let mut report = InitReport {
        manifest: shown,
        written,
        rows: draft.secret.len() + draft.plain.len(),
        unread: draft.unread,
        notes: draft.notes,
        rules: Vec::new(),
        dry_run: args.step.dry_run.then_some(text),
        is_migration: args.from_makefile.is_some(),
        needs_root: draft.root.is_none(),
    };
    if !args.step.dry_run {
        let mut work = Work::default();
        for file in &changed {
            work.jobs.extend(file.job()?);
        }
        apply::run(cx, &workspace, &work).map_err(|failure| failure.problem)?;
    }
    // Rules that this run makes name everybody; those that were there are tested, by a dry run too.
    if !report.written.iter().any(|name| name == RULES_FILE) {
        report.rules = rule_notes(&workspace);
    }
    cx.ui.show_init(&report);
    Ok(Outcome::default())
}

/// Returns where the manifest goes: as named, else into the working directory.
fn manifest_path(cx: &Context) -> PathBuf {
    let named = cx.global.manifest.as_ref();
    let named = named.map(|path| cx.env.absolute(path));
    named
        .or_else(|| cx.env.path_var("SECRETS_MANIFEST"))
        .unwrap_or_else(|| cx.env.cwd.join(MANIFEST_FILE))
}

/// Drafts a row for each encrypted file that is there.
fn from_files(repository: &Base, files: &[String]) -> Draft {
    let mut draft = Draft {
        root_note: "where the files are on the server".to_owned(),
        ..Draft::default()
    };
    for file in files {
        let Some(server_path) = file.strip_suffix(ENCRYPTED_SUFFIX) else {
            continue;
        };
        let is_sops = stored_format(repository, file).is_some();
        let is_fine = check_repository_path(file).is_ok() && check_server_path(server_path).is_ok();
        if is_sops && is_fine && !file.contains(['{', '}']) {
            let mut row = Row {
                repository_path: file.clone(),
                server_path: server_path.to_owned(),
                fields: Vec::new(),
            };
            row.fields.extend(format_field(repository, &row, None));
            draft.secret.push(row);
        }
    }
    draft
}

/// Returns the stored form of an encrypted file, where it is one.
fn stored_format(repository: &Base, file: &str) -> Option<Format> {
    let bytes = fs::read_regular(&repository.path().join(file)).ok()?;
    sops::parse_sealed(bytes).ok().map(|(format, _)| format)
}

/// Returns `format`, where the form that the name suggests would be wrong: the file is stored
/// otherwise, or the name's form cannot be stored.
fn format_field(
    repository: &Base,
    row: &Row,
    input_type: Option<&str>,
) -> Option<(&'static str, String)> {
    let usual = Entry::named(&row.repository_path, &row.server_path).format_for_new();
    let stored = stored_format(repository, &row.repository_path);
    let wanted = match (stored, input_type) {
        (Some(stored), _) => Some(stored),
        (None, Some("binary")) => Some(Format::Binary),
        _ => None,
    };
    let wanted = wanted.filter(|wanted| *wanted != usual)?;
    Some(("format", quoted(wanted.name())))
}

/// Drafts the manifest from the lists of a Makefile.
fn from_makefile(
    cx: &mut Context,
    args: &InitArgs,
    named: &Path,
    repository: &Base,
) -> Result<Draft, Error> {
    let path = if named == Path::new(".") {
        ["GNUmakefile", "makefile", "Makefile"]
            .iter()
            .map(|name| repository.path().join(name))
            .find(|path| fs::is_there(path))
            .unwrap_or_else(|| repository.path().join("Makefile"))
    } else {
        cx.env.absolute(named)
    };
    let bytes = fs::read_regular(&path).map_err(|source| {
        Problem::new(ErrorKind::Unreadable {
            path: path.clone(),
            source,
        })
        .with_help("name the Makefile: `--from-makefile FILE`")
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let names = |given: &[String], usual: &str| -> Vec<String> {
        if given.is_empty() {
            vec![usual.to_owned()]
        } else {
            given.to_vec()
        }
    };
    let secret = names(&args.secret_variables, "SECRET_FILES");
    let plain = names(&args.plain_variables, "INFRA_FILES");
    let migration = makefile::read(
        &text,
        &secret.iter().map(String::as_str).collect::<Vec<_>>(),
        &plain.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    if migration.secret.is_empty() {
        let message = format!(
            "{}: no row could be read from {}",
            path.display(),
            secret.join(", ")
        );
        let unread: Vec<_> = migration
            .unread
            .iter()
            .map(|note| format!("\nline {}: {}", note.line, note.what))
            .collect();
        return Err(Problem::new(ErrorKind::Option(message))
            .with_help(format!(
                "name the variable that lists the secret files with `--secret-var NAME`{}",
                unread.concat()
            ))
            .into());
    }
    Ok(draft(cx, &migration, repository))
}

fn draft(cx: &Context, migration: &Migration, repository: &Base) -> Draft {
    let (root, root_note) = match &migration.root {
        Root::Known(root) => (Some(root.clone()), String::new()),
        Root::Unknown {
            variable: Some(name),
        } => (
            None,
            format!("the Makefile takes it from $({name}), whose value it does not say"),
        ),
        Root::Unknown { variable: None } => (
            None,
            "the Makefile does not say where the files go".to_owned(),
        ),
    };
    // Server sides that share nothing but the top are below that.
    let all = migration.secret.iter().chain(&migration.plain);
    let is_absolute = |row: &&makefile::Row| row.server_path.starts_with('/');
    let are_below_top = root.is_none() && all.clone().all(|row| is_absolute(&row));
    let root = if are_below_top {
        Some("/".to_owned())
    } else {
        root
    };
    let mut draft = Draft {
        root_note,
        identity: migration.identity.clone(),
        ..Draft::default()
    };
    draft.unread = migration
        .unread
        .iter()
        .map(|note| UnreadNote {
            line: note.line,
            what: note.what.clone(),
        })
        .collect();
    let rows = |rows: &[makefile::Row], unread: &mut Vec<UnreadNote>| -> Vec<Row> {
        let mut kept = Vec::new();
        for row in rows {
            let server_path = if are_below_top {
                row.server_path.trim_start_matches('/')
            } else {
                &row.server_path
            };
            let checked = check_repository_path(&row.repository_path)
                .and_then(|()| check_server_path(server_path));
            let braces = row.repository_path.contains(['{', '}']);
            match checked {
                Ok(()) if !braces => kept.push(Row {
                    repository_path: row.repository_path.clone(),
                    server_path: server_path.to_owned(),
                    fields: Vec::new(),
                }),
                Ok(()) => unread.push(UnreadNote {
                    line: row.line,
                    what: format!(
                        "`{}`: braces in a path stand for captures",
                        row.repository_path
                    ),
                }),
                Err(reason) => unread.push(UnreadNote {
                    line: row.line,
                    what: format!("`{}`: {reason}", row.server_path),
                }),
            }
        }
        kept
    };
    draft.secret = rows(&migration.secret, &mut draft.unread);
    draft.plain = rows(&migration.plain, &mut draft.unread);
    // The user's own word for this run says where the files are now, not what the manifest says.
    let here = cx.global.root.as_ref().map(|root| cx.env.absolute(root));
    let here = here.or_else(|| root.as_ref().map(PathBuf::from));
    draft.root = root;
    take_attributes(&mut draft, migration, here.as_deref(), repository);
    for row in &mut draft.secret {
        let input_type = migration.input_type.as_deref();
        let field = format_field(repository, row, input_type);
        row.fields.extend(field);
    }
    draft
}

/// Owner, group and mode of one file, as text.
#[derive(Clone, Default, PartialEq, Eq)]
struct Attributes {
    owner: Option<String>,
    group: Option<String>,
    mode: Option<String>,
}

/// Takes owner, group and mode of the files on this server, else what the recipes set; what most of
/// them have becomes the default.
fn take_attributes(
    draft: &mut Draft,
    migration: &Migration,
    root: Option<&Path>,
    repository: &Base,
) {
    let of = |row: &Row| -> Attributes {
        let recipes = Attributes {
            owner: migration.owner.clone(),
            group: migration.group.clone(),
            mode: migration.mode.clone(),
        };
        let state = root.and_then(|root| {
            let base = Base::open(root).ok()?;
            let place = base.place(row.server_path.as_ref()).ok()?;
            match place.look() {
                crate::os::place::Found::File(state, _) => Some(state),
                _ => None,
            }
        });
        state.map_or(recipes, |state| Attributes {
            owner: Some(users::name_of(Database::Passwd, state.uid)),
            group: Some(users::name_of(Database::Group, state.gid)),
            // No secret file may be open to everybody for writing, or carry a special bit.
            mode: Some(format!("{:04o}", state.mode & 0o775)),
        })
    };
    let secret: Vec<Attributes> = draft.secret.iter().map(of).collect();
    let most = |get: fn(&Attributes) -> &Option<String>| -> Option<String> {
        let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
        for value in secret.iter().filter_map(|one| get(one).as_ref()) {
            *counts.entry(value).or_default() += 1;
        }
        let best = counts.into_iter().max_by_key(|(_, count)| *count);
        best.map(|(value, _)| value.clone())
    };
    draft.owner = most(|one| &one.owner);
    draft.group = most(|one| &one.group);
    draft.mode = most(|one| &one.mode);
    let (owner, group, mode) = (draft.owner.clone(), draft.group.clone(), draft.mode.clone());
    let differing = |row: &mut Row, have: &Attributes, is_secret: bool| {
        for (field, have, usual) in [
            ("owner", &have.owner, &owner),
            ("group", &have.group, &group),
            ("mode", &have.mode, &mode),
        ] {
            let counts = is_secret || field != "mode";
            if let Some(have) = have.as_ref().filter(|_| counts && have != usual) {
                row.fields.push((field, quoted(have)));
            }
        }
    };
    for (row, have) in draft.secret.iter_mut().zip(&secret) {
        differing(row, have, true);
    }
    let plain: Vec<Attributes> = draft.plain.iter().map(of).collect();
    for (row, have) in draft.plain.iter_mut().zip(&plain) {
        differing(row, have, false);
        // A plain file is 0644 where it is new: a program would not run any more.
        let mode = plain_mode(repository, root, row);
        if let Some(mode) = mode.filter(|&mode| mode != 0o644) {
            row.fields.push(("mode", quoted(&format!("{mode:04o}"))));
        }
    }
}

/// Returns the mode of a plain file: of the one on this server, else what git keeps of it.
fn plain_mode(repository: &Base, root: Option<&Path>, row: &Row) -> Option<u32> {
    let look = |base: &Base, path: &str| match base.place(path.as_ref()).ok()?.look() {
        crate::os::place::Found::File(state, _) => Some(state.mode & 0o775),
        _ => None,
    };
    let on_server = root
        .and_then(|root| Base::open(root).ok())
        .and_then(|base| look(&base, &row.server_path));
    let is_program = || {
        let mode = look(repository, &row.repository_path)?;
        (mode & 0o100 != 0).then_some(0o755)
    };
    on_server.or_else(is_program)
}

impl Draft {
    /// Returns the manifest.
    fn text(&self) -> String {
        let mut out = String::from(
            "# Which encrypted file of this repository is which file on the server.\n# `secrets status` compares them; `secrets --help` lists the commands.\nversion = 1\n\n[defaults]\n",
        );
        let mut line = |name: &str, value: &Option<String>, example: &str, note: &str| match value {
            Some(value) => out.push_str(&format!("{name:<8} = {}\n", quoted(value))),
            None if note.is_empty() => out.push_str(&format!("# {name:<8} = {example}\n")),
            None => out.push_str(&format!("# {name:<8} = {example:<26} # {note}\n")),
        };
        let root_note = format!("fill in: {}", self.root_note);
        line("root", &self.root, "\"/opt/docker\"", &root_note);
        line(
            "identity",
            &self.identity,
            "\"/opt/docker/.age-key.txt\"",
            "tried besides the usual SOPS_AGE_* sources",
        );
        line("owner", &self.owner, "\"root\"", "as it is where left out");
        line("group", &self.group, "\"root\"", "");
        line(
            "mode",
            &self.mode,
            "\"0640\"",
            "new files are 0600 where left out",
        );
        out.push_str("\n[files]  # encrypted in the repository = plaintext on the server\n");
        out.push_str(&table(&self.secret));
        for (row, why) in &self.aside {
            out.push_str(&format!("# {}  # {why}\n", row.to_line(0)));
        }
        if self.secret.is_empty() && self.aside.is_empty() {
            out.push_str("# \"shared/.env.enc\" = \"shared/.env\"\n");
        }
        if !self.plain.is_empty() {
            out.push_str("\n[plain]  # not secret: compared by `diff`, placed by `deploy`\n");
            out.push_str(&table(&self.plain));
        }
        out.push_str("\n# [recipients]  # names for keys, so that messages speak of people and hosts\n# server = \"age1…\"\n");
        out
    }
}

/// Returns rows with their equals signs in one column, as far as that stays readable.
fn table(rows: &[Row]) -> String {
    const WIDEST: usize = 60;
    let width = |row: &Row| quoted(&row.repository_path).chars().count() + 1;
    let column = rows
        .iter()
        .map(width)
        .filter(|&width| width <= WIDEST)
        .max();
    let lines = rows
        .iter()
        .map(|row| format!("{}\n", row.to_line(column.unwrap_or(0))));
    lines.collect::<Vec<_>>().concat()
}

/// Returns the files beside the manifest that are to be made or get further lines.
fn beside(workspace: &Workspace, files: &[String]) -> Result<Vec<(&'static str, String)>, Problem> {
    let repository = &workspace.repository;
    let mut changes = Vec::new();
    let attributes = RepositoryFile::read(repository, ATTRIBUTES_FILE)?;
    let line = [ATTRIBUTES.to_owned()];
    if let Some(text) = edit::add_lines(&attributes.text()?, &line, "") {
        changes.push((ATTRIBUTES_FILE, text));
    }
    let has_rules = workspace
        .repository
        .path()
        .ancestors()
        .take_while(|folder| match workspace.checkout() {
            Ok(Some(checkout)) => folder.starts_with(checkout.top()),
            _ => *folder == repository.path(),
        })
        .any(|folder| fs::is_there(&folder.join(RULES_FILE)));
    if !has_rules {
        changes.push((RULES_FILE, rules_text(workspace, files)));
    }
    Ok(changes)
}

/// Returns a rules file: for whom the files are encrypted that are there, else for the identities at
/// hand.
fn rules_text(workspace: &Workspace, files: &[String]) -> String {
    let repository = workspace.repository.path();
    let sealed = files
        .iter()
        .filter(|file| file.ends_with(ENCRYPTED_SUFFIX))
        .filter_map(|file| fs::read_regular(&repository.join(file)).ok())
        .filter_map(|bytes| sops::parse_sealed(bytes).ok());
    let mut recipients: Vec<String> = Vec::new();
    for (_, document) in sealed {
        for recipient in document.metadata.age_recipients() {
            if !recipients.iter().any(|known| known == recipient) {
                recipients.push(recipient.to_owned());
            }
        }
    }
    if recipients.is_empty() {
        recipients = workspace.keyring.recipients();
    }
    let mut text = String::from(
        "# Who may read which file. The first rule whose path_regex matches the path of the `.enc` file\n# counts. `secrets list` shows who can read what.\n",
    );
    if recipients.is_empty() {
        text.push_str("# `secrets keygen -o FILE` makes a key; its public half goes here.\n# creation_rules:\n#   - path_regex: \\.enc$\n#     age:\n#       - age1…\n");
        return text;
    }
    text.push_str("creation_rules:\n  - path_regex: \\.enc$\n    age:\n");
    for recipient in recipients {
        text.push_str(&format!("      - {recipient}\n"));
    }
    text
}

/// Tests every entry against the rules, and says what is to be mended.
fn rule_notes(workspace: &Workspace) -> Vec<RuleNote> {
    let mut notes: Vec<RuleNote> = Vec::new();
    let entries = workspace.manifest.entries.iter();
    for entry in entries.filter(|entry| entry.kind == Kind::Secret) {
        let mut refusals = Vec::new();
        let name = entry.repository_path.clone();
        match govern(workspace, entry, &mut refusals) {
            Ok(governing) => {
                refusals.extend(governing.and_then(|governing| governing.hidden));
            }
            Err(problem) => {
                notes.push(RuleNote {
                    entry: name,
                    message: problem.kind.to_string(),
                    help: problem.help.unwrap_or_default(),
                });
                continue;
            }
        }
        for refusal in refusals {
            notes.push(RuleNote {
                entry: name.clone(),
                message: refusal.to_string(),
                help: rule_help(&refusal).unwrap_or_default(),
            });
        }
    }
    notes
}
