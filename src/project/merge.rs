//! Putting a file together from two versions, key by key.
//!
//! One version gives the layout: order, blank lines, comments. Of the other come the lines of the keys
//! that are taken from it. Environment files are put together by key; of trees (YAML, JSON, INI) the
//! lines that differ are taken from one or the other version, and what comes of it is compared with what
//! was decided.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use zeroize::Zeroizing;

use crate::secret::SecretBytes;
use crate::sops::document;
use crate::sops::store::Format;

use super::keys::Reading;
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

/// Puts both versions together; keys that are not in `takes` are as the layout has them. `None` where
/// that cannot be done so that every key has the value that was decided.
pub fn merge(layout: &[u8], other: &[u8], takes: &Takes, reading: Reading) -> Option<SecretBytes> {
    let merged = match reading {
        Reading::Bytes => return None,
        Reading::Env => merge_lines(layout, other, takes),
        Reading::Tree(format) => merge_tree(layout, other, takes, format)?,
    };
    is_as_decided(merged.expose(), layout, other, takes, reading).then_some(merged)
}

/// A run of lines that differs between two versions, or does not.
struct Hunk {
    layout: Range<usize>,
    other: Range<usize>,
}

/// Puts two versions of a tree together: each run of lines that differs is taken from the version that
/// the keys in it are taken from; line by line where they are taken from both.
fn merge_tree(layout: &[u8], other: &[u8], takes: &Takes, format: Format) -> Option<SecretBytes> {
    let (old, new) = (
        std::str::from_utf8(layout).ok()?,
        std::str::from_utf8(other).ok()?,
    );
    let keys_of_layout = lines_of_keys(layout, format)?;
    let keys_of_other = lines_of_keys(other, format)?;
    // A key that differs and of which nothing is said stays as the layout has it.
    let reading = Reading::Tree(format);
    let (values, others) = (reading.keys(layout)?, reading.keys(other)?);
    let others: HashMap<&str, _> = others
        .iter()
        .map(|(key, values)| (&**key, values))
        .collect();
    let mut takes = takes.clone();
    for (key, values) in &values {
        if others.get(&**key) != Some(&values) {
            takes.entry(key.to_string()).or_insert(Take::Layout);
        }
    }
    let known: HashSet<&str> = values.iter().map(|(key, _)| &**key).collect();
    for key in others.keys() {
        if !known.contains(key) {
            takes.entry((*key).to_owned()).or_insert(Take::Layout);
        }
    }
    let (old_lines, new_lines) = (lines_of(old), lines_of(new));
    let diff = similar::TextDiff::from_slices(&old_lines, &new_lines);
    let mut out = SecretBytes::new(Vec::with_capacity(layout.len() + other.len()));
    for operation in diff.ops() {
        let (tag, layout, other) = operation.as_tag_tuple();
        if tag == similar::DiffTag::Equal {
            push(&old_lines[layout], &mut out);
            continue;
        }
        let hunk = Hunk { layout, other };
        match taken(&hunk, &keys_of_layout, &keys_of_other, &takes) {
            Taken::Layout => push(&old_lines[hunk.layout], &mut out),
            Taken::Other => push(&new_lines[hunk.other], &mut out),
            Taken::Both => {
                let sides = Sides {
                    takes: &takes,
                    layout: (&old_lines, &keys_of_layout),
                    other: (&new_lines, &keys_of_other),
                };
                push(&mixed(&hunk, &sides), &mut out);
            }
        }
    }
    let typed = takes.iter().filter_map(|(key, take)| match take {
        Take::Typed(text) => Some((key, text)),
        _ => None,
    });
    for (key, text) in typed {
        out = with_typed(&out, key, text, format)?;
    }
    Some(out)
}

/// Both versions with the lines of their keys.
struct Sides<'s, 't> {
    takes: &'s Takes,
    layout: (&'s [&'t str], &'s KeyLines),
    other: (&'s [&'t str], &'s KeyLines),
}

/// Returns the lines of a run of which some keys are taken from one version and some from the other:
/// those of the layout, with the lines of the other for each key that is taken from it; what only the
/// other has goes behind the key that stands before it there.
fn mixed<'t>(hunk: &Hunk, sides: &Sides<'_, 't>) -> Vec<&'t str> {
    let (layout_lines, layout_keys) = sides.layout;
    let (other_lines, other_keys) = sides.other;
    let lines_for = |key: &str| -> &[&'t str] {
        let lines = other_keys.lines_of(key);
        lines.map_or(&[], |lines| &other_lines[lines.clone()])
    };
    let mut out: Vec<(Option<&str>, &'t str)> = Vec::new();
    let mut done: HashSet<&str> = HashSet::new();
    for line in hunk.layout.clone() {
        match layout_keys.at(line).next() {
            Some(key) if is_taken(sides.takes, key, &Take::Other) => {
                if done.insert(key) {
                    out.extend(lines_for(key).iter().map(|line| (Some(key), *line)));
                }
            }
            key => out.push((key, layout_lines[line])),
        }
    }
    let mut previous: Option<&str> = None;
    for line in hunk.other.clone() {
        let Some(key) = other_keys.at(line).next() else {
            continue;
        };
        let is_new = layout_keys.lines_of(key).is_none();
        if is_new && is_taken(sides.takes, key, &Take::Other) && done.insert(key) {
            let at = previous
                .and_then(|previous| out.iter().rposition(|(key, _)| *key == Some(previous)));
            let at = at.map_or(0, |at| at + 1);
            out.splice(at..at, lines_for(key).iter().map(|line| (Some(key), *line)));
        }
        previous = Some(key);
    }
    out.into_iter().map(|(_, line)| line).collect()
}

fn lines_of(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn push(lines: &[&str], out: &mut SecretBytes) {
    let out = out.expose_mut();
    for line in lines {
        // The last line of a text may have no line break.
        if !out.is_empty() && !out.ends_with(b"\n") {
            out.push(b'\n');
        }
        out.extend_from_slice(line.as_bytes());
    }
}

/// Which version lines are taken from.
enum Taken {
    Both,
    Layout,
    Other,
}

fn is_taken(takes: &Takes, key: &str, side: &Take) -> bool {
    match takes.get(key) {
        Some(Take::Typed(_)) => false,
        Some(take) => take == side,
        None => *side == Take::Layout,
    }
}

fn taken(hunk: &Hunk, layout: &KeyLines, other: &KeyLines, takes: &Takes) -> Taken {
    let (mut from_layout, mut from_other) = (false, false);
    for (keys, lines) in [(layout, &hunk.layout), (other, &hunk.other)] {
        for key in lines.clone().flat_map(|line| keys.at(line)) {
            match takes.get(key) {
                Some(Take::Other) => from_other = true,
                Some(Take::Layout) => from_layout = true,
                // The value is put in later, where the layout has the key at all.
                Some(Take::Typed(_)) | None => {}
            }
        }
    }
    match (from_layout, from_other) {
        (true, true) => Taken::Both,
        (false, true) => Taken::Other,
        _ => Taken::Layout,
    }
}

/// The keys of a tree and the lines of their values.
#[derive(Default)]
struct KeyLines {
    keys: Vec<(String, Range<usize>)>,
    by_line: HashMap<usize, Vec<usize>>,
    by_name: HashMap<String, usize>,
}

impl KeyLines {
    fn add(&mut self, key: String, lines: Range<usize>) {
        let number = self.keys.len();
        for line in lines.clone() {
            self.by_line.entry(line).or_default().push(number);
        }
        self.by_name.entry(key.clone()).or_insert(number);
        self.keys.push((key, lines));
    }

    /// Returns the keys whose values have a part in a line.
    fn at(&self, line: usize) -> impl Iterator<Item = &str> {
        let numbers = self.by_line.get(&line).into_iter().flatten();
        numbers.map(|&number| &*self.keys[number].0)
    }

    /// Returns the lines of a key, the first of its name.
    fn lines_of(&self, key: &str) -> Option<&Range<usize>> {
        let number = self.by_name.get(key)?;
        self.keys.get(*number).map(|(_, lines)| lines)
    }
}

fn lines_of_keys(text: &[u8], format: Format) -> Option<KeyLines> {
    let document = format.store().parse(text).ok()?;
    let starts: Vec<usize> = std::iter::once(0)
        .chain(memchr::memchr_iter(b'\n', text).map(|at| at + 1))
        .collect();
    let line_of = |at: usize| starts.partition_point(|start| *start <= at) - 1;
    let leaves = document.leaves.iter();
    let mut keys = KeyLines::default();
    for leaf in leaves.filter(|leaf| !leaf.value.is_comment()) {
        let key = document::place(&document.frames, &leaf.path, leaf.frame, leaf.step);
        let last = line_of(leaf.span.end.max(leaf.span.start + 1) - 1);
        keys.add(key, line_of(leaf.span.start)..last + 1);
    }
    Some(keys)
}

/// Returns a text with another value for a key.
fn with_typed(
    text: &SecretBytes,
    key: &str,
    typed: &SecretBytes,
    format: Format,
) -> Option<SecretBytes> {
    let store = format.store();
    let document = store.parse(text.expose()).ok()?;
    let leaf = document.leaves.iter().find(|leaf| {
        !leaf.value.is_comment()
            && document::place(&document.frames, &leaf.path, leaf.frame, leaf.step) == key
    })?;
    let typed = std::str::from_utf8(typed.expose()).ok()?;
    let spelled = store.spell(typed, &leaf.value);
    let mut out = SecretBytes::new(Vec::with_capacity(text.len() + spelled.len()));
    out.expose_mut()
        .extend_from_slice(&text.expose()[..leaf.span.start]);
    out.expose_mut().extend_from_slice(spelled.expose());
    out.expose_mut()
        .extend_from_slice(&text.expose()[leaf.span.end..]);
    Some(out)
}

/// Puts both versions of an environment file together.
fn merge_lines(layout: &[u8], other: &[u8], takes: &Takes) -> SecretBytes {
    let lines_of_other = lines_by_key(other);
    let mut out = Zeroizing::new(Vec::with_capacity(layout.len() + other.len()));
    let mut at = 0;
    let mut done: HashSet<&str> = HashSet::new();
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
        let is_first = done.insert(key);
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
    let known: HashSet<&str> = lines_by_key(layout).into_keys().collect();
    let mut insertions = Insertions::of(&out);
    let mut previous: Option<&str> = None;
    for (key, _) in &values_by_key(&items(other)) {
        let is_new = !done.contains(key) && !known.contains(key);
        let lines = match takes.get(*key).filter(|_| is_new) {
            Some(Take::Other) => lines_of_other.get(key).map(joined),
            Some(Take::Typed(typed)) => {
                let first = lines_of_other.get(key).and_then(|lines| lines.first());
                first.map(|line| retyped(line, typed))
            }
            _ => None,
        };
        if let Some(lines) = lines {
            insertions.add(key, previous, lines);
        }
        previous = Some(key);
    }
    insertions.done()
}

fn joined(lines: &Vec<&[u8]>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(lines.join(&b'\n'))
}

/// Returns whether a merged text has what was decided for every key, and of the others what the
/// layout has.
fn is_as_decided(
    merged: &[u8],
    layout: &[u8],
    other: &[u8],
    takes: &Takes,
    reading: Reading,
) -> bool {
    let keyed = [merged, layout, other].map(|text| reading.keys(text));
    let [Some(merged), Some(layout), Some(other)] = keyed else {
        return false;
    };
    let [merged, layout, other] = [&merged, &layout, &other].map(|keys| -> HashMap<&str, _> {
        keys.iter().map(|(key, values)| (&**key, values)).collect()
    });
    let keys = merged.keys().chain(layout.keys()).chain(other.keys());
    let mut keys = keys.filter(|key| **key != COMMENTS);
    keys.all(|key| match takes.get(*key) {
        Some(Take::Other) => merged.get(key) == other.get(key),
        Some(Take::Typed(typed)) => merged.get(key).is_some_and(|values| match &values[..] {
            [value] => {
                let (value, typed) = (value.expose().trim_ascii_end(), typed.expose());
                let inner = value
                    .strip_prefix(b"\"")
                    .and_then(|text| text.strip_suffix(b"\""));
                value == typed.trim_ascii_end() || inner == Some(typed)
            }
            _ => false,
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

/// Lines that are put into a text, each behind those of a key, else at its end.
struct Insertions<'t> {
    text: &'t [u8],
    /// Where the last lines of each key end; of those that are put in, where they go.
    ends: HashMap<&'t str, Option<usize>>,
    lines: BTreeMap<Option<usize>, Vec<Zeroizing<Vec<u8>>>>,
}

impl<'t> Insertions<'t> {
    fn of(text: &'t [u8]) -> Self {
        let ends = located(text).into_iter();
        let ends = ends.filter_map(|(range, item)| match item {
            Item::Assignment { key, .. } => Some((key, Some(range.end))),
            _ => None,
        });
        Self {
            text,
            ends: ends.collect(),
            lines: BTreeMap::new(),
        }
    }

    fn add(&mut self, key: &'t str, behind: Option<&str>, lines: Zeroizing<Vec<u8>>) {
        let place = behind.and_then(|behind| *self.ends.get(behind)?);
        self.ends.insert(key, place);
        self.lines.entry(place).or_default().push(lines);
    }

    fn done(mut self) -> SecretBytes {
        let at_end = self.lines.remove(&None).unwrap_or_default();
        let all = self.lines.values().flatten().chain(&at_end);
        let added: usize = all.map(|lines| lines.len() + 1).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(self.text.len() + added + 1));
        let mut at = 0;
        for (place, lines) in &self.lines {
            let place = place.unwrap_or(self.text.len());
            out.extend_from_slice(&self.text[at..place]);
            at = place;
            for lines in lines {
                out.push(b'\n');
                out.extend_from_slice(lines);
            }
        }
        out.extend_from_slice(&self.text[at..]);
        for lines in &at_end {
            if !out.is_empty() && !out.ends_with(b"\n") {
                out.push(b'\n');
            }
            out.extend_from_slice(lines);
            out.push(b'\n');
        }
        SecretBytes::copy_of(&out)
    }
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
        let merged = merge(layout, other, &takes, Reading::Env).unwrap();
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
        let check = |merged: &[u8], layout: &[u8]| {
            is_as_decided(merged, layout, b"A=2\n", &takes, Reading::Env)
        };
        assert!(!check(b"A=1\n", b"A=1\n"));
        assert!(!check(b"A=2\n", b"A=1\nB=1\n"));
        assert!(check(b"A=2\nB=1\n", b"A=1\nB=1\n"));
    }
}
