//! Conversion of single values into numbers, strings, booleans and enums.

use super::{
    error::SyntaxError,
    token::{float, integer},
    tree::{Message, Signed, Value},
};

/// Lists of alternatives up to this length are part of an error.
const LISTED: usize = 16;

/// One value of a field.
pub(super) struct One<'de> {
    pub(super) name: &'de str,
    pub(super) line: usize,
    pub(super) content: Content<'de>,
}

#[derive(Clone, Copy)]
pub(super) enum Content<'de> {
    Written(&'de Value),
    /// The key or value that an entry of a map does not contain.
    Absent,
}

impl<'de> One<'de> {
    pub(super) fn error(&self, problem: impl AsRef<str>) -> SyntaxError {
        SyntaxError::new(self.line, format!("{} {}", self.name, problem.as_ref()))
    }

    pub(super) fn message(&self) -> Result<&'de Message, SyntaxError> {
        static NOTHING: Message = Message { fields: Vec::new() };
        match self.content {
            Content::Written(Value::Message(message)) => Ok(message),
            Content::Absent => Ok(&NOTHING),
            Content::Written(_) => Err(self.error("takes a message in braces")),
        }
    }

    pub(super) fn text(&self) -> Result<&'de str, SyntaxError> {
        match self.content {
            Content::Written(Value::Text(text)) => Ok(text),
            Content::Absent => Ok(""),
            Content::Written(_) => Err(self.error("takes a string in quotes")),
        }
    }

    pub(super) fn integer<T: TryFrom<i128> + Bounds>(&self) -> Result<T, SyntaxError> {
        let number = match self.content {
            Content::Written(Value::Number(number)) => whole(number),
            Content::Absent => Some(0),
            Content::Written(_) => None,
        };
        let wrong =
            || self.error(format!("is not a whole number from {} to {}", T::LOWEST, T::HIGHEST));
        T::try_from(number.ok_or_else(wrong)?).map_err(|_| wrong())
    }

    pub(super) fn float(&self) -> Result<f64, SyntaxError> {
        let (negative, number) = match self.content {
            Content::Written(Value::Number(number)) => (number.negative, float(&number.text)),
            Content::Written(Value::Word(word)) => (word.negative, named_float(&word.text)),
            _ => (false, None),
        };
        let number = number.ok_or_else(|| self.error("is not a number"))?;
        Ok(if negative { -number } else { number })
    }

    pub(super) fn boolean(&self) -> Result<bool, SyntaxError> {
        let known = match self.content {
            Content::Written(Value::Word(Signed { negative: false, text })) => {
                match text.as_str() {
                    "true" | "True" | "t" => Some(true),
                    "false" | "False" | "f" => Some(false),
                    _ => None,
                }
            }
            Content::Written(Value::Number(number)) => match whole(number) {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
            _ => None,
        };
        known.ok_or_else(|| self.error("is neither true nor false"))
    }

    /// The name of an enum's value, which may be written as its number.
    pub(super) fn variant(
        &self,
        variants: &'static [&'static str],
    ) -> Result<&'static str, SyntaxError> {
        let written = match self.content {
            Content::Written(Value::Word(Signed { negative: false, text })) => {
                if let Some(variant) = variants.iter().find(|variant| *variant == text) {
                    return Ok(variant);
                }
                text.as_str()
            }
            Content::Written(Value::Number(number)) => {
                let index = whole(number).and_then(|number| usize::try_from(number).ok());
                if let Some(variant) = index.and_then(|index| variants.get(index)) {
                    return Ok(variant);
                }
                if number.negative {
                    return Err(self.error("is negative, which no name of it is"));
                }
                number.text.as_str()
            }
            _ => return Err(self.error(format!("is none of {}", variants.join(", ")))),
        };
        Err(self.error(format!("{written} is unknown: {}", alternatives(written, variants))))
    }
}

/// What a misspelt `name` could mean.
pub(super) fn alternatives(name: &str, known: &[&str]) -> String {
    let nearest = nearest(name, known);
    match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None if known.len() <= LISTED => format!("there is {}", known.join(", ")),
        None => "no name is similar".to_owned(),
    }
}

fn whole(number: &Signed) -> Option<i128> {
    let value = i128::from(integer(&number.text)?);
    Some(if number.negative { -value } else { value })
}

fn named_float(word: &str) -> Option<f64> {
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    if is("inf") || is("infinity") { Some(f64::INFINITY) } else { is("nan").then_some(f64::NAN) }
}

/// The range of an integer type.
pub(super) trait Bounds {
    const LOWEST: i128;
    const HIGHEST: i128;
}

macro_rules! bounds {
    ($($type:ty),*) => {
        $(impl Bounds for $type {
            const LOWEST: i128 = <$type>::MIN as i128;
            const HIGHEST: i128 = <$type>::MAX as i128;
        })*
    };
}

bounds!(i32, i64, u32, u64);

/// The name in `known` that a misspelt `name` most probably means: the only difference is a prefix,
/// or the names are similar.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this similarity two names have nothing in common.
    const SIMILAR: f64 = 0.8;
    let has_prefix =
        |known: &&&str| known.strip_suffix(name).is_some_and(|prefix| prefix.ends_with('_'));
    if let Some(known) = known.iter().find(has_prefix) {
        return Some(known);
    }
    let similarity = |known: &&'a str| (strsim::jaro_winkler(name, known), *known);
    let (score, nearest) = known.iter().map(similarity).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= SIMILAR).then_some(nearest)
}
