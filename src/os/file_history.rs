//! The history of one file: the commits that changed it, each with what was there before.
//!
//! Simplified as `git log -- FILE` does it: a commit that has the file of one of its parents leads on to
//! that parent alone; but not a merge that left out what another parent had changed since they parted, which is a
//! change of its own: an older version comes back by it. Renames are not followed.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use git2::{ErrorClass, ErrorCode, Oid, Repository};

use super::git::{Checkout, GitError, Reader, locked};
use super::history::{Step, Version, commits, is_cut};

/// Commits since some commit, or all, walked once.
pub(super) type Graphs = Mutex<HashMap<Option<String>, Option<Arc<Vec<Step>>>>>;

/// Trees of the best common ancestors of two commits.
pub(super) type Bases = Mutex<HashMap<(Oid, Oid), Option<Oid>>>;

/// A commit that changed a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The commit.
    pub version: Version,
    /// The blob it left, in hexadecimal; `None` where it removed the file.
    pub after: Option<String>,
    /// The blobs of its parents, in hexadecimal; empty for a commit without parents, and where the
    /// history is cut.
    pub before: Vec<Option<String>>,
}

impl Checkout {
    /// Returns the commits that changed the file at the absolute path `path`, newest first. With
    /// `since`, a commit, only those after it; all where it is not known here.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn file_history(
        &self,
        path: &Path,
        since: Option<&str>,
    ) -> Result<Vec<FileChange>, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(Vec::new());
        };
        match self.reader() {
            Reader::Library(shared) => {
                let folder = locked(shared).path().to_owned();
                // A handle of its own: several entries are looked up at once.
                let repository = Repository::open(folder)?;
                let nodes = self
                    .graph(&repository, since)
                    .and_then(|known| match known {
                        None if since.is_some() => self.graph(&repository, None),
                        known => Ok(known),
                    });
                match nodes {
                    Err(error) if self.turns_to_program(&error) => self.file_history(path, since),
                    nodes => {
                        let nodes = nodes?.unwrap_or_default();
                        let mut base = |one, other| self.base(&repository, one, other);
                        Ok(changes_in_library(
                            &repository,
                            relative,
                            &nodes,
                            &mut base,
                        )?)
                    }
                }
            }
            Reader::Program => self.changes_through_program(&relative.to_string_lossy(), since),
        }
    }

    /// Returns the content of a blob, by its name in hexadecimal.
    ///
    /// # Errors
    /// When it is not here.
    pub fn blob(&self, id: &str) -> Result<Vec<u8>, GitError> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                Ok(repository.find_blob(Oid::from_str(id)?)?.content().to_vec())
            }
            Reader::Program => self.git(&["cat-file", "blob", id]),
        }
    }

    /// Returns the commit that a revision names, in full, and its version of the file at the absolute
    /// path `path`; `None` for the content where it has none.
    ///
    /// # Errors
    /// When there is no such revision.
    pub fn version_at(
        &self,
        path: &Path,
        revision: &str,
    ) -> Result<(Version, Option<Vec<u8>>), GitError> {
        let relative = self.inside(path).unwrap_or(path);
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let commit = repository
                    .revparse_single(revision)
                    .and_then(|object| object.peel_to_commit());
                let commit = match commit.map_err(GitError::from) {
                    Err(error) if self.turns_to_program(&error) => {
                        return self.version_at(path, revision);
                    }
                    commit => commit?,
                };
                let version = Version {
                    commit: commit.id().to_string(),
                    seconds: commit.time().seconds(),
                    author: String::from_utf8_lossy(commit.author().name_bytes()).into_owned(),
                };
                let blob = blob_of(&repository, commit.tree_id(), relative)?;
                let content = blob.map(|id| repository.find_blob(id)).transpose()?;
                Ok((version, content.map(|blob| blob.content().to_vec())))
            }
            Reader::Program => {
                let named = format!("{revision}^{{commit}}");
                let shown = self.git(&[
                    "show",
                    "-s",
                    "--format=%H %ct %an",
                    "--end-of-options",
                    &named,
                ])?;
                let version = parse_version(String::from_utf8_lossy(&shown).trim());
                let content = self.blob_through_program(&version.commit, relative)?;
                Ok((version, content))
            }
        }
    }

    /// Returns the tree of the best common ancestor of two commits, looked for once in a run.
    fn base(&self, repository: &Repository, one: Oid, other: Oid) -> Option<Oid> {
        let mut bases = self
            .bases
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *bases.entry((one, other)).or_insert_with(|| {
            let base = repository.merge_base(one, other).ok()?;
            Some(repository.find_commit(base).ok()?.tree_id())
        })
    }

    /// Walks the commits once, newest first, whatever file is looked for. `None` when `since` is not
    /// known here.
    fn graph(
        &self,
        repository: &Repository,
        since: Option<&str>,
    ) -> Result<Option<Arc<Vec<Step>>>, GitError> {
        let mut graphs = self
            .graphs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = since.map(str::to_owned);
        if let Some(known) = graphs.get(&key) {
            return Ok(known.clone());
        }
        let hidden = since.map(|since| {
            let commit = Oid::from_str(since).and_then(|id| repository.find_commit(id));
            commit.map(|commit| commit.id())
        });
        let nodes = match hidden.transpose() {
            Ok(hidden) => commits(repository, hidden.as_slice())?.map(Arc::new),
            Err(_) => None,
        };
        graphs.insert(key, nodes.clone());
        Ok(nodes)
    }

    fn changes_through_program(
        &self,
        relative: &str,
        since: Option<&str>,
    ) -> Result<Vec<FileChange>, GitError> {
        if self
            .git(&["rev-parse", "--verify", "--quiet", "HEAD"])
            .is_err()
        {
            // No commit yet.
            return Ok(Vec::new());
        }
        let known = since.filter(|since| self.git(&["cat-file", "-e", since]).is_ok());
        let range = known.map_or_else(|| "HEAD".to_owned(), |since| format!("{since}..HEAD"));
        let listed = self.git(&[
            "--literal-pathspecs",
            "log",
            "--topo-order",
            "--format=%H %ct %an%x00%P",
            &range,
            "--",
            relative,
        ])?;
        let blob = |commit: &str| {
            let object = format!("{commit}:{relative}");
            let id = self
                .git(&["rev-parse", "--verify", "--quiet", &object])
                .ok()?;
            Some(String::from_utf8_lossy(id.trim_ascii()).into_owned())
        };
        let text = String::from_utf8_lossy(&listed);
        let lines = text.lines().filter_map(|line| line.split_once('\0'));
        Ok(lines
            .map(|(version, parents)| {
                let version = parse_version(version);
                FileChange {
                    after: blob(&version.commit),
                    before: parents.split_whitespace().map(blob).collect(),
                    version,
                }
            })
            .collect())
    }
}

/// Reads `COMMIT SECONDS AUTHOR`.
fn parse_version(line: &str) -> Version {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    Version {
        commit: word(),
        seconds: word().parse().unwrap_or(0),
        author: word(),
    }
}

/// Returns the blob that a file is in a tree; `None` where it has none, or what would tell is left with the server.
///
/// # Errors
/// When an object is damaged, or not here although it should be.
fn blob_of(repository: &Repository, tree: Oid, path: &Path) -> Result<Option<Oid>, git2::Error> {
    let found = repository
        .find_tree(tree)
        .and_then(|tree| tree.get_path(path));
    match found {
        Ok(entry) => Ok((entry.kind() == Some(git2::ObjectType::Blob)).then(|| entry.id())),
        Err(error) if error.code() == ErrorCode::NotFound => {
            let is_none = error.class() == ErrorClass::Tree || is_cut(repository);
            if is_none { Ok(None) } else { Err(error) }
        }
        Err(error) => Err(error),
    }
}

fn changes_in_library(
    repository: &Repository,
    path: &Path,
    nodes: &[Step],
    base: &mut dyn FnMut(Oid, Oid) -> Option<Oid>,
) -> Result<Vec<FileChange>, git2::Error> {
    let mut trees: HashMap<Oid, Option<Oid>> = HashMap::new();
    let mut blob = |tree: Oid| {
        if let Some(known) = trees.get(&tree) {
            return Ok(*known);
        }
        let found = blob_of(repository, tree, path)?;
        trees.insert(tree, found);
        Ok::<_, git2::Error>(found)
    };
    let by_commit: HashMap<Oid, Oid> = nodes.iter().map(|node| (node.commit, node.tree)).collect();
    let mut wanted: HashSet<Oid> = nodes.first().map(|node| node.commit).into_iter().collect();
    let mut changes = Vec::new();
    for node in nodes {
        if !wanted.contains(&node.commit) {
            continue;
        }
        let after = blob(node.tree)?;
        let mut parents: Vec<(Oid, Option<Oid>)> = Vec::new();
        for &parent in &node.parents {
            let tree = match by_commit.get(&parent) {
                Some(&tree) => tree,
                None => match repository.find_commit(parent) {
                    Ok(commit) => commit.tree_id(),
                    Err(_) if is_cut(repository) => continue,
                    Err(error) => return Err(error),
                },
            };
            parents.push((parent, blob(tree)?));
        }
        if let Some((same, _)) = parents.iter().find(|(_, before)| *before == after) {
            let mut others = parents.iter().filter(|(_, before)| *before != after);
            let leaves_out = others.any(|(other, _)| {
                let base = base(*same, *other);
                base.is_some_and(|tree| blob(tree).is_ok_and(|blob| blob == after))
            });
            if !leaves_out {
                wanted.insert(*same);
                continue;
            }
        }
        wanted.extend(parents.iter().map(|(parent, _)| *parent));
        if parents.is_empty() && after.is_none() {
            continue;
        }
        let text = |id: Option<Oid>| id.map(|id| id.to_string());
        changes.push(FileChange {
            version: node.version(),
            after: text(after),
            before: parents.into_iter().map(|(_, id)| text(id)).collect(),
        });
    }
    Ok(changes)
}
