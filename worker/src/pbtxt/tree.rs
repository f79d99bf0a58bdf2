//! Parses a text into a tree of fields, without a schema.

use super::{
    error::SyntaxError,
    token::{Kind, Token, tokens, unescape},
};

/// Maximum nesting depth of messages and lists, as in protobuf's own parser. Each level uses some
/// of the stack.
const DEEPEST: usize = 100;

/// The fields of a message, in the order they were written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(super) fields: Vec<Field>,
}

/// One field as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) element: Element,
}

/// A value and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A boolean, the name of an enum's value, or a number in words.
    Word(Signed),
    Number(Signed),
    /// A quoted string, its parts joined.
    Text(String),
    Message(Message),
    /// `[a, b]`
    List(Vec<Element>),
}

/// A word or a number, and whether a minus sign precedes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) negative: bool,
    pub(super) text: String,
}

impl Message {
    /// The line of the element at `index` of the field `name`; the first line if there is none.
    pub(crate) fn line(&self, name: &str, index: usize) -> usize {
        let lines = |field: &Field| match &field.element.value {
            Value::List(elements) => elements.iter().map(|element| element.line).collect(),
            _ => vec![field.element.line],
        };
        let fields = self.fields.iter().filter(|field| field.name == name);
        fields.flat_map(lines).nth(index).unwrap_or(1)
    }
}

/// Parses a complete text.
pub(crate) fn parse(text: &str) -> Result<Message, SyntaxError> {
    let mut parser = Parser { tokens: &tokens(text)?, depth: 0 };
    let message = parser.message()?;
    match parser.peek().kind {
        Kind::End => Ok(message),
        _ => Err(parser.unexpected("a field's name")),
    }
}

struct Parser<'a> {
    /// The tokens that are left. The last is [`Kind::End`], and is never taken.
    tokens: &'a [Token<'a>],
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Parses fields up to a closing bracket, which is left to the caller, or the end of the text.
    fn message(&mut self) -> Result<Message, SyntaxError> {
        let mut fields = Vec::new();
        while let Kind::Word(name) = self.peek().kind {
            let line = self.take().line;
            let colon = self.take_if(':');
            if !colon && !matches!(self.peek().kind, Kind::Symbol('{' | '<' | '[')) {
                return Err(self.unexpected(&format!("':' or '{{' after {name}")));
            }
            let element = Element { line, value: self.value()? };
            if !colon && !holds_messages(&element.value) {
                return Err(SyntaxError::new(line, format!("expected ':' after {name}")));
            }
            fields.push(Field { name: name.to_owned(), element });
            if !self.take_if(',') {
                self.take_if(';');
            }
        }
        Ok(Message { fields })
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        match self.peek().kind {
            Kind::Symbol('{') => self.nested(|parser| parser.closed('}')),
            Kind::Symbol('<') => self.nested(|parser| parser.closed('>')),
            Kind::Symbol('[') => self.nested(Self::list),
            Kind::Text(_) => self.text(),
            Kind::Symbol('-') => {
                self.take();
                self.word(true)
            }
            _ => self.word(false),
        }
    }

    /// Takes the opening bracket, and parses what it encloses with `rest`.
    fn nested(
        &mut self,
        rest: impl FnOnce(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        let line = self.take().line;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(SyntaxError::new(line, format!("nested deeper than {DEEPEST} messages")));
        }
        let value = rest(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn closed(&mut self, close: char) -> Result<Value, SyntaxError> {
        let message = self.message()?;
        if self.take_if(close) {
            return Ok(Value::Message(message));
        }
        Err(self.unexpected(&format!("a field's name or {close:?}")))
    }

    fn list(&mut self) -> Result<Value, SyntaxError> {
        let mut elements = Vec::new();
        if self.take_if(']') {
            return Ok(Value::List(elements));
        }
        loop {
            if matches!(self.peek().kind, Kind::Symbol('[')) {
                return Err(self.unexpected("a value"));
            }
            elements.push(Element { line: self.peek().line, value: self.value()? });
            if self.take_if(']') {
                return Ok(Value::List(elements));
            }
            if !self.take_if(',') {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    /// A string, which may be written in several parts.
    fn text(&mut self) -> Result<Value, SyntaxError> {
        let (line, mut bytes) = (self.peek().line, Vec::new());
        while let Kind::Text(part) = self.peek().kind {
            let line = self.take().line;
            unescape(part, &mut bytes).map_err(|problem| SyntaxError::new(line, problem))?;
        }
        let invalid = |_| SyntaxError::new(line, "a string is not valid UTF-8");
        Ok(Value::Text(String::from_utf8(bytes).map_err(invalid)?))
    }

    fn word(&mut self, negative: bool) -> Result<Value, SyntaxError> {
        let value = match self.peek().kind {
            Kind::Word(word) => Value::Word(Signed { negative, text: word.to_owned() }),
            Kind::Number(number) => Value::Number(Signed { negative, text: number.to_owned() }),
            _ => return Err(self.unexpected("a value")),
        };
        self.take();
        Ok(value)
    }

    fn peek(&self) -> Token<'a> {
        self.tokens.first().copied().unwrap_or(Token { line: 1, kind: Kind::End })
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        if token.kind != Kind::End {
            self.tokens = &self.tokens[1..];
        }
        token
    }

    fn take_if(&mut self, wanted: char) -> bool {
        let found = self.peek().kind == Kind::Symbol(wanted);
        if found {
            self.take();
        }
        found
    }

    fn unexpected(&self, expected: &str) -> SyntaxError {
        let Token { line, kind } = self.peek();
        let found = match kind {
            Kind::Word(text) | Kind::Number(text) => format!("found {text}"),
            Kind::Text(text) => format!("found the string \"{text}\""),
            Kind::Symbol(symbol) => format!("found {symbol:?}"),
            Kind::End => "the text ends".to_owned(),
        };
        SyntaxError::new(line, format!("expected {expected}, but {found}"))
    }
}

/// Whether a value may be written without a colon before it.
fn holds_messages(value: &Value) -> bool {
    match value {
        Value::Message(_) => true,
        Value::List(elements) => {
            elements.iter().all(|element| matches!(element.value, Value::Message(_)))
        }
        _ => false,
    }
}
