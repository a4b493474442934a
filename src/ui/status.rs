//! One line an entry: `status`; and the runs that can be undone.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Problem;

use super::keys::{KeyRow, RepositorySince};
use super::style::{Role, harmless, paint};
use super::{ProblemJson, SCHEMA_VERSION, Ui};

/// One entry of a status.
#[derive(Serialize, JsonSchema)]
pub struct StatusRow {
    /// The entry's name.
    pub entry: String,
    /// The file on the server.
    pub target: String,
    /// The stable word: a verdict (`in-sync`, `server-ahead`, `repo-ahead`, `repo-behind`, `pinned`, `both-moved`, `unknown`,
    /// `missing-on-server`, `deleted-in-repo`, `not-encrypted-yet`, `on-neither-side`), or
    /// `layout-only`, `attributes`, `lost-key`, `not-the-server`, `error`.
    pub state: &'static str,
    /// Which side moved, where it could be told: the verdict behind `layout-only` and `attributes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// The repository's file is older than what was last applied here.
    #[serde(skip)]
    pub is_older: bool,
    /// What differs, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The encrypted file has another data key than at the last sync, and since when; left out where it
    /// has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_key: Option<RepositorySince>,
    /// Who can read it and what stays in clear that this user did not agree to, in words; left out where nothing is new.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<String>,
    /// Which side changed which key since when; empty where no key differs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyRow>,
    /// The encrypted file has changes that are not committed.
    pub uncommitted: bool,
    /// Commits that are not pushed change the encrypted file.
    pub unpushed: bool,
}

/// A whole status.
#[derive(Serialize, JsonSchema)]
pub struct Status {
    schema_version: u32,
    command: &'static str,
    /// The root on the server.
    pub root: String,
    /// Whether the root exists.
    pub is_server: bool,
    /// The rows, in manifest order.
    pub entries: Vec<StatusRow>,
    /// Files that match a pattern on the server and are not in the repository.
    pub found_on_server: Vec<String>,
    /// What to type next, in words.
    #[serde(skip)]
    pub next: Vec<String>,
    /// Whether a killed run has left something to be taken back or removed first.
    #[serde(rename = "half_done")]
    pub is_half_done: bool,
    /// Commits upstream that are not here, as of the last fetch.
    pub upstream_ahead: usize,
    /// Why nothing can be said about pushing: `detached`, `no-upstream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_note: Option<&'static str>,
    /// The upstream's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    problems: Vec<ProblemJson>,
}

impl Status {
    /// Returns a status without rows.
    pub fn new(root: String, is_server: bool) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            command: "status",
            root,
            is_server,
            entries: Vec::new(),
            found_on_server: Vec::new(),
            next: Vec::new(),
            is_half_done: false,
            upstream_ahead: 0,
            push_note: None,
            upstream: None,
            problems: Vec::new(),
        }
    }
}

fn in_words(state: &str) -> &str {
    match state {
        "in-sync" => "in sync",
        "attributes" => "owner or mode",
        "server-ahead" => "server ahead",
        "repo-ahead" => "repo ahead",
        "repo-behind" => "repo behind",
        "pinned" => "pinned",
        "both-moved" => "both moved",
        "deleted-in-repo" => "deleted in repo",
        "layout-only" => "layout only",
        "missing-on-server" => "missing on server",
        "not-encrypted-yet" => "not encrypted yet",
        "on-neither-side" => "on neither side",
        "not-the-server" => "not the server",
        "lost-key" => "lost key",
        "unknown" => "unknown",
        _ => "error",
    }
}

fn role_of(state: &str) -> Option<Role> {
    match state {
        "in-sync" => None,
        "missing-on-server" => Some(Role::Removed),
        "not-encrypted-yet" => Some(Role::Added),
        "unknown" | "error" | "lost-key" | "both-moved" | "deleted-in-repo" => Some(Role::Error),
        _ => Some(Role::Changed),
    }
}

impl Ui {
    /// Shows a status: a line an entry, then counts, then what git says.
    pub fn show_status(&mut self, status: &mut Status, problems: &[Problem]) {
        if self.json {
            status.problems = problems.iter().map(ProblemJson::of).collect();
            self.json(status);
        } else {
            let text = status_text(status, self.color_out);
            self.data(&text);
        }
        self.problems(problems);
    }
}

fn status_text(status: &Status, color: bool) -> String {
    let mut out = String::new();
    if !status.is_server {
        out.push_str(&format!(
            "This is not the server: {} does not exist.\n",
            harmless(&status.root)
        ));
    }
    for row in &status.entries {
        let mut marks = String::new();
        if row.uncommitted {
            marks.push_str("  [not committed]");
        }
        if row.unpushed {
            marks.push_str("  [not pushed]");
        }
        let state = format!("{:<18}", in_words(row.state));
        let state = role_of(row.state).map_or(state.clone(), |role| paint(&state, role, color));
        let detail = if row.detail.is_empty() {
            String::new()
        } else {
            format!("  {}", harmless(&row.detail))
        };
        out.push_str(&format!(
            "{state} {}{detail}{marks}\n",
            harmless(&row.entry)
        ));
    }
    out.push_str(&format!("{}\n", counts(status)));
    for next in &status.next {
        out.push_str(&format!("{}\n", harmless(next)));
    }
    let uncommitted = status.entries.iter().filter(|row| row.uncommitted).count();
    let unpushed = status.entries.iter().filter(|row| row.unpushed).count();
    if uncommitted > 0 {
        out.push_str(&format!(
            "{uncommitted} encrypted {} not committed: {}\n",
            files(uncommitted),
            if status.is_half_done {
                "commit them when the interrupted run is taken back"
            } else {
                "`git add` and `git commit` them"
            }
        ));
    }
    let first = if status.upstream_ahead > 0 {
        "`git pull`, then "
    } else {
        ""
    };
    if unpushed > 0 {
        out.push_str(&format!(
            "{unpushed} encrypted {} not pushed: {first}`git push`\n",
            files(unpushed)
        ));
    }
    match status.push_note {
        Some("detached") => {
            out.push_str("HEAD is on no branch: whether commits are pushed cannot be told\n");
        }
        Some(_) => {
            out.push_str("The branch has no upstream: whether commits are pushed cannot be told\n");
        }
        None => {}
    }
    if let (Some(upstream), ahead @ 1..) = (&status.upstream, status.upstream_ahead) {
        let commits = if ahead == 1 {
            "1 commit".to_owned()
        } else {
            format!("{ahead} commits")
        };
        out.push_str(&format!(
            "{} is {commits} ahead as of the last fetch: `git pull`\n",
            harmless(upstream)
        ));
    }
    out
}

fn files(count: usize) -> &'static str {
    if count == 1 { "file is" } else { "files are" }
}

fn counts(status: &Status) -> String {
    let total = status.entries.len();
    let mut parts = Vec::new();
    for state in [
        "in-sync",
        "attributes",
        "server-ahead",
        "repo-ahead",
        "repo-behind",
        "pinned",
        "both-moved",
        "unknown",
        "layout-only",
        "missing-on-server",
        "deleted-in-repo",
        "not-encrypted-yet",
        "on-neither-side",
        "lost-key",
        "error",
    ] {
        let count = status
            .entries
            .iter()
            .filter(|row| row.state == state)
            .count();
        if count > 0 {
            parts.push(format!("{count} {}", in_words(state)));
        }
    }
    let entries = if total == 1 { "entry" } else { "entries" };
    if parts.is_empty() {
        format!("{total} {entries}")
    } else {
        format!("{total} {entries}: {}", parts.join(", "))
    }
}

/// A run that can be undone.
#[derive(Serialize, JsonSchema)]
pub struct ReversalRow {
    /// When it ran, RFC 3339, UTC.
    pub time: String,
    /// The command.
    pub command: String,
    /// What it replaced.
    pub entries: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ReversalsJson<'a> {
    schema_version: u32,
    command: &'static str,
    runs: &'a [ReversalRow],
}

/// What `undo --prune` did.
#[derive(Serialize, JsonSchema)]
pub struct PruneView {
    /// The backups that were removed, or would be.
    pub pruned: Vec<String>,
    /// How many stay.
    pub kept: usize,
    /// How many of those nobody here can open.
    pub unopened: usize,
    /// Whether nothing was removed.
    pub dry_run: bool,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct PruneJson<'a> {
    schema_version: u32,
    command: &'static str,
    #[serde(flatten)]
    view: &'a PruneView,
}

impl Ui {
    /// Shows which backups were removed.
    pub fn show_pruned(&mut self, view: &PruneView) {
        if self.json {
            return self.json(&PruneJson {
                schema_version: SCHEMA_VERSION,
                command: "undo",
                view,
            });
        }
        let verb = if view.dry_run {
            "would remove"
        } else {
            "removed"
        };
        for path in &view.pruned {
            self.status(&format!("{verb}  {}", harmless(path)));
        }
        let unopened = match view.unopened {
            0 => String::new(),
            count => format!(" ({count} that no identity at hand opens)"),
        };
        self.status(&format!(
            "{} {verb}, whose content is on a side or in git's history; {} stay{unopened}",
            view.pruned.len(),
            view.kept
        ));
    }

    /// Shows the runs that can be undone.
    pub fn show_reversals(&mut self, runs: &[ReversalRow]) {
        if self.json {
            return self.json(&ReversalsJson {
                schema_version: SCHEMA_VERSION,
                command: "undo",
                runs,
            });
        }
        for run in runs {
            let entries: Vec<_> = run.entries.iter().map(|name| harmless(name)).collect();
            let line = format!("{}  {}  {}\n", run.time, run.command, entries.join(", "));
            self.data(&line);
        }
        if runs.is_empty() {
            self.status("nothing to undo: no run is listed that wrote something");
        }
    }
}
