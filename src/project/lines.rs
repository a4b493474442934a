//! Lines of an environment file as its readers understand them, for naming keys.
//!
//! Not the format SOPS stores (that one has no quotes): a cautious reading in which a value may go
//! on over lines (quotes, a PEM block, wrapped base64, a backslash at the end), so that no line of
//! a private key is taken for a key name and shown.

use std::collections::HashMap;
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
        /// The whole of its lines, without the last line end.
        text: &'a [u8],
    },
    /// A comment, without its mark.
    Comment(&'a [u8]),
    /// A line that is none of these.
    Other(&'a [u8]),
}

/// Name of what stands for all comments of a file where keys are named.
pub const COMMENTS: &str = "(comments)";
/// Name of what stands for all lines of a file that are neither assignments nor comments.
pub const OTHER_LINES: &str = "(lines that are no assignments)";

/// Returns the keys of an environment file in order of first appearance, each with all its values
/// as written; behind them, where there are any, [`COMMENTS`] and [`OTHER_LINES`] with their texts,
/// sorted, since their order is layout.
pub fn values_by_key<'a>(items: &[Item<'a>]) -> Vec<(&'a str, Vec<&'a [u8]>)> {
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut keys: Vec<(&str, Vec<&[u8]>)> = Vec::new();
    let (mut comments, mut others) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Assignment { key, value, .. } => {
                let at = *positions.entry(key).or_insert_with(|| {
                    keys.push((key, Vec::new()));
                    keys.len() - 1
                });
                keys[at].1.push(value);
            }
            Item::Comment(text) => comments.push(*text),
            Item::Other(text) => others.push(*text),
        }
    }
    for (name, mut texts) in [(COMMENTS, comments), (OTHER_LINES, others)] {
        if !texts.is_empty() {
            texts.sort_unstable();
            keys.push((name, texts));
        }
    }
    keys
}

/// Splits an environment file into items; blank lines are left out.
pub fn items(text: &[u8]) -> Vec<Item<'_>> {
    located(text).into_iter().map(|(_, item)| item).collect()
}

/// Splits an environment file into items, each with the bytes of its lines, without the last line
/// end; blank lines are left out.
pub fn located(text: &[u8]) -> Vec<(Range<usize>, Item<'_>)> {
    let lines = Lines::of(text);
    let mut items = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        let line = lines.get(index);
        let trimmed = line.trim_ascii();
        let mut last = index;
        if let [b'#', rest @ ..] = trimmed {
            items.push((lines.ranges[index].clone(), Item::Comment(rest)));
        } else if let Some((key, start)) = split_key(line) {
            last = lines.last_of_value(index, start);
            let range = lines.ranges[index].start..lines.ranges[last].end;
            let whole = &text[range.clone()];
            let item = Item::Assignment {
                key,
                line: index + 1,
                value: &whole[start..],
                text: whole,
            };
            items.push((range, item));
        } else if !trimmed.is_empty() {
            last = lines.pem_end(index, line).unwrap_or(index);
            let range = lines.ranges[index].start..lines.ranges[last].end;
            items.push((range.clone(), Item::Other(&text[range])));
        }
        index = last + 1;
    }
    items
}

/// Finds the values that go on over further lines in a way that the line format of SOPS would tear
/// apart: the line each begins on, from 1, and its key.
pub fn multi_line_values(text: &[u8]) -> Vec<(usize, &str)> {
    let lines = Lines::of(text);
    let mut found = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        let mut last = index;
        if let Some((key, start)) = split_key(lines.get(index)) {
            let value = &lines.get(index)[start..];
            let end = lines
                .quote_end(index, value)
                .or_else(|| lines.pem_end(index, value))
                .or_else(|| lines.base64_end(index, value));
            if let Some(end) = end {
                found.push((index + 1, key));
                last = end;
            }
        }
        index = last + 1;
    }
    found
}

/// A text and where its lines are.
struct Lines<'a> {
    text: &'a [u8],
    ranges: Vec<Range<usize>>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a [u8]) -> Self {
        let mut start = 0;
        let mut ranges = Vec::new();
        for end in memchr::memchr_iter(b'\n', text).chain([text.len()]) {
            ranges.push(start..end);
            start = end + 1;
        }
        Self { text, ranges }
    }

    fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Iterates over the lines that a value which begins on line `index` may reach.
    fn later(&self, index: usize) -> Range<usize> {
        /// Bounds the work on hostile files; the longest keys have some hundred lines.
        const MOST_LINES: usize = 512;
        index + 1..self.len().min(index + 1 + MOST_LINES)
    }

    fn get(&self, index: usize) -> &'a [u8] {
        &self.text[self.ranges[index].clone()]
    }

    /// Returns the last line of the value that begins on line `index` at offset `start`.
    fn last_of_value(&self, index: usize, start: usize) -> usize {
        let value = &self.get(index)[start..];
        self.quote_end(index, value)
            .or_else(|| self.pem_end(index, value))
            .or_else(|| self.base64_end(index, value))
            .or_else(|| self.backslash_end(index))
            .unwrap_or(index)
    }

    /// Returns the later line on which a quoted value closes. A quote that never closes is a
    /// character like any other.
    fn quote_end(&self, index: usize, value: &[u8]) -> Option<usize> {
        let value = value.trim_ascii_start();
        let (&quote, rest) = value.split_first()?;
        if !matches!(quote, b'"' | b'\'' | b'`') {
            return None;
        }
        let triple = [quote; 3];
        if let Some(rest) = value.strip_prefix(&triple) {
            let closes = |text: &[u8]| memchr::memmem::find(text, &triple).is_some();
            return if closes(rest) {
                None
            } else {
                self.later(index).find(|&later| closes(self.get(later)))
            };
        }
        if count_unescaped(rest, quote) > 0 {
            return None;
        }
        self.later(index).find(|&later| {
            let line = self.get(later);
            // An odd number of quotes ends a value; an even one belongs to a line of its own.
            !line.trim_ascii_start().starts_with(b"#") && count_unescaped(line, quote) % 2 == 1
        })
    }

    /// Returns the line with the end mark of a PEM block that begins in `value`.
    fn pem_end(&self, index: usize, value: &[u8]) -> Option<usize> {
        let has = |text: &[u8], mark: &[u8]| memchr::memmem::find(text, mark).is_some();
        if !has(value, b"-----BEGIN ") || has(value, b"-----END ") {
            return None;
        }
        self.later(index)
            .find(|&later| has(self.get(later), b"-----END "))
    }

    /// Returns the last line of base64 that was wrapped: lines of nothing else behind a value that
    /// ends in a full line of it, the last one padded or shorter.
    fn base64_end(&self, index: usize, value: &[u8]) -> Option<usize> {
        /// The shortest line length that programs wrap base64 at.
        const WRAPPED_AT: usize = 40;
        let value = value.trim_ascii();
        let tail = value
            .iter()
            .rev()
            .take_while(|byte| is_base64(**byte))
            .count();
        if tail < WRAPPED_AT || value.ends_with(b"=") {
            return None;
        }
        let mut last = None;
        for later in self.later(index) {
            let line = self.get(later).trim_ascii();
            let padding = line.iter().rev().take_while(|&&byte| byte == b'=').count();
            let body = &line[..line.len() - padding];
            let is_encoded =
                !body.is_empty() && body.iter().all(|byte| is_base64(*byte)) && padding <= 2;
            // Without padding it may be a word of its own, unless it is a full line again.
            if !is_encoded || (padding == 0 && line.len() < WRAPPED_AT) {
                break;
            }
            last = Some(later);
            if padding > 0 {
                break;
            }
        }
        last
    }

    /// Returns the last line of a value continued by a blank and a backslash at the line's end.
    fn backslash_end(&self, index: usize) -> Option<usize> {
        let goes_on = |line: usize| self.get(line).trim_ascii_end().ends_with(b" \\");
        let mut last = index;
        while goes_on(last) && last + 1 < self.len() {
            last += 1;
        }
        (last > index).then_some(last)
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

/// Returns the name of a key as it stands before `=`: without blanks, `export` and byte order mark.
pub fn bare_key(text: &str) -> &str {
    let key = text.trim();
    let key = key.strip_prefix("export ").map_or(key, str::trim_start);
    key.strip_prefix('\u{feff}').unwrap_or(key)
}

/// Splits `export KEY=value` into the key and the offset of the value; only names that readers of
/// environment files accept, and nothing that looks like the padded end of base64.
fn split_key(line: &[u8]) -> Option<(&str, usize)> {
    let equals = memchr::memchr(b'=', line)?;
    let key = bare_key(std::str::from_utf8(&line[..equals]).ok()?);
    let mut bytes = key.bytes();
    let starts_well = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let goes_on_well = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let is_name = starts_well && goes_on_well && !is_padded_base64(key, &line[equals..]);
    is_name.then_some((key, equals + 1))
}

/// Returns whether a key and what follows it look like the end of base64: mixed letters and
/// digits, nothing but padding behind, a length that is a multiple of four.
fn is_padded_base64(key: &str, rest: &[u8]) -> bool {
    let rest = rest.trim_ascii_end();
    let has = |test: fn(&u8) -> bool| key.as_bytes().iter().any(test);
    matches!(rest, b"=" | b"==")
        && key.len() >= 8
        && (key.len() + rest.len()).is_multiple_of(4)
        && key.bytes().all(is_base64)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase)
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
        assert_eq!(multi_line_values(text.as_bytes()), [(2, "KEY")]);
        let text = "A='''\nB=x\nC=y\n'''\nD=\"\"\nE=1\n";
        assert_eq!(keys(text), ["A", "D", "E"]);
    }

    #[test]
    fn lines_of_pem_and_base64_are_no_keys() {
        let wrapped = "S=pG0mE5Sg6ywQ0b3mVwz0mYx8kCkV1o0mYx8kCkV1o0mYx8kCkV1o0mYx8kCkV1o0\ngVHBWbUpCojq6jZqDM1xQA==\nB=2\n";
        assert_eq!(keys(wrapped), ["S", "B"]);
        assert_eq!(multi_line_values(wrapped.as_bytes()), [(1, "S")]);
        let pem = "K=-----BEGIN PRIVATE KEY-----\nMIIE=\nabc=\n-----END PRIVATE KEY-----\nB=2\n-----BEGIN X-----\nq=1\n-----END X-----\n";
        assert_eq!(keys(pem), ["K", "B"]);
        assert_eq!(multi_line_values(pem.as_bytes()), [(1, "K")]);
        assert_eq!(
            keys("gVHBWbUpCojq6jZqDM1xQA==\nEMPTY_KEY=\nCamelCas=\n"),
            ["EMPTY_KEY", "CamelCas"]
        );
        assert_eq!(keys("A=x \\\nB=2\nC=3\n"), ["A", "C"]);
        assert_eq!(keys("A=C:\\dir\\\nB=2\n"), ["A", "B"]);
    }

    #[test]
    fn a_quote_that_never_closes_is_a_character() {
        let text = "A=\"x\nB=\"y\"\nC='z'\n";
        assert_eq!(keys(text), ["A", "B", "C"]);
        assert_eq!(multi_line_values(text.as_bytes()), []);
    }

    #[test]
    fn what_is_no_name_is_no_key() {
        assert_eq!(keys("MIIEv+/=\n1A=2\n=x\nA B=3\n"), Vec::<&str>::new());
    }
}
