//! What a check found: one line each, `file:line: what`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::project::check::Finding;

use super::style::{Role, harmless, paint};
use super::{SCHEMA_VERSION, Ui};

#[derive(Serialize, JsonSchema)]
pub(super) struct FindingsJson<'a> {
    schema_version: u32,
    command: &'static str,
    findings: Vec<FindingJson<'a>>,
    unchecked: &'a [String],
}

#[derive(Serialize, JsonSchema)]
pub(super) struct FindingJson<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    code: &'static str,
    message: &'a str,
}

impl Ui {
    /// Shows what was found, and what could not be checked. Says nothing where there is neither.
    pub fn show_findings(&mut self, findings: &[Finding], unchecked: &[String]) {
        if self.json {
            self.json(&FindingsJson {
                schema_version: SCHEMA_VERSION,
                command: "check",
                findings: findings
                    .iter()
                    .map(|one| FindingJson {
                        path: &one.path,
                        line: one.line,
                        code: one.code,
                        message: &one.message,
                    })
                    .collect(),
                unchecked,
            });
        } else {
            let mut text = String::new();
            for one in findings {
                let line = one.line.unwrap_or(1);
                let place = format!("{}:{line}:", harmless(&one.path));
                let message = harmless(&one.message);
                text.push_str(&paint(&place, Role::Name, self.color_out));
                text.push_str(&format!(" {message} [{}]\n", one.code));
            }
            self.data(&text);
        }
        for what in unchecked {
            let mark = paint("error:", Role::Error, self.color_err);
            self.raw_error(&format!(
                "{mark} could not be checked: {}\n",
                harmless(what)
            ));
        }
        if !findings.is_empty() {
            let count = findings.len();
            let findings = if count == 1 { "finding" } else { "findings" };
            self.status(&format!("{count} {findings}"));
        }
    }
}
