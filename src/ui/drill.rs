//! What a drill found.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Problem;

use super::style::{Role, harmless, paint};
use super::{ProblemJson, SCHEMA_VERSION, Ui};

/// Something that a drill found.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DrillRow {
    /// The entry.
    pub entry: String,
    /// The stable word for it: `missing`, `required`, `owner`, `empty`, `target`, `pem`, `expired`,
    /// `not-yet-valid`, `ends-soon`, `key-mismatch`, `not-told` (to which certificate a key belongs).
    pub code: &'static str,
    /// What it is, in words.
    pub message: String,
    /// Whether it is only a warning: the exit code stays.
    pub is_warning: bool,
}

impl DrillRow {
    /// Returns a finding.
    pub fn of(entry: &str, code: &'static str, message: String) -> Self {
        Self {
            entry: entry.to_owned(),
            code,
            message,
            is_warning: false,
        }
    }

    /// Returns a finding that leaves the exit code.
    pub fn warning(entry: &str, code: &'static str, message: String) -> Self {
        Self {
            is_warning: true,
            ..Self::of(entry, code, message)
        }
    }
}

/// A whole drill.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DrillView {
    /// The host it was for.
    pub host: String,
    /// Whether it was for every entry of the host.
    pub is_whole: bool,
    /// How many encrypted entries there are.
    pub entries: usize,
    /// How many of them were opened.
    pub opened: usize,
    /// How long their plaintexts are together.
    pub bytes: u64,
    /// How long reading, opening and checking took: without the disk, what `recover` takes.
    pub milliseconds: u64,
    /// What was found, in manifest order.
    pub findings: Vec<DrillRow>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct DrillJson<'a> {
    schema_version: u32,
    command: &'static str,
    #[serde(flatten)]
    view: &'a DrillView,
    problems: Vec<ProblemJson>,
}

impl Ui {
    /// Shows what a drill found.
    pub fn show_drill(&mut self, view: &DrillView, problems: &[Problem]) {
        if self.json {
            self.json(&DrillJson {
                schema_version: SCHEMA_VERSION,
                command: "drill",
                view,
                problems: problems.iter().map(ProblemJson::of).collect(),
            });
        } else {
            let mut out = String::new();
            for row in &view.findings {
                let role = if row.is_warning {
                    Role::Warning
                } else {
                    Role::Error
                };
                let code = paint(row.code, role, self.color_out);
                let (entry, message) = (harmless(&row.entry), harmless(&row.message));
                out.push_str(&format!("{entry}: {message} [{code}]\n"));
            }
            self.data(&out);
        }
        self.problems(problems);
        let findings = view.findings.iter().filter(|row| !row.is_warning).count();
        let is_complete = view.opened == view.entries && problems.is_empty();
        let verdict = match (findings, is_complete) {
            (0, true) if view.is_whole => "this host could be recovered".to_owned(),
            (0, true) => "they could be recovered".to_owned(),
            (0, false) => "not every entry could be opened".to_owned(),
            (1, _) => "1 finding".to_owned(),
            (count, _) => format!("{count} findings"),
        };
        self.status(&format!(
            "{} of {} entries opened, {} bytes, {} ms: {verdict}",
            view.opened, view.entries, view.bytes, view.milliseconds
        ));
    }
}
