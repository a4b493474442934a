//! Reading both sides of an entry, repository and server, and comparing them.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::error::{ErrorKind, Problem};
use crate::os::history::Version;
use crate::os::place::{Base, FileState, Found, Ownership, Place};
use crate::project::diff;
use crate::project::drift::{Drift, short};
use crate::project::error::Refusal;
use crate::project::key_drift::{KeyDrift, Moved};
use crate::project::manifest::Entry;
use crate::secret::SecretBytes;
use crate::ui::diff::Comparison;
use crate::ui::keys::{KeyRow, RepositorySince, ServerSince};

use super::OwnerArgs;
use super::drift;
use super::foreign_key::{self, ForeignKey};
use super::hints;
use super::memory::KeyInUse;
use super::open::{Lookup, leads_out, open, place_in_repository, read_encrypted};
use super::origin::{self, Since};
use super::ownership::{self, Purpose};
use super::workspace::Workspace;

/// What a file is that is longer than any is read.
pub const TOO_LONG: &str = "a file longer than 8 GiB";

/// Both sides of an entry.
pub struct Sides {
    /// The repository's plaintext.
    pub repository: Option<SecretBytes>,
    /// The `mac` token of the encrypted file, empty for a row of `[plain]`.
    pub mac: String,
    /// The data key of the encrypted file, where there is one.
    pub data_key: Option<KeyInUse>,
    /// The server's file.
    pub server: Option<(FileState, SecretBytes)>,
    /// Remarks on opening it.
    pub warnings: Vec<String>,
}

/// Returns a lookup of declared owners, none with `--no-owner`. Accounts that do not exist here are
/// problems: what is declared cannot be compared.
pub fn declared_owners(
    entries: &[&Entry],
    args: OwnerArgs,
    problems: &mut Vec<Problem>,
) -> impl Fn(&Entry) -> Ownership + Sync + use<> {
    let owners = if args.no_owner {
        HashMap::new()
    } else {
        ownership::resolve(entries, Purpose::Compare, problems)
    };
    move |entry: &Entry| {
        let owner = owners.get(&entry.repository_path).copied();
        owner.unwrap_or_default()
    }
}

/// Reads both sides of a secret entry.
///
/// # Errors
/// When one of them cannot be read or opened.
pub fn read_sides(workspace: &Workspace, root: &Base, entry: &Entry) -> Result<Sides, Problem> {
    let (repository, mac, warnings, data_key) = match read_encrypted(workspace, entry)? {
        Lookup::Missing(_) => (None, String::new(), Vec::new(), None),
        Lookup::Found(encrypted) => {
            let (opened, key) = open(workspace, entry, &encrypted)?;
            let mac = encrypted.content_mac().to_owned();
            let key = foreign_key::in_use(workspace, entry, &encrypted, key);
            (Some(opened.plaintext), mac, opened.warnings, key)
        }
    };
    Ok(Sides {
        data_key,
        repository,
        mac,
        server: read_server(workspace, root, entry)?,
        warnings,
    })
}

/// Reads both sides of a row of `[plain]`.
///
/// # Errors
/// When one of them cannot be read.
pub fn read_plain_sides(
    workspace: &Workspace,
    root: &Base,
    entry: &Entry,
) -> Result<Sides, Problem> {
    let name = &entry.repository_path;
    let repository = read_plain(workspace, entry)?;
    let server = read_server(workspace, root, entry)?;
    // What is the same on both sides is neither placed nor shown.
    let is_same = match (&repository, &server) {
        (Some(repository), Some((_, server))) => repository == server,
        (repository, _) => repository.is_none(),
    };
    if !is_same {
        check_shared(workspace, entry, &place_in_repository(workspace, name)?)?;
    }
    Ok(Sides {
        data_key: None,
        repository,
        mac: String::new(),
        server,
        warnings: Vec::new(),
    })
}

/// Reads the repository's file of a row of `[plain]`.
///
/// # Errors
/// As [`read_file`]; what no row may place.
pub fn read_plain(workspace: &Workspace, entry: &Entry) -> Result<Option<SecretBytes>, Problem> {
    let place = place_in_repository(workspace, &entry.repository_path)?;
    workspace.check_plain(entry, &place)?;
    let shown = place.path();
    Ok(read_file(&place, entry, shown)?.map(|(_, content)| content))
}

/// Makes sure that git tracks the repository's file of a row of `[plain]`, where there is a checkout: what only lies in its
/// folders is no file that is shared, and whoever pushes a row for it must not have it placed or shown.
///
/// # Errors
/// `UntrackedPlain`; a checkout that cannot be read.
pub fn check_shared(workspace: &Workspace, entry: &Entry, place: &Place) -> Result<(), Problem> {
    let name = &entry.repository_path;
    let path = place.path();
    // The checkout of the manifest: a repository below it is none that is shared with it.
    let ask = || -> Result<(bool, bool), ErrorKind> {
        Ok(match workspace.checkout()? {
            Some(checkout) => (
                checkout.is_tracked(&path)?,
                checkout.is_ignored(&path).unwrap_or(false),
            ),
            None => (true, false),
        })
    };
    let (is_shared, is_ignored) = ask().map_err(|error| {
        Problem::of(name, error).with_help("`git status` shows what is wrong with the checkout")
    })?;
    if is_shared {
        return Ok(());
    }
    let path = path.display().to_string();
    let help = if is_ignored {
        "git ignores it: leave the row out, or name another file".to_owned()
    } else {
        let add = format!("`git add -- {}`", hints::quoted(&path));
        format!("{add} where it may be read by all who read the repository")
    };
    Err(Problem::of(name, Refusal::UntrackedPlain { path }).with_help(help))
}

impl Sides {
    /// Says which side moved.
    pub fn drift(&self, workspace: &Workspace, root: &Base, entry: &Entry) -> Drift {
        let target = target_of(workspace, root, entry);
        let repository = self.repository.as_ref();
        drift::of(
            workspace,
            &drift::Sides {
                entry,
                target: &target,
                server: self.server.as_ref().map(|(_, content)| content.expose()),
                repository: repository.map(|content| drift::Stored {
                    content: Some(content.expose()),
                    mac: &self.mac,
                }),
                is_restored: false,
            },
        )
    }

    /// Says whether somebody else gave the encrypted file another data key since the last sync.
    pub fn foreign_key(
        &self,
        workspace: &Workspace,
        root: &Base,
        entry: &Entry,
    ) -> Option<ForeignKey> {
        let target = target_of(workspace, root, entry);
        foreign_key::find(workspace, entry, &target, self.data_key.as_ref()?)
    }

    /// Says which side changed which key since when.
    pub fn keys(&self, workspace: &Workspace, entry: &Entry, drift: &Drift) -> Vec<KeyRow> {
        let since = origin::since(workspace, entry, &drift.keys, drift.last_commit.as_deref());
        let modified = self.server.as_ref().map(|(state, _)| ServerSince {
            modified: in_words(state.modified_seconds()),
        });
        let row = |one: &KeyDrift| KeyRow {
            change: one.change.word(),
            sign: one.change.sign(),
            key: one.key.clone(),
            side: one.moved.word(),
            repository: since.get(&one.key).map(|since| match since {
                Since::Uncommitted => since_version(None),
                Since::Commit(version) => since_version(Some(version)),
            }),
            server: modified.clone().filter(|_| one.moved != Moved::Repository),
        };
        drift.keys.iter().map(row).collect()
    }

    /// Says in words what of owner, group and mode differs: from what is declared, else from what the
    /// last sync saw.
    pub fn attributes(
        &self,
        workspace: &Workspace,
        root: &Base,
        entry: &Entry,
        owner: Ownership,
    ) -> Vec<String> {
        let Some((state, _)) = &self.server else {
            return Vec::new();
        };
        let record = workspace
            .memory()
            .record_of(&target_of(workspace, root, entry));
        let mut drift = ownership::drift(state, owner, entry.mode);
        drift.extend(ownership::drift_since(state, owner, entry.mode, record));
        drift
    }
}

/// Returns a version as it is shown; `None` for what is not committed.
pub fn since_version(version: Option<&Version>) -> RepositorySince {
    RepositorySince {
        committed: version.is_some(),
        commit: version.map(|version| short(&version.commit).to_owned()),
        date: version.map(|version| in_words(version.seconds)),
        author: version.map(|version| version.author.clone()),
    }
}

/// Returns a time in seconds since 1970 as RFC 3339, UTC.
pub fn in_words(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds);
    time.map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

/// Returns an entry's file on the server with links resolved, as far as that can be done.
pub fn target_of(workspace: &Workspace, root: &Base, entry: &Entry) -> PathBuf {
    root.place(entry.server_path.as_ref())
        .map_or_else(|_| workspace.server_file(entry), |place| place.path())
}

/// Reads the server's file of an entry.
///
/// # Errors
/// As [`read_file`]; a server path that cannot be reached below the root.
pub fn read_server(
    workspace: &Workspace,
    root: &Base,
    entry: &Entry,
) -> Result<Option<(FileState, SecretBytes)>, Problem> {
    let name = &entry.repository_path;
    let place = root
        .place(entry.server_path.as_ref())
        .map_err(|error| leads_out(name, error))?;
    workspace.check_source(entry, &place)?;
    read_file(&place, entry, workspace.server_file(entry))
}

/// Reads a file that may be missing; anything that is no readable regular file is a problem. `shown`
/// is its path for messages.
///
/// # Errors
/// `NotRegular`, `Unreadable`.
pub fn read_file(
    place: &Place,
    entry: &Entry,
    shown: PathBuf,
) -> Result<Option<(FileState, SecretBytes)>, Problem> {
    let kind = match place.read(u64::MAX) {
        Found::Missing => return Ok(None),
        Found::File(state, content) => return Ok(Some((state, content))),
        Found::Other(kind) => ErrorKind::NotRegular { path: shown, kind },
        Found::TooLarge(_) => ErrorKind::NotRegular {
            path: shown,
            kind: TOO_LONG,
        },
        Found::Unreadable(source) => {
            return Err(Problem::of(
                &entry.repository_path,
                ErrorKind::Unreadable {
                    path: shown,
                    source,
                },
            )
            .with_help("run as a user who may read it"));
        }
    };
    Err(Problem::of(&entry.repository_path, kind)
        .with_help("put a regular file in its place, or give the row another path"))
}

/// Says how the two sides of an entry compare; an optional entry may be on neither.
pub fn compare(entry: &Entry, repository: Option<&[u8]>, server: Option<&[u8]>) -> Comparison {
    match (repository, server) {
        (None, None) if entry.optional => Comparison::Same,
        (None, None) => Comparison::NeitherSide,
        (Some(_), None) => Comparison::OnlyRepository,
        (None, Some(_)) => Comparison::OnlyServer,
        (Some(repository), Some(server)) => {
            let differences = diff::of(entry, repository, server);
            if differences.is_empty() {
                Comparison::Same
            } else {
                Comparison::Differs(differences)
            }
        }
    }
}
