//! Unpacks what a bridge compressed, so that measurements can look into it. The relay itself never does. Bounded,
//! whatever a payload says of its length.

use zstd::zstd_safe::get_frame_content_size;

use crate::pulsar::packing::Compression;

/// What was packed by this codec; `None` where it is none that a bridge writes, damaged, or larger than `len_max`.
pub fn unpack(codec: i32, packed: &[u8], len_max: usize) -> Option<Vec<u8>> {
    if Compression::of_codec(codec) != Compression::Zstd {
        return None;
    }
    let len = get_frame_content_size(packed).ok()??;
    // Its writer's word.
    let len = usize::try_from(len).ok().filter(|len| *len <= len_max)?;
    zstd::bulk::decompress(packed, len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZSTD: i32 = 3;

    #[test]
    fn only_what_is_whole_and_within_bounds_is_unpacked() {
        let payload = b"the same again and again, ".repeat(100);
        let packed = Compression::Zstd.pack(&payload).unwrap();
        assert_eq!(unpack(ZSTD, &packed, payload.len()), Some(payload.clone()));
        assert_eq!(unpack(ZSTD, &packed, payload.len() - 1), None);
        assert_eq!(unpack(ZSTD, &packed[..packed.len() - 1], payload.len()), None);
        assert_eq!(unpack(1, &packed, payload.len()), None);
    }
}
