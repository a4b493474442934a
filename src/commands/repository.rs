//! Files of the repository that are no entries: the manifest, `.sops.yaml`, git's lists.

use std::path::Path;

use crate::error::{ErrorKind, Problem};
use crate::os::place::{Base, FileState, Found, Ownership, Place};
use crate::os::staging::Attributes;
use crate::os::{process, users};

use super::apply::Job;

/// The ignore list of git.
pub const IGNORE_FILE: &str = ".gitignore";
/// The attributes of git.
pub const ATTRIBUTES_FILE: &str = ".gitattributes";
/// Stands above the lines that are ours in the ignore list.
pub const IGNORE_HEADING: &str = "# Plaintext of secret files.";

/// A file of the repository, as it is and as it is to be.
pub struct RepositoryFile {
    name: String,
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
            Found::TooLarge(_) => return Err(unusable("a file longer than can be")),
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

    /// Returns its text, empty where it is not there; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        let seen = self.seen.as_ref();
        seen.map_or_else(String::new, |(_, content)| {
            String::from_utf8_lossy(content).into_owned()
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
