//! Sealed document to plaintext: every token opened, the MAC verified before anything is returned.

use std::sync::mpsc;
use std::thread;

use crate::parallel;
use crate::secret::{SecretBytes, wipe_stack};

use super::cipher::{self, Cipher, NoteText, PIECE_BYTES, Token, TokenError};
use super::data_key::DataKey;
use super::document::{KeyPath, SealedDocument, SealedLeaf, Step};
use super::error::DocumentError;
use super::mac::{Mac, MacScope};
use super::metadata::Metadata;
use super::selector::Selector;
use super::store::{Format, Indents, OpenNote, OpenedLeaves, Store};
use super::tree::Tree;
use super::value::{self, Value};

/// Put behind the `mac` token: the layout is the source's. Written only where the file looks as if stock
/// had written it but does not come back as stock would spell it.
pub(super) const LAYOUT_MARK: char = '~';

/// So many tokens, at least, are worth a thread.
pub(super) const SHARE: usize = 256;

/// How many leaves before and behind a comment are asked for the container it belongs to.
const NEIGHBOURS: usize = 24;

/// An opened file.
#[derive(Debug)]
pub struct Opened {
    /// The plaintext, byte for byte what was encrypted.
    pub plaintext: SecretBytes,
    /// The values of the tokens; empty for the binary form, whose one value is the plaintext.
    pub(super) leaves: OpenedLeaves,
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
    if format == Format::Age {
        return Ok(Opened {
            plaintext: SecretBytes::copy_of(key.expose()),
            leaves: OpenedLeaves::default(),
            warnings: Vec::new(),
        });
    }
    let cipher = Cipher::new(key);
    let mut mac = Mac::new(sealed.metadata.selection.scope);
    let mut selector = Selector::new(&sealed.metadata.selection);
    let mut leaves = OpenedLeaves {
        values: Vec::with_capacity(sealed.leaves.len()),
        ..OpenedLeaves::default()
    };
    let selected: Vec<bool> = sealed
        .leaves
        .iter()
        .map(|leaf| {
            let comment = leaf.is_comment.then(|| sealed.text(leaf));
            selector.select(&leaf.path, leaf.frame, comment, &sealed.frames)
        })
        .collect();
    let mut ahead = open_ahead(&cipher, sealed, &selected).into_iter();
    let mut clear_comments = 0;
    for ((index, leaf), &selected) in sealed.leaves.iter().enumerate().zip(&selected) {
        let text = sealed.text(leaf);
        let clear = sealed.clear_value(leaf);
        let ahead = ahead.next().flatten();
        let is_shadowed = leaf.step == Step::Shadowed;
        let value = if !selected || clear.plaintext().expose().is_empty() {
            if !is_shadowed {
                mac.add(&clear, selected);
            }
            None
        } else if let (Value::Str(_) | Value::Comment(_), Ok(token)) = (&clear, Token::parse(text))
        {
            check_place(leaf, &token)?;
            let (opened, rest) = open_leaf(&cipher, sealed, leaf, &token, ahead, mac)?;
            mac = rest;
            if let (_, Some(note)) = NoteText::after(text) {
                let aad = opened.path.associated_data();
                leaves
                    .notes
                    .extend(open_note(&cipher, note, aad).map(|note| (index, note)));
            }
            Some(opened.value)
        } else if leaf.is_comment && !Token::is_likely(text) {
            // The reference keeps such a comment too: added by hand, it was never encrypted.
            clear_comments += 1;
            None
        } else {
            return Err(not_a_token(sealed, leaf, text));
        };
        leaves.values.push(value);
    }
    verify_mac(&cipher, &sealed.metadata, &mac.finish())?;
    let plaintext = plain_text(store, sealed, &mut leaves);
    let warnings = match clear_comments {
        0 => Vec::new(),
        1 => vec!["a comment in the encrypted file is not encrypted".to_owned()],
        count => vec![format!(
            "{count} comments in the encrypted file are not encrypted"
        )],
    };
    Ok(Opened {
        plaintext,
        leaves,
        warnings,
    })
}

/// Opens the tokens of a file with many of them on all processors; `None` for what is none. Nothing for a
/// file with few.
fn open_ahead(
    cipher: &Cipher,
    sealed: &SealedDocument,
    selected: &[bool],
) -> Vec<Option<Result<SecretBytes, TokenError>>> {
    if sealed.leaves.len() < 2 * SHARE {
        return Vec::new();
    }
    let leaves: Vec<_> = sealed.leaves.iter().zip(selected).collect();
    parallel::map(&leaves, SHARE, |(leaf, selected)| {
        let token = Token::parse(sealed.text(leaf)).ok()?;
        let is_ahead = **selected && !token.is_large();
        is_ahead.then(|| cipher.open(&token, leaf.path.associated_data()))
    })
}

/// Returns the plain text of an opened file: as it was when its layout is its own, else, where stock
/// `sops` has written it, what stock makes of it.
fn plain_text(
    store: &dyn Store,
    sealed: &SealedDocument,
    leaves: &mut OpenedLeaves,
) -> SecretBytes {
    let is_own = !leaves.notes.is_empty() || has_layout_mark(&sealed.metadata);
    if !is_own
        && has_stock_layout(store, sealed)
        && let Ok(plain) =
            store.emit_tree(&Tree::of_opened(sealed, leaves), None, Indents::default())
    {
        return plain;
    }
    store.emit_plain(sealed, leaves)
}

/// Returns whether the file says that its layout is the source's, though it could be stock's.
fn has_layout_mark(metadata: &Metadata) -> bool {
    metadata.mac.ends_with(LAYOUT_MARK)
}

/// Returns whether stock `sops` would write the file byte for byte as it is.
pub(super) fn has_stock_layout(store: &dyn Store, sealed: &SealedDocument) -> bool {
    store.may_be_of_stock(&sealed.source)
        && store
            .emit_tree(
                &Tree::of_sealed(sealed),
                Some(sealed.metadata.node()),
                Indents::default(),
            )
            .is_ok_and(|text| is_same_text(text.expose(), &sealed.source))
}

/// Compares texts line by line; a comment on a line of its own may stand in another column, since go-yaml
/// moves some when it reads its own output.
fn is_same_text(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let mut others = other.split(|&byte| byte == b'\n');
    let is_same = one.split(|&byte| byte == b'\n').all(|line| {
        others.next().is_some_and(|other| {
            let (bare, other_bare) = (line.trim_ascii_start(), other.trim_ascii_start());
            line == other || (bare.starts_with(b"#") && bare == other_bare)
        })
    });
    is_same && others.next().is_none()
}

/// Opens what a note says; `None` for one that does not belong here, which counts as none.
fn open_note(cipher: &Cipher, note: NoteText<'_>, aad: &[u8]) -> Option<OpenNote> {
    Some(match note {
        NoteText::Mark => OpenNote::Mark,
        NoteText::Sealed(base64) => OpenNote::Source(cipher.open_note(base64, aad)?),
        NoteText::Word(word) => OpenNote::Word(std::str::from_utf8(word).ok()?.into()),
    })
}

/// Refuses a comment in the place of a value and the reverse: under an empty key both have the same
/// associated data, and comments are not part of the MAC. In lists the reference writes encrypted
/// comments as items.
fn check_place(leaf: &SealedLeaf, token: &Token<'_>) -> Result<(), DocumentError> {
    let is_comment = token.kind == "comment";
    let is_item = matches!(leaf.step, Step::Item(_));
    if is_comment == leaf.is_comment || (is_comment && is_item) {
        Ok(())
    } else {
        let source = value::ValueError::NotOfType;
        Err(DocumentError::Value {
            key: leaf.path.display(),
            source,
        })
    }
}

/// A value and the path that its associated data came from.
struct OpenedLeaf<'a> {
    value: Value<'static>,
    path: &'a KeyPath,
}

/// Opens one token and checks its type. A large value is added to the MAC while it is decrypted.
/// A comment may belong to any container around it: which one is a matter of layout rules.
fn open_leaf<'a>(
    cipher: &Cipher,
    sealed: &'a SealedDocument,
    leaf: &'a SealedLeaf,
    token: &Token<'_>,
    ahead: Option<Result<SecretBytes, TokenError>>,
    mac: Mac,
) -> Result<(OpenedLeaf<'a>, Mac), DocumentError> {
    let token_error = |source| DocumentError::Token {
        key: name(sealed, leaf),
        source,
    };
    let path = &leaf.path;
    let aad = path.associated_data();
    let typed = |bytes| {
        Value::from_plaintext(token.kind, bytes).map_err(|source| DocumentError::Value {
            key: name(sealed, leaf),
            source,
        })
    };
    if token.is_large() {
        let (bytes, mac) = open_large(cipher, token, aad, mac).map_err(token_error)?;
        let value = typed(bytes)?;
        return Ok((OpenedLeaf { value, path }, mac));
    }
    let opened = ahead
        .unwrap_or_else(|| cipher.open(token, aad))
        .map(|bytes| (bytes, path));
    let opened = match opened {
        Err(TokenError::NotAuthentic) if token.kind == "comment" => {
            open_elsewhere(cipher, sealed, leaf, token).ok_or(TokenError::NotAuthentic)
        }
        opened => opened,
    };
    let (bytes, path) = opened.map_err(token_error)?;
    let value = typed(bytes)?;
    let mut mac = mac;
    if leaf.step != Step::Shadowed {
        mac.add(&value, true);
    }
    Ok((OpenedLeaf { value, path }, mac))
}

/// Opens a comment with the path of any container that it may be said to stand in: those around
/// its neighbours.
fn open_elsewhere<'a>(
    cipher: &Cipher,
    sealed: &'a SealedDocument,
    leaf: &SealedLeaf,
    token: &Token<'_>,
) -> Option<(SecretBytes, &'a KeyPath)> {
    let mut tried: Vec<&KeyPath> = vec![&leaf.path];
    let at = sealed
        .leaves
        .partition_point(|one| one.span.start < leaf.span.start);
    let around = at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS).min(sealed.leaves.len());
    for neighbour in &sealed.leaves[around] {
        let path = &sealed.frames.get(neighbour.frame as usize)?.path;
        for path in std::iter::successors(Some(path), |path| path.parent()) {
            if tried.contains(&path) {
                continue;
            }
            if let Ok(bytes) = cipher.open(token, path.associated_data()) {
                return Some((bytes, path));
            }
            tried.push(path);
        }
    }
    None
}

/// Decrypts a large value piece by piece while a second thread digests the pieces.
fn open_large(
    cipher: &Cipher,
    token: &Token<'_>,
    aad: &[u8],
    mut mac: Mac,
) -> Result<(SecretBytes, Mac), TokenError> {
    let mut pieces = cipher.pieces(token, aad)?;
    let mut plaintext = SecretBytes::new(vec![0; pieces.plaintext_len()]);
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel::<&[u8]>();
        let digest = &mut mac;
        let hasher = thread::Builder::new().spawn_scoped(scope, move || {
            receive.iter().for_each(|piece| digest.update(piece));
            wipe_stack();
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

fn not_a_token(sealed: &SealedDocument, leaf: &SealedLeaf, text: &[u8]) -> DocumentError {
    match Token::parse(text) {
        Err(source) if Token::is_likely(text) => DocumentError::Token {
            key: name(sealed, leaf),
            source,
        },
        _ => DocumentError::NotEncrypted {
            key: name(sealed, leaf),
        },
    }
}

fn name(sealed: &SealedDocument, leaf: &SealedLeaf) -> String {
    if leaf.is_comment {
        "comment".to_owned()
    } else {
        sealed.place(leaf)
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
            return Err(TokenError::NotToken);
        }
        let aad = value::without_fraction(&metadata.last_modified);
        cipher.open(&token, aad.as_bytes())
    };
    open().map_err(|source| DocumentError::Token {
        key: "mac".to_owned(),
        source,
    })
}

pub(super) fn verify_mac(
    cipher: &Cipher,
    metadata: &Metadata,
    computed: &str,
) -> Result<(), DocumentError> {
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
        key: name(sealed, leaf),
        source,
    };
    let scope = sealed.metadata.selection.scope;
    let pieces = cipher.pieces(&token, aad).map_err(token_error)?;
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
        let mut pieces = cipher.pieces(&token, aad).map_err(token_error)?;
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
pub(super) fn spawn<'scope, T: Send + 'scope>(
    threads: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<thread::ScopedJoinHandle<'scope, T>> {
    let work = move || {
        let result = work();
        wipe_stack();
        result
    };
    thread::Builder::new().spawn_scoped(threads, work).ok()
}

fn digest_of(value: &[u8], scope: MacScope) -> String {
    let mut mac = Mac::new(scope);
    mac.update(value);
    mac.finish()
}

fn is_equal_to(mut pieces: cipher::Pieces<'_>, expected: &[u8]) -> Result<bool, TokenError> {
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
