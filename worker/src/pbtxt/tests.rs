use std::{cmp::Ordering, collections::BTreeMap};

use serde::Deserialize;

use super::*;

/// A message with a field of every kind.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Shelf {
    title: String,
    height: i32,
    serial: u64,
    weight: f64,
    locked: bool,
    colour: Colour,
    dims: Vec<i64>,
    tags: Vec<String>,
    switches: Vec<bool>,
    books: Vec<Book>,
    best: Option<Book>,
    notes: BTreeMap<String, String>,
    by_number: BTreeMap<u64, Book>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Book {
    pages: u32,
    author: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
enum Colour {
    #[default]
    #[serde(rename = "COLOUR_NONE")]
    None,
    #[serde(rename = "COLOUR_RED")]
    Red,
}

fn read(text: &str) -> Result<Shelf, SyntaxError> {
    parse(text)?.read()
}

fn problem(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn book(pages: u32) -> Book {
    Book { pages, author: String::new() }
}

#[test]
fn a_message_is_written_in_many_ways() {
    let expected = [book(1), book(2)];
    for text in [
        "books { pages: 1 } books { pages: 2 }",
        "books: { pages: 1 }; books: < pages: 2 >;",
        "books [ { pages: 1 }, { pages: 2 } ]",
        "books: [ < pages: 1 , > , { pages: 2; } ]",
        "books{pages:1}books<pages:2>",
        "\u{feff}# two books\nbooks # the first\n{ pages: 1 }\r\n\tbooks: [{pages: 0x2}]",
        "books [] books { pages: 01 } books: [ { pages: 02 } ]",
    ] {
        assert_eq!(read(text).unwrap().books, expected, "{text}");
    }
}

#[test]
fn numbers_are_decimal_octal_or_hexadecimal() {
    for (text, expected) in [
        ("0", 0),
        ("64", 64),
        ("-64", -64),
        ("- 64", -64),
        ("0x40", 64),
        ("-0X4f", -79),
        ("0100", 64),
        ("00", 0),
        ("-2147483648", i32::MIN),
    ] {
        assert_eq!(read(&format!("height: {text}")).unwrap().height, expected, "{text}");
    }
    assert_eq!(read("serial: 18446744073709551615").unwrap().serial, u64::MAX);
    assert_eq!(read("dims: 3dims:4").unwrap().dims, [3, 4], "no space is needed");
    for text in ["2147483648", "-2147483649", "1.0", "1e3", "\"1\"", "many", "{}"] {
        let expected =
            "line 2: height is not a whole number from -2147483648 to 2147483647".to_owned();
        assert_eq!(problem(&format!("\nheight: {text}")), expected, "{text}");
    }
    assert!(problem("serial: -1").contains("from 0 to 18446744073709551615"));
    assert_eq!(problem("height: 09"), "line 1: 09 is not a number");
    assert_eq!(problem("height: 0x"), "line 1: 0x is not a number");
}

#[test]
fn floats_are_numbers_or_words() {
    for (text, expected) in [
        ("1", 1.0),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("2e3", 2000.0),
        ("2E-1f", 0.2),
        ("7F", 7.0),
        ("inf", f64::INFINITY),
        ("-Infinity", f64::NEG_INFINITY),
    ] {
        let weight = read(&format!("weight: {text}")).unwrap().weight;
        assert_eq!(weight.total_cmp(&expected), Ordering::Equal, "{text}: {weight}");
    }
    assert!(read("weight: nan").unwrap().weight.is_nan());
    for text in ["heavy", "true", "0x10", "017", "\"1\""] {
        assert_eq!(problem(&format!("weight: {text}")), "line 1: weight is not a number", "{text}");
    }
    assert_eq!(problem("weight: 1e"), "line 1: 1e is not a number");
}

#[test]
fn booleans_and_enums_have_names_and_numbers() {
    let switches = read("switches: [true, t, True, 1, 0x1, false, f, False, 0]").unwrap().switches;
    assert_eq!(switches, [true, true, true, true, true, false, false, false, false]);
    for text in ["yes", "TRUE", "2", "-1", "\"true\""] {
        let expected = "line 1: locked is neither true nor false";
        assert_eq!(problem(&format!("locked: {text}")), expected, "{text}");
    }
    for text in ["COLOUR_RED", "1"] {
        assert_eq!(read(&format!("colour: {text}")).unwrap().colour, Colour::Red);
    }
    assert_eq!(
        problem("colour: COLOUR_RAD"),
        "line 1: colour COLOUR_RAD is unknown: did you mean COLOUR_RED?"
    );
    assert_eq!(
        problem("colour: 7"),
        "line 1: colour 7 is unknown: there is COLOUR_NONE, COLOUR_RED"
    );
    assert_eq!(problem("colour: \"red\""), "line 1: colour is none of COLOUR_NONE, COLOUR_RED");
}

#[test]
fn strings_have_escapes_and_parts() {
    for (text, expected) in [
        (r#""a" 'b' # parts"#, "ab"),
        (r#""it's" '"'"#, "it's\""),
        (r#""\n\t\r\\\"\'\?""#, "\n\t\r\\\"'?"),
        (r#""\a\b\f\v""#, "\u{7}\u{8}\u{c}\u{b}"),
        (r#""\101\x41\X42\60""#, "AAB0"),
        (r#""\1011\x411""#, "A1A1"),
        (r#""\303\274" "\xc3\xbc""#, "üü"),
        (r#""\303" '\274'"#, "ü"),
        (r#""\u00fc\U0001F600""#, "ü\u{1f600}"),
        ("\"grüße # no comment\"", "grüße # no comment"),
    ] {
        assert_eq!(read(&format!("title: {text}")).unwrap().title, expected, "{text}");
    }
    for (text, expected) in [
        (r#""\q""#, r"line 1: unknown escape \q in a string; \\ stands for a backslash"),
        (r#""C:\users""#, r"line 1: unknown escape \u in a string; \\ stands for a backslash"),
        (r#""\x""#, r"line 1: unknown escape \x in a string; \\ stands for a backslash"),
        (r#""\777""#, r"line 1: unknown escape \7 in a string; \\ stands for a backslash"),
        (r#""\ud800""#, r"line 1: unknown escape \u in a string; \\ stands for a backslash"),
        (r#""\xff""#, "line 1: a string is not valid UTF-8"),
        ("\"open\nend\"", "line 1: a string has no closing quote on its line"),
        ("'open\\'", "line 1: a string has no closing quote on its line"),
        ("red", "line 1: title takes a string in quotes"),
    ] {
        assert_eq!(problem(&format!("title: {text}")), expected, "{text}");
    }
}

#[test]
fn maps_have_entries_with_keys_and_values() {
    let shelf = read(
        "notes { key: \"a\" value: \"1\" }\nnotes: [ { value: \"2\", key: \"b\" }, { key: \"c\" } ]\n\
         by_number { key: 3 value { pages: 4 } } by_number { key: 5 }",
    )
    .unwrap();
    let text = |text: &str| text.to_owned();
    let pairs = [("a", "1"), ("b", "2"), ("c", "")].map(|(key, value)| (text(key), text(value)));
    assert_eq!(shelf.notes, BTreeMap::from(pairs));
    assert_eq!(shelf.by_number, BTreeMap::from([(3, book(4)), (5, book(0))]));
    for (text, expected) in [
        (
            "notes { key: \"a\" }\nnotes { key: \"a\" }",
            "line 2: notes has the same key twice, first in line 1",
        ),
        ("notes { key: \"a\" key: \"b\" }", "line 1: notes has key twice in one entry"),
        ("notes { name: \"a\" }", "line 1: notes has no field name: there is key, value"),
        ("notes: \"a\"", "line 1: notes takes a message in braces"),
        ("notes { key: 1 }", "line 1: key takes a string in quotes"),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn a_field_is_unknown_or_given_twice_in_its_line() {
    for (text, expected) in [
        ("\nheigth: 1", "line 2: a model's config has no field heigth: did you mean height?"),
        (
            "books {\n author: \"a\"\n pagse: 3 }",
            "line 3: books has no field pagse: did you mean pages?",
        ),
        ("best { isbn: 3 }", "line 1: best has no field isbn: there is pages, author"),
        ("height: 1\nheight: 1", "line 2: height is given twice, first in line 1"),
        ("best {}\n\nbest {}", "line 3: best is given twice, first in line 1"),
        ("height: [1]", "line 1: height takes one value, not a list"),
        ("height: []", "line 1: height takes one value, not a list"),
        ("books: 7", "line 1: books takes a message in braces"),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
    assert_eq!(read("").unwrap(), Shelf::default());
    assert_eq!(read("best {}").unwrap().best, Some(book(0)));
}

#[test]
fn a_mistake_in_the_syntax_is_named_with_its_line() {
    for (text, expected) in [
        ("height: 1\nserial 2", "line 2: expected ':' or '{' after serial, but found 2"),
        ("best {\n pages: 1\n", "line 3: expected a field's name or '}', but the text ends"),
        ("best { pages: 1 >", "line 1: expected a field's name or '}', but found '>'"),
        ("\n\n}", "line 3: expected a field's name, but found '}'"),
        ("dims: [1, 2", "line 1: expected ',' or ']', but the text ends"),
        ("dims: [1, 2,]", "line 1: expected a value, but found ']'"),
        ("dims: [1 2]", "line 1: expected ',' or ']', but found 2"),
        ("dims: [[1]]", "line 1: expected a value, but found '['"),
        ("dims [1, 2]", "line 1: expected ':' after dims"),
        ("height:", "line 1: expected a value, but the text ends"),
        ("height: 1,, serial: 2", "line 1: expected a field's name, but found ','"),
        ("[a.b]: 1", "line 1: expected a field's name, but found '['"),
        ("height: é", "line 1: unexpected character 'é'"),
        ("\"height\": 1", "line 1: expected a field's name, but found the string \"height\""),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn messages_nested_too_deep_are_refused_and_do_not_overflow_the_stack() {
    let nested = |depth: usize| "a{".repeat(depth) + &"}".repeat(depth);
    assert!(parse(&nested(100)).is_ok());
    let error = parse(&nested(100_000)).unwrap_err();
    assert_eq!(error.to_string(), "line 1: nested deeper than 100 messages");
    assert!(parse(&"a[{".repeat(100_000)).is_err());
    assert!(parse(&nested(1).repeat(1000)).is_ok(), "one after the other");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic_or_hang(
        text in "(height|dims|books|notes|key|title|[a-c:{}\\[\\]<>\"'#,;\n\\\\x 0-9.ef-]){0,48}"
    ) {
        if let Err(error) = read(&text) {
            let lines = text.matches('\n').count() + 1;
            proptest::prop_assert!((1..=lines).contains(&error.line), "{error}");
        }
    }
}
