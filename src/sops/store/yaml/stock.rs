//! YAML as the reference program writes it: block style, four columns, go-yaml's choice of quotes.
//!
//! This is the layout that every file has after a stock `sops` has rewritten it.

use crate::secret::SecretBytes;

use super::super::super::document::Container;
use super::super::super::metadata;
use super::super::super::tree::{Item, Node, Tree};
use super::super::super::value::Value;
use super::super::Indents;
use super::scalar;

/// The columns of a level where nothing else is asked for.
pub(super) const INDENT: usize = 4;

/// Returns the documents of a tree; `metadata` goes at the end of each.
pub(super) fn write(
    tree: &Tree<'_>,
    metadata: Option<&metadata::Node>,
    indents: Indents,
) -> SecretBytes {
    let indent = match indents.yaml {
        columns @ 2..=9 => columns,
        _ => 2,
    };
    let mut out = SecretBytes::default();
    for (index, items) in tree.documents.iter().enumerate() {
        if index > 0 {
            out.expose_mut().extend_from_slice(b"---\n");
        }
        let has_entries = items.iter().any(|item| matches!(item, Item::Entry { .. }));
        let mut writer = Writer {
            out: out.expose_mut(),
            foot: None,
            indent,
        };
        if !has_entries && metadata.is_none() {
            writer.comments(items, 0);
            writer.out.extend_from_slice(b"{}\n");
            continue;
        }
        writer.map(items, 0, metadata.is_some());
        if let Some(node) = metadata {
            writer.separate(0);
            writer
                .out
                .extend_from_slice(self::metadata(node, false, indent).as_bytes());
        }
    }
    out
}

/// Returns the lines of one value.
pub(super) fn write_value(value: &Node<'_>) -> SecretBytes {
    let mut out = SecretBytes::default();
    let mut writer = Writer {
        out: out.expose_mut(),
        foot: None,
        indent: INDENT,
    };
    match value {
        Node::Map(items) if has_entry(items) => writer.map(items, 0, false),
        Node::List(items) if has_entry(items) => writer.list(items, 0),
        value => {
            writer.value(value, 0, true);
            // What stands behind a key or dash has a blank before it.
            if out.expose().starts_with(b" ") {
                out.expose_mut().remove(0);
            }
        }
    }
    out
}

/// Returns the lines of the metadata block.
pub(super) fn metadata(node: &metadata::Node, is_quoted: bool, indent: usize) -> String {
    let mut out = Vec::new();
    let key = if is_quoted { "\"sops\"" } else { "sops" };
    out.extend_from_slice(key.as_bytes());
    out.push(b':');
    let mut writer = Writer {
        out: &mut out,
        foot: None,
        indent,
    };
    writer.value(&tree_of(node), 0, false);
    String::from_utf8(out).unwrap_or_default()
}

fn tree_of(node: &metadata::Node) -> Node<'_> {
    use crate::secret::SecretText;
    use std::borrow::Cow;
    let text = |text: &'_ str| Value::Str(SecretText::Owned(SecretBytes::copy_of(text.as_bytes())));
    Node::Scalar(match node {
        metadata::Node::Bool(flag) => Value::Bool(*flag),
        metadata::Node::Null => Value::Null,
        metadata::Node::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        metadata::Node::Text(value) => text(value),
        metadata::Node::List(items) if items.is_empty() => Value::Empty(Container::List),
        metadata::Node::Map(items) if items.is_empty() => Value::Empty(Container::Map),
        metadata::Node::List(items) => {
            let entry = |node| Item::Entry {
                key: Cow::Borrowed(&b""[..]),
                node: tree_of(node),
            };
            return Node::List(items.iter().map(entry).collect());
        }
        metadata::Node::Map(items) => {
            let entry = |(key, node): &'_ (String, metadata::Node)| Item::Entry {
                key: Cow::Owned(key.as_bytes().to_vec()),
                node: tree_of(node).into_owned(),
            };
            return Node::Map(items.iter().map(entry).collect());
        }
    })
}

/// An item of a list, its first comments left out.
enum NodeRef<'n, 't> {
    List(&'n [Item<'t>]),
    Map(&'n [Item<'t>]),
    Whole(&'n Node<'t>),
}

fn has_entry(items: &[Item<'_>]) -> bool {
    items.iter().any(|item| matches!(item, Item::Entry { .. }))
}

/// Returns whether an item is none of the comments that stand on lines of their own.
fn is_no_remark(item: &Item<'_>) -> bool {
    !matches!(
        item,
        Item::Comment {
            is_inline: false,
            ..
        }
    )
}

struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// The column of a comment that ended a container just now: a blank line keeps it from being taken for
    /// that of an item in the same column.
    foot: Option<usize>,
    /// Columns of a level.
    indent: usize,
}

impl Writer<'_> {
    /// Returns the column of a container below a key at `column`.
    fn next_column(&self, column: usize) -> usize {
        self.indent * ((column + self.indent) / self.indent)
    }

    /// Writes the blank line that a foot comment needs before the next item.
    fn separate(&mut self, column: usize) {
        if self.foot.take() == Some(column) {
            self.out.push(b'\n');
        }
    }

    fn blanks(&mut self, columns: usize) {
        self.out.resize(self.out.len() + columns, b' ');
    }

    fn comment(&mut self, text: &[u8], column: usize) {
        self.blanks(column);
        self.out.push(b'#');
        self.out.extend_from_slice(text);
        self.out.push(b'\n');
    }

    fn comments(&mut self, items: &[Item<'_>], column: usize) {
        for item in items {
            if let Item::Comment { text, .. } = item {
                self.comment(text.expose(), column);
            }
        }
    }

    /// Writes the items of a mapping at a column. `more` says that something follows in the same
    /// mapping.
    fn map(&mut self, items: &[Item<'_>], column: usize, more: bool) {
        self.items(items, column, more, |writer, item, column| {
            if let Item::Entry { key, node } = item {
                writer.blanks(column);
                writer.key(key);
                writer.out.push(b':');
                writer.value(node, column, false);
            }
        });
    }

    fn list(&mut self, items: &[Item<'_>], column: usize) {
        self.items(items, column, false, |writer, item, column| {
            if let Item::Entry { node, .. } = item {
                // What comments a container from its beginning stands above its dash.
                let node = match node {
                    Node::Map(items) | Node::List(items) if has_entry(items) => {
                        let first = items.iter().position(is_no_remark).unwrap_or(0);
                        writer.comments(&items[..first], column);
                        match node {
                            Node::Map(_) => NodeRef::Map(&items[first..]),
                            _ => NodeRef::List(&items[first..]),
                        }
                    }
                    node => NodeRef::Whole(node),
                };
                writer.blanks(column);
                writer.out.push(b'-');
                match node {
                    NodeRef::Map(items) => writer.hung_map(items, column),
                    NodeRef::List(items) => writer.hung_list(items, column),
                    NodeRef::Whole(node) => writer.value(node, column, true),
                }
            }
        });
    }

    fn items(
        &mut self,
        items: &[Item<'_>],
        column: usize,
        more: bool,
        write: impl Fn(&mut Self, &Item<'_>, usize),
    ) {
        let mut at = 0;
        while at < items.len() {
            // Comments in front of an item; one that was on its line goes behind it.
            let start = at;
            while at < items.len() && matches!(items[at], Item::Comment { .. }) {
                at += 1;
            }
            let above = &items[start..at];
            self.separate(column);
            let Some(item) = items.get(at) else {
                // Nothing follows: the foot of the container.
                self.comments(above, column);
                if !more && !above.is_empty() {
                    self.foot = Some(column);
                }
                break;
            };
            let mut inline: Option<&[u8]> = None;
            for comment in above {
                if let Item::Comment { text, is_inline } = comment {
                    // Only one fits behind the item.
                    let above = if *is_inline {
                        inline.replace(text.expose())
                    } else {
                        Some(text.expose())
                    };
                    if let Some(text) = above {
                        self.comment(text, column);
                    }
                }
            }
            let before = self.out.len();
            write(self, item, column);
            if let Some(text) = inline {
                self.append_inline(before, text);
            }
            at += 1;
        }
    }

    /// Puts a comment at the end of the first line written since `start`.
    fn append_inline(&mut self, start: usize, text: &[u8]) {
        let end = memchr::memchr(b'\n', &self.out[start..]).map_or(self.out.len(), |at| start + at);
        let mut comment = b" #".to_vec();
        comment.extend_from_slice(text);
        self.out.splice(end..end, comment);
    }

    fn key(&mut self, key: &[u8]) {
        if key == b"<<" {
            self.out.extend_from_slice(b"!!merge <<");
            return;
        }
        self.scalar_text(key, 0, true);
    }

    /// Writes a value behind the `:` of its key or the `-` of its item, up to the line's end.
    fn value(&mut self, node: &Node<'_>, column: usize, in_list: bool) {
        match node {
            Node::Map(items) | Node::List(items)
                if !items.iter().any(|item| matches!(item, Item::Entry { .. })) =>
            {
                let text: &[u8] = if matches!(node, Node::Map(_)) {
                    b" {}"
                } else {
                    b" []"
                };
                self.out.extend_from_slice(text);
                self.out.push(b'\n');
                let inner = self.next_column(column);
                self.comments(items, inner);
            }
            Node::Map(items) => {
                self.out.push(b'\n');
                self.map(items, self.next_column(column), false);
            }
            Node::List(items) => {
                self.out.push(b'\n');
                self.list(items, self.next_column(column));
            }
            Node::Scalar(value) => {
                self.out.push(b' ');
                match value {
                    Value::Str(text) => {
                        let inner = if in_list {
                            column + 2
                        } else {
                            self.next_column(column)
                        };
                        self.scalar_text(text.expose(), inner, false);
                    }
                    Value::Float(number) => {
                        let text = scalar::stock_float(*number);
                        self.out.extend_from_slice(text.as_bytes());
                    }
                    value => {
                        let text = scalar::plain_spelling(value);
                        self.out.extend_from_slice(text.as_bytes());
                    }
                }
                if self.out.last() != Some(&b'\n') || !self.ends_in_block() {
                    self.out.push(b'\n');
                }
            }
        }
    }

    /// Writes a mapping behind a dash.
    fn hung_map(&mut self, items: &[Item<'_>], column: usize) {
        let at = self.out.len();
        self.map(items, column + 2, false);
        self.hang(at, column + 2);
    }

    /// Writes a list behind a dash.
    fn hung_list(&mut self, items: &[Item<'_>], column: usize) {
        let at = self.out.len();
        self.list(items, column + 2);
        self.hang(at, column + 2);
    }

    fn ends_in_block(&self) -> bool {
        self.out.last() == Some(&b'\n')
    }

    /// Puts the first line of a container on the line of the dash in front of it. Comments before its
    /// first item stand on that line too, as go-yaml writes them.
    fn hang(&mut self, at: usize, column: usize) {
        if self.out[at..].len() >= column && self.out[at..at + column].iter().all(|b| *b == b' ') {
            self.out.splice(at..at + column, *b" ");
        }
    }

    /// Writes a string: plain where it reads back, else quoted, or as a literal block whose lines stand
    /// at `column`.
    fn scalar_text(&mut self, text: &[u8], column: usize, is_key: bool) {
        let Ok(text) = std::str::from_utf8(text) else {
            use base64::Engine;
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            self.out.extend_from_slice(b"!!binary ");
            self.out.extend_from_slice(encoded.as_bytes());
            return;
        };
        if text == "<<" && !is_key {
            self.out.extend_from_slice(b"!!merge <<");
            return;
        }
        if text.contains('\n') && !is_key && is_literal(text) {
            self.literal(text, column);
            return;
        }
        write_one_line(text, self.out);
    }

    fn literal(&mut self, text: &str, column: usize) {
        self.out.push(b'|');
        if text.starts_with([' ', '\n']) {
            self.out
                .extend_from_slice((column.min(9)).to_string().as_bytes());
        }
        if !text.ends_with('\n') {
            self.out.push(b'-');
        } else if text.ends_with("\n\n") || text == "\n" {
            self.out.push(b'+');
        }
        self.out.push(b'\n');
        let body = text.strip_suffix('\n').unwrap_or(text);
        for line in body.split('\n') {
            if !line.is_empty() {
                self.blanks(column);
                self.out.extend_from_slice(line.as_bytes());
            }
            self.out.push(b'\n');
        }
    }
}

/// Writes a string in one line where a literal block is out of reach.
pub(super) fn write_text(text: &[u8], out: &mut Vec<u8>) {
    if let Ok(text) = std::str::from_utf8(text) {
        write_one_line(text, out);
    } else {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        out.extend_from_slice(b"!!binary ");
        out.extend_from_slice(encoded.as_bytes());
    }
}

fn write_one_line(text: &str, out: &mut Vec<u8>) {
    let is_exotic = text.contains('\t')
        || text.contains(|character: char| {
            scalar::is_special(character) || u32::from(character) > 0xffff
        });
    let reads_back = matches!(scalar::resolve(text), Some(Value::Str(_)));
    if is_exotic || !reads_back || is_old_bool(text) || is_base_sixty(text) || text.is_empty() {
        write_escaped(text, out);
    } else if scalar::is_plain_syntax(text, false)
        && !text.starts_with("---")
        && !text.starts_with("...")
    {
        out.extend_from_slice(text.as_bytes());
    } else {
        scalar::write_single(text, out);
    }
}

/// Returns whether YAML 1.1 would read the text as a truth value.
fn is_old_bool(text: &str) -> bool {
    matches!(
        text,
        "y" | "Y"
            | "yes"
            | "Yes"
            | "YES"
            | "on"
            | "On"
            | "ON"
            | "n"
            | "N"
            | "no"
            | "No"
            | "NO"
            | "off"
            | "Off"
            | "OFF"
    )
}

/// Returns whether YAML 1.1 would read the text as a number in base 60:
/// `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?`.
fn is_base_sixty(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.contains(':') {
        return false;
    }
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut groups = text.split(':');
    let first = groups.next().unwrap_or_default();
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte == b'_';
    fraction.bytes().all(is_digit)
        && first.bytes().all(is_digit)
        && groups.all(|group| match group.as_bytes() {
            [one] => one.is_ascii_digit(),
            [ten, one] => matches!(ten, b'0'..=b'5') && one.is_ascii_digit(),
            _ => false,
        })
}

/// Appends a string in double quotes as go-yaml escapes it: everything beyond the basic plane too.
fn write_escaped(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        let code = u32::from(character);
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\0' => out.extend_from_slice(b"\\0"),
            '\u{7}' => out.extend_from_slice(b"\\a"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\u{b}' => out.extend_from_slice(b"\\v"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\u{1b}' => out.extend_from_slice(b"\\e"),
            '\u{85}' => out.extend_from_slice(b"\\N"),
            '\u{2028}' => out.extend_from_slice(b"\\L"),
            '\u{2029}' => out.extend_from_slice(b"\\P"),
            character if !scalar::is_special(character) && code <= 0xffff => {
                let mut buffer = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            }
            _ if code <= 0xff => out.extend_from_slice(format!("\\x{code:02X}").as_bytes()),
            _ if code <= 0xffff => out.extend_from_slice(format!("\\u{code:04X}").as_bytes()),
            _ => out.extend_from_slice(format!("\\U{code:08X}").as_bytes()),
        }
    }
    out.push(b'"');
}

/// Returns whether go-yaml writes a text of several lines as a literal block. One that begins with a
/// tab it would write as null; double quotes are what it should have chosen.
fn is_literal(text: &str) -> bool {
    !text.starts_with('\t')
        && !text.contains(" \n")
        && !text.ends_with(' ')
        && !text.contains(|character: char| {
            character != '\n' && (scalar::is_special(character) || u32::from(character) > 0xffff)
        })
}
