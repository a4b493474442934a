//! The history of an entry's keys.

use schemars::JsonSchema;
use serde::Serialize;

use super::keys::{RepositorySince, readable};
use super::style::harmless;
use super::{SCHEMA_VERSION, Ui};

/// What happened to a key in a version.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HistoryRow {
    /// The key, or words in round brackets for what is no key.
    pub key: String,
    /// `added`, `changed`, `removed`, `re-encrypted` (whether its value changed cannot be told without
    /// an identity), `cut` (it was there in the oldest commit of a shallow clone).
    pub event: &'static str,
    /// The version it happened in.
    #[serde(flatten)]
    pub version: RepositorySince,
}

/// The history of an entry.
#[derive(Serialize, JsonSchema)]
pub struct HistoryView<'a> {
    /// The entry's name.
    pub entry: &'a str,
    /// The key that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// Whether the history is cut: a shallow clone.
    pub is_cut: bool,
    /// The changes: the last one of each key by name, or all of one key, newest first.
    pub rows: &'a [HistoryRow],
}

#[derive(Serialize, JsonSchema)]
pub(super) struct HistoryJson<'a> {
    schema_version: u32,
    command: &'static str,
    #[serde(flatten)]
    view: &'a HistoryView<'a>,
}

impl Ui {
    /// Shows the history of an entry.
    pub fn show_history(&mut self, view: &HistoryView<'_>) {
        if self.json {
            return self.json(&HistoryJson {
                schema_version: SCHEMA_VERSION,
                command: "history",
                view,
            });
        }
        let width = view.rows.iter().map(|row| row.key.len()).max().unwrap_or(0);
        for row in view.rows {
            let sign = match row.event {
                "added" => '+',
                "removed" => '-',
                "changed" => '~',
                _ => '?',
            };
            let key = harmless(&row.key);
            let when = match (&row.version.commit, &row.version.date, &row.version.author) {
                (Some(commit), Some(date), Some(author)) => {
                    format!("{}  {commit}  {}", readable(date), harmless(author))
                }
                _ => "not committed".to_owned(),
            };
            let note = match row.event {
                "re-encrypted" => "  (re-encrypted, content unknown)",
                "cut" => "  (or before: the history is cut)",
                _ => "",
            };
            self.data(&format!("{sign} {key:<width$}  {when}{note}\n"));
        }
        if view.is_cut {
            self.status("this is a shallow clone, or one without the files of older commits: its history is cut");
        }
    }
}
