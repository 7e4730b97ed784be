//! CRC-32C (Castagnoli, RFC 3720 B.4) of byte slices, and the checksum of an edited head without a pass
//! over what follows it. Holds no entry.
//!
//! With `A` the old head, `B` the new one and `P` the payload behind both,
//! `crc(B ++ P) = crc(A ++ P) ^ shift(crc(A) ^ crc(B), len(P))`: the payload is never touched, and a payload
//! that was damaged on the way keeps a checksum that does not hold.

/// CRC-32C of the parts, one after the other.
pub fn of(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part))
}

/// What becomes of a checksum (or a difference of two) when `len` zero bytes are appended, less what those
/// bytes alone would give: `sum · x^(8·len)` modulo the polynomial.
pub fn shift(sum: u32, len: usize) -> u32 {
    let (mut shifted, mut rest) = (sum, len);
    while rest != 0 {
        shifted = multiply(shifted, POWERS[rest.trailing_zeros() as usize]);
        rest &= rest - 1;
    }
    shifted
}

/// The checksum after the head with checksum `old_head` was replaced by one with `new_head`.
pub fn replace_head(whole: u32, old_head: u32, new_head: u32, payload_len: usize) -> u32 {
    whole ^ shift(old_head ^ new_head, payload_len)
}

/// The polynomial, bits reversed: bit 31 is the coefficient of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `x^(8·2^k)`: appending 2^k zero bytes.
const POWERS: [u32; usize::BITS as usize] = {
    let mut powers = [1 << (31 - 8); usize::BITS as usize];
    let mut k = 1;
    while k < powers.len() {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// Product of two polynomials over GF(2), modulo [`POLYNOMIAL`]. Without branches on the data.
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut b, mut bit) = (0, b, 32);
    while bit > 0 {
        bit -= 1;
        product ^= b & 0u32.wrapping_sub((a >> bit) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_value_of_the_standard_comes_out() {
        assert_eq!(of(&[b"123456789"]), 0xe306_9283);
        assert_eq!(of(&[b"1234", b"", b"56789"]), 0xe306_9283);
        // RFC 3720 B.4: 32 bytes of zeroes.
        assert_eq!(of(&[&[0; 32]]), 0x8a91_36aa);
    }

    #[test]
    fn a_shift_by_a_gigabyte_agrees_with_its_halves() {
        let half = shift(0xdead_beef, 1 << 29);
        assert_eq!(shift(half, 1 << 29), shift(0xdead_beef, 1 << 30));
        assert_eq!(shift(0xdead_beef, 0), 0xdead_beef);
    }

    proptest! {
        #[test]
        fn a_replaced_head_sums_as_a_full_pass_does(
            old in prop::collection::vec(any::<u8>(), 0..300),
            new in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let replaced = replace_head(of(&[&old, &payload]), of(&[&old]), of(&[&new]), payload.len());
            prop_assert_eq!(replaced, of(&[&new, &payload]));
        }

        #[test]
        fn a_shift_agrees_with_the_crates_combine(sum in any::<u32>(), len in 0usize..(1 << 40)) {
            prop_assert_eq!(shift(sum, len), crc32c::crc32c_combine(sum, 0, len));
        }
    }
}
