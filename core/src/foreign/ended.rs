//! How processes end.

use std::process::ExitStatus;

/// Names of the signals that end processes.
const SIGNALS: [(i32, &str); 7] = [
    (4, "illegal instruction"),
    (6, "abort"),
    (7, "bus error"),
    (8, "arithmetic error"),
    (9, "killed; out of memory?"),
    (11, "segmentation fault"),
    (15, "terminated"),
];

/// How a process ended, for people: `killed by signal 11 (segmentation fault)`, `exit status 3`.
pub fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => match SIGNALS.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn signals_have_names() {
        let text = |raw| ended(ExitStatus::from_raw(raw));
        assert_eq!(text(11), "killed by signal 11 (segmentation fault)");
        assert_eq!(text(40), "killed by signal 40");
        assert_eq!(text(3 << 8), "exit status 3");
    }
}
