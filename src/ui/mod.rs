//! Talking to the person: data on standard output, talk on standard error.
//!
//! Renders, never decides. Every text that came from a file or a name is made harmless before it
//! reaches a terminal. A closed pipe ends output quietly.

pub mod diff;
pub mod doctor;
pub mod drill;
pub mod findings;
pub mod history;
pub mod init;
pub mod keys;
pub mod list;
pub mod lost;
pub mod progress;
pub mod prompt;
pub mod report;
pub mod schema;
pub mod status;
pub mod style;

use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{ErrorKind, Problem, Severity};
use style::{Role, harmless, harmless_json, paint};

/// The version of the JSON output's shape.
pub const SCHEMA_VERSION: u32 = 1;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loudness {
    /// Errors only.
    Quiet,
    /// What was done.
    Normal,
    /// Reasons too.
    Verbose,
}

/// The user interface of a run.
pub struct Ui {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// How much is said.
    pub loudness: Loudness,
    /// Whether JSON is wanted on standard output.
    pub json: bool,
    /// Whether standard output is coloured.
    pub color_out: bool,
    /// Whether standard error is coloured.
    pub color_err: bool,
    /// Whether data could not be written, to a full disk for example.
    pub is_cut_off: bool,
}

impl Ui {
    /// Returns an interface over two streams; adjust its public fields once options are known.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            err,
            loudness: Loudness::Normal,
            json: false,
            color_out: false,
            color_err: false,
            is_cut_off: false,
        }
    }

    /// Writes data: the answer itself. `text` ends with a newline or is empty.
    pub fn data(&mut self, text: &str) {
        let written = self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush());
        match written {
            // A closed pipe: whoever read it has seen enough.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => self.is_cut_off = true,
            _ => {}
        }
    }

    /// Writes bytes that the user asked for, as they are.
    pub fn bytes(&mut self, content: &[u8]) {
        let written = self.out.write_all(content).and_then(|()| self.out.flush());
        self.is_cut_off |= written.is_err();
    }

    /// Shows the root that is trusted now, and before, as JSON.
    pub fn show_trust(&mut self, root: &str, before: Option<&str>, entries: &[String]) {
        self.json(&TrustJson {
            schema_version: SCHEMA_VERSION,
            command: "trust",
            root,
            before,
            entries,
        });
    }

    /// Shows the public key of a new identity as JSON.
    pub fn show_key(&mut self, file: &str, recipient: &str) {
        self.json(&KeyJson {
            schema_version: SCHEMA_VERSION,
            command: "keygen",
            file,
            recipient,
        });
    }

    /// Writes a JSON answer, one object, two-space indentation.
    pub fn json(&mut self, value: &impl Serialize) {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        self.data(&harmless_json(&text));
    }

    /// Says what was done or found; silent with `-q`. Each line is made harmless.
    pub fn status(&mut self, text: &str) {
        if self.loudness >= Loudness::Normal {
            self.say_lines(text);
        }
    }

    /// Says why; only with `-v`.
    pub fn detail(&mut self, text: &str) {
        if self.loudness >= Loudness::Verbose {
            self.say_lines(text);
        }
    }

    /// Warns; also with `-q`, since a warning is not chatter.
    pub fn warning(&mut self, text: &str) {
        let mark = paint("warning:", Role::Warning, self.color_err);
        self.say(&format!("{mark} {}", harmless(text)));
    }

    /// Says what went wrong and what to do about it: problems with one cause together.
    pub fn problems(&mut self, problems: &[Problem]) {
        let mut told = vec![false; problems.len()];
        for (index, problem) in problems.iter().enumerate() {
            if told[index] {
                continue;
            }
            let alike: Vec<usize> = (index..problems.len())
                .filter(|&other| is_same_cause(problem, &problems[other]))
                .collect();
            alike.iter().for_each(|&other| told[other] = true);
            let names: Vec<&str> = alike
                .iter()
                .filter_map(|&other| problems[other].entry.as_deref())
                .collect();
            self.problem(problem, &names);
        }
    }

    fn problem(&mut self, problem: &Problem, entries: &[&str]) {
        let word = match problem.kind.severity() {
            Severity::Refused => "refused:",
            Severity::Trouble => "error:",
        };
        let mark = paint(word, Role::Error, self.color_err);
        let message = problem.kind.to_string();
        match entries {
            [] => {
                for line in message.lines() {
                    self.say(&format!("{mark} {}", harmless(line)));
                }
            }
            [entry] => {
                let message: Vec<_> = message.lines().map(harmless).collect();
                self.say(&format!(
                    "{mark} {}: {}",
                    harmless(entry),
                    message.join(" ")
                ));
            }
            _ => {
                self.say(&format!(
                    "{mark} {} entries: {}",
                    entries.len(),
                    harmless(&message)
                ));
                for entry in entries {
                    self.say(&format!("  {}", harmless(entry)));
                }
            }
        }
        if let Some(help) = &problem.help {
            for (index, line) in help.lines().enumerate() {
                let lead = if index == 0 { "  help:" } else { "       " };
                let line = format!("{lead} {}", harmless(line));
                self.say(&paint(&line, Role::Help, self.color_err));
            }
        }
    }

    /// Writes text for a terminal's error stream as it is, such as usage errors.
    pub fn raw_error(&mut self, text: &str) {
        drop(
            self.err
                .write_all(text.as_bytes())
                .and_then(|()| self.err.flush()),
        );
    }

    fn say_lines(&mut self, text: &str) {
        for line in text.lines() {
            self.say(&harmless(line));
        }
    }

    fn say(&mut self, text: &str) {
        drop(writeln!(self.err, "{text}").and_then(|()| self.err.flush()));
    }
}

/// Returns whether two problems of entries differ in nothing but the entry.
fn is_same_cause(one: &Problem, other: &Problem) -> bool {
    std::ptr::eq(one, other)
        || (one.entry.is_some()
            && other.entry.is_some()
            && one.help == other.help
            && one.kind.code() == other.kind.code()
            && one.kind.to_string() == other.kind.to_string())
}

/// The root that is trusted.
#[derive(Serialize, JsonSchema)]
pub(super) struct TrustJson<'a> {
    schema_version: u32,
    command: &'static str,
    /// The root that is trusted now; empty where none is declared.
    root: &'a str,
    /// The one that was trusted before.
    before: Option<&'a str>,
    /// Entries whose data keys are agreed to.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entries: &'a [String],
}

/// A new identity.
#[derive(Serialize, JsonSchema)]
pub(super) struct KeyJson<'a> {
    schema_version: u32,
    command: &'static str,
    /// The identity file.
    file: &'a str,
    /// Its recipient.
    recipient: &'a str,
}

/// Why a command stopped before it could report.
#[derive(Serialize, JsonSchema)]
pub(super) struct ProblemsJson {
    schema_version: u32,
    problems: Vec<ProblemJson>,
}

impl Ui {
    /// Shows why a command stopped before it could report, as JSON.
    pub fn problems_json(&mut self, problems: &[Problem]) {
        self.json(&ProblemsJson {
            schema_version: SCHEMA_VERSION,
            problems: problems.iter().map(ProblemJson::of).collect(),
        });
    }
}

/// A problem as JSON.
#[derive(Serialize, JsonSchema)]
pub struct ProblemJson {
    /// The entry it happened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The stable word for its kind.
    pub code: &'static str,
    /// `refused` or `error`.
    pub severity: &'static str,
    /// What went wrong, in words.
    pub message: String,
    /// The keys it is about, where it is about keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl ProblemJson {
    /// Returns the JSON form of a problem.
    pub fn of(problem: &Problem) -> Self {
        Self {
            entry: problem.entry.clone(),
            code: problem.kind.code(),
            severity: match problem.kind.severity() {
                Severity::Refused => "refused",
                Severity::Trouble => "error",
            },
            message: problem.kind.to_string(),
            keys: match &*problem.kind {
                ErrorKind::Refusal(refusal) => refusal.keys(),
                _ => Vec::new(),
            },
            help: problem.help.clone(),
        }
    }
}
