//! A number of bytes, as people write it: 50GB, 1.5 TB or 512MiB.

use std::str::FromStr;

/// The units, in bytes: those of a thousand as providers bill them, and those of 1024.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];
/// More digits behind the point than any unit has bytes.
const FRACTION_DIGITS_MAX: usize = 6;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find(|(name, _)| *name == unit);
        let bytes = unit.and_then(|(_, unit)| bytes(number, *unit));
        let wrong =
            "a number of bytes, as 50GB, 1.5TB or 512MiB; kB, MB, GB and TB are of a thousand each";
        bytes.map(Self).ok_or_else(|| wrong.to_owned())
    }
}

fn bytes(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let tenths = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    // A millionth of the largest unit times a million fits into 64 bits.
    let part = fraction.parse::<u64>().ok()?.checked_mul(unit)? / tenths;
    whole.checked_mul(unit)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |text: &str| text.parse::<Size>().map(|size| size.0);
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("50GB", 50_000_000_000),
            ("50 gb", 50_000_000_000),
            ("1.5TB", 1_500_000_000_000),
            ("512MiB", 512 << 20),
            ("0.5KiB", 512),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "GB",
            "-1GB",
            "1.GB",
            ".5GB",
            "1,5GB",
            "50G",
            "9e9",
            "99999999TB",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
