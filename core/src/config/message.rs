//! Messages of serde and the TOML parser in the words of a configuration, and hints to them.

use crate::error::nearest;

/// What serde calls Rust types, and what a user would.
const TYPES: [(&str, &str); 13] = [
    ("usize", "a whole number, at least 0"),
    ("u64", "a whole number, at least 0"),
    ("u32", "a whole number, at least 0"),
    ("u16", "a whole number from 0 to 65535"),
    ("u8", "a whole number from 0 to 255"),
    ("isize", "a whole number"),
    ("i64", "a whole number"),
    ("i32", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a boolean", "`true` or `false`"),
    ("a sequence", "an array"),
    ("a map", "a table"),
];

/// Where serde lists more known keys than this, and one of them may have been meant, the list is
/// left out.
const LONG_LIST: usize = 8;

/// The message in a configuration's words.
pub(super) fn reword(message: &str) -> String {
    let message = match message.split_once(", expected one of ") {
        Some((start, list)) if quoted(list).count() > LONG_LIST && meant(message).is_some() => {
            start
        }
        _ => message,
    };
    let message = message
        .trim_end()
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("duplicate field", "duplicate key")
        .replace("there are no fields", "there are no keys here")
        .replace("invalid type: map", "invalid type: table")
        .replace("invalid type: sequence", "invalid type: array");
    for (rust, words) in TYPES {
        if let Some(start) = message.strip_suffix(rust)
            && start.ends_with("expected ")
        {
            return format!("{start}{words}");
        }
    }
    message
}

/// The words in back-quotes.
pub(super) fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// For an unknown key or variant (serde lists the known ones): the one that may have been meant.
pub(super) fn meant(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = quoted(message);
    let wrong = words.next()?;
    let known: Vec<&str> = words.collect();
    nearest(wrong, &known).map(|near| format!("did you mean `{near}`?"))
}

/// For a name that is not registered: what may have been meant, and where the choices are listed.
pub(super) fn choices(name: &str, known: &[&str], kinds: &[&str]) -> String {
    let commands: Vec<String> =
        kinds.iter().map(|k| format!("`tetlo plugins list --kind {k}`")).collect();
    let list = format!(
        "{} {}",
        commands.join(" and "),
        if kinds.len() > 1 { "show the choices" } else { "shows the choices" }
    );
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`? {list}"),
        None => list,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_speaks_of_keys_and_numbers() {
        assert_eq!(
            reword("invalid type: string \"a\", expected usize\n"),
            "invalid type: string \"a\", expected a whole number, at least 0"
        );
        assert_eq!(reword("missing field `name`"), "missing key `name`");
        let keys: Vec<String> = (0..9).map(|i| format!("`key{i}`")).collect();
        let near = format!("unknown field `kez1`, expected one of {}", keys.join(", "));
        assert_eq!(reword(&near), "unknown key `kez1`");
        let far = format!("unknown field `other`, expected one of {}", keys.join(", "));
        assert!(reword(&far).ends_with("`key8`"));
        // Not a type: the word only ends like one.
        assert_eq!(reword("expected menu8"), "expected menu8");
    }

    #[test]
    fn a_slip_finds_what_was_meant() {
        let message = "unknown field `epcohs`, expected one of `epochs`, `batch-size`";
        assert_eq!(meant(message).as_deref(), Some("did you mean `epochs`?"));
        assert_eq!(meant("unknown field `x`, there are no fields"), None);
        assert_eq!(meant("missing field `name`"), None);
        assert_eq!(
            choices("qrss", &["kd", "qrs"], &["transfer-loss"]),
            "did you mean `qrs`? `tetlo plugins list --kind transfer-loss` shows the choices"
        );
    }
}
