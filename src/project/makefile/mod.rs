//! Reads the file lists of a Makefile that loops `sops` over them.
//!
//! The module turns the text of such a Makefile into plain data: the rows of
//! the lists, the folder on the server, the identity file, owner and mode. It
//! reads no file and no environment and runs nothing. What it cannot know for
//! certain it leaves out, and says so in [`Migration::unread`].

use recipes::Recipes;
use rows::{agreed_folder, apply_root, keep_first, list_rows};
use variables::{
    Values, find_outside, is_blank, last_line, line_mark, marked_from, marked_line, quote,
};

mod recipes;
mod rows;
#[cfg(test)]
mod tests;
mod variables;

/// A row as the list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The file in the repository; ends in `.enc` for secrets, not for plain files.
    pub repository_path: String,
    /// The file on the server: relative to a known root, else as the list says.
    pub server_path: String,
    /// The line of the word, counted from 1.
    pub line: usize,
}

/// Where the server sides are relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// An absolute path without a slash at its end.
    Known(String),
    /// The Makefile alone does not say it.
    Unknown {
        /// The variable the recipes put before the server sides, its value unknown.
        variable: Option<String>,
    },
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The line it stands on, counted from 1.
    pub line: usize,
    /// What could not be read and why, in one sentence.
    pub what: String,
}

impl Unread {
    fn new(line: usize, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { line, what }
    }

    fn unreadable(line: usize, text: &str, why: &str) -> Self {
        Self::new(line, format!("cannot read `{}`: {why}", quote(text)))
    }
}

/// All that a Makefile says about its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The rows of the secret lists.
    pub secret: Vec<Row>,
    /// The rows of the lists of plain files.
    pub plain: Vec<Row>,
    /// The folder the server sides are relative to.
    pub root: Root,
    /// The age identity file; may start with `~/`.
    pub identity: Option<String>,
    /// The owner the recipes give to decrypted files.
    pub owner: Option<String>,
    /// The group the recipes give to decrypted files.
    pub group: Option<String>,
    /// The mode the recipes give to decrypted files, four octal digits.
    pub mode: Option<String>,
    /// The input type of `sops`, when all its calls agree.
    pub input_type: Option<String>,
    /// What was not read, by line.
    pub unread: Vec<Unread>,
}

type Notes = Vec<Unread>;
/// Rows, each with a flag that says whether it is secret.
type Rows = Vec<(bool, Row)>;

const KEY_VARIABLE: &str = "SOPS_AGE_KEY_FILE";

/// Reads the text of a Makefile. The two lists name the variables that hold
/// the secret and the plain files; a name that is not set gives no rows.
#[must_use]
pub fn read(text: &str, secret_variables: &[&str], plain_variables: &[&str]) -> Migration {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let text = text.replace(|letter| u32::from(letter) >= variables::LINES, "\u{FFFD}");
    let mut reader = Reader::default();
    for line in text.split('\n') {
        reader.lines.push(line.strip_suffix('\r').unwrap_or(line));
    }
    while let Some((number, line)) = reader.logical_line() {
        reader.statement(number, &line);
    }
    let (mut values, mut unread) = (reader.values, reader.unread);
    let mut rows = Rows::new();
    let mut folders = Vec::new();
    for (names, secret) in [(secret_variables, true), (plain_variables, false)] {
        for list in names.iter().filter_map(|name| values.value(name).ok()) {
            rows.extend(list_rows(&list, secret, &mut folders, &mut unread));
        }
    }
    let folder = agreed_folder(&folders, &mut unread);
    let mut recipes = Recipes::default();
    for lines in &reader.recipes {
        recipes.add(lines, &mut values);
    }
    let identity = recipes.identity(&mut values, &mut unread);
    let root = match folder {
        Some(variable) => Root::Unknown {
            variable: Some(variable),
        },
        None => recipes.root(&mut unread),
    };
    let (root, rows) = apply_root(root, rows, &mut unread);
    let rows = keep_first(rows, &mut unread);
    let [owner, group, mode] = recipes.permissions(&mut unread);
    let input_type = recipes.input_type(&mut unread);

    let relevant = reader
        .notes
        .into_iter()
        .filter(|(name, _)| values.used.contains(name));
    unread.extend(relevant.map(|(_, note)| note));
    unread.sort_by_key(|entry| entry.line);
    unread.dedup();
    let (secret, plain): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(secret, _)| *secret);
    Migration {
        secret: secret.into_iter().map(|(_, row)| row).collect(),
        plain: plain.into_iter().map(|(_, row)| row).collect(),
        root,
        identity,
        owner,
        group,
        mode,
        input_type,
        unread,
    }
}

/// Goes through the lines of a Makefile.
#[derive(Default)]
struct Reader<'a> {
    lines: Vec<&'a str>,
    next: usize,
    conditions: usize,
    values: Values,
    /// Whether lines with a tab belong to the last recipe.
    in_rule: bool,
    /// The raw lines of every recipe.
    recipes: Vec<Vec<String>>,
    /// Notes that only count when the variable they are about does.
    notes: Vec<(String, Unread)>,
    unread: Notes,
}

impl Reader<'_> {
    /// The next line, joined with those that continue it as make does, and its number.
    fn logical_line(&mut self) -> Option<(usize, String)> {
        let mut out = (*self.lines.get(self.next)?).to_owned();
        self.next += 1;
        let number = self.next;
        while let Some(start) = out.strip_suffix('\\')
            && let Some(line) = self.lines.get(self.next)
        {
            self.next += 1;
            let (start, mark) = (start.trim_end_matches(is_blank), line_mark(self.next));
            out = format!("{start} {mark}{}", line.trim_start_matches(is_blank));
        }
        Some((number, out))
    }

    /// Reads one logical line.
    fn statement(&mut self, number: usize, text: &str) {
        let first = self.lines.get(number - 1).copied().unwrap_or_default();
        if self.in_rule && first.starts_with('\t') {
            let recipe = self.recipes.last_mut();
            return recipe
                .into_iter()
                .for_each(|lines| lines.push(marked_from(number, text)));
        }
        let (code, comment) = uncommented(text);
        match first_word(&code) {
            "" | "else" => return,
            "ifeq" | "ifneq" | "ifdef" | "ifndef" => return self.conditions += 1,
            "endif" => return self.conditions = self.conditions.saturating_sub(1),
            _ => {}
        }
        let code = without_modifiers(&code);
        let keyword = first_word(code);
        if keyword == "define" {
            self.in_rule = false;
            self.define(number, code);
        } else if let Some(found) = assignment(code) {
            self.in_rule = false;
            self.comment_note(found.0, found.2, number, comment);
            self.assign(found, number, None);
        } else if matches!(keyword, "include" | "-include" | "sinclude") {
            self.in_rule = false;
            let what = "reads another file, which is not read here";
            let what = format!("`{}` {what}", quote(code));
            self.unread.push(Unread::new(number, what));
        } else if code.contains("$(eval") || code.contains("${eval") {
            let what = "`eval` may set variables, which is not read here";
            self.unread.push(Unread::new(number, what));
        } else {
            self.rule_line(number, text.trim_start_matches(is_blank));
        }
    }

    /// Does an assignment, or notes it when it counts for one target or under a condition only.
    fn assign(&mut self, found: (&str, &str, &str), line: usize, target: Option<&str>) {
        let (name, operator, value) = found;
        let name = variables::unmarked(&self.values.expand(name));
        let place = match target {
            Some(target) => format!("for the target {} only", quote(target)),
            None if self.conditions > 0 => "inside a condition".to_owned(),
            None => {
                let value = marked_from(line, value);
                return self.values.assign(&name, operator, &value);
            }
        };
        self.values.elsewhere.insert(name.clone());
        let what = format!("{name} is set {place}, and that value is not used");
        self.notes.push((name, Unread::new(line, what)));
    }

    /// Says when a comment ends a list earlier than its author may think.
    fn comment_note(&mut self, name: &str, value: &str, start: usize, comment: &str) {
        let line = last_line(value, start);
        let mut more = comment.split(|letter| marked_line(letter).is_some());
        let more = more.any(|part| !part.trim().is_empty() && !part.starts_with('#'));
        let next = self.lines.get(self.next).copied().unwrap_or_default();
        let loose =
            next.starts_with([' ', '\t']) && !matches!(next.trim().get(..1), None | Some("#"));
        let loose = loose && !comment.is_empty();
        let what = if more {
            format!("make takes the rest of the list from line {line} as a comment")
        } else if loose && (line > start || first_word(value).is_empty()) {
            let lost = format!("so line {} is not part of it", self.next + 1);
            format!("make ends the list at the comment in line {line}, {lost}")
        } else {
            return;
        };
        self.notes.push((name.to_owned(), Unread::new(line, what)));
    }

    /// Reads the lines up to `endef`.
    fn define(&mut self, number: usize, code: &str) {
        let mut title = code.split(is_blank).filter(|word| !word.is_empty()).skip(1);
        let name = title.next().unwrap_or_default();
        let operator = title.next().unwrap_or("=");
        let mut body = String::new();
        while let Some((line, text)) = self.logical_line() {
            if first_word(&text) == "endef" {
                break;
            }
            body.extend(['\n', line_mark(line)]);
            body.push_str(&text);
        }
        self.assign((name, operator, &body), number, None);
    }

    /// Starts a rule, or notes a variable that is set for one target.
    fn rule_line(&mut self, number: usize, text: &str) {
        let place = find_outside(text, ":#").unwrap_or(text.len());
        let (target, rest) = text.split_at_checked(place).unwrap_or((text, ""));
        let Some(rest) = rest.strip_prefix(':') else {
            return;
        };
        self.in_rule = false;
        let (code, _) = uncommented(rest.strip_prefix(':').unwrap_or(rest));
        if let Some(found) = assignment(without_modifiers(&code)) {
            self.assign(found, number, Some(target));
            return;
        }
        let end = find_outside(text, ";#");
        let recipe = end.and_then(|end| text.get(end..)?.strip_prefix(';'));
        let first = recipe.map(|recipe| marked_from(number, recipe));
        self.recipes.push(first.into_iter().collect());
        self.in_rule = true;
    }
}

fn first_word(text: &str) -> &str {
    let text = text.trim_start_matches(is_blank);
    text.split(is_blank).next().unwrap_or_default()
}

/// The text without blanks and words such as `export` at its start.
fn without_modifiers(code: &str) -> &str {
    let mut code = code.trim_start_matches(is_blank);
    while matches!(first_word(code), "export" | "override" | "private") {
        let (_, rest) = code.split_once(is_blank).unwrap_or_default();
        code = rest.trim_start_matches(is_blank);
    }
    code
}

/// Splits a line into its code, with `\#` read as `#`, and its comment.
fn uncommented(text: &str) -> (String, &str) {
    let mut code = String::new();
    let mut rest = text;
    while let Some(place) = find_outside(rest, "#") {
        let (before, comment) = rest.split_at_checked(place).unwrap_or_default();
        let Some(before) = before.strip_suffix('\\') else {
            return (code + before, comment);
        };
        code.push_str(before);
        code.push('#');
        rest = comment.strip_prefix('#').unwrap_or_default();
    }
    (code + rest, "")
}

/// The name, the operator and the value of an assignment.
fn assignment(code: &str) -> Option<(&str, &str, &str)> {
    let (before, after) = code.split_at_checked(find_outside(code, "=")?)?;
    let mut operators = [":::", "::", ":", "?", "+", "!", ""].iter();
    let (name, mark) = operators.find_map(|mark| Some((before.strip_suffix(mark)?, mark)))?;
    let name = name.trim_end_matches(is_blank);
    let fits = !name.is_empty() && find_outside(name, ":;#").is_none() && !name.contains(is_blank);
    let operator = code.get(before.len() - mark.len()..=before.len())?;
    fits.then_some((name, operator, after.strip_prefix('=')?))
}
