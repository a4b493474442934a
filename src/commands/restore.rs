//! `restore`: puts an older version of an entry on the server, and keeps it there.

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::os::fs;
use crate::os::history::Version;
use crate::project::drift::short;
use crate::project::manifest::Entry;
use crate::project::plan::DecryptOptions;
use crate::secret::SecretBytes;
use crate::sops;

use super::drift::opened_quietly;
use super::memory::KeyInUse;
use super::open::{damaged, unwrap_key};
use super::ownership::{self, Owners, Purpose};
use super::placing::{self, Content, PlacingOptions};
use super::sides::target_of;
use super::workspace::Workspace;
use super::{Context, Outcome, WriteArgs, apply};

/// Put an older version of an entry on the server, and keep it there
///
/// The repository stays as it is. The record then says *pinned*: neither `encrypt` nor `decrypt` touches
/// the entry until you say `--force`, so that nothing brings the newer version back, or makes the old
/// one the newest, by accident.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets restore shared/.env --rev HEAD~3   the version of three commits ago\n  secrets decrypt --force shared/.env        go back to the repository's version"
)]
pub struct RestoreArgs {
    /// The entry, by repository path, path without `.enc`, or server path
    pub entry: String,
    /// The revision to take it from, as git names it: a commit, a tag, `HEAD~3`
    #[arg(long, value_name = "REV")]
    rev: String,
    #[command(flatten)]
    write: WriteArgs,
    /// Replace the server's file also where it was changed there; an encrypted backup is kept
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// What stands against it; nothing is changed then.
pub fn run(args: &RestoreArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open_to_write(cx, args.write)?;
    let entries = workspace.select_secret(std::slice::from_ref(&args.entry))?;
    let [entry] = entries[..] else {
        // More than one: says which.
        workspace.select_one(&args.entry)?;
        return Ok(Outcome::default());
    };
    let root = workspace.require_root()?;
    let _locks = apply::begin(cx, &workspace, args.write)?;
    let name = &entry.repository_path;
    let (version, bytes) = find_version(&workspace, name, &args.rev)?;
    let (format, sealed) =
        sops::parse_sealed(bytes).map_err(|error| damaged(&workspace, name, error))?;
    let key = unwrap_key(&workspace, entry, &sealed.metadata)?;
    let opened =
        sops::open(format, &sealed, &key).map_err(|error| damaged(&workspace, name, error))?;
    let is_current = is_current(&workspace, entry, &opened.plaintext);
    // Of a file that is known the old version says nothing; of another it is what is known.
    let target = target_of(&workspace, root, entry);
    let known = workspace.memory().known_of(&workspace, &target, name);
    let data_key = (!known.is_of_file).then(|| KeyInUse::found(key, format, &sealed.metadata));
    let content = Content {
        data_key,
        plaintext: opened.plaintext,
        readers: sealed.metadata.key_ids(),
        format,
        mac: String::new(),
        seal: String::new(),
        pinned: (!is_current).then(|| version.commit.clone()),
    };
    let options = PlacingOptions {
        write: args.write,
        plan: DecryptOptions {
            force: args.force,
            missing_only: false,
            // To go back is what is asked for.
            allow_rollback: true,
            is_restore: true,
        },
        create_root: false,
    };
    let mut problems = Vec::new();
    let owners = if args.write.owner.no_owner {
        Owners::new()
    } else {
        ownership::resolve(&entries, Purpose::Give, &mut problems)
    };
    let owner = owners.get(name).copied().unwrap_or_default();
    let prepared = placing::prepare(&workspace, entry, owner, options, content);
    let outcome = placing::finish(
        cx,
        &workspace,
        "restore",
        vec![prepared],
        options,
        problems,
        None,
    );
    if outcome == Outcome::default() && !args.write.dry_run {
        let commit = short(&version.commit);
        cx.ui.status(&if is_current {
            format!("{name} is that of commit {commit}, which is the repository's too")
        } else {
            format!(
                "{name} is pinned to commit {commit}, for you on this host: {} goes back to the repository's version, {} makes this one the repository's",
                workspace.hints.ours("decrypt --force", name),
                workspace.hints.ours("encrypt --force", name)
            )
        });
    }
    Ok(outcome)
}

/// Finds the version of a file in a revision.
fn find_version(
    workspace: &Workspace,
    name: &str,
    revision: &str,
) -> Result<(Version, Vec<u8>), Problem> {
    let failed = |message: String, help: String| {
        Problem::of(name, ErrorKind::Option(message)).with_help(help)
    };
    let history = format!("{} lists versions", workspace.hints.ours("history", name));
    let checkout = workspace.checkout().map_err(|error| {
        Problem::new(error).with_help("`git status` in the repository shows what is wrong with it")
    })?;
    let Some(checkout) = checkout else {
        let help = "run it in a clone of the repository".to_owned();
        return Err(failed(
            "the repository is not in git: it has no older version".to_owned(),
            help,
        ));
    };
    let file = workspace.repository.path().join(name);
    let found = checkout.version_at(&file, revision).map_err(|error| {
        let cut = if workspace.is_history_cut() {
            " (this is a shallow clone: its history is cut)"
        } else {
            ""
        };
        failed(format!("--rev {revision}: {error}{cut}"), history.clone())
    })?;
    match found {
        (version, Some(bytes)) => Ok((version, bytes)),
        (version, None) => {
            let commit = short(&version.commit);
            Err(failed(format!("commit {commit} has no such file"), history))
        }
    }
}

/// Returns whether the repository's file has this content now.
fn is_current(workspace: &Workspace, entry: &Entry, content: &SecretBytes) -> bool {
    let file = workspace.repository_file(entry);
    let now = fs::read_regular(&file).unwrap_or_default();
    opened_quietly(workspace, &now).is_some_and(|now| now == *content)
}
