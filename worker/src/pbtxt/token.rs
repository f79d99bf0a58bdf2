//! Splits a text into tokens.

use super::error::SyntaxError;

/// A token and its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) kind: Kind<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A name: of a field, an enum's value, or a boolean.
    Word(&'a str),
    /// A number without a sign.
    Number(&'a str),
    /// A string without its quotes; escapes are not resolved.
    Text(&'a str),
    /// Punctuation.
    Symbol(char),
    End,
}

/// The tokens of a text. The last is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, SyntaxError> {
    // Some editors begin a file with a byte order mark.
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut line, mut tokens) = (1, Vec::new());
    loop {
        rest = skip_blanks(rest, &mut line);
        let (kind, length) = next(rest).map_err(|problem| SyntaxError::new(line, problem))?;
        tokens.push(Token { line, kind });
        if kind == Kind::End {
            return Ok(tokens);
        }
        rest = &rest[length..];
    }
}

/// Skips white space and comments, and counts lines.
fn skip_blanks<'a>(mut rest: &'a str, line: &mut usize) -> &'a str {
    loop {
        let blank = |c: char| c.is_ascii_whitespace() || c == '\u{b}';
        let trimmed = rest.trim_start_matches(blank);
        *line += rest[..rest.len() - trimmed.len()].matches('\n').count();
        rest = trimmed;
        if !rest.starts_with('#') {
            return rest;
        }
        rest = rest.find('\n').map_or("", |end| &rest[end..]);
    }
}

/// The first token of a text without leading blanks, and its length in bytes.
fn next(rest: &str) -> Result<(Kind<'_>, usize), String> {
    let Some(first) = rest.chars().next() else { return Ok((Kind::End, 0)) };
    let second = rest[first.len_utf8()..].chars().next();
    match first {
        'a'..='z' | 'A'..='Z' | '_' => {
            let length = count(rest, |c| c.is_ascii_alphanumeric() || c == '_');
            Ok((Kind::Word(&rest[..length]), length))
        }
        '0'..='9' => number(rest),
        '.' if second.is_some_and(|c| c.is_ascii_digit()) => number(rest),
        '"' | '\'' => {
            let end = end_of_string(rest, first)?;
            Ok((Kind::Text(&rest[1..end]), end + 1))
        }
        _ if first.is_ascii_punctuation() => Ok((Kind::Symbol(first), 1)),
        other => Err(format!("unexpected character {other:?}")),
    }
}

/// The number of bytes at the start of `text` that `is_part` accepts.
fn count(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.len() - text.trim_start_matches(is_part).len()
}

fn number(rest: &str) -> Result<(Kind<'_>, usize), String> {
    let digits = |from: usize| count(&rest[from..], |c| c.is_ascii_digit());
    let at = |index: usize| rest.as_bytes().get(index).copied();
    let mut length = digits(0);
    if length == 1 && rest.starts_with('0') && matches!(at(1), Some(b'x' | b'X')) {
        length = 2 + count(&rest[2..], |c| c.is_ascii_hexdigit());
    } else {
        if at(length) == Some(b'.') {
            length += 1 + digits(length + 1);
        }
        if matches!(at(length), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(at(length + 1), Some(b'+' | b'-')));
            length += 1 + sign + digits(length + 1 + sign);
        }
        length += usize::from(matches!(at(length), Some(b'f' | b'F')));
    }
    let number = &rest[..length];
    if integer(number).is_none() && float(number).is_none() {
        return Err(format!("{number} is not a number"));
    }
    Ok((Kind::Number(number), length))
}

/// The value of a whole number without a sign: decimal, octal after `0`, hexadecimal after `0x`.
pub(super) fn integer(number: &str) -> Option<u64> {
    let hexadecimal = number.strip_prefix("0x").or_else(|| number.strip_prefix("0X"));
    match (hexadecimal, number.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        _ => number.parse().ok(),
    }
}

/// The value of a decimal number without a sign.
pub(super) fn float(number: &str) -> Option<f64> {
    let digits = number.strip_suffix(['f', 'F']).unwrap_or(number);
    let is_octal = digits.starts_with('0') && digits[1..].starts_with(|c: char| c.is_ascii_digit());
    digits.parse().ok().filter(|_| !is_octal)
}

/// The index of the quote that ends the string at the start of `rest`.
fn end_of_string(rest: &str, quote: char) -> Result<usize, String> {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => break,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Ok(index),
            _ => {}
        }
    }
    Err("a string has no closing quote on its line".to_owned())
}

/// Resolves the escapes of a string, and appends its bytes to `bytes`.
pub(super) fn unescape(text: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = text;
    while let Some(start) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..start]);
        rest = &rest[start + 1..];
        let unknown = || {
            let escape: String = rest.chars().take(1).collect();
            format!("unknown escape \\{escape} in a string; \\\\ stands for a backslash")
        };
        let escape = rest.chars().next().ok_or_else(unknown)?;
        let (from, most, radix) = match escape {
            '0'..='7' => (0, 3, 8),
            'x' | 'X' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            _ => {
                bytes.push(simple_escape(escape).ok_or_else(unknown)?);
                rest = &rest[1..];
                continue;
            }
        };
        let digits = count(&rest[from..], |c| c.is_digit(radix)).min(most);
        let code = u32::from_str_radix(&rest[from..from + digits], radix).map_err(|_| unknown())?;
        if matches!(escape, 'u' | 'U') {
            let c = char::from_u32(code).filter(|_| digits == most).ok_or_else(unknown)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            bytes.push(u8::try_from(code).map_err(|_| unknown())?);
        }
        rest = &rest[from + digits..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(())
}

const fn simple_escape(escape: char) -> Option<u8> {
    Some(match escape {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '\'' => b'\'',
        '"' => b'"',
        '?' => b'?',
        _ => return None,
    })
}
