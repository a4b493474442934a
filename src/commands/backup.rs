//! Encrypted backups of what is about to be replaced or removed.
//!
//! A backup that nobody here could open would be none: each is opened again in memory before anything
//! is touched.

use std::io::Read;
use std::path::Path;

use crate::error::{ErrorKind, Problem};
use crate::os::RandomPool;
use crate::os::place::{FileState, Place};
use crate::os::state::StateDir;
use crate::project::plan::Side;
use crate::sops;
use crate::sops::data_key::DataKey;
use crate::sops::master_key::{KeyId, MasterKey};
use crate::sops::metadata::Metadata;
use crate::sops::store::Format;
use crate::ui::report::Backup;

use super::open::stock_command;
use super::workspace::Workspace;
use super::{Context, apply, hints};

/// Returns the problem that nobody could open a backup.
pub fn unopenable(name: &str) -> Problem {
    let message =
        "no backup of the server's file can be kept: no identity at hand could open it again";
    Problem::of(name, ErrorKind::Option(message.to_owned()))
        .with_help("name your identity with `-i FILE`; or move the server's file away by hand")
}

/// Stands for the time of what is not kept.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Returns the recipients of a backup: those of the entry that can be encrypted to, and those of the
/// identities at hand, so that who runs this can open it whatever the labels in a file say.
fn readers(workspace: &Workspace, entry: &[KeyId]) -> Vec<KeyId> {
    let keyring = &workspace.keyring;
    let own = keyring.recipients();
    let own = own.iter().map(|recipient| KeyId::age(recipient));
    let mut readers: Vec<KeyId> = Vec::new();
    for key in entry.iter().cloned().chain(own) {
        let is_known = readers
            .iter()
            .any(|known| known.canonical() == key.canonical());
        let is_usable = key
            .recipient()
            .is_none_or(|recipient| keyring.check_recipient(recipient).is_ok());
        if !is_known && is_usable {
            readers.push(key);
        }
    }
    readers
}

/// Makes the data key of a backup and wraps it; makes sure that an identity at hand unwraps it.
fn sealed_key(
    workspace: &Workspace,
    name: &str,
    entry: &[KeyId],
    now: &str,
    fill: sops::Fill<'_>,
) -> Result<(DataKey, Metadata), Problem> {
    let key = DataKey::generate(fill);
    let wrapped: Vec<MasterKey> = readers(workspace, entry)
        .into_iter()
        .filter_map(|id| {
            let enc = workspace.keyring.wrap_with(&id, &key).ok()?;
            let key = MasterKey::new(id, now);
            Some(MasterKey { enc, ..key })
        })
        .collect();
    let is_empty = wrapped.is_empty();
    let mut metadata = Metadata::new(None);
    metadata.set_groups(vec![wrapped], 0);
    match workspace.keyring.unwrap(&metadata) {
        Ok(again) if !is_empty && again.expose() == key.expose() => Ok((key, metadata)),
        _ => Err(unopenable(name)),
    }
}

/// Makes sure, without keeping anything, that a backup could be kept.
///
/// # Errors
/// What [`keep_plaintext`] would meet.
pub fn check(workspace: &Workspace, name: &str, entry: &[KeyId]) -> Result<(), Problem> {
    let mut pool = RandomPool::new();
    // Nothing of it is kept, nor its time.
    let mut fill = |buffer: &mut [u8]| pool.fill(buffer);
    sealed_key(workspace, name, entry, EPOCH, &mut fill).map(drop)
}

fn state_of<'w>(workspace: &'w Workspace, name: &str) -> Result<&'w StateDir, Problem> {
    workspace.state.as_ref().ok_or_else(|| {
        Problem::of(
            name,
            ErrorKind::Option("there is no state directory for the backup".to_owned()),
        )
        .with_help("name a folder you may write with `SECRETS_STATE_DIR=DIR`")
    })
}

/// Keeps a plaintext file of the server as it was seen, encrypted in the binary form. `label` goes
/// into the backup's name.
///
/// # Errors
/// When it cannot be kept, or could not be opened again: nothing may be replaced then.
pub fn keep_plaintext(
    cx: &Context,
    workspace: &Workspace,
    name: &str,
    label: &str,
    place: &Place,
    seen: &FileState,
    entry: &[KeyId],
) -> Result<Backup, Problem> {
    let state = state_of(workspace, name)?;
    let mut pool = RandomPool::new();
    let mut fill = |buffer: &mut [u8]| pool.fill(buffer);
    let now = cx.env.now();
    let (key, metadata) = sealed_key(workspace, name, entry, &now, &mut fill)?;
    let mut file = place.reopen(seen).map_err(|error| {
        Problem::of(name, error)
            .with_help("run the command again: it will look at the file as it is now")
    })?;
    let length = usize::try_from(seen.len).unwrap_or(usize::MAX);
    let sealed = sops::seal_stream(length, &key, &metadata, &now, &mut fill, |piece| {
        file.read_exact(piece)
    });
    let sealed = sealed.map_err(|source| {
        let path = place.path();
        Problem::of(name, ErrorKind::Unreadable { path, source }).with_help("run the command again")
    })?;
    let path = state
        .keep_backup(label, &now, &sealed)
        .map_err(apply::state_problem)?;
    let readers = metadata.key_ids();
    Ok(named(
        workspace,
        name,
        Side::Server,
        &path,
        Format::Binary,
        &readers,
    ))
}

/// Keeps a copy of an encrypted file of the repository.
///
/// # Errors
/// When it cannot be kept: nothing may be replaced then.
pub fn keep_encrypted(
    cx: &Context,
    workspace: &Workspace,
    name: &str,
    file: &Path,
    format: Format,
    entry: &[KeyId],
) -> Result<Backup, Problem> {
    let label = name.strip_suffix(".enc").unwrap_or(name);
    let path = state_of(workspace, name)?
        .keep_backup_of(label, &cx.env.now(), file)
        .map_err(apply::state_problem)?;
    Ok(named(
        workspace,
        name,
        Side::Repository,
        &path,
        format,
        entry,
    ))
}

fn named(
    workspace: &Workspace,
    name: &str,
    side: Side,
    path: &Path,
    format: Format,
    entry: &[KeyId],
) -> Backup {
    let path = path.display().to_string();
    let command = stock_command(workspace, format, entry, &hints::quoted(&path));
    Backup {
        entry: name.to_owned(),
        side,
        path,
        command,
    }
}

/// Returns whether the commit that this run began at keeps an encrypted file as it is; what cannot be told counts as no.
pub fn is_committed(workspace: &Workspace, file: &Path) -> bool {
    let checkout = workspace.checkout().unwrap_or(None);
    checkout
        .zip(workspace.head())
        .is_some_and(|(checkout, head)| checkout.is_in(head, file).unwrap_or(false))
}
