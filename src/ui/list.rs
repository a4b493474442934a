//! The entries of the manifest as a table, and who can read what as a matrix.

use std::collections::{HashMap, HashSet};

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Problem;

use super::style::harmless;
use super::{ProblemJson, SCHEMA_VERSION, Ui};

/// One row of a list.
#[derive(Serialize, JsonSchema)]
pub struct ListRow {
    /// The file in the repository.
    pub entry: String,
    /// The file on the server, absolute where the root is known.
    pub target: String,
    /// `secret` or `plain`.
    pub kind: &'static str,
    /// The stored form.
    pub format: &'static str,
    /// Owner as declared.
    pub owner: Option<String>,
    /// Group as declared.
    pub group: Option<String>,
    /// Mode as declared, octal.
    pub mode: Option<String>,
    /// `rename` or `in-place`.
    pub write: &'static str,
    /// A missing source is fine.
    pub optional: bool,
    /// The hosts it is for; none means every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The pattern it is a member of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Who can read it, and who should.
    pub readers: Vec<Reader>,
}

/// How a recipient stands to a file and its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReaderMark {
    /// Can read it.
    CanRead,
    /// Can read it, and is not in its rule.
    NotInRule,
    /// Is in its rule, and cannot read it.
    OnlyInRule,
}

/// A recipient of a file or of its rule.
#[derive(Serialize, JsonSchema)]
pub struct Reader {
    /// Its name in the manifest, else the recipient shortened.
    pub name: String,
    /// The recipient.
    pub recipient: String,
    /// How it stands to the file.
    pub mark: ReaderMark,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ListJson<'a> {
    schema_version: u32,
    command: &'static str,
    entries: &'a [ListRow],
    problems: Vec<ProblemJson>,
}

impl Ui {
    /// Shows the entries as a table.
    pub fn show_list(&mut self, rows: &[ListRow], problems: &[Problem]) {
        if self.json {
            self.json(&ListJson {
                schema_version: SCHEMA_VERSION,
                command: "list",
                entries: rows,
                problems: problems.iter().map(ProblemJson::of).collect(),
            });
            return self.problems(problems);
        }
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let account =
                    |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
                let owner = match (&row.owner, &row.group) {
                    (None, None) => "-".to_owned(),
                    (owner, group) => format!("{}:{}", account(owner), account(group)),
                };
                let mode = row.mode.clone().unwrap_or_else(|| "-".to_owned());
                let mut cells = vec![
                    harmless(&row.entry),
                    harmless(&row.target),
                    row.format.to_owned(),
                    owner,
                    mode,
                ];
                if !row.hosts.is_empty() {
                    cells.push(format!("on {}", row.hosts.join(", ")));
                }
                cells
            })
            .collect();
        let mut text = aligned(&cells);
        text.push_str(&matrix(rows));
        self.data(&text);
        self.problems(problems);
    }
}

/// Renders rows of cells in columns.
fn aligned(cells: &[Vec<String>]) -> String {
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = cells.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in cells {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Renders who can read what: a row an entry, a column a recipient.
fn matrix(rows: &[ListRow]) -> String {
    let mut recipients: Vec<(&str, &str)> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for reader in rows.iter().flat_map(|row| &row.readers) {
        if known.insert(&reader.recipient) {
            recipients.push((&reader.recipient, &reader.name));
        }
    }
    if recipients.is_empty() {
        return String::new();
    }
    let mut head = vec!["readable by".to_owned()];
    head.extend(recipients.iter().map(|(_, name)| harmless(name)));
    let mut cells = vec![head];
    for row in rows.iter().filter(|row| row.kind == "secret") {
        let mut line = vec![harmless(&row.entry)];
        let readers = row.readers.iter().rev();
        let readers: HashMap<&str, _> =
            readers.map(|reader| (&*reader.recipient, reader)).collect();
        for (key, _) in &recipients {
            let reader = readers.get(key);
            let mark = reader.map_or(".", |reader| match reader.mark {
                ReaderMark::CanRead => "x",
                ReaderMark::NotInRule => "-",
                ReaderMark::OnlyInRule => "+",
            });
            line.push(mark.to_owned());
        }
        cells.push(line);
    }
    format!("\n{}", aligned(&cells))
}
