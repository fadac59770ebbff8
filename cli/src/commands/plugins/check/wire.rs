//! What the child tells: JSON, a line each, behind a mark that nothing else prints.

use crate::console;
use serde::{Deserialize, Serialize};
use tetlo_test_support::{Event, Outcome, Row};

/// Begins a message (ASCII's record separator). What a plugin prints may stand before it.
pub(super) const MARK: char = '\u{1e}';

/// A check that holds.
pub(super) const OK: &str = "ok";
/// A check that does not.
pub(super) const FAILED: &str = "FAILED";
/// A check that does not apply.
pub(super) const SKIPPED: &str = "skipped";

/// A message of the child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Message {
    /// From now on it is about this plugin.
    Plugin {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Where it comes from.
        about: String,
    },
    /// A check begins.
    Begin(String),
    /// A check has ended.
    Row(Line),
}

/// A check of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) check: String,
    pub(super) outcome: String,
    pub(super) milliseconds: f64,
    pub(super) detail: String,
}

impl Message {
    /// What a suite tells of a plugin.
    pub(super) fn of(kind: &str, name: &str, event: Event<'_>) -> Self {
        match event {
            Event::Begin(what) => Self::Begin(what.to_owned()),
            Event::End(row) => Self::Row(Line::of(kind, name, row)),
        }
    }

    /// Tells it, as the child.
    pub(super) fn tell(&self) {
        if let Ok(json) = serde_json::to_string(self) {
            console::out(&format!("{MARK}{json}"));
        }
    }

    /// The message in a line, and what stands before it.
    pub(super) fn find(line: &str) -> (&str, Option<Self>) {
        match line.rsplit_once(MARK) {
            Some((before, json)) => match serde_json::from_str(json) {
                Ok(message) => (before, Some(message)),
                Err(_) => (line, None),
            },
            None => (line, None),
        }
    }
}

impl Line {
    fn of(kind: &str, name: &str, row: &Row) -> Self {
        let outcome = match row.outcome {
            Outcome::Ok => OK,
            Outcome::Failed => FAILED,
            Outcome::Skipped => SKIPPED,
        };
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            check: row.check.clone(),
            outcome: outcome.to_owned(),
            milliseconds: 1e3 * row.seconds,
            detail: row.detail.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_behind_what_a_plugin_prints() {
        let message = Message::Begin("value\nof \"it\"".to_owned());
        let json = serde_json::to_string(&message).expect("JSON");
        assert!(!json.contains('\n'));
        let line = format!("loss 0.3 {MARK}{json}");
        assert_eq!(Message::find(&line), ("loss 0.3 ", Some(message)));
        for noise in ["", "plain text", "\u{1e}{\"begin\": 3}", "\u{1e}"] {
            assert_eq!(Message::find(noise), (noise, None));
        }
    }
}
