//! The git checkout around the manifest: read, never written.
//!
//! Read with the library, so that no hook or configured program of somebody else's checkout runs.
//! Repositories the library cannot open (SHA-256 objects, reftable) are read through the `git`
//! program, started as the checkout's owner when root is at work.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use git2::{ErrorClass, ErrorCode, Index, ObjectType, Oid, Repository, RepositoryOpenFlags};

use super::file_history::{Bases, Graphs};
use super::history::{Walks, is_cut};
use super::process;

/// A checkout.
pub struct Checkout {
    top: PathBuf,
    reader: Reader,
    program: Reader,
    /// Whether the library fails with something of the history.
    is_library_at_a_loss: AtomicBool,
    /// The user and group that the program is run as.
    owner: (u32, u32),
    /// The index, where it is not the checkout's own.
    index: Option<PathBuf>,
    /// The commits since some commit, or all, walked once.
    pub(super) walks: Walks,
    /// The same with parents, for the history of single files.
    pub(super) graphs: Graphs,
    /// The trees of the best common ancestors of commits.
    pub(super) bases: Bases,
}

pub(super) enum Reader {
    Library(Mutex<Repository>),
    Program,
}

/// Where `HEAD` stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// On no branch: nothing can be said about pushing.
    Detached,
    /// On a branch without upstream: nothing can be said about pushing.
    WithoutUpstream,
    /// On a branch that follows another.
    Following(Upstream),
}

/// How the branch stands to its upstream, as of the last fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The upstream's short name, such as `origin/main`.
    pub name: String,
    /// Commits here that are not there.
    pub ahead: usize,
    /// Commits there that are not here.
    pub behind: usize,
    base: String,
}

/// Why nothing can be said about a checkout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// The library failed.
    #[error("cannot read the git repository: {}", .0.message())]
    Library(#[from] git2::Error),
    /// Neither the library nor the program can read it.
    #[error("cannot read the git repository: {library}; {program}")]
    Neither {
        /// What the library says.
        library: String,
        /// What became of the program.
        program: String,
    },
    /// The program failed.
    #[error("cannot read the git repository with the `git` program: {0}")]
    Program(#[from] io::Error),
}

/// Returns the top folder of a repository's work tree, links resolved; `None` where it has none.
fn top_of(repository: &Repository, folder: &Path) -> Result<Option<PathBuf>, GitError> {
    let Some(known) = repository.workdir() else {
        return Ok(None);
    };
    let here = folder.canonicalize()?;
    let known = known.canonicalize().ok();
    if known.as_ref().is_some_and(|top| here.starts_with(top)) {
        return Ok(known);
    }
    // Through a link named `.git` the library takes the folder that the git folder lies in, and of a linked work tree
    // that was moved the folder where it was.
    let inside = here.join("-");
    let Some(top) = work_tree_of(&inside) else {
        return Ok(known);
    };
    repository.set_workdir(top, false)?;
    Ok(Some(top.to_owned()))
}

fn owner_of(folder: &Path) -> io::Result<(u32, u32)> {
    let metadata = folder.metadata()?;
    Ok((metadata.uid(), metadata.gid()))
}

impl Checkout {
    /// Finds the checkout that contains `folder`; `None` where there is none.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn discover(folder: &Path) -> Result<Option<Self>, GitError> {
        allow_foreign_owners();
        // Not by the path of the git folder, which may lie elsewhere (`git init --separate-git-dir`).
        let nowhere: [&OsStr; 0] = [];
        match Repository::open_ext(folder, RepositoryOpenFlags::CROSS_FS, nowhere) {
            Ok(repository) => {
                let Some(top) = top_of(&repository, folder)? else {
                    return Ok(None);
                };
                let owner = owner_of(&top)?;
                Ok(Some(Self {
                    top,
                    reader: Reader::Library(Mutex::new(repository)),
                    program: Reader::Program,
                    is_library_at_a_loss: AtomicBool::new(false),
                    owner,
                    index: None,
                    walks: Walks::default(),
                    graphs: Graphs::default(),
                    bases: Bases::default(),
                }))
            }
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Self::through_program(folder).map_err(|program| GitError::Neither {
                library: error.message().to_owned(),
                program: program.to_string(),
            }),
        }
    }

    fn through_program(folder: &Path) -> Result<Option<Self>, GitError> {
        let owner = owner_of(folder)?;
        let output = process::capture_git(folder, owner, None, &["rev-parse", "--show-toplevel"])?;
        let top = PathBuf::from(OsStr::from_bytes(output.trim_ascii_end())).canonicalize()?;
        Ok(Some(Self {
            top,
            reader: Reader::Program,
            program: Reader::Program,
            is_library_at_a_loss: AtomicBool::new(false),
            owner,
            index: None,
            walks: Walks::default(),
            graphs: Graphs::default(),
            bases: Bases::default(),
        }))
    }

    /// Returns the checkout with the index in another file, as git gives it to a hook.
    #[must_use]
    pub fn with_index(self, index: PathBuf) -> Self {
        Self {
            index: Some(index),
            ..self
        }
    }

    fn index_of(&self, repository: &Repository) -> Result<Index, GitError> {
        if let Some(path) = &self.index {
            return Ok(Index::open(path)?);
        }
        let mut index = repository.index()?;
        index.read(false)?;
        Ok(index)
    }

    /// Returns the top folder of the work tree, links resolved.
    pub fn top(&self) -> &Path {
        &self.top
    }

    pub(super) fn inside<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.top).ok()
    }

    /// Runs the `git` program.
    pub(super) fn git(&self, args: &[&str]) -> Result<Vec<u8>, GitError> {
        let index = self.index.as_deref();
        Ok(process::capture_git(&self.top, self.owner, index, args)?)
    }

    /// Returns what reads the repository.
    pub(super) fn reader(&self) -> &Reader {
        if self.is_library_at_a_loss.load(Ordering::Relaxed) {
            &self.program
        } else {
            &self.reader
        }
    }

    /// Returns whether the program is asked from here on, as the library failed: git itself reads commits that the library
    /// does not, such as one with a date that is none, and whoever may push one must not hide the history before it.
    pub(super) fn turns_to_program(&self, error: &GitError) -> bool {
        let is_odd = match error {
            GitError::Library(error) => !matches!(
                error.code(),
                ErrorCode::NotFound | ErrorCode::UnbornBranch | ErrorCode::InvalidSpec
            ),
            GitError::Neither { .. } | GitError::Program(_) => false,
        };
        let turns = is_odd
            && self
                .git(&["rev-parse", "--verify", "--quiet", "HEAD"])
                .is_ok();
        self.is_library_at_a_loss.fetch_or(turns, Ordering::Relaxed);
        turns
    }

    /// Returns whether the index holds the file at the absolute path `path`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn is_tracked(&self, path: &Path) -> Result<bool, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(false);
        };
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let index = self.index_of(&repository)?;
                // A file in the middle of a merge has no plain entry, but up to three.
                let mut stages = 0..=3;
                Ok(stages.any(|stage| index.get_path(relative, stage).is_some()))
            }
            Reader::Program => {
                let relative = relative.to_string_lossy();
                let listed =
                    self.git(&["--literal-pathspecs", "ls-files", "-z", "--", &relative])?;
                Ok(!listed.is_empty())
            }
        }
    }

    /// Returns the files of the index, relative to the top, sorted, and how many there are whose names
    /// are not UTF-8. Submodules are left out.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn tracked_files(&self) -> Result<(Vec<String>, usize), GitError> {
        /// The mode of a submodule in the index.
        const SUBMODULE: u32 = 0o160_000;
        let names: Vec<Vec<u8>> = match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let index = self.index_of(&repository)?;
                let entries = index.iter().filter(|entry| entry.mode != SUBMODULE);
                entries.map(|entry| entry.path).collect()
            }
            Reader::Program => {
                let listed = self.git(&["ls-files", "-z"])?;
                let names = listed.split(|&byte| byte == 0);
                names
                    .filter(|name| !name.is_empty())
                    .map(<[u8]>::to_vec)
                    .collect()
            }
        };
        let count = names.len();
        let mut files: Vec<String> = names
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .collect();
        let unnamed = count - files.len();
        files.sort();
        files.dedup();
        Ok((files, unnamed))
    }

    /// Returns whether a file is in the middle of a merge, by its path relative to the top.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn is_unmerged(&self, path: &str) -> Result<bool, GitError> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let index = self.index_of(&repository)?;
                let path = Path::new(path);
                Ok((1..=3).any(|stage| index.get_path(path, stage).is_some()))
            }
            Reader::Program => {
                let args = ["--literal-pathspecs", "ls-files", "-u", "-z", "--", path];
                Ok(!self.git(&args)?.is_empty())
            }
        }
    }

    /// Reads what is staged of a file, by its path relative to the top; `None` where nothing is.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn read_staged(&self, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let index = self.index_of(&repository)?;
                // A file in the middle of a merge has no staged state of its own, but three.
                let entry = (0..=2).find_map(|stage| index.get_path(Path::new(path), stage));
                let Some(entry) = entry else { return Ok(None) };
                Ok(Some(repository.find_blob(entry.id)?.content().to_vec()))
            }
            Reader::Program => {
                // Not `:PATH`, where a path may begin with a stage.
                let args = ["--literal-pathspecs", "ls-files", "-s", "-z", "--", path];
                let listed = self.git(&args)?;
                let listed = String::from_utf8_lossy(&listed);
                let is_it =
                    |line: &&str| line.split_once('\t').is_some_and(|(_, name)| name == path);
                let line = listed.split('\0').find(is_it);
                let blob = line.and_then(|line| line.split(' ').nth(1));
                Ok(blob.and_then(|blob| self.git(&["cat-file", "blob", blob]).ok()))
            }
        }
    }

    /// Returns whether git ignores the absolute path `path`.
    ///
    /// # Errors
    /// When the ignore rules cannot be read.
    pub fn is_ignored(&self, path: &Path) -> Result<bool, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(false);
        };
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                Ok(repository.is_path_ignored(relative)?)
            }
            Reader::Program => {
                let relative = relative.to_string_lossy();
                Ok(self.git(&["check-ignore", "-q", "--", &relative]).is_ok())
            }
        }
    }

    /// Returns the files that differ from a commit, relative to the top: in the index, or with
    /// `is_staged` false also in the folder.
    ///
    /// # Errors
    /// When there is no such commit.
    pub fn changed_since(&self, revision: &str, is_staged: bool) -> Result<Vec<String>, GitError> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let tree = repository.revparse_single(revision)?.peel_to_tree()?;
                let mut options = git2::DiffOptions::new();
                options.include_untracked(true).recurse_untracked_dirs(true);
                let diff = if is_staged {
                    let index = self.index_of(&repository)?;
                    repository.diff_tree_to_index(Some(&tree), Some(&index), Some(&mut options))?
                } else {
                    repository.diff_tree_to_workdir_with_index(Some(&tree), Some(&mut options))?
                };
                let paths = diff.deltas().flat_map(|delta| {
                    let files = [delta.old_file().path(), delta.new_file().path()];
                    files.map(|path| path.and_then(Path::to_str).map(str::to_owned))
                });
                Ok(paths.flatten().collect())
            }
            Reader::Program => {
                // In full, as a revision could be taken for an option.
                let named = format!("{revision}^{{commit}}");
                let commit =
                    self.git(&["show", "-s", "--format=%H", "--end-of-options", &named])?;
                let commit = String::from_utf8_lossy(commit.trim_ascii()).into_owned();
                let mut args = vec!["diff", "--name-only", "-z", "--no-ext-diff"];
                if is_staged {
                    args.push("--cached");
                }
                args.extend([&commit, "--"]);
                let mut listed = self.git(&args)?;
                if !is_staged {
                    let others = ["ls-files", "-z", "--others", "--exclude-standard"];
                    listed.extend(self.git(&others)?);
                }
                let names = listed
                    .split(|&byte| byte == 0)
                    .filter(|name| !name.is_empty());
                Ok(names
                    .filter_map(|name| String::from_utf8(name.to_vec()).ok())
                    .collect())
            }
        }
    }

    /// Returns what a commit has of a file, by its path in the work tree; `None` where it has none, or there is no commit.
    ///
    /// # Errors
    /// When commit or file are damaged, or not here although they should be.
    pub(super) fn blob_through_program(
        &self,
        commit: &str,
        relative: &Path,
    ) -> Result<Option<Vec<u8>>, GitError> {
        let object = format!("{commit}:{}", relative.to_string_lossy());
        let error = match self.git(&["cat-file", "blob", &object]) {
            Ok(blob) => return Ok(Some(blob)),
            Err(error) => error,
        };
        let is_named = |name: &str| self.git(&["rev-parse", "-q", "--verify", name]).is_ok();
        let has_tree = || {
            self.git(&["cat-file", "-e", &format!("{commit}^{{tree}}")])
                .is_ok()
        };
        if is_named(commit) && (is_named(&object) || !has_tree()) && !self.is_shallow() {
            return Err(error);
        }
        Ok(None)
    }

    /// Returns whether `HEAD` holds exactly what is in the file at the absolute path `path`.
    ///
    /// # Errors
    /// As [`Self::is_in`].
    pub fn is_committed(&self, path: &Path) -> Result<bool, GitError> {
        self.is_in("HEAD", path)
    }

    /// Returns whether a commit holds exactly what is in the file at the absolute path `path`.
    ///
    /// # Errors
    /// When commit or file cannot be read; a repository without a commit holds nothing.
    pub fn is_in(&self, commit: &str, path: &Path) -> Result<bool, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(false);
        };
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let committed = blob_at(&repository, commit, relative);
                if matches!(&committed, Err(error) if self.turns_to_program(error)) {
                    drop(repository);
                    return self.is_in(commit, path);
                }
                let Some(blob) = committed? else {
                    return Ok(false);
                };
                // The object may be damaged or gone all the same: its content is looked at too.
                Ok(blob == Oid::hash_file(ObjectType::Blob, path)?
                    && repository.find_blob(blob)?.content() == std::fs::read(path)?)
            }
            Reader::Program => {
                let blob = self.blob_through_program(commit, relative)?;
                Ok(blob == Some(std::fs::read(path)?))
            }
        }
    }

    /// Returns how the current branch stands to its upstream.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn branch(&self) -> Result<Branch, GitError> {
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                upstream_of(&repository)
            }
            Reader::Program => {
                let text =
                    |bytes: Vec<u8>| String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
                if self.git(&["symbolic-ref", "--quiet", "HEAD"]).is_err() {
                    return Ok(Branch::Detached);
                }
                let Ok(name) = self.git(&["rev-parse", "--abbrev-ref", "@{upstream}"]) else {
                    return Ok(Branch::WithoutUpstream);
                };
                let counts =
                    self.git(&["rev-list", "--left-right", "--count", "HEAD...@{upstream}"])?;
                let counts = text(counts);
                let mut counts = counts
                    .split_whitespace()
                    .map(|count| count.parse().unwrap_or(0));
                let base = self
                    .git(&["merge-base", "HEAD", "@{upstream}"])
                    .map(text)
                    .unwrap_or_default();
                let (ahead, behind) = (counts.next().unwrap_or(0), counts.next().unwrap_or(0));
                Ok(Branch::Following(Upstream {
                    name: text(name),
                    ahead,
                    behind,
                    base,
                }))
            }
        }
    }

    /// Returns whether `HEAD` and the upstream's side agree on the file at the absolute path
    /// `path`: whether commits that are not pushed change it.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn is_pushed(&self, path: &Path, upstream: &Upstream) -> Result<bool, GitError> {
        let Some(relative) = self.inside(path) else {
            return Ok(true);
        };
        if upstream.ahead == 0 {
            return Ok(true);
        }
        match self.reader() {
            Reader::Library(repository) => {
                let repository = locked(repository);
                let here = blob_at(&repository, "HEAD", relative)?;
                let there = if upstream.base.is_empty() {
                    None
                } else {
                    blob_at(&repository, &upstream.base, relative)?
                };
                Ok(here == there)
            }
            Reader::Program => {
                let object = |revision: &str| {
                    let name = format!("{revision}:{}", relative.to_string_lossy());
                    self.git(&["rev-parse", "--verify", "--quiet", &name]).ok()
                };
                Ok(object("HEAD") == object(&upstream.base))
            }
        }
    }
}

/// Returns the library's handle; a panic elsewhere leaves it usable, as it is only read.
pub(super) fn locked(repository: &Mutex<Repository>) -> MutexGuard<'_, Repository> {
    repository.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether a folder is one where git keeps a repository's data (`.git`, a bare repository,
/// a separate git folder), whatever it is called.
pub fn is_git_folder(folder: &Path) -> bool {
    let is_named_so = folder
        .file_name()
        .is_some_and(|name| name.eq_ignore_ascii_case(".git"));
    is_named_so
        || (folder.join("HEAD").is_file()
            && folder.join("objects").is_dir()
            && folder.join("refs").is_dir())
}

/// Lets the library read checkouts that belong to somebody else, as root often does: reading runs
/// no program.
#[expect(
    unsafe_code,
    reason = "the library offers this switch only as an unsafe function"
)]
fn allow_foreign_owners() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: every use of the library in this program comes after this call, which other
        // threads wait for.
        drop(unsafe { git2::opts::set_verify_owner_validation(false) });
    });
}

/// Returns the top folder of the work tree that a path lies in: the nearest folder above it that
/// holds a `.git`.
pub fn work_tree_of(path: &Path) -> Option<&Path> {
    path.ancestors()
        .skip(1)
        .find(|folder| folder.join(".git").symlink_metadata().is_ok())
}

pub(super) fn blob_at(
    repository: &Repository,
    revision: &str,
    path: &Path,
) -> Result<Option<Oid>, GitError> {
    let none_if_absent = |error: git2::Error| match error.code() {
        ErrorCode::UnbornBranch => Ok(None),
        // An object that is missing is no file that is not there.
        ErrorCode::NotFound if error.class() != ErrorClass::Odb || is_cut(repository) => Ok(None),
        _ => Err(GitError::from(error)),
    };
    // A name whose commit is missing is no name that is not there, either.
    let named = match revision {
        "HEAD" => repository.head(),
        _ => repository.resolve_reference_from_short_name(revision),
    };
    let commit = match named.and_then(|named| named.resolve()) {
        Ok(reference) => reference.target().map(|id| repository.find_commit(id)),
        Err(_) => None,
    };
    let commit = commit.unwrap_or_else(|| repository.revparse_single(revision)?.peel_to_commit());
    let tree = match commit.and_then(|commit| repository.find_tree(commit.tree_id())) {
        Ok(tree) => tree,
        Err(error) => return none_if_absent(error),
    };
    tree.get_path(path)
        .map(|entry| Some(entry.id()))
        .or_else(none_if_absent)
}

fn upstream_of(repository: &Repository) -> Result<Branch, GitError> {
    if repository.head_detached()? {
        return Ok(Branch::Detached);
    }
    let Ok(head) = repository.head() else {
        return Ok(Branch::WithoutUpstream);
    };
    let (Ok(upstream), Some(here)) = (
        git2::Branch::wrap(head.resolve()?).upstream(),
        head.target(),
    ) else {
        return Ok(Branch::WithoutUpstream);
    };
    let Some(there) = upstream.get().target() else {
        return Ok(Branch::WithoutUpstream);
    };
    let (ahead, behind) = repository.graph_ahead_behind(here, there)?;
    let base = repository
        .merge_base(here, there)
        .map(|oid| oid.to_string())
        .unwrap_or_default();
    let name = upstream
        .name()
        .ok()
        .flatten()
        .unwrap_or("upstream")
        .to_owned();
    Ok(Branch::Following(Upstream {
        name,
        ahead,
        behind,
        base,
    }))
}
