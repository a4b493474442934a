//! What `init` wrote, could not read, and what the rules say of the entries.

use schemars::JsonSchema;
use serde::Serialize;

use super::style::harmless;
use super::{SCHEMA_VERSION, Ui};

/// A part of the Makefile that was not understood.
#[derive(Serialize, JsonSchema)]
pub struct UnreadNote {
    /// The line, from 1.
    pub line: usize,
    /// What and why, in words.
    pub what: String,
}

/// What the rules say of an entry.
#[derive(Serialize, JsonSchema)]
pub struct RuleNote {
    /// The entry's name.
    pub entry: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub help: String,
}

/// A finished `init`.
#[derive(Serialize, JsonSchema)]
pub struct InitReport {
    /// The manifest.
    pub manifest: String,
    /// The files that were made or got further lines.
    pub written: Vec<String>,
    /// How many rows the manifest has.
    pub rows: usize,
    /// What could not be read.
    pub unread: Vec<UnreadNote>,
    /// Further remarks.
    pub notes: Vec<String>,
    /// What the rules say of the entries.
    pub rules: Vec<RuleNote>,
    /// The manifest's text, where nothing was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<String>,
    /// Whether it came from a Makefile.
    #[serde(skip)]
    pub is_migration: bool,
    /// Whether the root is to be filled in.
    pub needs_root: bool,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct InitJson<'a> {
    schema_version: u32,
    command: &'static str,
    #[serde(flatten)]
    report: &'a InitReport,
}

/// Stands in the Makefile from now on.
const WRAPPER: &str =
    "encrypt decrypt diff deploy:\n\tsecrets $@\n.PHONY: encrypt decrypt diff deploy\n";

impl Ui {
    /// Shows what `init` did.
    pub fn show_init(&mut self, report: &InitReport) {
        if self.json {
            self.json(&InitJson {
                schema_version: SCHEMA_VERSION,
                command: "init",
                report,
            });
        } else if let Some(text) = &report.dry_run {
            self.data(text);
        } else if report.is_migration {
            self.data(WRAPPER);
        }
        for note in &report.unread {
            self.warning(&format!(
                "line {} of the Makefile: {}",
                note.line, note.what
            ));
        }
        for note in &report.notes {
            self.warning(note);
        }
        for note in &report.rules {
            self.warning(&format!("{}: {}", note.entry, note.message));
            if !note.help.is_empty() {
                self.status(&format!("  help: {}", harmless(&note.help)));
            }
        }
        let rows = if report.rows == 1 { "row" } else { "rows" };
        if report.dry_run.is_some() {
            self.status(&format!(
                "would write {} with {} {rows}; nothing was written (dry run)",
                harmless(&report.written.join(", ")),
                report.rows
            ));
            return;
        }
        self.status(&format!(
            "wrote {}: {} {rows} in the manifest",
            harmless(&report.written.join(", ")),
            report.rows
        ));
        if report.is_migration && !self.json {
            self.status("the three lines on standard output take the place of the lists and their recipes in the Makefile");
        }
        if report.needs_root {
            self.status("next: fill in `root` in the manifest, then `secrets status`");
        } else {
            self.status("next: `secrets status` compares both sides; `secrets adopt` decides where nothing tells which side is newer");
        }
    }
}
