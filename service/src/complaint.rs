//! What a program says before its logging has started.

use std::io::{self, Write as _};

/// Prints one line to standard error, for programs whose logging has not started. Unlike
/// `eprintln!`, it ignores errors: there is nowhere to report them.
pub fn complain(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}
