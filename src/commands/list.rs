//! `list`: the entries of the manifest, as they are understood, and who can read what.

use clap::Args;

use crate::error::{Error, Problem};
use crate::project::manifest::{Entry, Kind, WriteMode};
use crate::sops::master_key::KeyId;
use crate::ui::list::{ListRow, Reader, ReaderMark};

use super::govern::govern;
use super::open::{Lookup, read_encrypted};
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs};

/// List the entries of the manifest, and who can read what
///
/// The second table has a column for each recipient: `x` can read the file; `+` is in its rule and
/// cannot read it yet, `-` can read it and is not in its rule.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets list                  every entry, with format, owner and mode\n  secrets list --json 'envs/*'  some of them, for scripts"
)]
pub struct ListArgs {
    /// Entries, by repository path, path without `.enc`, server path, or glob [default: all]
    pub entries: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A wrong manifest, or a word that names no entry.
pub fn run(args: &ListArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, OwnerArgs::default())?;
    let entries = workspace.select_everywhere(&args.entries)?;
    let mut problems = Vec::new();
    let rows: Vec<ListRow> = entries
        .iter()
        .map(|entry| ListRow {
            entry: entry.repository_path.clone(),
            target: workspace.server_file(entry).display().to_string(),
            kind: if entry.kind == Kind::Secret {
                "secret"
            } else {
                "plain"
            },
            format: match entry.kind {
                Kind::Plain => "plain",
                Kind::Secret => entry.format_for_new().name(),
            },
            owner: entry.owner.clone(),
            group: entry.group.clone(),
            mode: entry.mode.map(|mode| format!("{mode:04o}")),
            write: if entry.write == WriteMode::InPlace {
                "in-place"
            } else {
                "rename"
            },
            optional: entry.optional,
            hosts: entry.hosts.clone(),
            family: entry.family.clone(),
            readers: readers(&workspace, entry).unwrap_or_else(|problem| {
                problems.push(problem);
                Vec::new()
            }),
        })
        .collect();
    cx.ui.show_list(&rows, &problems);
    Ok(Outcome::default().with_problems(&problems))
}

/// Says who can read an entry's file, and in what that differs from its rule. Needs no key.
fn readers(workspace: &Workspace, entry: &Entry) -> Result<Vec<Reader>, Problem> {
    if entry.kind == Kind::Plain {
        return Ok(Vec::new());
    }
    let sealed = match read_encrypted(workspace, entry)? {
        Lookup::Found(encrypted) => Some(encrypted),
        Lookup::Missing(_) => None,
    };
    let have: Vec<KeyId> = sealed
        .iter()
        .flat_map(|encrypted| encrypted.readers())
        .map(|key| key.canonical())
        .collect();
    let want = match govern(workspace, entry, &mut Vec::new()) {
        Ok(Some(governing)) => Some(governing.keys),
        _ => None,
    };
    let want: Option<Vec<KeyId>> = want.map(|keys| keys.iter().map(KeyId::canonical).collect());
    let mark = |key: &KeyId| match (&want, sealed.is_some()) {
        (Some(want), true) if !want.contains(key) => ReaderMark::NotInRule,
        _ => ReaderMark::CanRead,
    };
    let reader = |key: &KeyId, mark| Reader {
        name: match key.recipient() {
            Some(recipient) => workspace.manifest.short_name(recipient),
            None => workspace.manifest.name_key(key),
        },
        recipient: key.to_string(),
        mark,
    };
    let mut readers: Vec<Reader> = have.iter().map(|key| reader(key, mark(key))).collect();
    let missing = want.iter().flatten().filter(|key| !have.contains(key));
    readers.extend(missing.map(|key| reader(key, ReaderMark::OnlyInRule)));
    Ok(readers)
}
