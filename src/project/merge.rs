//! Putting an environment file together from two versions, key by key.
//!
//! One version gives the layout: order, blank lines, comments. Of the other come the lines of the keys
//! that are taken from it.

use std::collections::HashMap;

use zeroize::Zeroizing;

use crate::secret::SecretBytes;

use super::lines::{COMMENTS, Item, items, located, values_by_key};

/// Where a key's value is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// From the version that gives the layout.
    Layout,
    /// From the other one: its lines, or that the key is gone.
    Other,
    /// What somebody typed.
    Typed(SecretBytes),
}

/// Where the value of each key is taken from; keys that are not in it are as the layout has them.
pub type Takes = HashMap<String, Take>;

/// Puts both versions together; keys that are not in `takes` are as the layout has them.
pub fn merge(layout: &[u8], other: &[u8], takes: &Takes) -> SecretBytes {
    let lines_of_other = lines_by_key(other);
    let mut out = Zeroizing::new(Vec::with_capacity(layout.len() + other.len()));
    let mut at = 0;
    let mut done: Vec<&str> = Vec::new();
    for (range, item) in located(layout) {
        let Item::Assignment {
            key, value, text, ..
        } = item
        else {
            continue;
        };
        let Some(take) = takes.get(key).filter(|take| **take != Take::Layout) else {
            continue;
        };
        out.extend_from_slice(&layout[at..range.start]);
        at = range.end;
        let is_first = !done.contains(&key);
        done.push(key);
        let lines = match take {
            Take::Typed(typed) if is_first => Some(with_value(text, value, typed)),
            Take::Other if is_first => lines_of_other.get(key).map(joined),
            _ => None,
        };
        if let Some(lines) = lines {
            out.extend_from_slice(&lines);
        } else if layout.get(at) == Some(&b'\n') {
            // The whole line goes.
            at += 1;
        }
    }
    out.extend_from_slice(&layout[at..]);
    let mut previous: Option<&str> = None;
    for (key, _) in &values_by_key(&items(other)) {
        let is_new = !done.contains(key) && !has_key(layout, key);
        let lines = match takes.get(*key).filter(|_| is_new) {
            Some(Take::Other) => lines_of_other.get(key).map(joined),
            Some(Take::Typed(typed)) => {
                let first = lines_of_other.get(key).and_then(|lines| lines.first());
                first.map(|line| retyped(line, typed))
            }
            _ => None,
        };
        if let Some(lines) = lines {
            out = inserted(&out, previous, &lines);
        }
        previous = Some(key);
    }
    SecretBytes::copy_of(&out)
}

fn joined(lines: &Vec<&[u8]>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(lines.join(&b'\n'))
}

/// Returns whether a merged text has what was decided for every key, and of the others what the
/// layout has.
pub fn is_as_decided(merged: &[u8], layout: &[u8], other: &[u8], takes: &Takes) -> bool {
    let [merged, layout, other] = [merged, layout, other].map(items);
    let [merged, layout, other] = [&merged, &layout, &other]
        .map(|items| -> HashMap<&str, Vec<&[u8]>> { values_by_key(items).into_iter().collect() });
    let keys = merged.keys().chain(layout.keys()).chain(other.keys());
    let mut keys = keys.filter(|key| **key != COMMENTS);
    keys.all(|key| match takes.get(*key) {
        Some(Take::Other) => merged.get(key) == other.get(key),
        Some(Take::Typed(typed)) => merged.get(key).is_some_and(|values| {
            matches!(values[..], [value] if value.trim_ascii_end() == typed.expose().trim_ascii_end())
        }),
        _ => merged.get(key) == layout.get(key),
    })
}

/// Returns the lines of each assignment, whole.
fn lines_by_key(text: &[u8]) -> HashMap<&str, Vec<&[u8]>> {
    let mut lines: HashMap<&str, Vec<&[u8]>> = HashMap::new();
    for item in items(text) {
        if let Item::Assignment { key, text, .. } = item {
            lines.entry(key).or_default().push(text);
        }
    }
    lines
}

fn has_key(text: &[u8], wanted: &str) -> bool {
    let mut items = items(text).into_iter();
    items.any(|item| matches!(item, Item::Assignment { key, .. } if key == wanted))
}

/// Returns a line with another value; what stands before the value stays, and so does a carriage
/// return at the end.
fn with_value(text: &[u8], value: &[u8], typed: &SecretBytes) -> Zeroizing<Vec<u8>> {
    let mut line = Vec::with_capacity(text.len() + typed.expose().len() + 1);
    line.extend_from_slice(&text[..text.len() - value.len()]);
    line.extend_from_slice(typed.expose());
    if text.ends_with(b"\r") {
        line.push(b'\r');
    }
    Zeroizing::new(line)
}

fn retyped(line: &[u8], typed: &SecretBytes) -> Zeroizing<Vec<u8>> {
    match items(line).first() {
        Some(Item::Assignment { text, value, .. }) => with_value(text, value, typed),
        _ => Zeroizing::new(line.to_vec()),
    }
}

/// Inserts lines behind those of a key, else at the end.
fn inserted(text: &[u8], behind: Option<&str>, lines: &[u8]) -> Zeroizing<Vec<u8>> {
    let placed = located(text).into_iter().rev().find_map(|(range, item)| {
        let is_it = matches!(item, Item::Assignment { key, .. } if Some(key) == behind);
        is_it.then_some(range.end)
    });
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + lines.len() + 2));
    if let Some(end) = placed {
        out.extend_from_slice(&text[..end]);
        out.push(b'\n');
        out.extend_from_slice(lines);
        out.extend_from_slice(&text[end..]);
        return out;
    }
    out.extend_from_slice(text);
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    out.extend_from_slice(lines);
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(layout: &str, other: &str, takes: &[(&str, Take)]) -> String {
        let takes = takes.iter();
        let takes: HashMap<String, Take> = takes
            .map(|(key, take)| ((*key).to_owned(), take.clone()))
            .collect();
        let (layout, other) = (layout.as_bytes(), other.as_bytes());
        let merged = merge(layout, other, &takes);
        assert!(is_as_decided(merged.expose(), layout, other, &takes));
        String::from_utf8(merged.expose().to_vec()).unwrap()
    }

    #[test]
    fn keys_are_taken_with_their_lines() {
        let typed = Take::Typed(SecretBytes::copy_of(b"typed"));
        for (layout, other, takes, expected) in [
            (
                "A=1\nB=1\n",
                "A=1\nexport B='2'\n",
                vec![("B", Take::Other)],
                "A=1\nexport B='2'\n",
            ),
            (
                "A=1\nB=1",
                "A=2\nB=2\n",
                vec![("A", Take::Other)],
                "A=2\nB=1",
            ),
            (
                "A=1\n\n# c\nB=1\n",
                "A=1\n",
                vec![("B", Take::Other)],
                "A=1\n\n# c\n",
            ),
            ("A=1\nB=1", "A=1", vec![("B", Take::Other)], "A=1\n"),
            (
                "A=1\nC=1\n",
                "A=1\nB=1\nC=1\n",
                vec![("B", Take::Other)],
                "A=1\nB=1\nC=1\n",
            ),
            ("C=1", "B=1\nC=1\n", vec![("B", Take::Other)], "C=1\nB=1\n"),
            (
                "A=1",
                "A=1\nB=1\nC=2\n",
                vec![("B", Take::Other), ("C", Take::Other)],
                "A=1\nB=1\nC=2",
            ),
            (
                "A=1\nK=1\nK=2\n",
                "A=1\nK=3\n",
                vec![("K", Take::Other)],
                "A=1\nK=3\n",
            ),
            (
                "A=1\nK=1\n",
                "A=1\nK=\"x\ny\"\nK=3\n",
                vec![("K", Take::Other)],
                "A=1\nK=\"x\ny\"\nK=3\n",
            ),
            (
                "export A = 1\r\nB=2\r\n",
                "A=2\n",
                vec![("A", typed.clone())],
                "export A =typed\r\nB=2\r\n",
            ),
            ("B=2\n", "A=2\nB=2\n", vec![("A", typed)], "B=2\nA=typed\n"),
            ("A=1\n", "A=2\n", vec![("A", Take::Layout)], "A=1\n"),
            ("", "A=2\n", vec![("A", Take::Other)], "A=2\n"),
        ] {
            assert_eq!(
                merged(layout, other, &takes),
                expected,
                "{layout:?} {other:?}"
            );
        }
    }

    #[test]
    fn a_wrong_text_is_found() {
        let takes = HashMap::from([("A".to_owned(), Take::Other)]);
        assert!(!is_as_decided(b"A=1\n", b"A=1\n", b"A=2\n", &takes));
        assert!(!is_as_decided(b"A=2\n", b"A=1\nB=1\n", b"A=2\n", &takes));
        assert!(is_as_decided(
            b"A=2\nB=1\n",
            b"A=1\nB=1\n",
            b"A=2\n",
            &takes
        ));
    }
}
