//! The variables of a Makefile, and how text is expanded with them.
//!
//! Text carries marks, private characters that are taken out of the source. A line
//! mark is a blank that tells the line of the words after it. A reference whose value cannot be
//! known becomes a hole: `HOLE`, the reason, `SOURCE` and the reference, with `HELD` for blanks.

use std::collections::{BTreeMap, BTreeSet};

pub(super) const LINES: u32 = 0xF_0000;
const LAST_LINE: u32 = 0xFFFF;
const HOLE: char = '\u{100000}';
const SOURCE: char = '\u{100001}';
/// A blank that does not end a word.
pub(super) const HELD: &str = "\u{100002}";
const DEEPEST: usize = 80;
pub(super) const BUDGET: usize = 2_000_000;
const LARGEST_PRODUCT: usize = 50_000_000;
const TOO_DEEP: &str = "it refers to itself or is nested too deep";
const PRINTED: &str = "it is what a program prints";
const TOO_LARGE: &str = "the text grows too large";

/// The blank that tells the line of the words after it; very late lines share the last mark.
pub(super) fn line_mark(line: usize) -> char {
    let number = u32::try_from(line).map_or(LAST_LINE, |line| line.min(LAST_LINE));
    char::from_u32(LINES + number).unwrap_or(' ')
}

/// The line that a line mark tells.
pub(super) fn marked_line(letter: char) -> Option<usize> {
    let number = u32::from(letter).checked_sub(LINES)?;
    usize::try_from(number).ok().filter(|_| number <= LAST_LINE)
}

/// The last line that a text tells, or else the given one.
pub(super) fn last_line(text: &str, line: usize) -> usize {
    text.chars().rev().find_map(marked_line).unwrap_or(line)
}

pub(super) fn is_blank(letter: char) -> bool {
    letter.is_ascii_whitespace() || letter == '\u{b}' || marked_line(letter).is_some()
}

/// The text without its line marks.
pub(super) fn unmarked(text: &str) -> String {
    // The first byte of all marks; most texts have none, and some are long.
    if !text.as_bytes().contains(&0xf3) {
        return text.to_owned();
    }
    text.replace(|letter| marked_line(letter).is_some(), "")
}

/// The text without the blanks at its start, behind the mark of the line where it starts.
pub(super) fn marked_from(line: usize, text: &str) -> String {
    let value = text.trim_start_matches(is_blank);
    let skipped = text.strip_suffix(value).unwrap_or_default();
    format!("{}{value}", line_mark(last_line(skipped, line)))
}

fn hole(source: &str, why: &str) -> String {
    format!("{HOLE}{why}{SOURCE}{source}").replace(is_blank, HELD)
}

/// Why the first hole in a text cannot be known, if there is one.
pub(super) fn why_unknown(text: &str) -> Option<String> {
    let (why, _) = text.split_once(HOLE)?.1.split_once(SOURCE)?;
    Some(why.replace(HELD, " "))
}

/// The text with the references themselves in place of the holes.
pub(super) fn shown(text: &str) -> String {
    let source = |part: &str| part.rsplit(SOURCE).next().map(str::to_owned);
    let parts: String = text.split(HOLE).filter_map(source).collect();
    parts.replace(HELD, " ")
}

/// A text as a message shows it: in one line and not too long.
pub(super) fn quote(text: &str) -> String {
    let text = shown(text);
    let list: Vec<&str> = words(&text).into_iter().map(|(_, word)| word).collect();
    list.join(" ").chars().take(80).collect()
}

/// The words of a text with their lines.
pub(super) fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut line = 0;
    for piece in text.split_inclusive(is_blank) {
        let word = piece.trim_end_matches(is_blank);
        if !word.is_empty() {
            found.push((line, word));
        }
        line = last_line(piece, line);
    }
    found
}

/// Changes every word of a list; the results keep the lines of the words.
fn each(list: &[(usize, &str)], change: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    for (line, word) in list {
        out.push_str(if out.is_empty() { "" } else { " " });
        out.push(line_mark(*line));
        out.push_str(&change(word));
    }
    out
}

/// Splits the text after a `$` into what the reference holds and what follows it.
pub(super) fn split_reference(text: &str) -> Option<(&str, &str)> {
    let open = text.chars().next()?;
    let close = match open {
        '(' => ')',
        '{' => '}',
        _ => return text.split_at_checked(open.len_utf8()),
    };
    let mut depth = 0_usize;
    for (index, letter) in text.char_indices() {
        if letter == open {
            depth += 1;
        } else if letter == close && depth == 1 {
            return Some((text.get(1..index)?, text.get(index + 1..)?));
        } else if letter == close {
            depth -= 1;
        }
    }
    None
}

/// What stands before the rest of a text. By their lengths: to compare them takes long in a long text with many references.
pub(super) fn before<'t>(text: &'t str, rest: &str) -> &'t str {
    let length = text.len().saturating_sub(rest.len());
    text.get(..length).unwrap_or(text)
}

/// The place of the first wanted character that stands outside references.
pub(super) fn find_outside(text: &str, wanted: &str) -> Option<usize> {
    let mut rest = text;
    loop {
        rest = rest.get(rest.find(|letter| letter == '$' || wanted.contains(letter))?..)?;
        let Some(after) = rest.strip_prefix('$') else {
            return Some(text.len() - rest.len());
        };
        (_, rest) = split_reference(after)?;
    }
}

/// The variables of the Makefile.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The values, and whether they are expanded only when they are used.
    variables: BTreeMap<String, (String, bool)>,
    locals: Vec<(String, String)>,
    /// The variables that are being expanded, with an empty name for every bracket.
    open: Vec<String>,
    spent: usize,
    /// The variables that were looked at.
    pub(super) used: BTreeSet<String>,
    /// The variables that are set at a place that is not read.
    pub(super) elsewhere: BTreeSet<String>,
}

impl Values {
    /// Does an assignment; the value starts with its line mark.
    pub(super) fn assign(&mut self, name: &str, operator: &str, value: &str) {
        let known = self.variables.get(name).map(|(_, recursive)| *recursive);
        if operator == "?=" && known.is_some() {
            return;
        }
        let appended = operator == "+=" && known.is_some();
        let simple = operator.ends_with(":=") || (appended && known == Some(false));
        let mut value = match operator {
            "!=" => marked_from(0, value.get(..4).unwrap_or("")) + &hole(value, PRINTED),
            _ if simple => self.expand(value),
            _ => value.to_owned(),
        };
        if appended && let Some((before, _)) = self.variables.get(name) {
            value = format!("{before} {value}");
        }
        self.variables.insert(name.to_owned(), (value, !simple));
    }

    /// The expanded value of a variable, or why it has none.
    pub(super) fn value(&mut self, name: &str) -> Result<String, String> {
        self.used.insert(name.to_owned());
        if let Some((_, value)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Ok(value.clone());
        }
        let Some((value, recursive)) = self.variables.get(name).cloned() else {
            let why = if self.elsewhere.contains(name) {
                "is set only inside a condition or for one target"
            } else {
                "is not set in the Makefile, so it comes from make or the environment"
            };
            return Err(format!("{name} {why}"));
        };
        if !recursive {
            return Ok(value);
        }
        if self.open.iter().any(|open| open == name) {
            return Err(TOO_DEEP.to_owned());
        }
        self.open.push(name.to_owned());
        let value = self.expand(&value);
        self.open.pop();
        Ok(value)
    }

    /// Expands the references in a text; those that cannot be known become holes.
    pub(super) fn expand(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        let mut line = 0;
        loop {
            let (literal, after) = rest.split_once('$').unwrap_or((rest, ""));
            out.push_str(literal);
            line = last_line(literal, line);
            if after.is_empty() {
                return out;
            }
            if after.starts_with('$') {
                out.push('$');
                rest = after.get(1..).unwrap_or_default();
                continue;
            }
            let Some((content, next)) = split_reference(after) else {
                return out + &hole(&format!("${after}"), "its bracket is not closed");
            };
            rest = next;
            self.open.push(String::new());
            let result = match self.open.len() {
                _ if self.spent > BUDGET => Err(TOO_LARGE.to_owned()),
                DEEPEST.. => Err(TOO_DEEP.to_owned()),
                _ => self.reference(content, line),
            };
            self.open.pop();
            let source = before(after, rest);
            // A text of one letter words takes many times its size once it is split.
            let result = result.and_then(|value| match value.len() {
                ..=BUDGET => Ok(value),
                _ => Err(TOO_LARGE.to_owned()),
            });
            let mut value = result.unwrap_or_else(|why| hole(&format!("${source}"), &why));
            self.spent += content.len() + value.len() + 30;
            // A value glued to other text belongs to the word that names it.
            let glued = |letter: char| !is_blank(letter);
            if out.ends_with(glued) || rest.starts_with(glued) {
                value = unmarked(&value);
            } else {
                value.push(line_mark(line));
            }
            out.push_str(&value);
        }
    }

    /// The value of what stands between the brackets of a reference.
    fn reference(&mut self, content: &str, line: usize) -> Result<String, String> {
        let is_letter = |letter: char| letter.is_ascii_lowercase() || letter == '-';
        let (name, rest) = content.split_once(is_blank).unwrap_or_default();
        if !name.is_empty() && name.chars().all(is_letter) {
            return self.function(name, rest.trim_start_matches(is_blank), line);
        }
        let content = unmarked(&self.expand(content));
        let (name, change) = match content.split_once(':') {
            Some((name, change)) if change.contains('=') => (name, change.split_once('=')),
            _ => (content.as_str(), None),
        };
        if why_unknown(name).is_some() {
            return Err("the name of the variable is not known".to_owned());
        }
        let value = self.value(name.trim())?;
        Ok(match change {
            Some((from, to)) if from.contains('%') => substituted(&words(&value), from, to),
            Some((from, to)) => substituted(&words(&value), &format!("%{from}"), &format!("%{to}")),
            None => value,
        })
    }

    /// Calls a function of make.
    fn function(&mut self, name: &str, text: &str, line: usize) -> Result<String, String> {
        let count = match name {
            "strip" | "sort" | "notdir" => 1,
            "addprefix" | "addsuffix" | "filter" | "filter-out" => 2,
            "patsubst" | "subst" | "foreach" => 3,
            "call" => usize::MAX,
            "shell" => return Err(PRINTED.to_owned()),
            "wildcard" => return Err("it depends on the files in the folder".to_owned()),
            _ => return Err(format!("the function {name} is not read here")),
        };
        let mut raw = arguments(text, count);
        if name != "call" && raw.len() < count {
            return Err(format!("the function {name} has too few arguments"));
        }
        let body = raw.pop_if(|_| name == "foreach").unwrap_or_default();
        let mut given = Vec::new();
        for argument in raw {
            given.push(self.expand(&format!("{}{argument}", line_mark(line))));
        }
        let plain: Vec<String> = given.iter().map(|text| unmarked(text)).collect();
        let [one, two] = [0, 1].map(|index| plain.get(index).map_or("", String::as_str));
        if name == "call" {
            let before = self.locals.len();
            for (index, value) in given.into_iter().enumerate() {
                self.locals.push((index.to_string(), value));
            }
            let value = self.value(one.trim());
            self.locals.truncate(before);
            return value;
        }
        let sizes = given.iter().map(String::len);
        let product = sizes.fold(body.len().max(1), usize::saturating_mul);
        if product > LARGEST_PRODUCT {
            return Err(TOO_LARGE.to_owned());
        }
        // So that many large ones are no way around the budget.
        self.spent += product / (LARGEST_PRODUCT / BUDGET);
        let text = given.last().map_or("", String::as_str);
        let mut list = words(text);
        if name == "sort" {
            list.sort_by_key(|(_, word)| *word);
            list.dedup_by_key(|(_, word)| *word);
        }
        if name.starts_with("filter") {
            if why_unknown(one).is_some() {
                return Err("what it filters by is not known".to_owned());
            }
            let patterns = words(one);
            let fits = |word| patterns.iter().any(|(_, part)| stem(word, part).is_some());
            list.retain(|(_, word)| word.contains(HOLE) || fits(word) == (name == "filter"));
        }
        Ok(match name {
            "foreach" => {
                let mut out = Vec::new();
                for (line, word) in list {
                    self.locals.push((one.trim().to_owned(), word.to_owned()));
                    out.push(format!(
                        "{}{}",
                        line_mark(line),
                        unmarked(&self.expand(body))
                    ));
                    self.locals.pop();
                }
                out.join(" ")
            }
            "notdir" => each(&list, |word| word.rsplit('/').take(1).collect()),
            "addprefix" => each(&list, |word| format!("{one}{word}")),
            "addsuffix" => each(&list, |word| format!("{word}{one}")),
            "patsubst" => substituted(&list, one.trim(), two),
            "subst" if !one.is_empty() => unmarked(text).replace(one, two),
            _ => each(&list, str::to_owned),
        })
    }
}

/// Splits the arguments of a function at commas; the last one takes the rest.
fn arguments(text: &str, count: usize) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while out.len() < count - 1
        && let Some(place) = find_outside(rest, ",")
    {
        out.push(rest.get(..place).unwrap_or_default());
        rest = rest.get(place + 1..).unwrap_or_default();
    }
    out.push(rest);
    out
}

/// What `%` stands for when the word fits the pattern.
fn stem<'a>(word: &'a str, pattern: &str) -> Option<&'a str> {
    match pattern.split_once('%') {
        Some((before, after)) => word.strip_prefix(before)?.strip_suffix(after),
        None => (word == pattern).then_some(""),
    }
}

/// Puts the words of a list that fit one pattern into another pattern.
fn substituted(list: &[(usize, &str)], from: &str, to: &str) -> String {
    each(list, |word| match stem(word, from) {
        Some(stem) => to.replacen('%', stem, 1),
        None => word.to_owned(),
    })
}
