//! How large each part of a multipart upload is. Pure: a size hint in, sizes out.
//!
//! S3 takes at most 10,000 parts and 5 TiB, so equal parts need the length beforehand, which a dump does not have.
//! Here parts stay small, and so in memory, for the first 8,000, and double every hundred parts after that: any
//! stream up to 5 TiB fits, and only streams beyond some 110 GiB need spool files.

/// The most parts an upload can have (Amazon S3 User Guide, "Multipart upload limits"; Backblaze B2 has the same).
pub(super) const PARTS_MAX: u32 = 10_000;
/// The largest object that every S3-compatible store takes.
pub(super) const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// The largest part that is held in memory. Four of them (one filling, three in flight) are the budget of 64 MiB.
pub(super) const PART_IN_MEMORY_BYTES_MAX: u64 = 16 * MIB;

const MIB: u64 = 1 << 20;
/// S3 takes at most 5 GiB, B2 5,000,000,000 bytes: 4 GiB is below both.
const PART_BYTES_MAX: u64 = 4 << 30;
/// How large an upload's first parts are: above S3's least of 5 MiB, and large enough that the requests' own time does not
/// matter.
pub const PART_BYTES_FIRST: u64 = 8 * MIB;
/// From this part on an upload is known to be large, and parts take all the memory they may.
const SMALL_PARTS: u32 = 2_000;
/// From this part on sizes double every [`DOUBLING_PARTS`], because the number of parts is running out.
const STEADY_PARTS: u32 = 8_000;
/// 2,000 parts are left then: enough for the eight doublings from 16 MiB to 4 GiB and 1,200 parts of that.
const DOUBLING_PARTS: u32 = 100;

/// The sizes of the parts of one upload.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartPlan {
    base_bytes: u64,
}

impl PartPlan {
    /// Plans for an expected length, which may be wrong in either direction, from first parts of `first_bytes`. `None`
    /// where nothing is known. `Err` holds the limit where the length is beyond what an object can have.
    pub(super) fn new(size_hint: Option<u64>, first_bytes: u64) -> Result<Self, u64> {
        let expected = size_hint.unwrap_or(0);
        if expected > OBJECT_BYTES_MAX {
            return Err(OBJECT_BYTES_MAX);
        }
        // Small parts are kept where the steady ones reach anyway, spool files being slower than memory.
        let base_bytes = if expected <= steady_bytes() {
            first_bytes
        } else {
            expected
                .div_ceil(u64::from(STEADY_PARTS))
                .next_multiple_of(MIB)
        };
        Ok(Self { base_bytes })
    }

    /// The size of part `number` (from 1) in bytes, which only the last part may stay below; `None` beyond the last
    /// possible part.
    pub(super) fn part_bytes(self, number: u32) -> Option<u64> {
        let steady = self.base_bytes.max(PART_IN_MEMORY_BYTES_MAX);
        match number {
            1..=SMALL_PARTS => Some(self.base_bytes),
            ..=STEADY_PARTS if number > 0 => Some(steady),
            ..=PARTS_MAX if number > 0 => {
                let doublings = (number - STEADY_PARTS).div_ceil(DOUBLING_PARTS);
                Some((steady << doublings).min(PART_BYTES_MAX))
            }
            _ => None,
        }
    }
}

/// What the parts before the doubling hold when nothing is expected.
const fn steady_bytes() -> u64 {
    SMALL_PARTS as u64 * PART_BYTES_FIRST
        + (STEADY_PARTS - SMALL_PARTS) as u64 * PART_IN_MEMORY_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Backblaze B2's least; S3's own is 5 MiB.
    const PART_BYTES_MIN: u64 = 5 * MIB;

    #[test]
    fn a_stream_of_unknown_length_stays_in_memory_for_110_gib() {
        let plan = PartPlan::new(None, PART_BYTES_FIRST).unwrap();
        assert_eq!(plan.part_bytes(0), None);
        assert_eq!(plan.part_bytes(1), Some(8 * MIB));
        assert_eq!(plan.part_bytes(8_000), Some(16 * MIB));
        assert_eq!(plan.part_bytes(8_001), Some(32 * MIB));
        assert_eq!(plan.part_bytes(10_000), Some(4 << 30));
        assert_eq!(plan.part_bytes(10_001), None);
        assert!(steady_bytes() > 109 << 30);
    }

    #[test]
    fn more_than_an_object_can_hold_is_refused() {
        assert!(PartPlan::new(Some(OBJECT_BYTES_MAX), PART_BYTES_FIRST).is_ok());
        assert!(PartPlan::new(Some(OBJECT_BYTES_MAX + 1), PART_BYTES_FIRST).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Row 29: whatever was expected, 5 TiB fit into 10,000 parts, and no part but the last is below 5 MiB.
        #[test]
        fn every_plan_reaches_five_tebibytes(hint in proptest::option::of(0..=OBJECT_BYTES_MAX)) {
            let plan = PartPlan::new(hint, PART_BYTES_FIRST).unwrap();
            let sizes: Vec<u64> = (1..=PARTS_MAX).map(|number| plan.part_bytes(number).unwrap()).collect();
            prop_assert!(sizes.iter().all(|bytes| (PART_BYTES_MIN..=PART_BYTES_MAX).contains(bytes)));
            prop_assert!(sizes.is_sorted());
            prop_assert!(sizes.iter().sum::<u64>() >= OBJECT_BYTES_MAX);
            if hint.unwrap_or(0) <= 100 << 30 {
                prop_assert!(sizes[..8_000].iter().all(|bytes| *bytes <= PART_IN_MEMORY_BYTES_MAX));
            }
        }
    }
}
