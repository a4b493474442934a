//! `trust`: what of the manifest this user has agreed to on this host.
//!
//! Many may push to the repository, and the root says where a run as root reads and writes. It is
//! trusted on first use; when it changes, writing runs stop until the user says `trust`. A data key that
//! somebody else made is told of until it is trusted, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::os::fs;
use crate::os::fs::FsError;
use crate::os::git;
use crate::project::error::Refusal;
use crate::project::manifest::{Entry, Kind};
use crate::sops::store::Format;

use super::apply;
use super::foreign_key;
use super::hints::quoted;
use super::memory::{self, KeyInUse};
use super::open::{Lookup, read_encrypted, unwrap_key};
use super::sides::target_of;
use super::workspace::Workspace;
use super::{Context, Outcome, OwnerArgs};

/// The name of the file in the state directory.
const TRUST_FILE: &str = "trust.json";

/// Agree to the root that the manifest names now, or to data keys and readers of entries
///
/// The root is trusted when it is first used. Where the manifest names another one later, commands
/// that write stop until this one was run by the same user on the same host. With entries it agrees to
/// the data keys that their encrypted files have now, and to who can read them and what stays in clear,
/// which somebody else changed since the last sync; and to their files on the server as they are, where an
/// interrupted run was writing into them.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets trust               agree to the root of the manifest\n  secrets trust shared/.env    agree to the data key that a colleague gave this file"
)]
pub struct TrustArgs {
    /// Entries whose data keys and readers to agree to, by repository path, path without `.enc`, server path, or
    /// glob; without any, the root is agreed to
    pub entries: Vec<String>,
}

/// What is trusted: roots by manifest.
#[derive(Default, Serialize, Deserialize)]
struct Trusted {
    roots: BTreeMap<String, String>,
}

/// Runs the command.
///
/// # Errors
/// When the state directory cannot be written.
pub fn run(args: &TrustArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let workspace = Workspace::open(cx, OwnerArgs::default())?;
    if !args.entries.is_empty() {
        return agree_to_keys(&workspace, &args.entries, cx);
    }
    let Some(root) = &workspace.declared_root else {
        if cx.ui.json {
            cx.ui.show_trust("", None, &[]);
        }
        cx.ui
            .status("the root is your own word (`--root`, `SECRETS_ROOT`), or none is declared: nothing to agree to");
        return Ok(Outcome::default());
    };
    let before = trusted_root(&workspace)
        .map_err(apply::state_problem)?
        .unwrap_or(None);
    let root = meant(&workspace, root);
    agree(&workspace, &root).map_err(apply::state_problem)?;
    let is_moved = before
        .as_ref()
        .is_some_and(|before| Path::new(before) != root);
    let root = root.display();
    if cx.ui.json {
        cx.ui.show_trust(&root.to_string(), before.as_deref(), &[]);
    }
    cx.ui.status(&match before {
        Some(before) if is_moved => {
            format!("trusted root: {root} (before: {before})")
        }
        _ => format!("trusted root: {root}"),
    });
    Ok(Outcome::default())
}

/// Agrees to the data keys of entries.
fn agree_to_keys(
    workspace: &Workspace,
    words: &[String],
    cx: &mut Context,
) -> Result<Outcome, Error> {
    let root = workspace.require_root()?;
    let state = apply::state_of(workspace).map_err(apply::state_problem)?;
    let half_done = state.traces(&[root.path()]).half_done;
    let (mut keys, mut said, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for entry in workspace.select(words)? {
        let name = &entry.repository_path;
        let key = match key_of(workspace, entry) {
            Ok(key) => key,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let Some(key) = key else {
            said.push(format!("{name}: nothing to agree to"));
            continue;
        };
        let target = target_of(workspace, root, entry);
        said.push(match foreign_key::find(workspace, entry, &target, &key) {
            Some(found) => format!("{name}: agreed, {}", found.in_words()),
            None if half_done.contains(&target) => {
                format!("{name}: its file on the server is taken as it is")
            }
            None => format!("{name}: nothing to agree to"),
        });
        keys.push((entry, target, key));
    }
    if !problems.is_empty() {
        return Err(Error { problems });
    }
    memory::agree_to_keys(state, workspace, &keys).map_err(apply::state_problem)?;
    let files: Vec<_> = keys.iter().map(|(_, target, _)| target.clone()).collect();
    state.settle(&files);
    for line in &said {
        cx.ui.status(line);
    }
    let names = keys.iter().map(|(entry, ..)| entry.repository_path.clone());
    let agreed: Vec<_> = names.collect();
    if cx.ui.json {
        let root = workspace.declared_root.as_ref();
        let root = root.map(|root| root.display().to_string());
        cx.ui.show_trust(&root.unwrap_or_default(), None, &agreed);
    }
    Ok(Outcome::default())
}

/// Returns how an entry's file is encrypted; nothing where there is none, or no rule that says it of a raw age file.
fn key_of(workspace: &Workspace, entry: &Entry) -> Result<Option<KeyInUse>, Problem> {
    if entry.kind == Kind::Plain {
        return Ok(None);
    }
    match read_encrypted(workspace, entry)? {
        Lookup::Found(found) if found.format == Format::Age => {
            foreign_key::by_rule(workspace, entry)
        }
        Lookup::Found(found) => {
            let key = unwrap_key(workspace, entry, &found.sealed.metadata)?;
            let metadata = &found.sealed.metadata;
            Ok(Some(KeyInUse::found(key, found.format, metadata)))
        }
        Lookup::Missing(_) => Ok(None),
    }
}

/// Stops a writing run whose manifest names another root than the one that was trusted. The first
/// one is trusted, unless the run is a dry one.
///
/// # Errors
/// The refusal.
pub fn check(workspace: &Workspace, is_dry: bool) -> Result<(), Problem> {
    let Some(root) = &workspace.declared_root else {
        return Ok(());
    };
    let root = &meant(workspace, root);
    let trusted = trusted_root(workspace).map_err(apply::state_problem)?;
    match trusted.map_err(|()| {
        let help = format!("{} writes it anew", workspace.hints.ours_for_all("trust"));
        let now = root.display().to_string();
        let trusted = "what a damaged file of the state directory does not say".to_owned();
        Problem::new(Refusal::RootChanged { trusted, now }).with_help(help)
    })? {
        Some(trusted) if Path::new(&trusted) == root => Ok(()),
        Some(trusted) => {
            let now = root.display().to_string();
            let help = format!(
                "if that is meant: {}; `--root DIR` is your own word for one run",
                workspace.hints.ours_for_all("trust")
            );
            Err(Problem::new(Refusal::RootChanged { trusted, now }).with_help(help))
        }
        None => {
            another_root(workspace, root)?;
            if is_dry {
                return Ok(());
            }
            // Where nothing can be kept, nothing was trusted before either.
            drop(agree(workspace, root));
            Ok(())
        }
    }
}

/// Returns the root as it is trusted: inside the repository with its links resolved, as a pushed link can lead elsewhere
/// under the same name.
fn meant(workspace: &Workspace, root: &Path) -> PathBuf {
    let folder = workspace.manifest_path.parent().unwrap_or(Path::new("/"));
    let is_inside = root.starts_with(folder) || root.starts_with(workspace.repository.path());
    if is_inside {
        fs::resolved(root)
    } else {
        root.to_owned()
    }
}

/// Stops a run with a manifest that is new here, in a checkout of which another manifest is trusted with another root: a
/// pushed one in a subfolder is found first by who stands there.
fn another_root(workspace: &Workspace, root: &Path) -> Result<(), Problem> {
    let top = git::work_tree_of(&workspace.manifest_path);
    let all = trusted_roots(workspace).ok().and_then(Result::ok);
    let (Some(top), Some(all)) = (top, all) else {
        return Ok(());
    };
    let top = fs::canonical(top).unwrap_or_else(|| top.to_owned());
    let others = all.roots.iter();
    let mut others = others.filter(|(manifest, _)| Path::new(manifest).starts_with(&top));
    let Some((manifest, trusted)) = others.next() else {
        return Ok(());
    };
    if Path::new(trusted) == root || others.any(|(_, trusted)| Path::new(trusted) == root) {
        return Ok(());
    }
    let help = format!(
        "if that is meant: {}; `-m {}` works with the other",
        workspace.hints.ours_for_all("trust"),
        quoted(manifest)
    );
    Err(Problem::new(Refusal::RootOfAnother {
        new: manifest_name(workspace),
        manifest: manifest.clone(),
        trusted: trusted.clone(),
        now: root.display().to_string(),
    })
    .with_help(help))
}

/// Returns the root that is trusted; the inner error is a file that is damaged.
fn trusted_root(workspace: &Workspace) -> Result<Result<Option<String>, ()>, FsError> {
    let all = trusted_roots(workspace)?;
    Ok(all.map(|all| all.roots.get(&manifest_name(workspace)).cloned()))
}

fn trusted_roots(workspace: &Workspace) -> Result<Result<Trusted, ()>, FsError> {
    let Some(state) = &workspace.state else {
        return Ok(Ok(Trusted::default()));
    };
    let text = match state.read(TRUST_FILE) {
        // Where no directory can be, nothing was trusted before.
        Err(FsError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            None
        }
        other => other?,
    };
    let Some(text) = text else {
        return Ok(Ok(Trusted::default()));
    };
    Ok(serde_json::from_slice::<Trusted>(&text).map_err(drop))
}

fn agree(workspace: &Workspace, root: &Path) -> Result<(), FsError> {
    let Some(state) = &workspace.state else {
        return Ok(());
    };
    state.update(TRUST_FILE, |old| {
        let mut trusted: Trusted = old
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        trusted
            .roots
            .insert(manifest_name(workspace), root.display().to_string());
        serde_json::to_vec(&trusted).unwrap_or_default()
    })
}

fn manifest_name(workspace: &Workspace) -> String {
    let path = &workspace.manifest_path;
    let path = fs::canonical(path).unwrap_or_else(|| path.clone());
    path.display().to_string()
}
