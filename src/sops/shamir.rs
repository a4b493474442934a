//! Shamir's secret sharing as SOPS uses it for files with several key groups.
//!
//! Each byte of the secret is the value at 0 of a random polynomial over GF(2⁸) with the reduction
//! polynomial x⁸+x⁴+x³+x+1; share number i, from 0, is the values at i+1, with that byte behind them: 33
//! bytes for a data key (the scheme of HashiCorp Vault). Multiplication neither branches nor looks
//! anything up by a secret.

use crate::secret::SecretBytes;

use super::Fill;

/// The fewest shares that may be asked for.
pub const LEAST_THRESHOLD: usize = 2;
/// The most shares there can be.
pub const MOST_SHARES: usize = 255;

/// Why a secret cannot be shared out, or not be put together. Never holds a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShamirError {
    /// The threshold is below 2, above the number of shares, or there are too many.
    #[error("a threshold of {threshold} is impossible with {shares} key groups (2 to 255)")]
    Threshold {
        /// The threshold.
        threshold: usize,
        /// The number of shares.
        shares: usize,
    },
    /// Shares of different lengths, an empty one, two of the same number, or fewer than two.
    #[error("the parts of the data key do not belong together")]
    Shares,
}

/// Shares a secret out: `shares` of them, any `threshold` of which give it back.
///
/// # Errors
/// `Threshold`.
pub fn split(
    secret: &SecretBytes,
    shares: usize,
    threshold: usize,
    fill: Fill<'_>,
) -> Result<Vec<SecretBytes>, ShamirError> {
    if threshold < LEAST_THRESHOLD || threshold > shares || shares > MOST_SHARES {
        return Err(ShamirError::Threshold { threshold, shares });
    }
    let mut coefficients = SecretBytes::new(vec![0; secret.len() * (threshold - 1)]);
    fill(coefficients.expose_mut());
    let polynomials = coefficients.expose().chunks(threshold - 1);
    let share = |number: u8| {
        let mut share = SecretBytes::new(Vec::with_capacity(secret.len() + 1));
        for (&constant, higher) in secret.expose().iter().zip(polynomials.clone()) {
            let sum = higher
                .iter()
                .rev()
                .fold(0, |sum, &c| product(sum, number) ^ c);
            share.expose_mut().push(product(sum, number) ^ constant);
        }
        share.expose_mut().push(number);
        share
    };
    Ok((1..=u8::MAX).take(shares).map(share).collect())
}

/// Puts a secret together from shares; with fewer than the threshold what comes out is another one.
///
/// # Errors
/// `Shares`.
pub fn combine(shares: &[SecretBytes]) -> Result<SecretBytes, ShamirError> {
    let mut numbers = Vec::with_capacity(shares.len());
    for share in shares {
        match share.expose().split_last() {
            Some((&number, values)) if !values.is_empty() && !numbers.contains(&number) => {
                numbers.push(number);
            }
            _ => return Err(ShamirError::Shares),
        }
    }
    let length = shares.first().map_or(0, SecretBytes::len);
    if shares.len() < LEAST_THRESHOLD || shares.iter().any(|share| share.len() != length) {
        return Err(ShamirError::Shares);
    }
    let mut secret = SecretBytes::new(vec![0; length - 1]);
    for (share, &number) in shares.iter().zip(&numbers) {
        // Lagrange's basis polynomial of this share at 0.
        let others = numbers.iter().filter(|other| **other != number);
        let weight = others.fold(1, |weight, &other| {
            product(weight, product(other, inverse(other ^ number)))
        });
        for (byte, &value) in secret.expose_mut().iter_mut().zip(share.expose()) {
            *byte ^= product(value, weight);
        }
    }
    Ok(secret)
}

/// Multiplies in GF(2⁸).
fn product(one: u8, other: u8) -> u8 {
    let mut sum = 0_u8;
    for bit in (0..8).rev() {
        let carry = (sum >> 7_u8).wrapping_neg() & 0x1b;
        sum = (sum << 1) ^ carry;
        sum ^= ((one >> bit) & 1).wrapping_neg() & other;
    }
    sum
}

/// Returns the inverse in GF(2⁸), the 254th power; 0 for 0.
fn inverse(value: u8) -> u8 {
    let mut power = value;
    for _ in 0..6 {
        power = product(product(power, power), value);
    }
    product(power, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hexadecimal: &str) -> SecretBytes {
        let digit = |at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap();
        SecretBytes::new((0..hexadecimal.len()).step_by(2).map(digit).collect())
    }

    #[test]
    fn the_field_is_that_of_the_reference() {
        assert_eq!(product(0x53, 0xca), 1);
        for value in 1..=u8::MAX {
            assert_eq!(product(value, inverse(value)), 1);
        }
    }

    #[test]
    fn shares_are_those_of_the_reference() {
        let mut fill = |buffer: &mut [u8]| buffer.copy_from_slice(&[0x11, 0x22, 0x80]);
        let shares = split(&bytes("0001ff"), 3, 2, &mut fill).unwrap();
        let expected = ["11237f01", "2245e402", "33676403"].map(bytes);
        assert_eq!(shares, expected);
        let key: Vec<u8> = (0..32).collect();
        let key = SecretBytes::new(key);
        let mut fill = |buffer: &mut [u8]| {
            for (at, byte) in (0_u8..).zip(buffer) {
                *byte = at.wrapping_mul(7).wrapping_add(1);
            }
        };
        let shares = split(&key, 3, 2, &mut fill).unwrap();
        let expected = [
            "01090d1519212d3531494d4559516d6561696d9599818db5b1a9ada5d9d1cdc501",
            "02111c2f3e4d50637a898497a6b5c8dbf2e1ec0415263b4851626f7c8d9ea3b002",
            "0319133923697b5143c9c3d9f3e9abb18399938298b2a0eaf8d2d8c24852706a03",
        ]
        .map(bytes);
        assert_eq!(shares, expected);
        assert_eq!(combine(&shares[1..]).unwrap(), key);
        assert_eq!(combine(&shares).unwrap(), key);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let secret = bytes("0102");
        let mut fill = |buffer: &mut [u8]| buffer.fill(1);
        for (shares, threshold) in [(1, 1), (2, 1), (2, 3), (256, 2), (3, 0)] {
            assert!(split(&secret, shares, threshold, &mut fill).is_err());
        }
        for shares in [
            &["0101"][..],
            &["0101", "0201"],
            &["0101", "020202"],
            &["01", "02"],
            &["", ""],
        ] {
            let shares: Vec<_> = shares.iter().map(|share| bytes(share)).collect();
            assert_eq!(combine(&shares), Err(ShamirError::Shares));
        }
    }
}
