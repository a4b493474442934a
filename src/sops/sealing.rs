//! Plain document to encrypted file: which leaves are encrypted, which tokens of an earlier file
//! stay, and the MAC over all of it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::thread;

use crate::secret::SecretBytes;

use super::Fill;
use super::cipher::{Cipher, IV_BYTES, PIECEWISE_BYTES};
use super::data_key::DataKey;
use super::document::{self, Document, SealedDocument};
use super::error::DocumentError;
use super::mac::{Mac, MacScope};
use super::metadata::Metadata;
use super::opening::{Opened, spawn};
use super::selector::{Selection, SelectionRule, Selector};
use super::store::{Format, LeafText, Store};
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

/// Encrypts a plain document. `metadata` holds keys and selection; its MAC and time are set here.
/// `now` is RFC 3339, UTC, whole seconds; a file changed twice in a second gets the next one.
///
/// # Errors
/// `SelfMatching` for a comment rule that its own output would trip over.
pub fn seal(
    format: Format,
    document: &Document<'_>,
    key: &DataKey,
    metadata: &Metadata,
    reuse: &Reuse<'_>,
    now: &str,
    fill: Fill<'_>,
) -> Result<Sealed, DocumentError> {
    let store = format.store();
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
    let compute_mac = || mac_of(document, &plans, selection.scope);
    let mut mac_iv = [0; IV_BYTES];
    fill(&mut mac_iv);
    let mut leaves = SealedLeaves {
        document,
        plans: &plans,
        cipher: &cipher,
        rule: &selection.rule,
        fill,
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
        Err(DocumentError::SelfMatching)
    } else {
        Ok(Sealed {
            bytes,
            digest,
            clear,
        })
    }
}

/// Writes the leaves of a document as planned.
struct SealedLeaves<'a> {
    document: &'a Document<'a>,
    plans: &'a [(bool, LeafPlan<'a>)],
    cipher: &'a Cipher,
    rule: &'a SelectionRule,
    fill: Fill<'a>,
    self_matching: bool,
}

impl LeafText for SealedLeaves<'_> {
    fn is_token(&self, index: usize) -> bool {
        !matches!(self.plans[index].1, LeafPlan::Clear)
    }

    fn write(&mut self, index: usize, out: &mut Vec<u8>) {
        let leaf = &self.document.leaves[index];
        let start = out.len();
        match &self.plans[index].1 {
            LeafPlan::Clear => out.extend_from_slice(&self.document.source[leaf.span.clone()]),
            LeafPlan::Kept { token, .. } => out.extend_from_slice(token),
            LeafPlan::Sealed => {
                let mut iv = [0; IV_BYTES];
                (self.fill)(&mut iv);
                let kind = leaf.value.type_tag().unwrap_or("str");
                let plaintext = leaf.value.plaintext();
                let aad = leaf.path.associated_data();
                self.cipher.seal(plaintext.expose(), kind, &aad, &iv, out);
            }
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
    };
    let aad = document::KeyPath::root().child(b"data").associated_data();
    let (mut iv, mut mac_iv) = ([0; IV_BYTES], [0; IV_BYTES]);
    fill(&mut iv);
    fill(&mut mac_iv);
    let mac = RefCell::new(Mac::new(MacScope::AllValues));
    let mut data = StreamedData {
        result: Ok(()),
        write: |out: &mut Vec<u8>| {
            cipher.seal_from(length, &aad, &iv, out, |piece| {
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
        match plan {
            LeafPlan::Kept {
                value: Some(value), ..
            } => mac.add(value, *selected),
            _ => mac.add(&leaf.value, *selected),
        }
    }
    mac.finish()
}

/// What makes two leaves alike: associated data, whether it is a comment, text.
type LeafKey = (Vec<u8>, bool, TextKey);

/// The tokens of a previous file, by associated data, kind and text. Each is given out once, in
/// file order, so that equal values of equal keys keep their order.
struct KeptTokens<'a> {
    all: Option<&'a SealedDocument>,
    by_text: HashMap<LeafKey, VecDeque<(&'a [u8], &'a Value<'static>)>>,
}

/// The text of a value as a map key, wiped when dropped.
#[derive(PartialEq, Eq)]
struct TextKey(SecretBytes);

impl std::hash::Hash for TextKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.expose().hash(state);
    }
}

impl<'a> KeptTokens<'a> {
    fn new(store: &dyn Store, reuse: &Reuse<'a>) -> Self {
        let mut kept = Self {
            all: None,
            by_text: HashMap::new(),
        };
        match *reuse {
            Reuse::Nothing | Reuse::Layout(_) => {}
            Reuse::All(sealed) => kept.all = Some(sealed),
            Reuse::Leaves(sealed, opened) => {
                for (leaf, value) in sealed.leaves.iter().zip(&opened.values) {
                    // What stands in clear may look like a token: only opened ones are kept.
                    if let Some(value) = value {
                        let token = sealed.text(leaf);
                        let text = TextKey(SecretBytes::copy_of(store.value_text(value).expose()));
                        let key = (leaf.path.associated_data(), leaf.is_comment, text);
                        kept.by_text
                            .entry(key)
                            .or_default()
                            .push_back((token, value));
                    }
                }
            }
        }
        kept
    }

    fn take(
        &mut self,
        index: usize,
        leaf: &document::Leaf<'_>,
        plaintext: &[u8],
    ) -> Option<LeafPlan<'a>> {
        if let Some(sealed) = self.all {
            let token = sealed.text(sealed.leaves.get(index)?);
            return Some(LeafPlan::Kept { token, value: None });
        }
        if self.by_text.is_empty() {
            return None;
        }
        let text = TextKey(SecretBytes::copy_of(plaintext));
        let key = (leaf.path.associated_data(), leaf.value.is_comment(), text);
        let (token, value) = self.by_text.get_mut(&key)?.pop_front()?;
        Some(LeafPlan::Kept {
            token,
            value: Some(value),
        })
    }
}
