//! What can be wrong with a declaration, and why a guard refuses. Never holds a value of a secret.

use std::fmt;

use super::diff::Differences;
use super::drift::{Drift, Rollback, Verdict, short};

/// One thing wrong with the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestProblem {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong, one line.
    pub message: String,
}

/// Everything wrong with a manifest, each as `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// The manifest's path as shown to the user.
    pub path: String,
    /// The problems, in file order.
    pub problems: Vec<ManifestProblem>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let ManifestProblem {
                line,
                column,
                message,
            } = problem;
            write!(
                formatter,
                "{separator}{}:{line}:{column}: {message}",
                self.path
            )?;
        }
        Ok(())
    }
}

/// Words on the command line that name no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// Entries for other hosts.
    #[error("`{name}` is for {hosts}, and this is {host}")]
    OtherHosts {
        /// The entry.
        name: String,
        /// The hosts it is for.
        hosts: String,
        /// This host.
        host: String,
    },
    /// Rows name hosts, and none of them is this one.
    #[error("rows of the manifest are for {hosts}, and none of them is this host, {host}")]
    UnknownHost {
        /// This host.
        host: String,
        /// The hosts that rows name.
        hosts: String,
    },
    /// A glob that cannot be compiled.
    #[error("`{pattern}` is not a glob pattern")]
    BadGlob {
        /// The word.
        pattern: String,
    },
    /// No entry has this name.
    #[error("no entry is called `{name}`")]
    Unknown {
        /// The word.
        name: String,
        /// The closest entry.
        closest: Option<String>,
    },
}

/// Why a guard refuses to capture a source or to place a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A file would be overwritten that is there already.
    #[error("{path} is there already")]
    AlreadyThere {
        /// The file.
        path: String,
    },
    /// The source is a SOPS file.
    #[error("the source is already encrypted by SOPS")]
    AlreadyEncrypted,
    /// The source holds only blanks.
    #[error("the source holds only blanks")]
    Blank,
    /// A recipient marked as break-glass is not in the rule.
    #[error("the rule does not name {names}, marked `break_glass` in the manifest")]
    BreakGlassMissing {
        /// Names of the recipients.
        names: String,
    },
    /// The source holds comments and blanks only.
    #[error("the source holds only comments")]
    CommentsOnly,
    /// Merge conflict markers in the source.
    #[error("line {line}: the source holds a merge conflict marker")]
    ConflictMarker {
        /// Line of the first one.
        line: usize,
    },
    /// Both sides were changed since the last sync.
    #[error("both sides were changed since the last sync{since}: {changes}")]
    BothMoved {
        /// The keys, with signs.
        changes: String,
        /// When that was, in words; may be empty.
        since: String,
    },
    /// The encrypted file is gone from the repository.
    #[error("its encrypted file was in the repository and is there no more")]
    DeletedInRepository,
    /// The source is changing while it is read.
    #[error("it is being written right now: {path} changed between two looks")]
    BeingWritten {
        /// The source.
        path: String,
    },
    /// Values became empty or placeholders.
    #[error("the value became empty or a placeholder: {keys}")]
    Placeholder {
        /// The keys.
        keys: String,
    },
    /// Keys that the manifest requires are not there.
    #[error("it lacks what the manifest requires: {keys}")]
    RequiredMissing {
        /// The keys.
        keys: String,
    },
    /// The source lost more than half of what is stored.
    #[error("the source has {now}, and {stored} are stored")]
    Shrunk {
        /// What the source has: `2 keys`, `120 bytes`.
        now: String,
        /// What is stored, without the unit.
        stored: String,
    },
    /// Keys that were changed on both sides, or of which nothing tells which side changed them.
    #[error("{}", conflict_in_words(both, unknown))]
    Conflict {
        /// Keys that both sides changed.
        both: Vec<String>,
        /// Keys of which nothing tells which side changed them.
        unknown: Vec<String>,
    },
    /// Two versions of a tree whose changed lines cannot be put together.
    #[error(
        "the two versions cannot be put together line by line so that every key has the value that was decided: both changed the same list, or added the same block{}",
        named_in_words(keys)
    )]
    Entangled {
        /// Keys that differ in them.
        keys: Vec<String>,
    },
    /// `restore` put an older version on the server, which is meant to stay.
    #[error(
        "the server has what `restore` took from commit {commit}, and the repository another version: {changes}"
    )]
    Pinned {
        /// The keys, with signs.
        changes: String,
        /// The commit, shortened.
        commit: String,
    },
    /// The repository's file is older than what was last applied here.
    #[error("{what}{changes}")]
    Rollback {
        /// The keys, with signs, behind a colon; may be empty.
        changes: String,
        /// Why it is older, in words.
        what: String,
    },
    /// The repository has something newer than the server.
    #[error("the repository is ahead of the server: {changes}{behind}")]
    RepositoryAhead {
        /// The keys, with signs.
        changes: String,
        /// Which version the server has, in words; may be empty.
        behind: String,
    },
    /// The server was changed since the last sync, or the repository taken back behind it.
    #[error("{what}: {changes}")]
    ServerAhead {
        /// The keys, with signs.
        changes: String,
        /// What happened, in words.
        what: String,
    },
    /// The sides differ, and nothing tells which one is newer.
    #[error("the sides differ, and nothing tells which one is newer{note}: {changes}")]
    UnknownDirection {
        /// The keys, with signs.
        changes: String,
        /// Why it cannot be told, in words; may be empty.
        note: String,
    },
    /// The source has no bytes.
    #[error("the source is empty (zero bytes)")]
    Empty,
    /// A value in quotes that goes on over further lines.
    #[error(
        "line {line}: the value of `{key}` goes on over further lines, of which stock dotenv SOPS would take parts for key names and store them in clear"
    )]
    MultiLineValue {
        /// Line where it begins.
        line: usize,
        /// Its key.
        key: String,
    },
    /// The entry's file on the server is not a regular file.
    #[error("it is {kind}, not a regular file")]
    NotRegular {
        /// What it is.
        kind: &'static str,
    },
    /// A file that is kept nowhere else would be removed.
    #[error("git's history does not hold what is in {path}")]
    OnlyCopy {
        /// The file.
        path: String,
    },
    /// A row that the manifest cannot have.
    #[error("the manifest cannot have that row: {reason}")]
    NotARow {
        /// Why, in words.
        reason: String,
    },
    /// A file was changed after the run that is to be undone.
    #[error("{path} is not what that run wrote any more")]
    ChangedSince {
        /// The file.
        path: String,
    },
    /// The manifest names another root than before.
    #[error("the manifest names the root {now}, until now it was {trusted}")]
    RootChanged {
        /// The root that was trusted.
        trusted: String,
        /// The root of the manifest now.
        now: String,
    },
    /// A manifest that is new here names another root than one of the same checkout that is trusted.
    #[error(
        "{new}: this manifest is new here and names the root {now}; {manifest} of the same checkout has {trusted}"
    )]
    RootOfAnother {
        /// The manifest that is new.
        new: String,
        /// The manifest that is trusted.
        manifest: String,
        /// Its root.
        trusted: String,
        /// The root of the manifest now.
        now: String,
    },
    /// The last run is none that `undo` takes back.
    #[error("the last run was `{command}` at {time}, which `undo` does not take back")]
    NotUndone {
        /// The command.
        command: String,
        /// When it ran, RFC 3339, UTC.
        time: String,
    },
    /// No creation rule governs the file.
    #[error("no creation rule of {rules} matches `{path}`")]
    NoRule {
        /// The rules file.
        rules: String,
        /// The path the rules were asked for.
        path: String,
        /// A pattern that would match, where one matches the path without `.enc`.
        suggestion: Option<String>,
    },
    /// No rules file.
    #[error("there is no `.sops.yaml` that says who may read it")]
    NoRulesFile,
    /// No identity at hand opens what would be written.
    #[error(
        "none of its recipients is an identity at hand, so what is written could not be checked or opened here"
    )]
    NotOpenable,
    /// The file's recipients differ from its rule.
    #[error("its recipients differ from its rule: {changes}")]
    RecipientsDiffer {
        /// Who would be added and removed.
        changes: String,
    },
    /// It would be encrypted on other terms than at the last sync.
    #[error("it would be encrypted on other terms than this host knows: {changes}")]
    TermsUnknown {
        /// Who can read it since, and what stays in clear.
        changes: String,
    },
    /// The file's selection options differ from its rule.
    #[error("its options differ from its rule: the file has `{file}`, the rule `{rule}`")]
    SelectionDiffers {
        /// The file's options.
        file: String,
        /// The rule's options.
        rule: String,
    },
    /// The source does not exist.
    #[error("the source does not exist: {path}")]
    SourceMissing {
        /// The source.
        path: String,
    },
    /// The source is longer than allowed.
    #[error("the source is {bytes} bytes long, more than the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The server's file belongs to somebody else than at the last sync, who could read what is placed.
    #[error("its file on the server is another user's now: {what}")]
    OwnerSince {
        /// Whose it is and was.
        what: String,
    },
    /// The repository's file of a row of `[plain]` is not tracked by git.
    #[error("git does not track `{path}`, so it is no file that the repository shares")]
    UntrackedPlain {
        /// The path.
        path: String,
    },
    /// The repository's file of a row of `[plain]` is the plaintext of an encrypted entry.
    #[error("`{path}` is the plaintext of `{entry}`")]
    PlaintextAsPlain {
        /// The path.
        path: String,
        /// The entry.
        entry: String,
    },
    /// The target is tracked by git.
    #[error("git tracks the plaintext file `{path}`")]
    TrackedTarget {
        /// The path.
        path: String,
    },
    /// The name without `.enc` is governed by an earlier rule.
    #[error(
        "{rules}: creation rule {without} matches its name without `.enc`, creation rule {with_suffix} its full name, and they differ"
    )]
    TwoRules {
        /// The rules file.
        rules: String,
        /// Position of the rule that matches the full name.
        with_suffix: usize,
        /// Position of the earlier rule that matches the name without `.enc`.
        without: usize,
        /// A pattern for the earlier rule that matches both, where one is known.
        suggestion: Option<String>,
    },
    /// The source cannot be read.
    #[error("the source {path} cannot be read: {reason}")]
    Unreadable {
        /// The source.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// The name of a key, which is stored in clear, looks like a value.
    #[error("line {line}: it would be stored in clear, as the name of a key, and looks like none")]
    NameInClear {
        /// The line, from 1.
        line: usize,
    },
    /// The source is spelled in a way that travels in notes only.
    #[error("{reason}")]
    NeedsNote {
        /// Line and construct.
        reason: String,
    },
    /// The source cannot be carried in its format.
    #[error("{reason}")]
    Unrepresentable {
        /// Line and construct, or key.
        reason: String,
    },
}

fn named_in_words(keys: &[String]) -> String {
    if keys.is_empty() {
        String::new()
    } else {
        format!(" ({})", keys.join(", "))
    }
}

fn conflict_in_words(both: &[String], unknown: &[String]) -> String {
    let both = (!both.is_empty()).then(|| format!("both sides changed {}", both.join(", ")));
    let unknown = (!unknown.is_empty())
        .then(|| format!("nothing tells which side changed {}", unknown.join(", ")));
    let parts: Vec<String> = both.into_iter().chain(unknown).collect();
    parts.join("; ")
}

impl Refusal {
    /// Returns the keys that it is about, where it is about keys.
    pub fn keys(&self) -> Vec<String> {
        match self {
            Self::Entangled { keys } => keys.clone(),
            Self::Conflict { both, unknown } => both.iter().chain(unknown).cloned().collect(),
            Self::Placeholder { keys } | Self::RequiredMissing { keys } => {
                keys.split(", ").map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the refusal to place a file that is older than what was last applied here.
    pub fn of_rollback(rollback: &Rollback, differences: Option<&Differences>) -> Self {
        Self::Rollback {
            changes: differences.map_or_else(String::new, |found| format!(": {}", found.summary())),
            what: rollback.in_words(),
        }
    }

    /// Returns the refusal to write against the direction in which an entry moved; `None` where its
    /// sides do not differ.
    pub fn of_drift(drift: &Drift, differences: &Differences) -> Option<Self> {
        let changes = differences.summary();
        let in_brackets = |text: &Option<String>| {
            let text = text.as_ref();
            text.map_or_else(String::new, |text| format!(" ({text})"))
        };
        Some(match drift.verdict {
            Verdict::BothMoved => Self::BothMoved {
                changes,
                since: in_brackets(&drift.last_sync),
            },
            Verdict::RepositoryAhead => Self::RepositoryAhead {
                changes,
                behind: drift.behind.as_ref().map_or_else(String::new, |version| {
                    format!("; the server has {}", version.in_words())
                }),
            },
            Verdict::ServerAhead => {
                let since = in_brackets(&drift.last_sync);
                let what = if drift.is_taken_back {
                    format!(
                        "the server has what was captured last{since}, and the repository does not have it"
                    )
                } else {
                    format!("the server's file was changed since the last sync{since}")
                };
                Self::ServerAhead { changes, what }
            }
            Verdict::Pinned => Self::Pinned {
                changes,
                commit: short(drift.pinned.as_deref().unwrap_or_default()).to_owned(),
            },
            Verdict::RepositoryBehind => {
                Self::of_rollback(drift.rollback.as_ref()?, Some(differences))
            }
            Verdict::Unknown => Self::UnknownDirection {
                changes,
                note: in_brackets(&drift.note),
            },
            _ => return None,
        })
    }
}
