//! Differences between repository and server, masked.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Problem;
use crate::project::diff::{Change, Differences};
use crate::project::drift::{Drift, Verdict};

use super::keys::KeyRow;
use super::style::{Role, harmless, paint};
use super::{ProblemJson, SCHEMA_VERSION, Ui};

/// Keys are padded up to this length.
const WIDEST_KEY: usize = 32;

/// How one entry's two sides compare.
pub enum Comparison {
    /// Another content on each side.
    Differs(Differences),
    /// Neither side has a file.
    NeitherSide,
    /// Only the repository has a file.
    OnlyRepository,
    /// Only the server has a file.
    OnlyServer,
    /// The same content.
    Same,
}

/// One entry of a diff.
pub struct DiffRow {
    /// The entry's name.
    pub name: String,
    /// The file on the server.
    pub target: String,
    /// How the contents compare.
    pub comparison: Comparison,
    /// Which side moved.
    pub drift: Drift,
    /// Which side changed which key since when; empty where no key differs.
    pub keys: Vec<KeyRow>,
    /// What differs of owner, group and mode, in words.
    pub attributes: Vec<String>,
    /// Lines of a unified diff, where one is shown: already masked, or shown on the user's word.
    pub unified: Option<String>,
}

/// What is shown of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffForm {
    /// Key names.
    Keys,
    /// Names of entries only.
    NameOnly,
    /// Counts.
    Stat,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct DiffJson<'a> {
    schema_version: u32,
    command: &'static str,
    entries: Vec<RowJson<'a>>,
    problems: Vec<ProblemJson>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct RowJson<'a> {
    entry: &'a str,
    target: &'a str,
    state: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<BehindJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
    changes: &'a [KeyRow],
    attributes: &'a [String],
}

/// The version the server still has.
#[derive(Serialize, JsonSchema)]
pub(super) struct BehindJson<'a> {
    commit: &'a str,
    date: &'a str,
    author: &'a str,
}

impl DiffRow {
    /// Returns whether there is anything to show.
    pub fn differs(&self) -> bool {
        !self.attributes.is_empty() || !matches!(self.comparison, Comparison::Same)
    }

    fn changes(&self) -> &[(Change, String)] {
        match &self.comparison {
            Comparison::Differs(differences) => &differences.changes,
            _ => &[],
        }
    }

    /// Returns the stable word for the comparison.
    pub fn state(&self) -> &'static str {
        match &self.comparison {
            Comparison::Differs(differences) if differences.is_layout_only => "layout-only",
            Comparison::Differs(_) => "differs",
            Comparison::NeitherSide => "on-neither-side",
            Comparison::OnlyRepository => "missing-on-server",
            Comparison::OnlyServer if self.is_deleted() => "deleted-in-repo",
            Comparison::OnlyServer => "not-encrypted-yet",
            Comparison::Same => "same",
        }
    }

    fn is_deleted(&self) -> bool {
        self.drift.verdict == Verdict::DeletedInRepository
    }

    /// Says which side moved, for the title; empty where that needs no words.
    fn direction(&self) -> String {
        let word = match self.drift.verdict {
            Verdict::BothMoved => "both sides moved",
            Verdict::Pinned => "pinned: the two sides are meant to differ",
            Verdict::RepositoryAhead => "the repository is ahead",
            Verdict::RepositoryBehind => "the repository went back",
            Verdict::ServerAhead => "the server is ahead",
            Verdict::Unknown => "unknown which side is newer",
            _ => return String::new(),
        };
        let remarks = self.drift.remarks().join("; ");
        if remarks.is_empty() {
            format!("  {word}")
        } else {
            format!("  {word} ({remarks})")
        }
    }
}

/// Renders the rows that differ as text.
pub fn render(rows: &[DiffRow], form: DiffForm, color: bool) -> String {
    let mut out = String::new();
    for row in rows.iter().filter(|row| row.differs()) {
        let name = harmless(&row.name);
        match form {
            DiffForm::NameOnly => out.push_str(&format!("{name}\n")),
            DiffForm::Stat => {
                let count = |wanted| {
                    row.changes()
                        .iter()
                        .filter(|(change, _)| *change == wanted)
                        .count()
                };
                let counts = format!(
                    "{}+ {}~ {}-",
                    count(Change::Added),
                    count(Change::Changed),
                    count(Change::Removed)
                );
                let attributes = if row.attributes.is_empty() {
                    ""
                } else {
                    ", owner or mode"
                };
                out.push_str(&format!(
                    "{name} | {}{attributes}\n",
                    if row.changes().is_empty() {
                        row.state()
                    } else {
                        &counts
                    }
                ));
            }
            DiffForm::Keys => render_row(row, color, &mut out),
        }
    }
    out
}

fn render_row(row: &DiffRow, color: bool, out: &mut String) {
    let title = format!(
        "{}  ({}){}",
        harmless(&row.name),
        harmless(&row.target),
        harmless(&row.direction())
    );
    out.push_str(&paint(&title, Role::Name, color));
    out.push('\n');
    let mut line = |sign: char, text: &str, role| {
        out.push_str(&paint(&format!("  {sign} {}", harmless(text)), role, color));
        out.push('\n');
    };
    match &row.comparison {
        Comparison::OnlyRepository => line('-', "missing on the server", Role::Removed),
        Comparison::NeitherSide => line(
            '!',
            "on neither side: not in the repository, not on the server",
            Role::Error,
        ),
        Comparison::OnlyServer if row.is_deleted() => line(
            '+',
            "only on the server: its encrypted file was in the repository and is gone",
            Role::Added,
        ),
        Comparison::OnlyServer => line('+', "not encrypted yet: only on the server", Role::Added),
        Comparison::Differs(differences) if differences.is_layout_only => {
            line('~', "layout only (no value differs)", Role::Changed);
        }
        Comparison::Differs(_) if row.unified.is_none() => {
            let width = row.keys.iter().map(|one| one.key.len().min(WIDEST_KEY));
            let width = width.max().unwrap_or(0);
            for one in &row.keys {
                let role = match one.sign {
                    '+' => Role::Added,
                    '-' => Role::Removed,
                    _ => Role::Changed,
                };
                let side = one.side_in_words();
                line(one.sign, &format!("{:<width$}  {side}", one.key), role);
            }
        }
        _ => {}
    }
    for attribute in &row.attributes {
        line('~', attribute, Role::Changed);
    }
    for text in row.unified.iter().flat_map(|unified| unified.lines()) {
        let role = match text.as_bytes().first() {
            Some(b'+') => Some(Role::Added),
            Some(b'-') => Some(Role::Removed),
            _ => None,
        };
        let text = harmless(text);
        out.push_str("  ");
        out.push_str(&role.map_or(text.clone(), |role| paint(&text, role, color)));
        out.push('\n');
    }
}

/// Returns a unified diff of two texts; anything that is not UTF-8 gives `None`.
pub fn unified(repository: &[u8], server: &[u8]) -> Option<String> {
    let (old, new) = (
        std::str::from_utf8(repository).ok()?,
        std::str::from_utf8(server).ok()?,
    );
    let diff = similar::TextDiff::from_lines(old, new);
    Some(
        diff.unified_diff()
            .context_radius(3)
            .header("repository", "server")
            .to_string(),
    )
}

impl Ui {
    /// Shows a diff as JSON.
    pub fn diff_json(&mut self, rows: &[DiffRow], problems: &[Problem]) {
        self.json(&DiffJson {
            schema_version: SCHEMA_VERSION,
            command: "diff",
            entries: rows
                .iter()
                .map(|row| RowJson {
                    entry: &row.name,
                    target: &row.target,
                    state: row.state(),
                    verdict: row.drift.verdict.word(),
                    behind: row.drift.behind.as_ref().map(|version| BehindJson {
                        commit: &version.commit,
                        date: &version.date,
                        author: &version.author,
                    }),
                    remarks: row.drift.remarks(),
                    changes: &row.keys,
                    attributes: &row.attributes,
                })
                .collect(),
            problems: problems.iter().map(ProblemJson::of).collect(),
        });
    }
}
