//! The SOPS file format: bytes in, bytes out.
//!
//! [`open`] turns a sealed document into its plaintext, [`seal`] a plain document into an
//! encrypted file, [`matches()`] compares the two without keeping a second copy. Nothing here
//! touches files, people, clocks or random sources: time and randomness are arguments.

pub mod cipher;
pub mod data_key;
pub mod document;
pub mod error;
pub mod gcm;
pub mod mac;
pub mod metadata;
pub mod pattern;
pub mod selector;
pub mod store;
pub mod value;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc;
use std::thread;

use crate::secret::SecretBytes;

use cipher::{Cipher, IV_BYTES, PIECE_BYTES, PIECEWISE_BYTES, Token};
use data_key::DataKey;
use document::{Document, SealedDocument, SealedLeaf};
use error::DocumentError;
use mac::{Mac, MacScope};
use metadata::Metadata;
use selector::{Selection, SelectionRule, Selector};
use store::{Format, LeafText, Store};
use value::Value;

/// A source of cryptographically secure random bytes: fills its argument.
pub type Fill<'f> = &'f mut dyn FnMut(&mut [u8]);

/// An opened file.
#[derive(Debug)]
pub struct Opened {
    /// The plaintext, byte for byte what was encrypted.
    pub plaintext: SecretBytes,
    /// The values of the tokens, one place a leaf, `None` for what stands in clear; empty for the
    /// binary form, whose one value is the plaintext.
    values: Vec<Option<Value<'static>>>,
    /// Line-free remarks for the user, such as a comment that was never encrypted.
    pub warnings: Vec<String>,
}

/// Reads an encrypted file of any supported stored form.
///
/// # Errors
/// As [`Format::parse_sealed`].
pub fn parse_sealed(source: Vec<u8>) -> Result<(Format, SealedDocument), DocumentError> {
    Format::parse_sealed(source)
}

/// Opens a sealed document: decrypts every selected leaf and verifies the MAC.
///
/// # Errors
/// `Token`, `Value` or `NotEncrypted` for a leaf that cannot be opened, `MacMismatch`. No plaintext
/// is returned then.
pub fn open(
    format: Format,
    sealed: &SealedDocument,
    key: &DataKey,
) -> Result<Opened, DocumentError> {
    let store = format.store();
    let cipher = Cipher::new(key);
    let mut mac = Mac::new(sealed.metadata.selection.scope);
    let mut selector = Selector::new(&sealed.metadata.selection);
    let mut values = Vec::with_capacity(sealed.leaves.len());
    let mut clear_comments = 0;
    for leaf in &sealed.leaves {
        let text = sealed.text(leaf);
        let comment = leaf.is_comment.then_some(text);
        let selected = selector.select(&leaf.path, leaf.frame, comment, &sealed.frames);
        let value = if !selected || text.is_empty() {
            digest(&mut mac, &store.clear_value(leaf, text), selected);
            None
        } else if let Ok(token) = Token::parse(text) {
            check_place(store, leaf, &token)?;
            let (value, rest) = open_leaf(&cipher, leaf, &token, mac)?;
            mac = rest;
            Some(value)
        } else if leaf.is_comment && !Token::is_likely(text) {
            // The reference keeps such a comment too: added by hand, it was never encrypted.
            clear_comments += 1;
            None
        } else {
            return Err(not_a_token(leaf, text));
        };
        values.push(value);
    }
    verify_mac(&cipher, &sealed.metadata, &mac.finish())?;
    let plaintext = store.emit_plain(sealed, &mut values);
    let warnings = match clear_comments {
        0 => Vec::new(),
        1 => vec!["a comment in the encrypted file is not encrypted".to_owned()],
        count => vec![format!(
            "{count} comments in the encrypted file are not encrypted"
        )],
    };
    Ok(Opened {
        plaintext,
        values,
        warnings,
    })
}

/// Refuses a comment in the place of a value and the reverse: under an empty key both have the same
/// associated data, and comments are not part of the MAC.
fn check_place(
    store: &dyn Store,
    leaf: &SealedLeaf,
    token: &Token<'_>,
) -> Result<(), DocumentError> {
    let is_comment = token.kind == "comment";
    let is_allowed = is_comment == leaf.is_comment || (is_comment && store.has_comment_items());
    if is_allowed {
        Ok(())
    } else {
        let source = value::ValueError::NotOfType;
        Err(DocumentError::Value {
            key: name(leaf),
            source,
        })
    }
}

/// Opens one token and checks its type. A large value is added to the MAC while it is decrypted.
fn open_leaf(
    cipher: &Cipher,
    leaf: &SealedLeaf,
    token: &Token<'_>,
    mac: Mac,
) -> Result<(Value<'static>, Mac), DocumentError> {
    let token_error = |source| DocumentError::Token {
        key: name(leaf),
        source,
    };
    let aad = leaf.path.associated_data();
    let typed = |bytes| {
        Value::from_plaintext(token.kind, bytes).map_err(|source| DocumentError::Value {
            key: name(leaf),
            source,
        })
    };
    if token.is_large() {
        let (bytes, mac) = open_large(cipher, token, &aad, mac).map_err(token_error)?;
        return Ok((typed(bytes)?, mac));
    }
    let value = typed(cipher.open(token, &aad).map_err(token_error)?)?;
    let mut mac = mac;
    digest(&mut mac, &value, true);
    Ok((value, mac))
}

/// Adds a value to the MAC where it is covered.
fn digest(mac: &mut Mac, value: &Value<'_>, encrypted: bool) {
    if !value.is_comment() && mac.covers(encrypted) {
        mac.update(value.plaintext().expose());
    }
}

/// Decrypts a large value piece by piece while a second thread digests the pieces.
fn open_large(
    cipher: &Cipher,
    token: &Token<'_>,
    aad: &[u8],
    mut mac: Mac,
) -> Result<(SecretBytes, Mac), cipher::TokenError> {
    let mut pieces = cipher.pieces(token, aad)?;
    let mut plaintext = SecretBytes::new(vec![0; pieces.plaintext_len()]);
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel::<&[u8]>();
        let digest = &mut mac;
        let hasher = thread::Builder::new().spawn_scoped(scope, move || {
            receive.iter().for_each(|piece| digest.update(piece));
        });
        for piece in plaintext.expose_mut().chunks_mut(PIECE_BYTES) {
            pieces.read(piece)?;
            // Without a second thread nobody receives: digested below.
            let _ = send.send(piece);
        }
        drop(send);
        Ok(hasher.is_ok())
    })
    .map(|is_digested| {
        if !is_digested {
            mac.update(plaintext.expose());
        }
    })?;
    pieces.finish()?;
    Ok((plaintext, mac))
}

fn not_a_token(leaf: &SealedLeaf, text: &[u8]) -> DocumentError {
    match Token::parse(text) {
        Err(source) if Token::is_likely(text) => DocumentError::Token {
            key: name(leaf),
            source,
        },
        _ => DocumentError::NotEncrypted { key: name(leaf) },
    }
}

fn name(leaf: &SealedLeaf) -> String {
    if leaf.is_comment {
        "comment".to_owned()
    } else {
        leaf.path.display()
    }
}

/// Returns the digest stored in the `mac` field.
fn stored_mac(cipher: &Cipher, metadata: &Metadata) -> Result<SecretBytes, DocumentError> {
    if metadata.mac.is_empty() {
        return Err(DocumentError::MacMismatch);
    }
    let open = || {
        let token = Token::parse(metadata.mac.as_bytes())?;
        if token.kind != "str" {
            return Err(cipher::TokenError::NotToken);
        }
        let aad = value::without_fraction(&metadata.last_modified);
        cipher.open(&token, aad.as_bytes())
    };
    open().map_err(|source| DocumentError::Token {
        key: "mac".to_owned(),
        source,
    })
}

fn verify_mac(cipher: &Cipher, metadata: &Metadata, computed: &str) -> Result<(), DocumentError> {
    let stored = stored_mac(cipher, metadata)?;
    let pairs = stored.expose().iter().zip(computed.as_bytes());
    let difference = pairs.fold(0, |sum, (a, b)| sum | (a ^ b));
    if stored.len() == computed.len() && std::hint::black_box(difference) == 0 {
        Ok(())
    } else {
        Err(DocumentError::MacMismatch)
    }
}

/// Returns whether `sealed` decrypts to exactly `expected`, its MAC verified either way. A large
/// value is compared piece by piece. `digest` is the MAC of `expected` where it is known already,
/// as it is for what was just sealed.
///
/// # Errors
/// As [`open`].
pub fn matches(
    format: Format,
    sealed: &SealedDocument,
    key: &DataKey,
    expected: &[u8],
    digest: Option<&str>,
) -> Result<bool, DocumentError> {
    let (Format::Binary, [leaf]) = (format, &sealed.leaves[..]) else {
        return Ok(open(format, sealed, key)?.plaintext.expose() == expected);
    };
    let mut selector = Selector::new(&sealed.metadata.selection);
    let is_selected = selector.select(&leaf.path, leaf.frame, None, &sealed.frames);
    let token = match Token::parse(sealed.text(leaf)) {
        Ok(token) if token.is_large() && is_selected => token,
        _ => return Ok(open(format, sealed, key)?.plaintext.expose() == expected),
    };
    let cipher = Cipher::new(key);
    let aad = leaf.path.associated_data();
    let token_error = |source| DocumentError::Token {
        key: name(leaf),
        source,
    };
    let scope = sealed.metadata.selection.scope;
    let pieces = cipher.pieces(&token, &aad).map_err(token_error)?;
    let is_equal = thread::scope(|threads| {
        // Where both are equal, the digest of the expected bytes is that of the file.
        let same_length = pieces.plaintext_len() == expected.len();
        let hasher = same_length.then(|| {
            spawn(threads, move || {
                digest.map_or_else(|| digest_of(expected, scope), str::to_owned)
            })
        });
        let equal = is_equal_to(pieces, expected).map_err(token_error)?;
        let mac = hasher.filter(|_| equal).map(|hasher| {
            hasher
                .and_then(|thread| thread.join().ok())
                .unwrap_or_else(|| digest_of(expected, scope))
        });
        match mac {
            Some(mac) => verify_mac(&cipher, &sealed.metadata, &mac).map(|()| true),
            None => Ok(false),
        }
    })?;
    if !is_equal {
        let mut mac = Mac::new(scope);
        let mut pieces = cipher.pieces(&token, &aad).map_err(token_error)?;
        let mut piece = SecretBytes::new(vec![0; PIECE_BYTES]);
        loop {
            let length = pieces.read(piece.expose_mut()).map_err(token_error)?;
            if length == 0 {
                break;
            }
            mac.update(&piece.expose()[..length]);
        }
        verify_mac(&cipher, &sealed.metadata, &mac.finish())?;
    }
    Ok(is_equal)
}

/// Starts a second thread; `None` where the system has none to give, and the caller does the work.
fn spawn<'scope, T: Send + 'scope>(
    threads: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<thread::ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().spawn_scoped(threads, work).ok()
}

fn digest_of(value: &[u8], scope: MacScope) -> String {
    let mut mac = Mac::new(scope);
    mac.update(value);
    mac.finish()
}

fn is_equal_to(
    mut pieces: cipher::Pieces<'_>,
    expected: &[u8],
) -> Result<bool, cipher::TokenError> {
    let mut is_equal = pieces.plaintext_len() == expected.len();
    let mut piece = SecretBytes::new(vec![0; PIECE_BYTES]);
    let mut at = 0;
    loop {
        let length = pieces.read(piece.expose_mut())?;
        if length == 0 {
            break;
        }
        let end = at + length;
        is_equal = is_equal && expected.get(at..end) == Some(&piece.expose()[..length]);
        at = end;
    }
    pieces.finish()?;
    Ok(is_equal)
}

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
            } => digest(&mut mac, value, *selected),
            _ => digest(&mut mac, &leaf.value, *selected),
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
