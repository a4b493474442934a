//! Changing rows of `secret-files.toml` without touching anything else in it: comments, blank lines,
//! order and alignment stay. Text in, text out; the caller reads the result again before it counts.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::manifest::Kind;

/// What a new row says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The file in the repository.
    pub repository_path: String,
    /// The file on the server.
    pub server_path: String,
    /// Further fields, in order: name and TOML value.
    pub fields: Vec<(&'static str, String)>,
}

impl Row {
    /// Returns the row as a line of TOML without its end, the equals sign at `column` where the key
    /// is short enough.
    pub fn to_line(&self, column: usize) -> String {
        let key = quoted(&self.repository_path);
        let padding = " ".repeat(column.saturating_sub(key.chars().count() + 1));
        format!("{key} {padding}= {}", self.value())
    }

    fn value(&self) -> String {
        let path = quoted(&self.server_path);
        if self.fields.is_empty() {
            return path;
        }
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        format!("{{ path = {path}, {} }}", fields.join(", "))
    }
}

/// Returns a text as a TOML string.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn table_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Plain => "plain",
        Kind::Secret => "files",
    }
}

/// Adds rows behind the last one of their table.
pub fn add_rows(text: &str, kind: Kind, rows: &[Row]) -> String {
    let end = line_end(text);
    let header = format!("[{}]", table_name(kind));
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_header = |line: &str| line.trim_start().starts_with('[');
    let Some(start) = lines
        .iter()
        .position(|line| without_comment(line) == header)
    else {
        let mut out = text.to_owned();
        if !out.is_empty() && !out.ends_with('\n') {
            out.push_str(end);
        }
        out.push_str(&format!("{end}{header}{end}"));
        for row in rows {
            out.push_str(&format!("{}{end}", row.to_line(0)));
        }
        return out;
    };
    let stop = lines[start + 1..]
        .iter()
        .position(|line| is_header(line))
        .map_or(lines.len(), |at| start + 1 + at);
    let is_row = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    };
    let last = (start + 1..stop).rev().find(|&at| is_row(lines[at]));
    let column = last.map_or(0, |at| equals_column(lines[at]));
    let at = last.unwrap_or(start) + 1;
    let mut out: String = lines[..at].concat();
    if !out.ends_with('\n') {
        out.push_str(end);
    }
    for row in rows {
        out.push_str(&format!("{}{end}", row.to_line(column)));
    }
    out.push_str(&lines[at..].concat());
    out
}

/// Returns in which column the equals sign of a row stands, 0 where it is no row.
fn equals_column(line: &str) -> usize {
    let mut quote = None;
    for (at, c) in line.chars().enumerate() {
        match (quote, c) {
            (None, '=') => return at,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    0
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

fn line_end(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Where a row stands.
struct Found {
    key: Range<usize>,
    value: Range<usize>,
    path: Option<Range<usize>>,
    is_own_table: bool,
}

fn find(text: &str, kind: Kind, name: &str) -> Option<Found> {
    let parsed = DeTable::parse(text).ok()?;
    let table = parsed.get_ref().get(table_name(kind))?;
    let table = table.get_ref().as_table()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    let path = match value.get_ref() {
        DeValue::String(_) => Some(value.span()),
        DeValue::Table(table) => table.get("path").map(toml::Spanned::span),
        _ => None,
    };
    let before = &text[..key.span().start];
    let line = before.rsplit('\n').next().unwrap_or_default();
    Some(Found {
        key: key.span(),
        value: value.span(),
        path,
        is_own_table: line.trim_start().starts_with('['),
    })
}

/// Removes a row; comments above it stay. `None` where there is none.
pub fn remove_row(text: &str, kind: Kind, name: &str) -> Option<String> {
    let found = find(text, kind, name)?;
    let start = text[..found.key.start].rfind('\n').map_or(0, |at| at + 1);
    let end_of_line = |from: usize| {
        text[from..]
            .find('\n')
            .map_or(text.len(), |at| from + at + 1)
    };
    let stop = if found.is_own_table {
        let mut stop = end_of_line(found.key.end);
        let mut at = stop;
        // Up to the last line that is neither blank nor a comment before the next table.
        while at < text.len() {
            let next = end_of_line(at);
            let line = text[at..next].trim();
            if line.starts_with('[') {
                break;
            }
            at = next;
            if !line.is_empty() && !line.starts_with('#') {
                stop = at;
            }
        }
        stop
    } else {
        end_of_line(found.value.end.max(found.key.end))
    };
    Some(format!("{}{}", &text[..start], &text[stop..]))
}

/// Gives a row another name, and another file on the server where one is given. `None` where there is
/// no such row.
pub fn move_row(
    text: &str,
    kind: Kind,
    name: &str,
    new_name: &str,
    new_path: Option<&str>,
) -> Option<String> {
    let found = find(text, kind, name)?;
    let mut changes = vec![(found.key, quoted(new_name))];
    if let Some(path) = new_path {
        changes.push((found.path?, quoted(path)));
    }
    changes.sort_by_key(|(span, _)| span.start);
    let mut out = String::new();
    let mut at = 0;
    for (span, new) in changes {
        out.push_str(&text[at..span.start]);
        out.push_str(&new);
        at = span.end;
    }
    out.push_str(&text[at..]);
    Some(out)
}

/// Adds lines to a file such as `.gitignore`; those that are there already are left out. Returns
/// nothing where none is missing.
pub fn add_lines(text: &str, lines: &[String], heading: &str) -> Option<String> {
    let is_there = |line: &&String| text.lines().any(|known| known == line.as_str());
    let missing: Vec<&String> = lines.iter().filter(|line| !is_there(line)).collect();
    if missing.is_empty() {
        return None;
    }
    let end = line_end(text);
    let mut out = text.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push_str(end);
    }
    let has_heading = text.lines().any(|line| line == heading);
    if !heading.is_empty() && !has_heading {
        if !out.is_empty() {
            out.push_str(end);
        }
        out.push_str(&format!("{heading}{end}"));
    }
    for line in missing {
        out.push_str(&format!("{line}{end}"));
    }
    Some(out)
}

/// Returns the line of `.gitignore` that means one file, by its path relative to the list: what is
/// special there is escaped.
pub fn ignore_line(path: &str) -> String {
    let mut line = String::from("/");
    for c in path.chars() {
        if matches!(c, '\\' | '*' | '?' | '[') {
            line.push('\\');
        }
        line.push(c);
    }
    // A blank at the end would not count.
    if let Some(start) = line.strip_suffix(' ') {
        line = format!("{start}\\ ");
    }
    line
}

/// Removes a line of a file such as `.gitignore`; `None` where it is not there.
pub fn remove_line(text: &str, line: &str) -> Option<String> {
    let kept: String = text
        .split_inclusive('\n')
        .filter(|known| known.trim_end_matches(['\n', '\r']) != line)
        .collect();
    (kept.len() != text.len()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version = 1\n\n[files]  # all of them\n# databases\n\"a.enc\"    = \"a\"   # first\n\"b.enc\"    = { path = \"b\", mode = \"0644\" }\n\n# a family\n[files.\"c.enc\"]\npath = \"c\"\noptional = true\n\n[plain]\n\"x\" = \"x\"\n";

    fn row(name: &str) -> Row {
        Row {
            repository_path: format!("{name}.enc"),
            server_path: name.to_owned(),
            fields: Vec::new(),
        }
    }

    #[test]
    fn a_row_is_added_behind_the_last_one() {
        let text = add_rows(TEXT, Kind::Secret, &[row("d")]);
        let expected = TEXT.replace(
            "mode = \"0644\" }\n",
            "mode = \"0644\" }\n\"d.enc\"    = \"d\"\n",
        );
        assert_eq!(text, expected);
        let mut with_mode = row("e");
        with_mode.fields.push(("mode", quoted("0640")));
        let text = add_rows("version = 1", Kind::Secret, &[with_mode]);
        let expected = "version = 1\n\n[files]\n\"e.enc\" = { path = \"e\", mode = \"0640\" }\n";
        assert_eq!(text, expected);
        let text = add_rows("[files]\r\n", Kind::Secret, &[row("d")]);
        assert_eq!(text, "[files]\r\n\"d.enc\" = \"d\"\r\n");
    }

    #[test]
    fn a_row_is_removed_and_nothing_else() {
        let text = remove_row(TEXT, Kind::Secret, "a.enc").unwrap();
        assert_eq!(text, TEXT.replace("\"a.enc\"    = \"a\"   # first\n", ""));
        let text = remove_row(TEXT, Kind::Secret, "c.enc").unwrap();
        let expected = TEXT.replace("[files.\"c.enc\"]\npath = \"c\"\noptional = true\n", "");
        assert_eq!(text, expected);
        assert_eq!(remove_row(TEXT, Kind::Secret, "x"), None);
    }

    #[test]
    fn a_row_is_moved_in_place() {
        let text = move_row(TEXT, Kind::Secret, "b.enc", "n/b.enc", Some("n/b")).unwrap();
        let expected = TEXT.replace(
            "\"b.enc\"    = { path = \"b\"",
            "\"n/b.enc\"    = { path = \"n/b\"",
        );
        assert_eq!(text, expected);
        let text = move_row(TEXT, Kind::Secret, "c.enc", "d.enc", None).unwrap();
        assert_eq!(text, TEXT.replace("c.enc", "d.enc"));
        let text = move_row(TEXT, Kind::Secret, "a.enc", "d.enc", Some("d")).unwrap();
        assert_eq!(
            text,
            TEXT.replace("\"a.enc\"    = \"a\"", "\"d.enc\"    = \"d\"")
        );
    }

    #[test]
    fn what_is_special_to_git_is_escaped() {
        assert_eq!(ignore_line("a b/.env"), "/a b/.env");
        assert_eq!(ignore_line("[g]/*.env "), "/\\[g]/\\*.env\\ ");
    }

    #[test]
    fn lines_are_added_once() {
        let line = "/a".to_owned();
        let text = add_lines("x", std::slice::from_ref(&line), "# h").unwrap();
        assert_eq!(text, "x\n\n# h\n/a\n");
        assert_eq!(add_lines(&text, &[line], "# h"), None);
        assert_eq!(remove_line(&text, "/a").unwrap(), "x\n\n# h\n");
    }
}
