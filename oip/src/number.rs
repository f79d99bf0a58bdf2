//! Exact JSON numbers: integers are never rounded, and a float is the representable value nearest
//! to the text.

use std::str::FromStr;

/// A number in the text. Its value is `mantissa` x 10^`scale`, negated if `text` begins with `-`.
pub(crate) struct Number<'a> {
    /// The number as written, checked against the grammar.
    pub(crate) text: &'a str,
    /// All digits as one integer; meaningless with more than 19 digits.
    mantissa: u64,
    digits: usize,
    scale: i64,
}

/// The powers of ten that a double represents exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

impl<'a> Number<'a> {
    /// Reads the number at the beginning of `text`; `None` if `text` does not begin with a number.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once per element; a call would double its time")]
    pub(crate) fn scan(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let start = usize::from(bytes.first() == Some(&b'-'));
        let (mut mantissa, mut at) = match bytes.get(start)? {
            b'0' => (0, start + 1),
            b'1'..=b'9' => digits(bytes, start, 0),
            _ => return None,
        };
        let (mut count, mut scale) = (at - start, 0);
        if bytes.get(at) == Some(&b'.') {
            let point = at;
            (mantissa, at) = digits(bytes, point + 1, mantissa);
            let places = at - point - 1;
            if places == 0 {
                return None;
            }
            (count, scale) = (count + places, -i64::try_from(places).ok()?);
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let sign = at + 1;
            let first = sign + usize::from(matches!(bytes.get(sign), Some(b'+' | b'-')));
            let (size, end) = digits(bytes, first, 0);
            if end == first {
                return None;
            }
            let size = if end - first < 18 { size.cast_signed() } else { i64::MAX / 2 };
            scale += if bytes[sign] == b'-' { -size } else { size };
            at = end;
        }
        Some(Self { text: &text[..at], mantissa, digits: count, scale })
    }

    /// The value as an integer; `None` if out of range, or written with a fraction or an exponent.
    pub(crate) fn to_integer<T: FromStr>(&self) -> Option<T> {
        self.text.parse().ok()
    }

    /// The nearest double; `None` if the number is out of range.
    #[inline]
    pub(crate) fn to_f64(&self) -> Option<f64> {
        let exact = self.mantissa <= 1 << f64::MANTISSA_DIGITS;
        let quick = self.quick().filter(|_| exact);
        let value = quick.map_or_else(|| self.text.parse().ok(), Some)?;
        value.is_finite().then_some(value)
    }

    /// The nearest single; `None` if the number is out of range.
    #[inline]
    pub(crate) fn to_f32(&self) -> Option<f32> {
        let quick = self.quick().and_then(narrow);
        let value = quick.map_or_else(|| self.text.parse().ok(), Some)?;
        value.is_finite().then_some(value)
    }

    /// The product of mantissa and power of ten as a double; `None` if the power is not exact.
    /// Rounded once if the mantissa is exact as well, otherwise twice: at most 2 units off in the
    /// last place.
    #[inline]
    fn quick(&self) -> Option<f64> {
        if self.digits > 19 {
            return None;
        }
        let power = TENS.get(usize::try_from(self.scale.unsigned_abs()).ok()?)?;
        #[expect(clippy::cast_precision_loss, reason = "the callers allow for the rounding")]
        let mantissa = self.mantissa as f64;
        let size = if self.scale < 0 { mantissa / power } else { mantissa * power };
        Some(if self.text.starts_with('-') { -size } else { size })
    }
}

/// Appends the decimal digits from `at` on to `value`; returns the new value and the end position.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (value, at)
}

/// Rounds a double, at most 2 units off, to a single. Returns `None` if rounding the exact number
/// could give a different single: close to halfway between two singles, or outside the normal
/// range.
#[inline]
fn narrow(value: f64) -> Option<f32> {
    const DROPPED: u64 = (1 << 29) - 1;
    const HALFWAY: u64 = 1 << 28;
    let size = value.abs();
    let zero = size == 0.0;
    let normal = size > f64::from(f32::MIN_POSITIVE) && size < f64::from(f32::MAX);
    let clear = (value.to_bits() & DROPPED).abs_diff(HALFWAY) > 4;
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest single")]
    let single = value as f32;
    (zero || normal && clear).then_some(single)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_json_numbers_are_read() {
        for text in ["", "-", "+1", ".5", "1.", "1.e3", "1e", "1e+", "NaN", "-Infinity", "e1"] {
            assert!(Number::scan(text).is_none(), "{text}");
        }
        for (text, read) in [("01", "0"), ("0x1", "0"), ("1,2", "1"), ("-0.0]", "-0.0")] {
            assert_eq!(Number::scan(text).unwrap().text, read);
        }
    }

    #[test]
    fn halfway_between_two_singles_rounds_once() {
        // Via a double, these numbers would round to the halfway point, then to the even neighbour.
        for text in ["1.00000005960464477540", "1.0000000596046448", "16777217.0000000001"] {
            assert_eq!(Number::scan(text).unwrap().to_f32(), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn signs_of_zero_denormals_and_limits_are_kept() {
        let single = |text| Number::scan(text).unwrap().to_f32().map(f32::to_bits);
        assert_eq!(single("-0.0"), Some((-0.0f32).to_bits()));
        assert_eq!(single("-0"), Some((-0.0f32).to_bits()));
        assert_eq!(single("1e-45"), Some(1));
        assert_eq!(single("3.4028235e38"), Some(f32::MAX.to_bits()));
        assert_eq!(single("1e39"), None);
        assert_eq!(Number::scan("1e99999999999999999999").unwrap().to_f64(), None);
        assert_eq!(Number::scan("1e-99999999999999999999").unwrap().to_f64(), Some(0.0));
    }

    proptest! {
        #[test]
        fn floats_are_the_nearest_to_the_decimal(
            text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?"
        ) {
            let number = Number::scan(&text).unwrap();
            prop_assert_eq!(number.text, &text);
            let double = text.parse::<f64>().ok().filter(|value| value.is_finite());
            let single = text.parse::<f32>().ok().filter(|value| value.is_finite());
            prop_assert_eq!(number.to_f64().map(f64::to_bits), double.map(f64::to_bits));
            prop_assert_eq!(number.to_f32().map(f32::to_bits), single.map(f32::to_bits));
        }

        #[test]
        fn singles_survive_every_way_to_write_them(bits in any::<u32>(), next in -1i64..=1) {
            let single = f32::from_bits(bits);
            prop_assume!(single.is_finite());
            // Exactly halfway to the next single, and the adjacent doubles.
            let halfway = f64::from(single).to_bits() + (1 << 28);
            let halfway = f64::from_bits(halfway.wrapping_add_signed(next));
            for text in [format!("{single:?}"), format!("{:?}", f64::from(single)), format!("{halfway:?}")] {
                let number = Number::scan(&text).unwrap().to_f32();
                let expected = text.parse::<f32>().ok().filter(|value| value.is_finite());
                prop_assert_eq!(number.map(f32::to_bits), expected.map(f32::to_bits), "{}", text);
            }
        }
    }
}
