//! Plain document to encrypted file: which leaves are encrypted, which tokens of an earlier file
//! stay, and the MAC over all of it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::thread;

use crate::parallel;
use crate::secret::{SecretBytes, SecretText};

use super::Fill;
use super::cipher::{Cipher, IV_BYTES, NoteText, PIECEWISE_BYTES};
use super::data_key::DataKey;
use super::document::{self, Document, Extent, KeyPath, Note, SealedDocument, Seat, Step};
use super::error::DocumentError;
use super::mac::{Mac, MacScope};
use super::metadata::Metadata;
use super::opening::{LAYOUT_MARK, Opened, SHARE, has_stock_layout, spawn};
use super::selector::{Selection, SelectionRule, Selector};
use super::store::{Format, Indents, LeafText, OpenNote, Store};
use super::tree::Tree;
use super::value::{self, Value};

/// What of a previous encrypted file is used again.
pub enum Reuse<'a> {
    /// The plaintext is the same: every token stays.
    All(&'a SealedDocument),
    /// Tokens of leaves whose key path and text are the same stay.
    Leaves(&'a SealedDocument, &'a Opened),
    /// Every value gets a fresh IV; what surrounds the values stays.
    Layout(&'a SealedDocument),
    /// Nothing: every value gets a fresh IV.
    Nothing,
}

/// A leaf's text in the encrypted file, decided before anything is written.
enum LeafPlan<'a> {
    Clear,
    Kept {
        token: &'a [u8],
        value: Option<&'a Value<'static>>,
        note: Option<(&'a SecretBytes, &'a [u8])>,
    },
    Sealed,
}

/// An encrypted file and the digest its MAC holds.
pub struct Sealed {
    /// The file.
    pub bytes: Vec<u8>,
    /// The digest, 128 upper-case hexadecimal digits.
    pub digest: String,
    /// Indexes of the document's leaves that the selection leaves in clear, comments left out.
    pub clear: Vec<usize>,
}

/// How a document is encrypted.
pub struct Manner<'a> {
    /// What of a previous file is used again.
    pub reuse: Reuse<'a>,
    /// How much of its spelling has to come back.
    pub layout: Layout,
    /// The time: RFC 3339, UTC, whole seconds; a file changed twice in a second gets the next one.
    pub now: &'a str,
}

/// Encrypts a plain document. `metadata` holds keys and selection; its MAC and time are set here.
///
/// # Errors
/// `SelfMatching` for a comment rule that its own output would trip over.
pub fn seal(
    format: Format,
    document: &Document<'_>,
    key: &DataKey,
    metadata: &Metadata,
    manner: &Manner<'_>,
    fill: Fill<'_>,
) -> Result<Sealed, DocumentError> {
    let Manner { reuse, layout, now } = manner;
    let store = format.store();
    if format == Format::Age {
        return Err(DocumentError::Inexpressible {
            what: "what the `age` program makes",
            format: "SOPS",
        });
    }
    let cipher = Cipher::new(key);
    let now = value::next_change(&metadata.last_modified, now);
    let selection = metadata.selection.clone();
    let previous = match *reuse {
        Reuse::All(file) | Reuse::Leaves(file, _) | Reuse::Layout(file) => Some(file),
        Reuse::Nothing => None,
    };
    let plans = plan_leaves(store, document, &selection, reuse);
    let clear = (0..)
        .zip(&document.leaves)
        .zip(&plans)
        .filter(|((_, leaf), (selected, _))| !selected && !leaf.value.is_comment())
        .map(|((index, _), _)| index)
        .collect();
    check_plans(format, document, &plans, *layout)?;
    let compute_mac = || mac_of(document, &plans, selection.scope);
    let mut mac_iv = [0; IV_BYTES];
    fill(&mut mac_iv);
    let mut leaves = SealedLeaves {
        document,
        plans: &plans,
        cipher: &cipher,
        rule: &selection.rule,
        fill,
        ahead: VecDeque::new(),
        self_matching: false,
    };
    let mut digest = String::new();
    let mut finish = |computed: String| {
        digest = computed;
        with_mac(&cipher, metadata, &digest, &now, &mac_iv)
    };
    let bytes = if document.source.len() > PIECEWISE_BYTES {
        thread::scope(|scope| {
            let mut hasher = spawn(scope, compute_mac);
            store.emit_sealed(document, previous, &mut leaves, &mut || {
                let digest = hasher.take().and_then(|hasher| hasher.join().ok());
                finish(digest.unwrap_or_else(compute_mac))
            })
        })
    } else {
        store.emit_sealed(document, previous, &mut leaves, &mut || {
            finish(compute_mac())
        })
    };
    if leaves.self_matching {
        return Err(DocumentError::SelfMatching);
    }
    let bytes = match layout {
        Layout::Stock if store.is_respelled() => in_stock_layout(store, bytes)?,
        _ => with_layout_mark(store, document, bytes),
    };
    Ok(Sealed {
        bytes,
        digest,
        clear,
    })
}

/// Refuses what a layout does not carry, and an alias in clear to a value that is encrypted.
fn check_plans(
    format: Format,
    document: &Document<'_>,
    plans: &[(bool, LeafPlan<'_>)],
    layout: Layout,
) -> Result<(), DocumentError> {
    let is_token = |index: usize| {
        plans
            .get(index)
            .is_some_and(|(_, plan)| !matches!(plan, LeafPlan::Clear))
    };
    let line_of = |at: usize| memchr::memchr_iter(b'\n', &document.source[..at]).count() + 1;
    let mut first = None;
    let mut count = 0_usize;
    for (index, leaf) in document.leaves.iter().enumerate() {
        if let Extent::Alias { original } = leaf.spelling.extent
            && !is_token(index)
            && is_token(original)
        {
            return Err(DocumentError::Line {
                line: line_of(leaf.span.start),
                construct: "an alias in clear to a value that is encrypted",
                format: "YAML",
            });
        }
        if format == Format::Yaml && !is_token(index) && is_open_ended_block(document, leaf) {
            return Err(DocumentError::Line {
                line: line_of(leaf.span.start),
                construct: "a block in clear at the end of a text without a line break",
                format: "YAML",
            });
        }
        let construct = match &leaf.spelling.note {
            Note::Source { construct, .. } | Note::Word { construct, .. } => *construct,
            Note::Mark | Note::None => continue,
        };
        // A line that stock refuses travels as an encrypted comment, or not at all.
        let is_raw = format == Format::Dotenv;
        if is_raw && (layout != Layout::Note || !is_token(index)) {
            return Err(DocumentError::Line {
                line: line_of(leaf.span.start),
                construct,
                format: "dotenv",
            });
        }
        if is_token(index) {
            count += 1;
            first.get_or_insert((line_of(leaf.span.start), construct));
        }
    }
    match first {
        Some((line, construct)) if layout == Layout::Exact => Err(DocumentError::NeedsNote {
            line,
            construct,
            others: count - 1,
        }),
        _ => Ok(()),
    }
}

/// Returns whether a leaf is a block scalar that ends with the text, whose value would gain a line break
/// by what is appended.
fn is_open_ended_block(document: &Document<'_>, leaf: &document::Leaf<'_>) -> bool {
    let source = document.source;
    if source.ends_with(b"\n") || leaf.span.end != source.len() || document.seat.at != source.len()
    {
        return false;
    }
    let before = source[..leaf.span.start].trim_ascii_end();
    let line = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    let line = &before[line..];
    // Where its comment begins is not looked for: in front of one of these, or there is none.
    let mut headers = memchr::memchr_iter(b'#', line)
        .chain([line.len()])
        .map(|at| line[..at].trim_ascii_end());
    let starts_line = source[before.len()..leaf.span.start].contains(&b'\n');
    let is_header = |header: &[u8]| matches!(header, [.., b'|' | b'>' | b'+' | b'0'..=b'9']);
    starts_line && headers.any(is_header)
}

/// Returns an encrypted file as stock `sops` would lay it out.
fn in_stock_layout(store: &dyn Store, bytes: Vec<u8>) -> Result<Vec<u8>, DocumentError> {
    let mut sealed = store.parse_sealed(bytes)?;
    sealed.forget_notes();
    let tree = Tree::of_sealed(&sealed);
    let text = store.emit_tree(&tree, Some(sealed.metadata.node()), Indents::default())?;
    Ok(text.into_public())
}

/// Marks an encrypted file that stock `sops` could have written, where what stock makes of it is not
/// the source.
fn with_layout_mark(store: &dyn Store, document: &Document<'_>, mut bytes: Vec<u8>) -> Vec<u8> {
    if !store.may_be_of_stock(document.source) || !may_have_stock_layout(document) {
        return bytes;
    }
    let Ok(sealed) = store.parse_sealed(bytes.clone()) else {
        return bytes;
    };
    if !has_stock_layout(store, &sealed) {
        return bytes;
    }
    let mac = sealed.metadata.mac.as_bytes();
    let spelled = store
        .emit_tree(&Tree::of(document), None, Indents::default())
        .is_ok_and(|text| text.expose() == document.source);
    let has_inline = document.leaves.iter().any(|leaf| leaf.step == Step::Aside);
    if spelled && !has_inline {
        return bytes;
    }
    if let Some(at) = memchr::memmem::rfind(&bytes, mac) {
        let mut mark = [0; 4];
        let mark = LAYOUT_MARK.encode_utf8(&mut mark).bytes();
        bytes.splice(at + mac.len()..at + mac.len(), mark);
    }
    bytes
}

/// Returns whether nothing tells at a glance that stock `sops` would lay the text out differently.
fn may_have_stock_layout(document: &Document<'_>) -> bool {
    !document
        .leaves
        .iter()
        .any(|leaf| !leaf.value.is_comment() && !matches!(leaf.spelling.note, Note::None))
}

/// How much of a source's spelling has to come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// All of it, without notes: what needs one is refused.
    #[default]
    Exact,
    /// All of it; what the values do not tell travels in encrypted notes.
    Note,
    /// What stock `sops` keeps.
    Stock,
}

/// Writes the leaves of a document as planned.
struct SealedLeaves<'a> {
    document: &'a Document<'a>,
    plans: &'a [(bool, LeafPlan<'a>)],
    cipher: &'a Cipher,
    rule: &'a SelectionRule,
    fill: Fill<'a>,
    /// The next tokens in order of the leaves, sealed already.
    ahead: VecDeque<(usize, Vec<u8>)>,
    self_matching: bool,
}

/// So many leaves are sealed ahead at a time.
const AHEAD: usize = 8192;

impl SealedLeaves<'_> {
    /// Appends the token of a leaf. Where there are many, the next ones are sealed with it, on all
    /// processors.
    fn seal(&mut self, index: usize, out: &mut Vec<u8>) {
        let (document, cipher) = (self.document, self.cipher);
        while self.ahead.pop_front_if(|(next, _)| *next < index).is_some() {}
        if self.ahead.is_empty() && self.plans.len() >= 2 * SHARE {
            let rest = self.plans.iter().enumerate().skip(index);
            let fresh = rest.filter(|(_, (_, plan))| matches!(plan, LeafPlan::Sealed));
            let mut ivs = Vec::new();
            for (index, _) in fresh.take(AHEAD) {
                let mut iv = [0; IV_BYTES];
                (self.fill)(&mut iv);
                ivs.push((index, iv));
            }
            let tokens = parallel::map(&ivs, SHARE, |(index, iv)| {
                let mut token = Vec::new();
                seal_leaf(&document.leaves[*index], cipher, iv, &mut token);
                token
            });
            let indexes = ivs.into_iter().map(|(index, _)| index);
            self.ahead = indexes.zip(tokens).collect();
        }
        if let Some((_, token)) = self.ahead.pop_front_if(|(next, _)| *next == index) {
            out.extend_from_slice(&token);
        } else {
            let mut iv = [0; IV_BYTES];
            (self.fill)(&mut iv);
            seal_leaf(&document.leaves[index], cipher, &iv, out);
        }
    }
}

/// Appends the token of a leaf's value.
fn seal_leaf(leaf: &document::Leaf<'_>, cipher: &Cipher, iv: &[u8; IV_BYTES], out: &mut Vec<u8>) {
    let kind = leaf.value.type_tag().unwrap_or("str");
    let plaintext = leaf.value.plaintext();
    let aad = leaf.path.associated_data();
    cipher.seal(plaintext.expose(), kind, aad, iv, out);
}

impl LeafText for SealedLeaves<'_> {
    fn is_token(&self, index: usize) -> bool {
        let plan = self.plans.get(index);
        plan.is_some_and(|(_, plan)| !matches!(plan, LeafPlan::Clear))
    }

    fn write_note(&mut self, index: usize, text: &[u8], out: &mut Vec<u8>) {
        if let LeafPlan::Kept {
            note: Some((old, base64)),
            ..
        } = &self.plans[index].1
            && old.expose() == text
        {
            out.extend_from_slice(base64);
            return;
        }
        let mut iv = [0; IV_BYTES];
        (self.fill)(&mut iv);
        let aad = self.document.leaves[index].path.associated_data();
        self.cipher.seal_note(text, aad, &iv, out);
    }

    fn write(&mut self, index: usize, out: &mut Vec<u8>) {
        let leaf = &self.document.leaves[index];
        let start = out.len();
        match &self.plans[index].1 {
            LeafPlan::Clear => out.extend_from_slice(&self.document.source[leaf.span.clone()]),
            LeafPlan::Kept { token, .. } => out.extend_from_slice(token),
            LeafPlan::Sealed => self.seal(index, out),
        }
        if let SelectionRule::UnencryptedCommentRegex(pattern) = self.rule {
            let is_sealed_comment = self.is_token(index) && leaf.value.is_comment();
            self.self_matching |= is_sealed_comment && pattern.is_match(&out[start..]);
        }
    }
}

/// Encrypts `length` bytes that `read` hands over in pieces into the binary form, so that a large
/// file need not be in memory; `read` fills its argument completely.
///
/// # Errors
/// What `read` returns.
pub fn seal_stream<E>(
    length: usize,
    key: &DataKey,
    metadata: &Metadata,
    now: &str,
    fill: Fill<'_>,
    mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let store = Format::Binary.store();
    let cipher = Cipher::new(key);
    let empty = Document {
        source: &[],
        leaves: Vec::new(),
        frames: Vec::new(),
        seat: Seat::default(),
    };
    let aad = KeyPath::root().child(b"data");
    let (mut iv, mut mac_iv) = ([0; IV_BYTES], [0; IV_BYTES]);
    fill(&mut iv);
    fill(&mut mac_iv);
    let mac = RefCell::new(Mac::new(MacScope::AllValues));
    let mut data = StreamedData {
        result: Ok(()),
        write: |out: &mut Vec<u8>| {
            cipher.seal_from(length, aad.associated_data(), &iv, out, |piece| {
                read(piece)?;
                mac.borrow_mut().update(piece);
                Ok(())
            })
        },
    };
    let sealed = store.emit_sealed(&empty, None, &mut data, &mut || {
        let digest = mac.replace(Mac::new(MacScope::AllValues)).finish();
        with_mac(&cipher, metadata, &digest, now, &mac_iv)
    });
    data.result.map(|()| sealed)
}

/// Writes the one leaf of the binary form from a stream.
struct StreamedData<W, E> {
    result: Result<(), E>,
    write: W,
}

impl<E, W: FnMut(&mut Vec<u8>) -> Result<(), E>> LeafText for StreamedData<W, E> {
    fn is_token(&self, _index: usize) -> bool {
        true
    }

    fn write_note(&mut self, _index: usize, _text: &[u8], _out: &mut Vec<u8>) {}

    fn write(&mut self, _index: usize, out: &mut Vec<u8>) {
        self.result = (self.write)(out);
    }
}

/// Returns the metadata with the MAC of a digest, as of `now`.
fn with_mac(
    cipher: &Cipher,
    metadata: &Metadata,
    digest: &str,
    now: &str,
    iv: &[u8; IV_BYTES],
) -> Metadata {
    let mut token = Vec::new();
    cipher.seal(digest.as_bytes(), "str", now.as_bytes(), iv, &mut token);
    let mut metadata = metadata.clone();
    metadata.set_mac(String::from_utf8_lossy(&token).into_owned(), now.to_owned());
    metadata
}

/// Decides for every leaf whether it is encrypted and what stands in its place.
fn plan_leaves<'a>(
    store: &dyn Store,
    document: &Document<'_>,
    selection: &Selection,
    reuse: &Reuse<'a>,
) -> Vec<(bool, LeafPlan<'a>)> {
    let mut selector = Selector::new(selection);
    let mut kept = KeptTokens::new(store, reuse);
    let plan = |(index, leaf): (usize, &document::Leaf<'_>)| {
        let plaintext = leaf.value.plaintext();
        let comment = leaf.value.is_comment().then(|| plaintext.expose());
        let selected = !store.has_selection()
            || selector.select(&leaf.path, leaf.frame, comment, &document.frames);
        let plan = if !selected || plaintext.expose().is_empty() {
            LeafPlan::Clear
        } else {
            kept.take(index, leaf, plaintext.expose())
                .unwrap_or(LeafPlan::Sealed)
        };
        (selected, plan)
    };
    document.leaves.iter().enumerate().map(plan).collect()
}

/// Computes the MAC of a document from its values, and where a token is kept from the value in it.
fn mac_of(document: &Document<'_>, plans: &[(bool, LeafPlan<'_>)], scope: MacScope) -> String {
    let mut mac = Mac::new(scope);
    for (leaf, (selected, plan)) in document.leaves.iter().zip(plans) {
        if leaf.step == Step::Shadowed {
            continue;
        }
        match plan {
            LeafPlan::Kept {
                value: Some(value), ..
            } => mac.add(value, *selected),
            _ => mac.add(&leaf.value, *selected),
        }
    }
    mac.finish()
}

/// What makes two leaves alike: associated data, type, text.
type LeafKey<'k> = (&'k [u8], &'static str, TextKey<'k>);

/// A token of a previous file with what was in it.
#[derive(Clone, Copy)]
struct KeptToken<'a> {
    token: &'a [u8],
    value: &'a Value<'static>,
    note: Option<(&'a SecretBytes, &'a [u8])>,
}

/// The tokens of a previous file, by associated data, type and text. Each is given out once, in
/// file order, so that equal values of equal keys keep their order.
struct KeptTokens<'a> {
    all: Option<&'a SealedDocument>,
    is_typed: bool,
    queues: Vec<VecDeque<KeptToken<'a>>>,
    by_text: HashMap<LeafKey<'a>, usize>,
}

/// The text of a value as a map key.
struct TextKey<'k>(SecretText<'k>);

impl PartialEq for TextKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl Eq for TextKey<'_> {}

impl std::hash::Hash for TextKey<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.expose().hash(state);
    }
}

impl<'a> KeptTokens<'a> {
    fn new(store: &dyn Store, reuse: &Reuse<'a>) -> Self {
        let mut kept = Self {
            all: None,
            is_typed: store.is_typed(),
            queues: Vec::new(),
            by_text: HashMap::new(),
        };
        match *reuse {
            Reuse::Nothing | Reuse::Layout(_) => {}
            Reuse::All(sealed) => kept.all = Some(sealed),
            Reuse::Leaves(sealed, opened) => {
                let leaves = sealed.leaves.iter().zip(&opened.leaves.values);
                for (index, (leaf, value)) in leaves.enumerate() {
                    // What stands in clear may look like a token: only opened ones are kept.
                    let Some(value) = value else { continue };
                    let (length, note) = NoteText::after(sealed.text(leaf));
                    let (token, rest) = sealed.text(leaf).split_at(length);
                    let note = match (note, opened.leaves.notes.get(&index)) {
                        (Some(_), Some(OpenNote::Source(text))) => Some((text, rest)),
                        _ => None,
                    };
                    let text = if kept.is_typed {
                        value.plaintext()
                    } else {
                        value.flat_text()
                    };
                    let key = (leaf.path.associated_data(), kept.tag(value), TextKey(text));
                    let one = KeptToken { token, value, note };
                    let queue = *kept.by_text.entry(key).or_insert(kept.queues.len());
                    if queue == kept.queues.len() {
                        kept.queues.push(VecDeque::new());
                    }
                    kept.queues[queue].push_back(one);
                }
            }
        }
        kept
    }

    /// Returns what tells types apart: in forms that know strings only, comments from all else.
    fn tag(&self, value: &Value<'_>) -> &'static str {
        match value.type_tag() {
            Some("comment") => "comment",
            Some(tag) if self.is_typed => tag,
            _ => "str",
        }
    }

    fn take(
        &mut self,
        index: usize,
        leaf: &document::Leaf<'_>,
        plaintext: &[u8],
    ) -> Option<LeafPlan<'a>> {
        if let Some(sealed) = self.all {
            let token = sealed.text(sealed.leaves.get(index)?);
            return Some(LeafPlan::Kept {
                token,
                value: None,
                note: None,
            });
        }
        if self.by_text.is_empty() {
            return None;
        }
        let text = TextKey(SecretText::Borrowed(plaintext));
        let key = (leaf.path.associated_data(), self.tag(&leaf.value), text);
        let queue = *self.by_text.get(&key)?;
        let KeptToken { token, value, note } = self.queues[queue].pop_front()?;
        Some(LeafPlan::Kept {
            token,
            value: Some(value),
            note,
        })
    }
}
