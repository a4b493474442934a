//! Files of the repository that are no entries: the manifest, `.sops.yaml`, git's lists.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{ErrorKind, Problem};
use crate::os::place::{Base, FileState, Found, Ownership, Place};
use crate::os::staging::Attributes;
use crate::os::{fs, process, users};
use crate::project::edit;
use crate::project::manifest::{Entry, Kind, Manifest};

use super::apply::Job;
use super::workspace::Workspace;

/// The ignore list of git.
pub const IGNORE_FILE: &str = ".gitignore";
/// The attributes of git.
pub const ATTRIBUTES_FILE: &str = ".gitattributes";
/// Stands above the lines that are ours in the ignore list.
pub const IGNORE_HEADING: &str = "# Plaintext of secret files.";

/// A file of the repository, as it is and as it is to be.
pub struct RepositoryFile {
    /// Its path, relative to the manifest.
    pub name: String,
    place: Place,
    seen: Option<(FileState, Vec<u8>)>,
    /// What it is to hold; `None` leaves it as it is.
    pub content: Option<Vec<u8>>,
}

impl RepositoryFile {
    /// Looks at a file of the repository.
    ///
    /// # Errors
    /// Something that is no readable regular file.
    pub fn read(repository: &Base, name: &str) -> Result<Self, Problem> {
        let unusable = |kind| {
            let path = repository.path().join(name);
            Problem::new(ErrorKind::NotRegular { path, kind })
                .with_help("put a regular file in its place")
        };
        let place = repository.place(Path::new(name)).map_err(|error| {
            Problem::new(error).with_help("put a folder in the place of the link")
        })?;
        let seen = match place.read(u64::MAX) {
            Found::Missing => None,
            Found::File(state, content) => Some((state, content.into_public())),
            Found::Other(kind) => return Err(unusable(kind)),
            Found::TooLarge(_) => return Err(unusable(super::sides::TOO_LONG)),
            Found::Unreadable(source) => {
                let path = place.path();
                return Err(Problem::new(ErrorKind::Unreadable { path, source })
                    .with_help("run as a user who may read the repository"));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            place,
            seen,
            content: None,
        })
    }

    /// Returns whether it is there.
    pub fn exists(&self) -> bool {
        self.seen.is_some()
    }

    /// Returns its text, empty where it is not there.
    ///
    /// # Errors
    /// That it is not UTF-8: it could not be changed without harm.
    pub fn text(&self) -> Result<String, Problem> {
        let content = self.seen.as_ref().map(|(_, content)| content.clone());
        String::from_utf8(content.unwrap_or_default()).map_err(|_| {
            let path = self.place.path().display().to_string();
            Problem::new(ErrorKind::Option(format!("{path}: not UTF-8 text")))
                .with_help("save it as UTF-8 first")
        })
    }

    /// Returns what is to be written, where anything is. The file belongs to whom it belonged, a new
    /// one to the owner of its folder, also when root runs.
    ///
    /// # Errors
    /// A folder that cannot be looked at.
    pub fn job(&self) -> Result<Option<Job<'_>>, Problem> {
        let Some(content) = &self.content else {
            return Ok(None);
        };
        let seen = self.seen.as_ref();
        let (uid, gid) = match seen {
            Some((state, _)) => (state.uid, state.gid),
            None => self.place.folder_owner().map_err(|error| {
                Problem::new(error).with_help("run as a user who may enter the repository")
            })?,
        };
        let owner = if users::may_give_to_user(uid) {
            let gid = users::may_give_to_group(gid).then_some(gid);
            Ownership {
                uid: Some(uid),
                gid,
            }
        } else {
            Ownership::default()
        };
        let mode = seen.map_or(0o644 & !process::umask(), |(state, _)| state.mode & 0o777);
        Ok(Some(Job {
            name: &self.name,
            place: self.place.clone(),
            content,
            attributes: Attributes {
                owner,
                mode,
                keep_access_list: true,
            },
            folder_owner: owner,
            seen: seen.map(|(state, content)| (*state, content.as_slice())),
            in_place: false,
        }))
    }
}

/// Makes sure that a changed manifest has all entries it had, but for those named: its text may be laid
/// out in a way that an edit of lines does not understand.
///
/// # Errors
/// That the row has to be changed by hand.
pub fn check_rest(before: &Manifest, after: &Manifest, changed: &[&str]) -> Result<(), Problem> {
    let rest = |manifest: &Manifest| -> Vec<Entry> {
        let rows = manifest.families.iter().map(|family| &family.row);
        let rows = rows.chain(
            manifest
                .entries
                .iter()
                .filter(|entry| entry.family.is_none()),
        );
        let rest = rows.filter(|entry| !changed.contains(&entry.repository_path.as_str()));
        let mut rest: Vec<Entry> = rest
            .map(|entry| Entry {
                line: 0,
                ..entry.clone()
            })
            .collect();
        rest.sort_by(|one, other| one.repository_path.cmp(&other.repository_path));
        rest
    };
    if rest(before) == rest(after) {
        return Ok(());
    }
    let message = "the manifest is laid out in a way that is not understood".to_owned();
    Err(Problem::new(ErrorKind::Option(message))
        .with_help("give each row a line of its own below [files], or change the row by hand"))
}

/// Returns the ignore lists with the lines that keep the plaintexts of entries out of git, for those
/// inside the repository that are not ignored yet. A line goes into the nearest list that is there,
/// as that one has the last word.
///
/// # Errors
/// A list that cannot be read or changed.
pub fn ignore_lists_for(
    workspace: &Workspace,
    entries: &[&Entry],
) -> Result<Vec<RepositoryFile>, Problem> {
    let repository = &workspace.repository;
    let checkout = workspace.checkout().unwrap_or(None);
    let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Secret) {
        let own = repository.path().join(entry.path_without_suffix());
        let root = fs::canonical(&workspace.root_path);
        let target = root
            .unwrap_or_else(|| workspace.root_path.clone())
            .join(&entry.server_path);
        for path in [target.clone(), own] {
            // A name that nobody uses needs no line.
            if path != target && !fs::is_there(&path) {
                continue;
            }
            let inside = path.strip_prefix(repository.path()).ok();
            let Some(inside) = inside.and_then(Path::to_str) else {
                continue;
            };
            let is_ignored =
                checkout.is_some_and(|checkout| checkout.is_ignored(&path).unwrap_or(false));
            if !is_ignored {
                let (list, line) = nearest_list(repository, inside);
                let lines = lines.entry(list).or_default();
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
    }
    let mut lists = Vec::new();
    for (name, lines) in lines {
        let mut list = RepositoryFile::read(repository, &name)?;
        let text = edit::add_lines(&list.text()?, &lines, IGNORE_HEADING);
        list.content = text.map(String::into_bytes);
        lists.push(list);
    }
    Ok(lists)
}

/// Returns the ignore list nearest to a file, and the line that means the file there.
fn nearest_list(repository: &Base, inside: &str) -> (String, String) {
    let mut folder = inside;
    while let Some((parent, _)) = folder.rsplit_once('/') {
        folder = parent;
        let list = format!("{folder}/{IGNORE_FILE}");
        if fs::is_file(&repository.path().join(&list)) {
            let line = edit::ignore_line(&inside[folder.len() + 1..]);
            return (list, line);
        }
    }
    (IGNORE_FILE.to_owned(), edit::ignore_line(inside))
}
