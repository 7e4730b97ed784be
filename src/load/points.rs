//! A result as it travels: a small head and the points, little-endian doubles, row by row. Checks what comes back.
//!
//! ```text
//! "BDG1" | columns u32 | request id u64 | seed u64 | points u32 | 0 u32 | points × columns × f64
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::pricing::{COLUMNS, four};
use super::request::Request;

/// What is wrong with a result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointsError {
    /// Not of this format.
    #[error("{0} bytes that are no result")]
    Format(usize),
    /// Fewer or more points than were asked for.
    #[error("{got} points, {wanted} were asked for")]
    Count {
        /// That came.
        got: u32,
        /// That were asked for.
        wanted: u32,
    },
    /// A point is not the one that its seed gives.
    #[error("point {0} is not the one that was asked for")]
    Value(u32),
}

/// Draws and prices all points of a request.
pub fn priced(request: &Request) -> Bytes {
    let mut result = BytesMut::with_capacity(HEAD_LEN + request.points as usize * POINT_LEN);
    result.put_slice(MAGIC);
    result.put_u32_le(COLUMNS as u32);
    result.put_u64_le(request.id);
    result.put_u64_le(request.seed);
    result.put_u32_le(request.points);
    result.put_u32_le(0);
    for from in (0..request.points).step_by(4) {
        let here = (request.points - from).min(4) as usize;
        for point in &four(request, from)[..here] {
            let mut row = [0; POINT_LEN];
            for (bytes, value) in row.chunks_exact_mut(8).zip(point) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            result.put_slice(&row);
        }
    }
    result.freeze()
}

/// The request that a result answers.
pub fn request_id(result: &[u8]) -> Option<u64> {
    let mut head = result.strip_prefix(MAGIC)?;
    (head.try_get_u32_le().ok()? == COLUMNS as u32).then_some(())?;
    head.try_get_u64_le().ok()
}

/// Holds a result against its request: the number of points, and the values of the first, the last and the one in
/// the middle, priced anew.
pub fn check(result: &[u8], request: &Request) -> Result<(), PointsError> {
    let format = || PointsError::Format(result.len());
    let mut head = result.get(..HEAD_LEN).and_then(|head| head.get(16..)).ok_or_else(format)?;
    let (seed, got) = (head.get_u64_le(), head.get_u32_le());
    if got != request.points {
        return Err(PointsError::Count { got, wanted: request.points });
    }
    let rows = &result[HEAD_LEN..];
    if seed != request.seed || rows.len() != got as usize * POINT_LEN {
        return Err(format());
    }
    let last = got.saturating_sub(1);
    for index in [0, got / 2, last].into_iter().filter(|index| *index < got) {
        let row = &rows[index as usize * POINT_LEN..][..POINT_LEN];
        let wanted = &four(request, index)[0];
        let is_close = |(mut bytes, wanted): (&[u8], &f64)| {
            let value = bytes.get_f64_le();
            // Another machine's vector unit may round the last digits otherwise.
            (value - wanted).abs() <= 1e-9 * wanted.abs().max(1.0)
        };
        if !row.chunks_exact(8).zip(wanted).all(is_close) {
            return Err(PointsError::Value(index));
        }
    }
    Ok(())
}

const MAGIC: &[u8] = b"BDG1";
const HEAD_LEN: usize = 32;
const POINT_LEN: usize = COLUMNS * 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::request::tests::sample;

    fn request(points: u32) -> Request {
        Request { id: 42, points, ..sample() }
    }

    #[test]
    fn what_is_priced_is_what_was_asked_for() {
        for points in [0, 1, 3, 4, 5, 510] {
            let result = priced(&request(points));
            assert_eq!(result.len(), HEAD_LEN + points as usize * POINT_LEN);
            assert_eq!(request_id(&result), Some(42));
            assert_eq!(check(&result, &request(points)), Ok(()));
        }
    }

    #[test]
    fn a_wrong_count_value_or_format_is_seen() {
        let asked = request(9);
        let result = priced(&asked);
        let wanted = Err(PointsError::Count { got: 9, wanted: 10 });
        assert_eq!(check(&result, &request(10)), wanted);
        assert_eq!(check(&result[..result.len() - 1], &asked), Err(PointsError::Format(result.len() - 1)));
        assert_eq!(check(b"BDG1", &asked), Err(PointsError::Format(4)));
        let mut damaged = result.to_vec();
        damaged[HEAD_LEN + 8 * POINT_LEN + 7] ^= 0x40;
        assert_eq!(check(&damaged, &asked), Err(PointsError::Value(8)));
        assert_eq!(request_id(b"nothing of ours"), None);
    }
}
