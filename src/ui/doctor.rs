//! What a doctor says: one line a check, with the remedy.

use schemars::JsonSchema;
use serde::Serialize;

use super::style::{Role, harmless, paint};
use super::{SCHEMA_VERSION, Ui};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Worth knowing, and no fault.
    Note,
    /// In order.
    Ok,
    /// It could not be told.
    Unknown,
    /// Not in order.
    Wrong,
}

/// A check.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Check {
    /// What was looked at: `manifest`, `host`, `identity`, `opens`, `rules`, `rules files`, `repository`,
    /// `plaintext`, `root`, `state`.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen, in words.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    /// Returns a check that is in order.
    pub fn ok(check: &'static str, message: String) -> Self {
        Self::of(check, Verdict::Ok, message, None)
    }

    /// Returns a check.
    pub fn of(
        check: &'static str,
        verdict: Verdict,
        message: String,
        remedy: Option<String>,
    ) -> Self {
        Self {
            check,
            verdict,
            message,
            remedy,
        }
    }
}

/// All checks.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DoctorView {
    /// In the order they were done.
    pub checks: Vec<Check>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct DoctorJson<'a> {
    schema_version: u32,
    command: &'static str,
    #[serde(flatten)]
    view: &'a DoctorView,
}

impl Ui {
    /// Shows what a doctor says.
    pub fn show_doctor(&mut self, view: &DoctorView) {
        if self.json {
            return self.json(&DoctorJson {
                schema_version: SCHEMA_VERSION,
                command: "doctor",
                view,
            });
        }
        let mut out = String::new();
        for check in &view.checks {
            let (word, role) = match check.verdict {
                Verdict::Ok => ("ok     ", Role::Added),
                Verdict::Note => ("note   ", Role::Warning),
                Verdict::Wrong => ("wrong  ", Role::Error),
                Verdict::Unknown => ("unknown", Role::Error),
            };
            let word = paint(word, role, self.color_out);
            let message: Vec<_> = check.message.lines().map(harmless).collect();
            out.push_str(&format!(
                "{word}  {:<11}  {}",
                check.check,
                message.join("; ")
            ));
            if let Some(remedy) = &check.remedy {
                let remedy: Vec<_> = remedy.lines().map(|line| harmless(line.trim())).collect();
                out.push_str(&format!(": {}", remedy.join("; ")));
            }
            out.push('\n');
        }
        self.data(&out);
        let count = |verdict| {
            let checks = view.checks.iter();
            checks.filter(|check| check.verdict == verdict).count()
        };
        self.status(&match (count(Verdict::Wrong), count(Verdict::Unknown)) {
            (0, 0) => "everything is in order".to_owned(),
            (wrong, 0) => format!("{wrong} wrong"),
            (wrong, unknown) => format!("{wrong} wrong, {unknown} could not be told"),
        });
    }
}
