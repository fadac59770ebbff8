//! Where text comes from, and how an error shows its place.
//!
//! The tree that is deserialised is mixed from several texts (the file, presets, `--set`), so the
//! texts are laid end to end in one space of offsets: a span then says by itself which text it
//! belongs to.

use crate::Error;
use std::ops::Range;

/// Longest piece of a line that an error shows, in characters.
const WINDOW: usize = 120;

#[derive(Debug)]
struct Source<'i> {
    name: String,
    text: &'i str,
    start: usize,
    /// One line by nature: an error names its column only.
    single_line: bool,
}

/// The texts of one configuration.
#[derive(Debug, Default)]
pub(super) struct Sources<'i> {
    list: Vec<Source<'i>>,
    /// Offset at which the next text starts.
    end: usize,
}

impl<'i> Sources<'i> {
    /// Adds a file and returns the offset at which it starts.
    pub(super) fn add(&mut self, name: impl Into<String>, text: &'i str) -> usize {
        self.push(name.into(), text, false)
    }

    /// Adds a command-line argument.
    pub(super) fn add_argument(&mut self, name: impl Into<String>, text: &'i str) -> usize {
        self.push(name.into(), text, true)
    }

    fn push(&mut self, name: String, text: &'i str, single_line: bool) -> usize {
        let start = self.end;
        // One further: the end of a text is a place in it, too.
        self.end = start + text.len() + 1;
        self.list.push(Source { name, text, start, single_line });
        start
    }

    /// An error at `span`: the place, what is wrong, the line and a caret.
    pub(super) fn error(
        &self,
        span: &Range<usize>,
        what: impl AsRef<str>,
        hint: impl Into<String>,
    ) -> Error {
        let what = what.as_ref();
        let Some(source) = self.list.iter().rev().find(|s| s.start <= span.start) else {
            return Error::config_hint(what, hint);
        };
        let start = span.start - source.start;
        let end = span.end.saturating_sub(source.start).max(start);
        let place = Place::new(source.text, start, end);
        let head = if source.single_line {
            format!("{}, column {}: {what}", source.name, place.column + 1)
        } else {
            format!("{}:{}:{}: {what}", source.name, place.line + 1, place.column + 1)
        };
        Error::config_hint(format!("{head}\n{}", place.snippet()), hint)
    }
}

/// A line of a text and a range of its characters.
struct Place<'t> {
    text: &'t str,
    line: usize,
    column: usize,
    width: usize,
}

impl<'t> Place<'t> {
    /// Of byte offsets, which need not lie on character boundaries or inside the text.
    fn new(text: &'t str, start: usize, end: usize) -> Self {
        let start = text.floor_char_boundary(start.min(text.len()));
        let end = text.ceil_char_boundary(end.clamp(start, text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        let column = text[line_start..start].chars().count();
        Self {
            text: text[line_start..line_end].trim_end_matches('\r'),
            line: text[..line_start].matches('\n').count(),
            column,
            // Only what lies on the first line; at least one caret, also at a line's end.
            width: text[start..end.min(line_end)].trim_end().chars().count().max(1),
        }
    }

    /// The line under its number, and the carets. Characters that would not print, or not take one
    /// column, are replaced, and a long line is cut around the place.
    fn snippet(&self) -> String {
        let length = self.text.chars().count();
        let first = if length <= WINDOW || self.column < WINDOW / 2 {
            0
        } else {
            (self.column - WINDOW / 2).min(length - WINDOW)
        };
        let shown: String = self.text.chars().skip(first).take(WINDOW).map(printable).collect();
        let (before, after) = (first > 0, first + WINDOW < length);
        let number = (self.line + 1).to_string();
        let margin = " ".repeat(number.len());
        let dots = |cut: bool| if cut { "…" } else { "" };
        let indent = " ".repeat(self.column - first + usize::from(before));
        let carets = "^".repeat(self.width.min(WINDOW.saturating_sub(self.column - first)).max(1));
        format!(
            "{margin} |\n{number} | {}{}{}\n{margin} | {indent}{carets}",
            dots(before),
            shown.trim_end(),
            dots(after),
        )
    }
}

fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, span: Range<usize>) -> String {
        let mut sources = Sources::default();
        sources.add("first.toml", "x = 1");
        let start = sources.add("a.toml", text);
        sources.error(&(start + span.start..start + span.end), "no", "hint").to_string()
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        let expected = "a.toml:2:5: no\n  |\n2 | b = 22\n  |     ^^";
        assert_eq!(show("a = 1\nb = 22\n", 10..12), expected);
        // After a character of two bytes; a span that goes on to the next line.
        let expected = "a.toml:1:3: no\n  |\n1 | α = 1\n  |   ^^^";
        assert_eq!(show("α = 1\r\nb", 3..9), expected);
    }

    #[test]
    fn ends_and_odd_offsets_are_places_too() {
        assert_eq!(show("", 0..0), "a.toml:1:1: no\n  |\n1 | \n  | ^");
        assert_eq!(show("ab", 2..2), "a.toml:1:3: no\n  |\n1 | ab\n  |   ^");
        // Inside a character, and past the end.
        assert_eq!(show("α", 1..9), "a.toml:1:1: no\n  |\n1 | α\n  | ^");
    }

    #[test]
    fn a_place_in_the_first_text_is_not_taken_for_the_second() {
        let mut sources = Sources::default();
        sources.add("first.toml", "x = 1");
        sources.add_argument("--set #1", "y=1");
        let message = sources.error(&(5..5), "no", "").to_string();
        assert!(message.starts_with("first.toml:1:6: no"), "{message}");
        let message = sources.error(&(8..9), "no", "").to_string();
        assert!(message.starts_with("--set #1, column 3: no\n"), "{message}");
    }

    #[test]
    fn long_and_binary_lines_stay_readable() {
        let text = format!("{}\u{1}\u{7f}{}", "a".repeat(500), "b".repeat(500));
        let message = show(&text, 500..502);
        assert!(message.lines().all(|l| l.chars().count() < WINDOW + 10), "{message}");
        let lines: Vec<&str> = message.lines().collect();
        let caret = lines[3].find('^').unwrap();
        assert_eq!(lines[2].chars().nth(caret), Some('\u{fffd}'));
        assert!(message.starts_with("a.toml:1:501:"), "{message}");
    }
}
