//! Any bytes as one value: the JSON envelope `{"data": "ENC[…]", "sops": {…}}`.
//!
//! The text around the one token is the same in every file, so a changed file differs in its data
//! and two metadata fields. Nothing of the size of the file is copied here: the token is written
//! straight into the envelope and found in it without unescaping (SOPS `stores/json/store.go`,
//! `BinaryStore`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::secret::{SecretBytes, SecretText};

use super::super::cipher::Token;
use super::super::document::{
    Document, Frame, KeyPath, Leaf, SealedDocument, SealedLeaf, Seat, Spelling, Step, Style,
};
use super::super::error::DocumentError;
use super::super::metadata::{Metadata, Node};
use super::super::tree::{self, Item, Tree};
use super::super::value::Value;
use super::{Indents, LeafText, OpenedLeaves, Store, conflict_marker};

/// How the reference begins an envelope.
const OPENING: &[u8] = b"{\n\t\"data\": \"";

/// The key of the one value.
const DATA_KEY_NAME: &[u8] = b"data";

pub(super) struct BinaryStore;

/// The envelope as found: what stands under `data` and `sops`, and whether anything else does.
#[derive(Default)]
struct Envelope<'a> {
    data: Option<Cow<'a, str>>,
    metadata: Option<Node>,
    others: bool,
}

impl Store for BinaryStore {
    fn parse<'a>(&self, source: &'a [u8]) -> Result<Document<'a>, DocumentError> {
        let leaf = Leaf {
            path: KeyPath::root().child(DATA_KEY_NAME),
            frame: Frame::ROOT,
            step: Step::Key,
            value: Value::Str(SecretText::Borrowed(source)),
            span: 0..source.len(),
            spelling: Spelling::BARE,
        };
        Ok(Document {
            source,
            leaves: vec![leaf],
            frames: vec![Frame::root(0)],
            seat: Seat::default(),
        })
    }

    fn parse_sealed(&self, source: Vec<u8>) -> Result<SealedDocument, DocumentError> {
        let (data, metadata) = read_envelope(&source)?;
        let metadata = Metadata::from_node(metadata)?;
        let (span, unescaped) = match data {
            // The token stands in the source as it is: remember where, copy nothing.
            Data::At(span) => (span, None),
            Data::Unescaped(text) => (0..0, Some(text.into_bytes())),
        };
        let token = unescaped.as_deref().unwrap_or(&source[span.clone()]);
        if Token::parse(token).is_ok_and(|token| !matches!(token.kind, "str" | "bytes")) {
            return Err(not_an_envelope());
        }
        let leaf = SealedLeaf {
            path: KeyPath::root().child(DATA_KEY_NAME),
            frame: Frame::ROOT,
            step: Step::Key,
            is_comment: false,
            text: span.clone(),
            span,
            unescaped,
            clear: None,
            style: Style::Double,
        };
        let frames = vec![Frame::root(0)];
        Ok(SealedDocument {
            source,
            leaves: vec![leaf],
            frames,
            metadata_spans: Vec::new(),
            aliases: Vec::new(),
            places: BTreeMap::new(),
            metadata,
        })
    }

    fn emit_sealed(
        &self,
        document: &Document<'_>,
        previous: Option<&SealedDocument>,
        leaves: &mut dyn LeafText,
        metadata: &mut dyn FnMut() -> Metadata,
    ) -> Vec<u8> {
        let frame = previous.and_then(frame_of);
        let before = frame.map_or(OPENING, |(before, _)| before);
        let mut out = Vec::with_capacity(document.source.len().div_ceil(3) * 4 + (16 << 10));
        out.extend_from_slice(before);
        leaves.write(0, &mut out);
        let metadata = metadata();
        let kept = previous
            .zip(frame)
            .and_then(|(previous, (_, after))| with_new_mac(after, &previous.metadata, &metadata));
        if let Some(after) = kept {
            out.extend_from_slice(&after);
            return out;
        }
        // More than the MAC changes, or there was no file: the layout is that of the reference.
        out.splice(..before.len(), OPENING.iter().copied());
        out.extend_from_slice(b"\",\n\t\"sops\": ");
        // Emitted one level deeper than the serializer thinks: indent all lines but the first.
        for (index, line) in indented_json(metadata.node(), "\t").lines().enumerate() {
            if index > 0 {
                out.extend_from_slice(b"\n\t");
            }
            out.extend_from_slice(line.as_bytes());
        }
        out.extend_from_slice(b"\n}\n");
        out
    }

    fn emit_plain(&self, sealed: &SealedDocument, opened: &mut OpenedLeaves) -> SecretBytes {
        match opened.values.pop().flatten() {
            Some(Value::Str(text)) => text.into_owned(),
            Some(value) => value.flat_text().into_owned(),
            None => sealed
                .leaves
                .first()
                .map(|leaf| SecretBytes::copy_of(sealed.text(leaf)))
                .unwrap_or_default(),
        }
    }

    fn has_selection(&self) -> bool {
        false
    }

    fn emit_tree(
        &self,
        tree: &Tree<'_>,
        metadata: Option<&Node>,
        indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        let refused = DocumentError::Inexpressible {
            what: "anything but a string under the key `data`",
            format: "binary",
        };
        if metadata.is_some() {
            return super::Format::Json
                .store()
                .emit_tree(tree, metadata, indents);
        }
        let [document] = &tree.documents[..] else {
            return Err(refused);
        };
        // What stands beside it is dropped, as the reference does.
        let data = document.iter().find_map(|item| match item {
            Item::Entry {
                key,
                node: tree::Node::Scalar(Value::Str(text)),
            } if **key == *DATA_KEY_NAME => Some(SecretBytes::copy_of(text.expose())),
            _ => None,
        });
        data.ok_or(refused)
    }

    fn emit_value(
        &self,
        _value: &tree::Node<'_>,
        _indents: Indents,
    ) -> Result<SecretBytes, DocumentError> {
        Err(DocumentError::Inexpressible {
            what: "a single value",
            format: "binary",
        })
    }
}

/// Returns what stands before and behind the data of an envelope that spells it without escapes.
fn frame_of(file: &SealedDocument) -> Option<(&[u8], &[u8])> {
    let [leaf] = &file.leaves[..] else {
        return None;
    };
    let has_place = leaf.unescaped.is_none() && leaf.span.start > 0;
    has_place.then(|| {
        (
            &file.source[..leaf.span.start],
            &file.source[leaf.span.end..],
        )
    })
}

/// Returns the text behind the data with MAC and time replaced where they stand; `None` when
/// anything else of the metadata differs, or they do not stand there.
fn with_new_mac(after: &[u8], old: &Metadata, new: &Metadata) -> Option<Vec<u8>> {
    let mut expected = old.clone();
    expected.set_mac(new.mac.clone(), new.last_modified.clone());
    if expected.node() != new.node() {
        return None;
    }
    let mut text = after.to_vec();
    for (name, old, new) in [
        (&b"\"mac\""[..], &old.mac, &new.mac),
        (b"\"lastmodified\"", &old.last_modified, &new.last_modified),
    ] {
        let key = memchr::memmem::find(&text, name)? + name.len();
        let quoted = |value: &str| serde_json::to_string(value).ok();
        let (old, new) = (quoted(old)?, quoted(new)?);
        let at = key + memchr::memmem::find(&text[key..], old.as_bytes())?;
        let is_value = text[key..at]
            .iter()
            .all(|byte| byte.is_ascii_whitespace() || *byte == b':');
        if !is_value {
            return None;
        }
        text.splice(at..at + old.len(), new.bytes());
    }
    Some(text)
}

/// The envelope with the place of its data, found without going through the data twice.
enum Data {
    /// Where the text under `data` stands in the source, free of escapes.
    At(Range<usize>),
    /// The text itself, where another writer used escapes.
    Unescaped(String),
}

/// Reads the envelope. The data of a large file is skipped by looking for its closing quote, and
/// only what stands around it goes through the JSON parser.
fn read_envelope(source: &[u8]) -> Result<(Data, Node), DocumentError> {
    if let Some(range) = plain_data(source) {
        let around = [&source[..range.start], &source[range.end..]].concat();
        let envelope = parse_envelope(&around, source)?;
        // Empty where it was cut out: that was the value under `data`, not text inside another.
        if envelope.data.as_deref() == Some("") {
            return Ok((Data::At(range), checked_metadata(envelope)?));
        }
    }
    let mut envelope = parse_envelope(source, source)?;
    let data = match envelope.data.take() {
        Some(Cow::Borrowed(text)) => {
            let start = text.as_ptr().addr() - source.as_ptr().addr();
            Data::At(start..start + text.len())
        }
        Some(Cow::Owned(text)) => Data::Unescaped(text),
        None => {
            envelope.others = true;
            Data::At(0..0)
        }
    };
    Ok((data, checked_metadata(envelope)?))
}

/// Returns the metadata of an envelope that holds nothing but data and metadata.
fn checked_metadata(envelope: Envelope<'_>) -> Result<Node, DocumentError> {
    let metadata = envelope.metadata.ok_or(DocumentError::NotSops)?;
    if envelope.others {
        return Err(not_an_envelope());
    }
    Ok(metadata)
}

fn not_an_envelope() -> DocumentError {
    DocumentError::Syntax {
        line: 1,
        column: 1,
        format: "binary SOPS envelope",
        problem: "it holds more than `data` and `sops`",
    }
}

/// Returns whether an encrypted JSON file is the envelope of one value; `None` when it is not JSON. A
/// tree with nothing but a string `data` cannot be told from one, which is why there is none.
pub(super) fn is_envelope(source: &[u8]) -> Option<bool> {
    let data = plain_data(source);
    let around = data
        .clone()
        .map(|range| [&source[..range.start], &source[range.end..]].concat());
    let envelope = parse_envelope(around.as_deref().unwrap_or(source), source).ok()?;
    // Empty content has no token.
    let is_value = |text: &[u8]| {
        text.is_empty()
            || !text.starts_with(b"ENC[")
            || Token::parse(text).map_or(true, |token| matches!(token.kind, "str" | "bytes"))
    };
    let is_string = match (data, &envelope.data) {
        (Some(range), Some(_)) => is_value(&source[range]),
        (None, Some(text)) => is_value(text.as_bytes()),
        (_, None) => false,
    };
    Some(is_string && !envelope.others)
}

/// Finds the text under a leading `"data"` key where it holds neither escapes nor line breaks.
fn plain_data(source: &[u8]) -> Option<Range<usize>> {
    let mut rest = source.trim_ascii_start();
    for token in [&b"{"[..], b"\"data\"", b":"] {
        rest = rest.strip_prefix(token)?.trim_ascii_start();
    }
    rest = rest.strip_prefix(b"\"")?;
    let start = source.len() - rest.len();
    let length = memchr::memchr2(b'"', b'\\', rest)?;
    let data = &rest[..length];
    let is_plain = rest[length] == b'"' && memchr::memchr3(b'\n', b'\r', b'\t', data).is_none();
    is_plain.then_some(start..start + length)
}

/// Parses an envelope; `source` is the whole file, for telling a merge conflict from damage.
fn parse_envelope<'s>(json: &'s [u8], source: &[u8]) -> Result<Envelope<'s>, DocumentError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let envelope = reader
        .deserialize_map(EnvelopeVisitor)
        .and_then(|envelope| reader.end().map(|()| envelope));
    envelope.map_err(|error| match conflict_marker(source) {
        Some(line) => DocumentError::ConflictMarker { line },
        // Position only: the library's text may quote the file.
        None => DocumentError::Json {
            line: error.line(),
            column: error.column(),
        },
    })
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "data" if envelope.data.is_none() => match map.next_value::<DataValue<'de>>()? {
                    DataValue(Some(text)) => envelope.data = Some(text),
                    DataValue(None) => envelope.others = true,
                },
                "sops" if envelope.metadata.is_none() => {
                    envelope.metadata = Some(map.next_value()?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    envelope.others = true;
                }
            }
        }
        Ok(envelope)
    }
}

/// The value under `data`: borrowed from the input where it holds no escape, `None` where it is
/// not a string.
struct DataValue<'a>(Option<Cow<'a, str>>);

impl<'de> serde::Deserialize<'de> for DataValue<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DataVisitor;
        impl<'de> Visitor<'de> for DataVisitor {
            type Value = DataValue<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<DataValue<'de>, E> {
                Ok(DataValue(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<DataValue<'de>, E> {
                Ok(DataValue(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_bool<E>(self, _: bool) -> Result<DataValue<'de>, E> {
                Ok(DataValue(None))
            }
            fn visit_i64<E>(self, _: i64) -> Result<DataValue<'de>, E> {
                Ok(DataValue(None))
            }
            fn visit_u64<E>(self, _: u64) -> Result<DataValue<'de>, E> {
                Ok(DataValue(None))
            }
            fn visit_f64<E>(self, _: f64) -> Result<DataValue<'de>, E> {
                Ok(DataValue(None))
            }
            fn visit_unit<E>(self) -> Result<DataValue<'de>, E> {
                Ok(DataValue(None))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<DataValue<'de>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(DataValue(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DataValue<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(DataValue(None))
            }
        }
        deserializer.deserialize_any(DataVisitor)
    }
}

/// Returns `node` as JSON, one member a line, indented by `indent` a level.
pub(super) fn indented_json(node: &Node, indent: &str) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    #[expect(
        clippy::expect_used,
        reason = "writing strings and numbers to memory cannot fail"
    )]
    serde::Serialize::serialize(node, &mut serializer).expect("metadata serialises");
    String::from_utf8(out).unwrap_or_default()
}
