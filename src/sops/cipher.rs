//! The `ENC[…]` token and the cipher behind it.
//!
//! `ENC[AES256_GCM,data:<base64>,iv:<base64>,tag:<base64>,type:<type>]`, AES-256-GCM with a
//! 32-byte IV and the key path as associated data (SOPS `aes/cipher.go`). Values of up to
//! [`PIECEWISE_BYTES`] go through the `aes-gcm` crate in one piece, larger ones through
//! [`super::gcm`] in pieces, so that no second buffer of their size is needed.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::LazyLock;

use aes::Aes256;
use aes::cipher::KeyInit;
use aes::cipher::consts::{U12, U16, U32};
use aes_gcm::AesGcm;
use aes_gcm::aead::AeadInOut;
use base64::engine::{GeneralPurposeConfig, Simd};
use base64::{DecodeSliceError, Engine};

use crate::secret::SecretBytes;

use super::data_key::DataKey;
use super::gcm::Gcm;

/// Length of the IV that SOPS writes, in bytes.
pub const IV_BYTES: usize = 32;
/// Length of a GCM tag in bytes.
pub const TAG_BYTES: usize = 16;
/// Values longer than this are encrypted and decrypted in pieces.
pub const PIECEWISE_BYTES: usize = 1 << 20;
/// Plaintext bytes per piece: a multiple of 16 (cipher block) and 3 (base64 group), small enough
/// for the second-level cache.
pub const PIECE_BYTES: usize = 192 << 10;

const PREFIX: &[u8] = b"ENC[AES256_GCM,data:";
const IV_MARK: &[u8] = b",iv:";
const TAG_MARK: &[u8] = b",tag:";
const TYPE_MARK: &[u8] = b",type:";

/// What can be wrong with a token. Never holds plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// A part is not standard base64 with padding.
    #[error("damaged `ENC[…]` token: a part is not base64")]
    NotBase64,
    /// The text is not of the form `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`.
    #[error("not an `ENC[…]` token")]
    NotToken,
    /// Data, IV, tag, key path and data key do not belong together.
    #[error("altered: ciphertext, IV, tag and key path do not belong together")]
    NotAuthentic,
    /// The IV has a length other than 12, 16 or 32 bytes, or the tag is not 16 bytes long.
    #[error("damaged `ENC[…]` token: IV or tag has a wrong length")]
    WrongLength,
}

/// The parts of a token as they stand in the text, still base64.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    data: &'a [u8],
    iv: &'a [u8],
    tag: &'a [u8],
    /// The type tag: `str`, `int`, `float`, `bool`, `time`, `comment`, `bytes`.
    pub kind: &'a str,
}

impl<'a> Token<'a> {
    /// Returns the token that `text` begins with. What stands behind its last `]` is ignored, as
    /// the reference's unanchored pattern does.
    ///
    /// # Errors
    /// `NotToken` when a mark is missing or a part is empty.
    pub fn parse(text: &'a [u8]) -> Result<Self, TokenError> {
        let inner = text.strip_prefix(PREFIX).ok_or(TokenError::NotToken)?;
        let end = rfind(inner, b"]").ok_or(TokenError::NotToken)?;
        let (rest, kind) = split_last(&inner[..end], TYPE_MARK)?;
        let (rest, tag) = split_last(rest, TAG_MARK)?;
        let (data, iv) = split_last(rest, IV_MARK)?;
        let kind = std::str::from_utf8(kind).map_err(|_| TokenError::NotToken)?;
        if data.is_empty() || iv.is_empty() || tag.is_empty() || kind.is_empty() {
            return Err(TokenError::NotToken);
        }
        Ok(Self {
            data,
            iv,
            tag,
            kind,
        })
    }

    /// Returns the length of the value in bytes, as far as base64 tells it without decoding: exact for
    /// what is well-formed.
    pub fn plaintext_len(&self) -> usize {
        decoded_len(self.data)
    }

    /// Returns whether the value is a string so long that it is opened in pieces.
    pub fn is_large(&self) -> bool {
        self.data.len() > PIECEWISE_BYTES && self.kind == "str"
    }

    /// Returns whether `text` looks as if it was meant to be a token: used to tell a damaged
    /// comment from one that was never encrypted.
    pub fn is_likely(text: &[u8]) -> bool {
        let has = |needle: &[u8]| memchr::memmem::find(text, needle).is_some();
        has(b"ENC[") || has(b"AES256_GCM") || (has(IV_MARK) && has(TAG_MARK)) || has(b",type:")
    }
}

/// Returns how many bytes well-formed base64 stands for.
fn decoded_len(base64: &[u8]) -> usize {
    let padding = base64.iter().rev().take_while(|&&byte| byte == b'=');
    (base64.len() / 4 * 3).saturating_sub(padding.count().min(2))
}

fn rfind(text: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::rfind(text, needle)
}

fn split_last<'a>(text: &'a [u8], mark: &[u8]) -> Result<(&'a [u8], &'a [u8]), TokenError> {
    let at = rfind(text, mark).ok_or(TokenError::NotToken)?;
    Ok((&text[..at], &text[at + mark.len()..]))
}

/// Seals and opens values under one data key. The key schedule is computed once.
pub struct Cipher {
    block: Aes256,
    gcm: AesGcm<Aes256, U32>,
}

impl Cipher {
    /// Returns a cipher for `key`.
    pub fn new(key: &DataKey) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "what unwraps a key refuses every other length"
        )]
        let block = Aes256::new_from_slice(key.expose()).expect("a data key has 32 bytes");
        Self {
            gcm: AesGcm::from(block.clone()),
            block,
        }
    }

    /// Appends the token of `plaintext` to `out`. `aad` is the joined key path (or `lastmodified`
    /// for the MAC), `iv` must never have been used with this key for another plaintext.
    pub fn seal(
        &self,
        plaintext: &[u8],
        kind: &str,
        aad: &[u8],
        iv: &[u8; IV_BYTES],
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(PREFIX);
        let tag = if plaintext.len() > PIECEWISE_BYTES {
            let mut parts = plaintext.chunks(PIECE_BYTES);
            let sealed = self.seal_pieces(plaintext.len(), aad, iv, out, |piece| {
                piece.copy_from_slice(parts.next().unwrap_or_default());
                Ok::<(), Infallible>(())
            });
            match sealed {
                Ok(tag) => tag,
                Err(never) => match never {},
            }
        } else {
            self.seal_whole(plaintext, aad, iv, out)
        };
        finish_token(&tag, kind, iv, out);
    }

    /// Appends the token of a string of `length` bytes that `fill` hands over in pieces, in order;
    /// it fills its argument completely.
    ///
    /// # Errors
    /// What `fill` returns; `out` then holds a part of a token.
    pub fn seal_from<E>(
        &self,
        length: usize,
        aad: &[u8],
        iv: &[u8; IV_BYTES],
        out: &mut Vec<u8>,
        fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        out.extend_from_slice(PREFIX);
        let tag = self.seal_pieces(length, aad, iv, out, fill)?;
        finish_token(&tag, "str", iv, out);
        Ok(())
    }

    fn seal_whole(
        &self,
        plaintext: &[u8],
        aad: &[u8],
        iv: &[u8; IV_BYTES],
        out: &mut Vec<u8>,
    ) -> [u8; TAG_BYTES] {
        let mut buffer = SecretBytes::copy_of(plaintext);
        let tag = self.gcm.encrypt_inout_detached(
            iv.into(),
            aad,
            buffer.expose_mut().as_mut_slice().into(),
        );
        #[expect(
            clippy::expect_used,
            reason = "lengths are far below the limits of GCM"
        )]
        let tag = tag.expect("a value of at most one mebibyte can be encrypted");
        encode_append(buffer.expose(), out);
        tag.into()
    }

    fn seal_pieces<E>(
        &self,
        length: usize,
        aad: &[u8],
        iv: &[u8; IV_BYTES],
        out: &mut Vec<u8>,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<[u8; TAG_BYTES], E> {
        let mut gcm = Gcm::new(&self.block, iv, aad);
        out.reserve(length.div_ceil(3) * 4 + 256);
        let mut buffer = SecretBytes::new(vec![0; PIECE_BYTES.min(length)]);
        let mut at = 0;
        while at < length {
            let piece = &mut buffer.expose_mut()[..PIECE_BYTES.min(length - at)];
            fill(piece)?;
            at += piece.len();
            gcm.encrypt(piece);
            encode_append(piece, out);
        }
        Ok(gcm.finish())
    }

    /// Returns the plaintext of `token`.
    ///
    /// # Errors
    /// `NotBase64`, `WrongLength`, or `NotAuthentic` when anything was altered.
    pub fn open(&self, token: &Token<'_>, aad: &[u8]) -> Result<SecretBytes, TokenError> {
        let iv = decode(token.iv)?;
        let tag = decode(token.tag)?;
        if token.data.len() > PIECEWISE_BYTES {
            let mut pieces = self.pieces(token, aad)?;
            let mut plaintext = SecretBytes::new(vec![0; pieces.plaintext_len()]);
            for piece in plaintext.expose_mut().chunks_mut(PIECE_BYTES) {
                pieces.read(piece)?;
            }
            pieces.finish()?;
            return Ok(plaintext);
        }
        // Data and tag are one string to the reference, so a byte moved between them is legal.
        let mut buffer = decode(token.data)?;
        buffer.extend_from_slice(&tag);
        let split = buffer
            .len()
            .checked_sub(TAG_BYTES)
            .ok_or(TokenError::WrongLength)?;
        let tag: [u8; TAG_BYTES] = buffer[split..]
            .try_into()
            .map_err(|_| TokenError::WrongLength)?;
        buffer.truncate(split);
        let mut buffer = SecretBytes::new(buffer);
        let text = buffer.expose_mut().as_mut_slice().into();
        let opened = match iv.len() {
            IV_BYTES => self.gcm.decrypt_inout_detached(
                iv[..].try_into().map_err(|_| TokenError::WrongLength)?,
                aad,
                text,
                &tag.into(),
            ),
            16 => AesGcm::<Aes256, U16>::from(self.block.clone()).decrypt_inout_detached(
                iv[..].try_into().map_err(|_| TokenError::WrongLength)?,
                aad,
                text,
                &tag.into(),
            ),
            12 => AesGcm::<Aes256, U12>::from(self.block.clone()).decrypt_inout_detached(
                iv[..].try_into().map_err(|_| TokenError::WrongLength)?,
                aad,
                text,
                &tag.into(),
            ),
            _ => return Err(TokenError::WrongLength),
        };
        opened.map_err(|_| TokenError::NotAuthentic)?;
        Ok(buffer)
    }

    /// Begins to open a large token piece by piece.
    ///
    /// # Errors
    /// `NotBase64`, `WrongLength`.
    pub fn pieces<'a>(&'a self, token: &Token<'a>, aad: &[u8]) -> Result<Pieces<'a>, TokenError> {
        let iv = decode(token.iv)?;
        let tag = decode(token.tag)?;
        let data = without_breaks(token.data);
        if !data.len().is_multiple_of(4) {
            return Err(TokenError::NotBase64);
        }
        if tag.len() != TAG_BYTES || !matches!(iv.len(), 12 | 16 | IV_BYTES) {
            return Err(TokenError::WrongLength);
        }
        Ok(Pieces {
            gcm: Gcm::new(&self.block, &iv, aad),
            data,
            at: 0,
            tag,
        })
    }
}

/// Appends what follows the data of a token.
fn finish_token(tag: &[u8; TAG_BYTES], kind: &str, iv: &[u8; IV_BYTES], out: &mut Vec<u8>) {
    out.extend_from_slice(IV_MARK);
    encode_append(iv, out);
    out.extend_from_slice(TAG_MARK);
    encode_append(tag, out);
    out.extend_from_slice(TYPE_MARK);
    out.extend_from_slice(kind.as_bytes());
    out.push(b']');
}

/// What an encrypted note begins with, behind the token's `]`.
const NOTE_MARK: u8 = b'~';
/// Put behind the associated data of a token for that of its note.
const NOTE_AAD: &[u8] = b"spelling";

/// What stands behind the `]` of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteText<'a> {
    /// `~` alone.
    Mark,
    /// `~` and an encrypted text, base64.
    Sealed(&'a [u8]),
    /// `~` and a short word in lower case, with digits behind it.
    Word(&'a [u8]),
}

impl<'a> NoteText<'a> {
    /// Returns the note behind the token that `text` begins with, and the length of that token.
    pub fn after(text: &'a [u8]) -> (usize, Option<Self>) {
        let end = memchr::memrchr(b']', text).map_or(text.len(), |at| at + 1);
        let note = match &text[end..] {
            [NOTE_MARK] => Some(Self::Mark),
            [NOTE_MARK, rest @ ..] if rest.len() < 16 => Some(Self::Word(rest)),
            [NOTE_MARK, rest @ ..] => Some(Self::Sealed(rest)),
            _ => None,
        };
        (end, note)
    }
}

impl Cipher {
    /// Appends the note that `text` is the spelling of a value with associated data `aad`: `~` and
    /// the base64 of IV (32 bytes), ciphertext and tag (16 bytes).
    pub fn seal_note(&self, text: &[u8], aad: &[u8], iv: &[u8; IV_BYTES], out: &mut Vec<u8>) {
        let mut sealed = SecretBytes::new(Vec::with_capacity(IV_BYTES + text.len() + TAG_BYTES));
        sealed.expose_mut().extend_from_slice(iv);
        sealed.expose_mut().extend_from_slice(text);
        let aad = [aad, NOTE_AAD].concat();
        let inner = (&mut sealed.expose_mut()[IV_BYTES..]).into();
        let tag = self.gcm.encrypt_inout_detached(iv.into(), &aad, inner);
        #[expect(
            clippy::expect_used,
            reason = "a spelling is as long as its value: far below the limits of GCM"
        )]
        let tag = tag.expect("a spelling can be encrypted");
        sealed.expose_mut().extend_from_slice(&tag);
        out.push(NOTE_MARK);
        encode_append(sealed.expose(), out);
    }

    /// Returns the text of an encrypted note, `None` when it does not belong to the value.
    pub fn open_note(&self, base64: &[u8], aad: &[u8]) -> Option<SecretBytes> {
        let mut sealed = decode(base64).ok()?;
        let split = sealed.len().checked_sub(TAG_BYTES)?;
        let tag: [u8; TAG_BYTES] = sealed.split_off(split).try_into().ok()?;
        if sealed.len() < IV_BYTES {
            return None;
        }
        let mut text = SecretBytes::new(sealed.split_off(IV_BYTES));
        let iv: [u8; IV_BYTES] = sealed.try_into().ok()?;
        let aad = [aad, NOTE_AAD].concat();
        let inner = text.expose_mut().as_mut_slice().into();
        let opened = self
            .gcm
            .decrypt_inout_detached(&iv.into(), &aad, inner, &tag.into());
        opened.ok().map(|()| text)
    }
}

/// A large token being opened. What it yields is not authentic before [`Pieces::finish`].
pub struct Pieces<'a> {
    gcm: Gcm<'a>,
    data: Cow<'a, [u8]>,
    at: usize,
    tag: Vec<u8>,
}

impl Pieces<'_> {
    /// Returns the length of the whole plaintext in bytes.
    pub fn plaintext_len(&self) -> usize {
        decoded_len(&self.data)
    }

    /// Fills `out`, which must be [`PIECE_BYTES`] long (the last one may be shorter), with the next
    /// piece and returns its length; 0 at the end.
    ///
    /// # Errors
    /// `NotBase64`; `WrongLength` when `out` is too short.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, TokenError> {
        let end = self.data.len().min(self.at + PIECE_BYTES / 3 * 4);
        let length = decode_into(&self.data[self.at..end], out)?;
        self.at = end;
        self.gcm.decrypt(&mut out[..length]);
        Ok(length)
    }

    /// Verifies the tag over everything read.
    ///
    /// # Errors
    /// `NotAuthentic` when anything was altered, or not everything was read.
    pub fn finish(self) -> Result<(), TokenError> {
        if self.at == self.data.len() && self.gcm.verify(&self.tag) {
            Ok(())
        } else {
            Err(TokenError::NotAuthentic)
        }
    }
}

/// Drops line breaks inside base64, which the reference's decoder skips.
fn without_breaks(text: &[u8]) -> Cow<'_, [u8]> {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
    if text.iter().any(is_break) {
        Cow::Owned(
            text.iter()
                .copied()
                .filter(|byte| !is_break(byte))
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// Returns the base64 engine: standard alphabet, padding required.
fn engine() -> &'static Simd {
    static ENGINE: LazyLock<Simd> = LazyLock::new(|| Simd::standard(GeneralPurposeConfig::new()));
    &ENGINE
}

fn encode_append(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = engine().encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    debug_assert_eq!(start + written, out.len());
}

fn decode_into(text: &[u8], out: &mut [u8]) -> Result<usize, TokenError> {
    engine()
        .decode_slice(text, out)
        .map_err(|error| match error {
            DecodeSliceError::DecodeError(_) => TokenError::NotBase64,
            DecodeSliceError::OutputSliceTooSmall => TokenError::WrongLength,
        })
}

fn decode(text: &[u8]) -> Result<Vec<u8>, TokenError> {
    engine()
        .decode(without_breaks(text))
        .map_err(|_| TokenError::NotBase64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vector of the format description: data key 00 01 … 1f.
    const TOKEN: &str = "ENC[AES256_GCM,data:Pr+uC3BPRg==,iv:E3R1E8mOBMnS1JgCrgX+1ILFTda2wZaFpCWEXTRs7G4=,tag:nuiGWa0B+ad8t6kwHGiGog==,type:str]";

    fn cipher() -> Cipher {
        let bytes: Vec<u8> = (0..32).collect();
        Cipher::new(&DataKey::from_slice(&bytes).unwrap())
    }

    #[test]
    fn a_token_of_the_reference_opens_and_is_reproduced() {
        let token = Token::parse(TOKEN.as_bytes()).unwrap();
        assert_eq!(token.kind, "str");
        let plaintext = cipher().open(&token, b"s:").unwrap();
        assert_eq!(plaintext.expose(), "héllo\n".as_bytes());
        let iv = decode(token.iv).unwrap();
        let mut again = Vec::new();
        cipher().seal(
            plaintext.expose(),
            "str",
            b"s:",
            iv[..].try_into().unwrap(),
            &mut again,
        );
        assert_eq!(again, TOKEN.as_bytes());
    }

    #[test]
    fn text_behind_the_last_bracket_is_ignored() {
        let noted = format!("{TOKEN}~bm90ZQ==");
        let token = Token::parse(noted.as_bytes()).unwrap();
        assert!(cipher().open(&token, b"s:").is_ok());
    }

    #[test]
    fn another_key_path_is_not_authentic() {
        let token = Token::parse(TOKEN.as_bytes()).unwrap();
        assert_eq!(cipher().open(&token, b"t:"), Err(TokenError::NotAuthentic));
    }

    #[test]
    fn damaged_tokens_are_errors() {
        for damaged in [
            "",
            "ENC[",
            "ENC[AES256_GCM,data:,iv:,tag:,type:]",
            &TOKEN[..TOKEN.len() - 1],
        ] {
            assert_eq!(
                Token::parse(damaged.as_bytes()).unwrap_err(),
                TokenError::NotToken
            );
        }
        let short = TOKEN.replace("nuiGWa0B+ad8t6kwHGiGog==", "nuiGWa0=");
        let token = Token::parse(short.as_bytes()).unwrap();
        assert!(cipher().open(&token, b"s:").is_err());
    }

    #[test]
    fn large_values_open_in_pieces() {
        for length in [PIECEWISE_BYTES + 1, PIECEWISE_BYTES + 2, PIECE_BYTES * 7] {
            let plaintext: Vec<u8> = (0..length)
                .map(|i| u8::try_from(i % 253).unwrap())
                .collect();
            let mut token = Vec::new();
            cipher().seal(&plaintext, "str", b"data:", &[9; IV_BYTES], &mut token);
            let parsed = Token::parse(&token).unwrap();
            assert_eq!(
                cipher().open(&parsed, b"data:").unwrap().expose(),
                plaintext
            );
            let at = token.len() / 2;
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            let parsed = Token::parse(&token).unwrap();
            assert_eq!(
                cipher().open(&parsed, b"data:"),
                Err(TokenError::NotAuthentic)
            );
        }
    }
}
