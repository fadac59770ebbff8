//! The little of Python's literal syntax that a genotype uses.

use super::reader::Reader;
use crate::Result;
use serde_json::{Value, json};

/// `range(2, 6)` where the states are consecutive, else a list.
pub(super) fn concat(states: &[usize]) -> String {
    match (states.first(), states.last()) {
        (Some(first), Some(last)) if states.iter().enumerate().all(|(i, s)| *s == first + i) => {
            format!("range({first}, {})", last + 1)
        }
        _ => format!("{states:?}"),
    }
}

/// `Genotype(name=value, …)` as a JSON object; triples (op, to, from) become [op, from, to].
pub(super) fn parse(text: &str) -> Result<Value> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    if let Some(equals) = text.find('=')
        && text[..equals].trim().chars().all(|c| c.is_alphanumeric() || c == '_')
        && !text[..equals].contains('(')
    {
        reader.at = equals + 1; // `DARTS_V2 = Genotype(…)`
    }
    reader.word("Genotype")?;
    reader.punctuation('(')?;
    let mut object = serde_json::Map::new();
    while !reader.token(')') {
        let name = reader.name()?;
        reader.punctuation('=')?;
        let value = reader.value()?;
        object.insert(name, value);
        if !reader.token(',') {
            reader.punctuation(')')?;
            break;
        }
    }
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.error("the end of the text"));
    }
    Ok(Value::Object(object))
}

/// Tokens may have space before them.
impl Reader<'_> {
    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn token(&mut self, c: char) -> bool {
        self.skip_space();
        self.accept(c)
    }

    fn punctuation(&mut self, c: char) -> Result<()> {
        if self.token(c) { Ok(()) } else { Err(self.error(&format!("`{c}`"))) }
    }

    fn word(&mut self, word: &str) -> Result<()> {
        self.skip_space();
        if !self.rest().starts_with(word) {
            return Err(self.error(&format!("`{word}`")));
        }
        self.at += word.len();
        Ok(())
    }

    fn name(&mut self) -> Result<String> {
        self.skip_space();
        self.take_while(|c| c.is_alphanumeric() || c == '_', "a name")
    }

    fn state(&mut self) -> Result<usize> {
        self.skip_space();
        self.number("a number")
    }

    fn value(&mut self) -> Result<Value> {
        self.skip_space();
        if self.rest().starts_with("range") {
            self.word("range")?;
            self.punctuation('(')?;
            let first = self.state()?;
            self.punctuation(',')?;
            let end = self.state()?;
            self.punctuation(')')?;
            if end.saturating_sub(first) > 1000 {
                return Err(self.error("a range of at most 1000 states"));
            }
            return Ok(json!((first..end).collect::<Vec<_>>()));
        }
        self.punctuation('[')?;
        let mut list = vec![];
        while !self.token(']') {
            list.push(self.entry()?);
            if !self.token(',') {
                self.punctuation(']')?;
                break;
            }
        }
        Ok(Value::Array(list))
    }

    fn entry(&mut self) -> Result<Value> {
        if !self.token('(') {
            return Ok(json!(self.state()?));
        }
        let quote = if self.accept('\'') {
            '\''
        } else {
            self.punctuation('"')?;
            '"'
        };
        let operation = self.name()?;
        self.punctuation(quote)?;
        self.punctuation(',')?;
        let first = self.state()?;
        let value = if self.accept(',') && !self.rest().trim_start().starts_with(')') {
            let from = self.state()?;
            json!([operation, from, first]) // the authors' order is (op, to, from)
        } else {
            json!([operation, first])
        };
        self.accept(',');
        self.punctuation(')')?;
        Ok(value)
    }
}
