//! AES-256-GCM in pieces, for values too large to hold twice.
//!
//! Built from the same primitives the `aes-gcm` crate is made of (`aes`, `ctr`, `ghash`), which
//! offers no way to continue a message. NIST SP 800-38D §7; IVs of any length but 12 bytes go
//! through GHASH to form the first counter block. The tests hold it against `aes-gcm`.

use aes::Aes256;
use aes::cipher::{Block, BlockCipherEncrypt, InnerIvInit, StreamCipher};
use ctr::{Ctr32BE, CtrCore};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;

use super::cipher::TAG_BYTES;

const BLOCK_BYTES: usize = 16;

/// One message being encrypted or decrypted. Every piece but the last must be a multiple of 16
/// bytes long.
pub struct Gcm<'k> {
    stream: Ctr32BE<&'k Aes256>,
    hash: GHash,
    tag_mask: Block<Aes256>,
    aad_bytes: u64,
    text_bytes: u64,
}

impl<'k> Gcm<'k> {
    /// Starts a message under `cipher` with `iv` (any length) and the associated data `aad`.
    pub fn new(cipher: &'k Aes256, iv: &[u8], aad: &[u8]) -> Self {
        let mut hash_key = ghash::Key::default();
        cipher.encrypt_block(&mut hash_key);
        let hash = GHash::new(&hash_key);

        let mut counter = Block::<Aes256>::default();
        if iv.len() == 12 {
            counter[..12].copy_from_slice(iv);
            counter[15] = 1;
        } else {
            let mut iv_hash = hash.clone();
            iv_hash.update_padded(iv);
            iv_hash.update(&[lengths(0, iv.len() as u64)]);
            counter = iv_hash.finalize();
        }
        let mut stream = Ctr32BE::from_core(CtrCore::inner_iv_init(cipher, &counter));
        // The first key stream block masks the tag; the text starts with the second.
        let mut tag_mask = Block::<Aes256>::default();
        stream.apply_keystream(&mut tag_mask);

        let mut hash = hash;
        hash.update_padded(aad);
        Self {
            stream,
            hash,
            tag_mask,
            aad_bytes: aad.len() as u64,
            text_bytes: 0,
        }
    }

    /// Encrypts the next piece in place.
    pub fn encrypt(&mut self, piece: &mut [u8]) {
        self.stream.apply_keystream(piece);
        self.absorb(piece);
    }

    /// Decrypts the next piece in place. It is not authentic before [`Gcm::verify`].
    pub fn decrypt(&mut self, piece: &mut [u8]) {
        self.absorb(piece);
        self.stream.apply_keystream(piece);
    }

    fn absorb(&mut self, ciphertext: &[u8]) {
        if ciphertext.is_empty() {
            return;
        }
        debug_assert!(self.text_bytes.is_multiple_of(BLOCK_BYTES as u64));
        self.text_bytes += ciphertext.len() as u64;
        self.hash.update_padded(ciphertext);
    }

    /// Returns the tag of the whole message.
    pub fn finish(mut self) -> [u8; TAG_BYTES] {
        self.hash
            .update(&[lengths(self.aad_bytes, self.text_bytes)]);
        let mut tag: [u8; TAG_BYTES] = self.hash.finalize().into();
        for (byte, mask) in tag.iter_mut().zip(self.tag_mask) {
            *byte ^= mask;
        }
        tag
    }

    /// Returns whether `tag` is the tag of the whole message, in constant time.
    pub fn verify(self, tag: &[u8]) -> bool {
        let own = self.finish();
        let difference = own.iter().zip(tag).fold(0, |sum, (a, b)| sum | (a ^ b));
        tag.len() == TAG_BYTES && std::hint::black_box(difference) == 0
    }
}

/// Returns the closing GHASH block: both lengths in bits, big-endian.
fn lengths(first_bytes: u64, second_bytes: u64) -> ghash::Block {
    let mut block = ghash::Block::default();
    block[..8].copy_from_slice(&(first_bytes * 8).to_be_bytes());
    block[8..].copy_from_slice(&(second_bytes * 8).to_be_bytes());
    block
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::AeadInOut;
    use aes_gcm::aead::consts::{U12, U16, U32};
    use aes_gcm::{AesGcm, KeyInit};

    use super::*;

    #[test]
    fn pieces_give_what_the_library_gives_in_one() {
        let cipher = Aes256::new(&[7; 32].into());
        let iv: Vec<u8> = (0..32).collect();
        for length in [0, 1, 15, 16, 17, 48, 1000] {
            let text: Vec<u8> = (0..length)
                .map(|i| u8::try_from(i % 251).unwrap())
                .collect();
            for (iv_bytes, piece_bytes) in [(32, 16), (32, 48), (16, 64), (12, 1008)] {
                let mut whole = text.clone();
                let aad = b"data:";
                let iv = &iv[..iv_bytes];
                let buffer = whole.as_mut_slice().into();
                let expected: [u8; 16] = match iv_bytes {
                    32 => AesGcm::<_, U32>::from(cipher.clone()).encrypt_inout_detached(
                        iv.try_into().unwrap(),
                        aad,
                        buffer,
                    ),
                    16 => AesGcm::<_, U16>::from(cipher.clone()).encrypt_inout_detached(
                        iv.try_into().unwrap(),
                        aad,
                        buffer,
                    ),
                    _ => AesGcm::<_, U12>::from(cipher.clone()).encrypt_inout_detached(
                        iv.try_into().unwrap(),
                        aad,
                        buffer,
                    ),
                }
                .unwrap()
                .into();
                let mut pieces = text.clone();
                let mut gcm = Gcm::new(&cipher, iv, aad);
                pieces
                    .chunks_mut(piece_bytes)
                    .for_each(|piece| gcm.encrypt(piece));
                assert_eq!(gcm.finish(), expected);
                assert_eq!(pieces, whole);

                let mut gcm = Gcm::new(&cipher, iv, aad);
                pieces
                    .chunks_mut(piece_bytes)
                    .for_each(|piece| gcm.decrypt(piece));
                assert!(gcm.verify(&expected));
                assert_eq!(pieces, text);
            }
        }
    }
}
