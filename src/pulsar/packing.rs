//! Compresses a payload as a producer would. Chooses nothing; knows no entry, and cannot unpack: nothing that is relayed
//! is ever decoded. A compressor's tables are as large as a batch, so each thread keeps one.

use std::cell::RefCell;

use zstd::bulk::Compressor;

/// How payloads are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// zstd at its fastest regular level: higher ones cost many times more and save some percent.
    Zstd,
}

impl Compression {
    /// `CompressionType`.
    pub fn codec(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Zstd => ZSTD,
        }
    }

    /// By `CompressionType`; none where this version does not write it.
    pub fn of_codec(codec: i32) -> Self {
        if codec == ZSTD { Self::Zstd } else { Self::None }
    }

    /// The payload packed; `None` where that is not smaller.
    pub fn pack(self, payload: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::None => None,
            Self::Zstd => COMPRESSOR.with_borrow_mut(|kept| {
                let compressor = match kept {
                    Some(compressor) => compressor,
                    None => kept.insert(Compressor::new(LEVEL).ok()?),
                };
                compressor.compress(payload).ok().filter(|packed| packed.len() < payload.len())
            }),
        }
    }
}

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// `CompressionType.ZSTD`.
const ZSTD: i32 = 3;
const LEVEL: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks_to_itself() {
        let payload = b"the same again and again, ".repeat(100);
        let packed = Compression::Zstd.pack(&payload).unwrap();
        assert!(packed.len() * 10 < payload.len());
        assert_eq!(zstd::bulk::decompress(&packed, payload.len()).unwrap(), payload);
        assert_eq!(Compression::None.pack(&payload), None);
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let noise: Vec<u8> = (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
        let mut state = 1u32;
        let noise: Vec<u8> = noise
            .iter()
            .map(|byte| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                byte ^ (state >> 24) as u8
            })
            .collect();
        assert_eq!(Compression::Zstd.pack(&noise), None);
        assert_eq!(Compression::Zstd.pack(b""), None);
    }
}
