//! Opening the encrypted file of an entry, and explaining why it cannot be opened.

use crate::error::{ErrorKind, Problem};
use crate::keys::KeyError;
use crate::os::fs::FsError;
use crate::os::place::{FileState, Found, Place};
use crate::project::manifest::Entry;
use crate::sops::data_key::DataKey;
use crate::sops::document::SealedDocument;
use crate::sops::error::DocumentError;
use crate::sops::master_key::KeyId;
use crate::sops::metadata::Metadata;
use crate::sops::store::Format;
use crate::sops::{self, Opened};

use super::hints::quoted;
use super::lost_key;
use super::workspace::Workspace;

/// The longest encrypted file that is read, in bytes: more than what is written of the longest source.
const LARGEST_ENCRYPTED: u64 = 8 << 30;

/// An encrypted file as found in the repository, not yet opened.
pub struct Encrypted {
    /// Its place.
    pub place: Place,
    /// What was seen of the file.
    pub state: FileState,
    /// Its stored form.
    pub format: Format,
    /// Its content.
    pub sealed: SealedDocument,
}

/// What a look at an entry's encrypted file found.
pub enum Lookup {
    /// A SOPS file.
    Found(Box<Encrypted>),
    /// Nothing.
    Missing(Place),
}

/// Reads and parses the encrypted file of an entry.
///
/// # Errors
/// When it is no regular file, cannot be read, or is not a SOPS file of a form read here.
pub fn read_encrypted(workspace: &Workspace, entry: &Entry) -> Result<Lookup, Problem> {
    let name = &entry.repository_path;
    let place = place_in_repository(workspace, name)?;
    let path = place.path();
    let (state, content) = match place.read(LARGEST_ENCRYPTED) {
        Found::Missing => return Ok(Lookup::Missing(place)),
        Found::File(state, content) => (state, content.into_public()),
        Found::Other(kind) => {
            return Err(Problem::of(name, ErrorKind::NotRegular { path, kind })
                .with_help(workspace.hints.restore(name)));
        }
        Found::Unreadable(source) => {
            return Err(Problem::of(name, ErrorKind::Unreadable { path, source })
                .with_help("run as a user who may read the repository"));
        }
        Found::TooLarge(_) => {
            let kind = super::sides::TOO_LONG;
            return Err(Problem::of(name, ErrorKind::NotRegular { path, kind })
                .with_help(workspace.hints.older_version(name)));
        }
    };
    match sops::parse_sealed(content) {
        Ok((format, sealed)) => Ok(Lookup::Found(Box::new(Encrypted {
            place,
            state,
            format,
            sealed,
        }))),
        Err(error) => Err(damaged(workspace, name, error)),
    }
}

/// Returns the problem of a damaged encrypted file, with the way out that fits.
pub fn damaged(workspace: &Workspace, name: &str, error: DocumentError) -> Problem {
    let help = match &error {
        DocumentError::ConflictMarker { .. } => workspace.hints.end_merge(name),
        DocumentError::MacMismatch => format!(
            "{}; values in clear may be edited by hand only where the rule, and the file, say `mac_only_encrypted: true`",
            workspace.hints.older_version(name)
        ),
        _ => workspace.hints.older_version(name),
    };
    Problem::of(name, error).with_help(help)
}

/// Returns the place of a file by its path in the repository.
///
/// # Errors
/// When it leaves the repository or its folders may not be entered.
pub fn place_in_repository(workspace: &Workspace, name: &str) -> Result<Place, Problem> {
    workspace
        .repository
        .place(name.as_ref())
        .map_err(|error| leads_out_of_repository(name, error))
}

/// Returns the problem of an entry's file that cannot be reached below the repository.
pub fn leads_out_of_repository(name: &str, error: FsError) -> Problem {
    let help = match error {
        FsError::Outside { .. } => {
            "put a folder in the place of the link that leaves the repository"
        }
        FsError::ForeignLink { .. } => "put a folder in the place of the link",
        _ => "run as a user who may enter the folders of the repository",
    };
    Problem::of(name, error).with_help(help)
}

/// Returns the problem of a server path that cannot be reached below the root.
pub fn leads_out(name: &str, error: FsError) -> Problem {
    let help = match &error {
        FsError::Outside { .. } => {
            "give the row a server path that stays below the root, through no link that leaves it"
                .to_owned()
        }
        FsError::ForeignLink { link, .. } => {
            let link = quoted(&link.to_string_lossy());
            format!(
                "`chown -h \"$(id -u)\" {link}` where that is meant, else give the row the path of the folder itself"
            )
        }
        _ => "run as a user who may enter the folders of the server path".to_owned(),
    };
    Problem::of(name, error).with_help(help)
}

impl Encrypted {
    /// Returns who can open it.
    pub fn readers(&self) -> Vec<KeyId> {
        self.sealed.metadata.key_ids()
    }

    /// Returns the MAC token where the same token means the same content: in the binary form, whose one
    /// value it covers. Elsewhere comments, and values left in clear, may change under it.
    pub fn content_mac(&self) -> &str {
        match self.format {
            Format::Binary => &self.sealed.metadata.mac,
            _ => "",
        }
    }
}

/// Unwraps the data key of a file.
///
/// # Errors
/// With who could open it and every place that was looked at.
pub fn unwrap_key(
    workspace: &Workspace,
    entry: &Entry,
    metadata: &Metadata,
) -> Result<DataKey, Problem> {
    workspace
        .keyring
        .unwrap(metadata)
        .map_err(|error| key_problem(workspace, entry, error))
}

/// Returns the problem of a key error, recipients by name.
pub fn key_problem(workspace: &Workspace, entry: &Entry, error: KeyError) -> Problem {
    let name = &entry.repository_path;
    let manifest = &workspace.manifest;
    match error {
        KeyError::NoIdentity { wanted, looked_at } if lost_key::is_one_lost(workspace, &wanted) => {
            let (help, wanted) = lost_key::help(workspace, entry, &wanted);
            Problem::of(name, KeyError::NoIdentity { wanted, looked_at }).with_help(help)
        }
        KeyError::NoIdentity { wanted, looked_at } => {
            let wanted: Vec<_> = wanted
                .iter()
                .map(|key| manifest.name_recipient(key))
                .collect();
            let mut help = format!(
                "encrypted for: {}\nlooked for an identity in:",
                wanted.join(", ")
            );
            for place in &looked_at {
                help.push_str(&format!("\n  {}", manifest.name_recipients_in(place)));
            }
            help.push_str(
                if looked_at.iter().any(|place| place.contains("no terminal")) {
                    "\nrun it on a terminal, or name an identity without passphrase with `-i FILE`"
                } else {
                    "\nname the right one with `-i FILE`, or ask one of them to add your recipient"
                },
            );
            Problem::of(name, KeyError::NoIdentity { wanted, looked_at }).with_help(help)
        }
        KeyError::Damaged { recipient } => {
            let recipient = manifest.name_recipient(&recipient);
            Problem::of(name, KeyError::Damaged { recipient })
                .with_help(workspace.hints.older_version(name))
        }
        KeyError::TooFewGroups { needed, groups } => {
            let mut help = String::from("the groups:");
            for (number, group) in groups.iter().enumerate() {
                let state = if group.is_open {
                    "opened"
                } else {
                    "not opened"
                };
                let wanted: Vec<_> = group
                    .wanted
                    .iter()
                    .map(|key| manifest.name_recipient(key))
                    .collect();
                help.push_str(&format!("\n  {number}: {state}: {}", wanted.join(", ")));
            }
            let closed = groups.iter().find(|group| !group.is_open);
            if let Some(group) = closed {
                help.push_str("\nlooked for an identity in:");
                for place in &group.looked_at {
                    help.push_str(&format!("\n  {}", manifest.name_recipients_in(place)));
                }
            }
            Problem::of(name, KeyError::TooFewGroups { needed, groups }).with_help(help)
        }
        other => Problem::of(name, other)
            .with_help("mend the recipients in `.sops.yaml`, or open it with `sops`"),
    }
}

/// Opens an encrypted file completely, and returns the data key too.
///
/// # Errors
/// What is wrong with its key or content.
pub fn open(
    workspace: &Workspace,
    entry: &Entry,
    encrypted: &Encrypted,
) -> Result<(Opened, DataKey), Problem> {
    let key = unwrap_key(workspace, entry, &encrypted.sealed.metadata)?;
    let opened = sops::open(encrypted.format, &encrypted.sealed, &key)
        .map_err(|error| damaged(workspace, &entry.repository_path, error))?;
    Ok((opened, key))
}

/// Returns the stock command that opens an encrypted file for `readers`, complete with the
/// identity file where stock would not look there by itself. `path` is quoted already.
pub fn stock_command(
    workspace: &Workspace,
    format: Format,
    readers: &[KeyId],
    path: &str,
) -> String {
    let recipients: Vec<String> = readers
        .iter()
        .filter_map(|key| key.recipient().map(str::to_owned))
        .collect();
    let file = workspace.keyring.file_to_name(&recipients);
    if format == Format::Age {
        let file = file.as_ref().map(|file| quoted(&file.to_string_lossy()));
        let file = file.unwrap_or_else(|| "IDENTITY_FILE".to_owned());
        return format!("age -d -i {file} {path}");
    }
    let identity =
        file.map(|file| format!("SOPS_AGE_KEY_FILE={} ", quoted(&file.to_string_lossy())));
    let identity = identity.unwrap_or_default();
    let kind = format.name();
    format!("{identity}sops decrypt --input-type {kind} --output-type {kind} {path}")
}
