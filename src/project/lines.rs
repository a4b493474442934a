//! Lines of an environment file as its readers understand them, for naming keys.
//!
//! Not the format SOPS stores (that one has no quotes): a tolerant reading in which a quoted value
//! may go on over lines, so that no line of a private key is ever taken for a key name and shown.

use std::ops::Range;

/// One item of an environment file.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// `KEY=value`, the value as written, with its quotes.
    Assignment {
        /// The key, without `export`.
        key: &'a str,
        /// Line it starts on, from 1.
        line: usize,
        /// The value as written.
        value: &'a [u8],
    },
    /// A comment, without its mark.
    Comment(&'a [u8]),
    /// A line that is none of these.
    Other(&'a [u8]),
}

/// Splits an environment file into items; blank lines are left out.
pub fn items(text: &[u8]) -> Vec<Item<'_>> {
    let lines = line_ranges(text);
    let mut items = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        let line = &text[lines[index].clone()];
        let trimmed = line.trim_ascii();
        if let [b'#', rest @ ..] = trimmed {
            items.push(Item::Comment(rest));
        } else if let Some((key, start)) = split_key(line) {
            let last = closing_line(text, &lines, index, start).unwrap_or(index);
            let value = &text[lines[index].start + start..lines[last].end];
            items.push(Item::Assignment {
                key,
                line: index + 1,
                value,
            });
            index = last;
        } else if !trimmed.is_empty() {
            items.push(Item::Other(line));
        }
        index += 1;
    }
    items
}

/// Finds the first quoted value that goes on over further lines: its line, from 1, and its key.
pub fn first_multi_line_value(text: &[u8]) -> Option<(usize, &str)> {
    let lines = line_ranges(text);
    lines.iter().enumerate().find_map(|(index, range)| {
        let line = &text[range.clone()];
        let (key, start) = split_key(line)?;
        closing_line(text, &lines, index, start).map(|_| (index + 1, key))
    })
}

fn line_ranges(text: &[u8]) -> Vec<Range<usize>> {
    let mut at = 0;
    text.split(|&byte| byte == b'\n')
        .map(|line| {
            let start = at;
            at += line.len() + 1;
            start..start + line.len()
        })
        .collect()
}

/// Splits `export KEY=value` into the key and the offset of the value; only names that readers of
/// environment files accept.
fn split_key(line: &[u8]) -> Option<(&str, usize)> {
    let equals = line.iter().position(|&byte| byte == b'=')?;
    let key = std::str::from_utf8(&line[..equals]).ok()?.trim();
    let key = key.strip_prefix("export ").map_or(key, str::trim_start);
    let key = key.strip_prefix('\u{feff}').unwrap_or(key);
    let mut bytes = key.bytes();
    let starts_well = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let goes_on_well = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    (starts_well && goes_on_well).then_some((key, equals + 1))
}

/// Returns the line on which the quoted value that begins on line `first` closes, when that is a
/// later one. A quote that never closes is a character like any other.
fn closing_line(text: &[u8], lines: &[Range<usize>], first: usize, start: usize) -> Option<usize> {
    let value = text[lines[first].clone()][start..].trim_ascii_start();
    let (&quote, rest) = value.split_first()?;
    if !matches!(quote, b'"' | b'\'' | b'`') || count_unescaped(rest, quote) > 0 {
        return None;
    }
    (first + 1..lines.len()).find(|&index| {
        let line = &text[lines[index].clone()];
        // An odd number of quotes ends a value; an even one belongs to a line of its own.
        !line.trim_ascii_start().starts_with(b"#") && count_unescaped(line, quote) % 2 == 1
    })
}

fn count_unescaped(text: &[u8], quote: u8) -> usize {
    let mut count = 0;
    let mut escaped = false;
    for &byte in text {
        if byte == quote && !escaped {
            count += 1;
        }
        // Only double quotes know escapes.
        escaped = quote == b'"' && byte == b'\\' && !escaped;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<&str> {
        items(text.as_bytes())
            .into_iter()
            .filter_map(|item| match item {
                Item::Assignment { key, .. } => Some(key),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn lines_of_a_quoted_value_are_no_keys() {
        let text =
            "A=1\nKEY=\"-----BEGIN\nabc=\nDEF=x\n-----END\"\nexport B='2'\n# c\nC=it's\nD=4\n";
        assert_eq!(keys(text), ["A", "KEY", "B", "C", "D"]);
        assert_eq!(first_multi_line_value(text.as_bytes()), Some((2, "KEY")));
    }

    #[test]
    fn a_quote_that_never_closes_is_a_character() {
        let text = "A=\"x\nB=\"y\"\nC='z'\n";
        assert_eq!(keys(text), ["A", "B", "C"]);
        assert_eq!(first_multi_line_value(text.as_bytes()), None);
    }

    #[test]
    fn what_is_no_name_is_no_key() {
        assert_eq!(keys("MIIEv+/=\n1A=2\n=x\nA B=3\n"), Vec::<&str>::new());
    }
}
