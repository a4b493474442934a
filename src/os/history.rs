//! The history of a checkout: commits, and older versions of a file.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use git2::{ErrorCode, ObjectType, Oid, Repository, Sort, TreeWalkMode, TreeWalkResult};

use super::git::{Checkout, GitError, Reader, blob_at, locked};

/// Commits by where a walk begins.
pub(super) type Walks = Mutex<HashMap<Option<String>, Option<Arc<Vec<Step>>>>>;

/// A commit of a walk.
pub(super) struct Step {
    pub(super) commit: Oid,
    pub(super) tree: Oid,
    pub(super) parents: Vec<Oid>,
    seconds: i64,
    author: String,
}

/// Returns whether what is not here may be with the server: a shallow or a partial clone.
pub(super) fn is_cut(repository: &Repository) -> bool {
    repository.is_shallow() || is_partial(repository)
}

/// Returns whether there is a commit at all.
fn has_head(repository: &Repository) -> Result<bool, GitError> {
    match repository.head() {
        Ok(_) => Ok(true),
        Err(error) if error.code() == ErrorCode::UnbornBranch => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the files of older commits may be left with the server (`git clone --filter`).
fn is_partial(repository: &Repository) -> bool {
    let config = repository.config().and_then(|mut config| config.snapshot());
    config.is_ok_and(|config| {
        let promised = config.entries(Some(r"^remote\..*\.promisor$"));
        promised.is_ok_and(|mut entries| entries.next().is_some())
    })
}

impl Step {
    pub(super) fn version(&self) -> Version {
        Version {
            commit: self.commit.to_string(),
            seconds: self.seconds,
            author: self.author.clone(),
        }
    }
}

/// A version of a file: the commit that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The commit, in full.
    pub commit: String,
    /// When it was written, in seconds since 1970.
    pub seconds: i64,
    /// Who wrote it.
    pub author: String,
}

/// Where a commit stands as seen from `HEAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It is not here.
    Absent,
    /// `HEAD` is one of its ancestors: this checkout is older.
    After,
    /// It is `HEAD` or one of its ancestors.
    Before,
    /// On another branch.
    Elsewhere,
}

impl Checkout {
    /// Walks the history once, newest first, whatever is looked for in it. `None` when `since` is not
    /// known here.
    fn steps(
        &self,
        repository: &Repository,
        since: Option<&str>,
    ) -> Result<Option<Arc<Vec<Step>>>, GitError> {
        let mut walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = since.map(str::to_owned);
        if let Some(known) = walks.get(&key) {
            return Ok(known.clone());
        }
        let steps = walk(repository, since)?.map(Arc::new);
        walks.insert(key, steps.clone());
        Ok(steps)
    }

    /// Returns whether `HEAD` holds a file at the absolute path `path`.
    ///
    /// # Errors
    /// When `HEAD` cannot be read; a repository without a commit holds nothing.
    pub fn is_in_head(&self, path: &Path) -> Result<bool, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(false);
        };
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let found = blob_at(&repository, "HEAD", relative);
                drop(repository);
                match found {
                    Err(error) if self.turns_to_program(&error) => self.is_in_head(path),
                    found => Ok(found?.is_some()),
                }
            }
            Reader::Program => {
                let object = format!("HEAD:{}", relative.to_string_lossy());
                Ok(self.git(&["cat-file", "-e", &object]).is_ok())
            }
        }
    }

    /// Returns the commit `HEAD` is at, in full; `None` before the first one.
    pub fn head(&self) -> Option<String> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                Some(repository.head().ok()?.target()?.to_string())
            }
            Reader::Program => {
                let head = self.git(&["rev-parse", "--verify", "HEAD"]).ok()?;
                Some(String::from_utf8_lossy(head.trim_ascii_end()).into_owned())
            }
        }
    }

    /// Returns where a commit stands as seen from `HEAD`.
    pub fn position_of(&self, commit: &str) -> Position {
        let Some(head) = self.head() else {
            return Position::Absent;
        };
        if head == commit {
            return Position::Before;
        }
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let (Ok(head), Ok(commit)) = (Oid::from_str(&head), Oid::from_str(commit)) else {
                    return Position::Absent;
                };
                if !repository.odb().is_ok_and(|objects| objects.exists(commit)) {
                    return Position::Absent;
                }
                let of = |one, other| repository.graph_descendant_of(one, other);
                let found =
                    of(head, commit).and_then(|is_before| Ok((is_before, of(commit, head)?)));
                drop(repository);
                match found.map_err(GitError::from) {
                    Ok((true, _)) => Position::Before,
                    Ok((_, true)) => Position::After,
                    Ok(_) => Position::Elsewhere,
                    Err(error) if self.turns_to_program(&error) => {
                        self.position_of(&commit.to_string())
                    }
                    // What cannot be told is taken for the worse.
                    Err(_) => Position::Absent,
                }
            }
            Reader::Program => {
                if self.git(&["cat-file", "-e", commit]).is_err() {
                    return Position::Absent;
                }
                let is_ancestor = |one: &str, other: &str| {
                    self.git(&["merge-base", "--is-ancestor", one, other])
                        .is_ok()
                };
                match (is_ancestor(commit, &head), is_ancestor(&head, commit)) {
                    (true, _) => Position::Before,
                    (_, true) => Position::After,
                    _ => Position::Elsewhere,
                }
            }
        }
    }

    /// Returns the commit at which the histories of `HEAD` and of another commit part, in full.
    pub fn merge_base(&self, commit: &str) -> Option<String> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let head = repository.head().ok()?.target()?;
                let base = repository.merge_base(head, Oid::from_str(commit).ok()?);
                drop(repository);
                match base.map_err(GitError::from) {
                    Err(error) if self.turns_to_program(&error) => self.merge_base(commit),
                    base => Some(base.ok()?.to_string()),
                }
            }
            Reader::Program => {
                let base = self.git(&["merge-base", "HEAD", commit]).ok()?;
                Some(String::from_utf8_lossy(base.trim_ascii()).into_owned())
            }
        }
    }

    /// Returns whether the history is cut: a shallow clone.
    pub fn is_shallow(&self) -> bool {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                is_cut(&repository)
            }
            Reader::Program => {
                let is_shallow = self
                    .git(&["rev-parse", "--is-shallow-repository"])
                    .is_ok_and(|answer| answer.trim_ascii() == b"true");
                let promised = ["config", "--get-regexp", r"^remote\..*\.promisor$"];
                is_shallow || self.git(&promised).is_ok_and(|found| !found.is_empty())
            }
        }
    }

    /// Returns the files of `HEAD` below the folder at the absolute path `folder`, relative to it.
    /// Names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// When `HEAD` cannot be read; a repository without a commit has none.
    pub fn files_in_head(&self, folder: &Path) -> Result<Vec<String>, GitError> {
        let Some(inside) = self.inside(folder) else {
            return Ok(Vec::new());
        };
        let files = match self.reader() {
            Reader::Library(repository) => {
                let found = library_files(&locked(repository));
                match found {
                    Err(error) if self.turns_to_program(&error) => {
                        return self.files_in_head(folder);
                    }
                    found => found?,
                }
            }
            Reader::Program => {
                let listed = self
                    .git(&["ls-tree", "-r", "-z", "--name-only", "--full-tree", "HEAD"])
                    .unwrap_or_default();
                listed
                    .split(|&byte| byte == 0)
                    .filter_map(|name| String::from_utf8(name.to_vec()).ok())
                    .filter(|name| !name.is_empty())
                    .collect()
            }
        };
        let below = |file: String| {
            let relative = Path::new(&file).strip_prefix(inside).ok()?;
            relative.to_str().map(str::to_owned)
        };
        Ok(files.into_iter().filter_map(below).collect())
    }

    /// Shows the versions of the file at the absolute path `path` to `visit`, newest first, each
    /// content once, until it returns the version's worth; the version is then named by the commit
    /// that made it. With `since`, a commit, only versions that were current then or later count.
    /// `None` when no version is the wanted one, or `since` is not known here.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn find_version<T>(
        &self,
        path: &Path,
        since: Option<&str>,
        mut visit: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<(Version, T)>, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(None);
        };
        match self.reader() {
            Reader::Library(shared) => {
                let folder = locked(shared).path().to_owned();
                // A handle of its own: several entries are looked up at once.
                let repository = Repository::open(folder)?;
                match self.steps(&repository, since) {
                    Err(error) if self.turns_to_program(&error) => {
                        self.find_version(path, since, visit)
                    }
                    Err(error) => Err(error),
                    Ok(None) => Ok(None),
                    Ok(Some(steps)) => {
                        Ok(find_in_library(&repository, relative, &steps, &mut visit))
                    }
                }
            }
            Reader::Program => {
                let relative = relative.to_string_lossy();
                let range =
                    since.map_or_else(|| "HEAD".to_owned(), |since| format!("{since}..HEAD"));
                let format = "--format=%H %at %an";
                let mut args = vec![
                    "--literal-pathspecs",
                    "log",
                    format,
                    &range,
                    "--",
                    &relative,
                ];
                if since.is_some_and(|since| self.git(&["cat-file", "-e", since]).is_err()) {
                    return Ok(None);
                }
                let mut listed = self.git(&args).unwrap_or_default();
                if let Some(since) = since {
                    args[3] = since;
                    args.insert(3, "-1");
                    listed.extend(self.git(&args).unwrap_or_default());
                }
                for line in String::from_utf8_lossy(&listed).lines() {
                    let mut words = line.splitn(3, ' ');
                    let (Some(commit), Some(seconds)) = (words.next(), words.next()) else {
                        continue;
                    };
                    let object = format!("{commit}:{relative}");
                    let Ok(content) = self.git(&["cat-file", "blob", &object]) else {
                        continue;
                    };
                    if let Some(worth) = visit(&content) {
                        let version = Version {
                            commit: commit.to_owned(),
                            seconds: seconds.parse().unwrap_or(0),
                            author: words.next().unwrap_or_default().to_owned(),
                        };
                        return Ok(Some((version, worth)));
                    }
                }
                Ok(None)
            }
        }
    }
}

fn library_files(repository: &Repository) -> Result<Vec<String>, GitError> {
    let tree = match repository.head().and_then(|head| head.peel_to_tree()) {
        Ok(tree) => tree,
        Err(error) if matches!(error.code(), ErrorCode::UnbornBranch | ErrorCode::NotFound) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    let mut files = Vec::new();
    tree.walk(TreeWalkMode::PreOrder, |folder, entry| {
        if let (Some(ObjectType::Blob), Ok(name)) = (entry.kind(), entry.name()) {
            files.push(format!("{folder}{name}"));
        }
        TreeWalkResult::Ok
    })?;
    Ok(files)
}

/// Looks through the history, newest first. The commit that made a version is the last one that has it
/// without a break.
fn find_in_library<T>(
    repository: &Repository,
    path: &Path,
    steps: &[Step],
    visit: &mut impl FnMut(&[u8]) -> Option<T>,
) -> Option<(Version, T)> {
    let mut seen = HashSet::new();
    let mut found: Option<(&Step, T, Oid)> = None;
    for step in steps {
        let tree = repository.find_tree(step.tree).ok();
        let blob = tree.and_then(|tree| tree.get_path(path).ok().map(|entry| entry.id()));
        if let Some((made, _, wanted)) = &mut found {
            if blob == Some(*wanted) {
                *made = step;
                continue;
            }
            break;
        }
        let Some(id) = blob.filter(|id| seen.insert(*id)) else {
            continue;
        };
        if let Ok(content) = repository.find_blob(id) {
            found = visit(content.content()).map(|worth| (step, worth, id));
        }
    }
    found.map(|(step, worth, _)| (step.version(), worth))
}

/// Walks the commits since one, that one included; of several in a row with the same tree the oldest
/// counts.
fn walk(repository: &Repository, since: Option<&str>) -> Result<Option<Vec<Step>>, GitError> {
    let mut hidden = Vec::new();
    if let Some(since) = since {
        let Ok(since) = Oid::from_str(since).and_then(|id| repository.find_commit(id)) else {
            return Ok(None);
        };
        hidden.extend(since.parent_ids());
    }
    let Some(commits) = commits(repository, &hidden)? else {
        return Ok(None);
    };
    let mut steps: Vec<Step> = Vec::new();
    for step in commits {
        match steps.last_mut() {
            Some(last) if last.tree == step.tree => *last = step,
            _ => steps.push(step),
        }
    }
    Ok(Some(steps))
}

/// Returns the commits that `HEAD` reaches and `hidden` do not, newest first; `None` before the first
/// one.
pub(super) fn commits(
    repository: &Repository,
    hidden: &[Oid],
) -> Result<Option<Vec<Step>>, GitError> {
    if !has_head(repository)? {
        return Ok(None);
    }
    let mut walk = repository.revwalk()?;
    walk.push_head()?;
    walk.set_sorting(Sort::TOPOLOGICAL | Sort::TIME)?;
    for hidden in hidden {
        walk.hide(*hidden)?;
    }
    let mut steps = Vec::new();
    for commit in walk {
        let commit = match commit.and_then(|id| repository.find_commit(id)) {
            // A commit that is not here: the history is cut, or damaged.
            Err(error) if error.code() == ErrorCode::NotFound && is_cut(repository) => break,
            commit => commit?,
        };
        steps.push(Step {
            commit: commit.id(),
            tree: commit.tree_id(),
            parents: commit.parent_ids().collect(),
            seconds: commit.time().seconds(),
            author: String::from_utf8_lossy(commit.author().name_bytes()).into_owned(),
        });
    }
    Ok(Some(steps))
}
