//! Reads a text from left to right.

use crate::{Error, Result};

pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl Reader<'_> {
    pub(super) fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    pub(super) fn error(&self, expected: &str) -> Error {
        let found: String = self.rest().chars().take(12).collect();
        let found = if found.is_empty() { "the end".into() } else { format!("`{found}`") };
        Error::Genotype(format!("expected {expected} at character {}, found {found}", self.at))
    }

    /// Goes past this character if it is next.
    pub(super) fn accept(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    /// The characters that fit, at least one.
    pub(super) fn take_while(&mut self, fits: impl Fn(char) -> bool, what: &str) -> Result<String> {
        let taken: String = self.rest().chars().take_while(|c| fits(*c)).collect();
        if taken.is_empty() {
            return Err(self.error(what));
        }
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn number(&mut self, what: &str) -> Result<usize> {
        let start = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit(), what)?;
        digits.parse().map_err(|_| {
            self.at = start;
            self.error(what)
        })
    }
}
