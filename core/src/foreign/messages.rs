//! What loaded code says to people: lines that wait until a record of the run takes them.
//!
//! Code speaks at any time and from any thread; whoever keeps a log takes the lines when it writes next.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Lines that wait at most; of more, the oldest are lost.
pub const MOST: usize = 1000;

struct Queue {
    lines: VecDeque<(String, String)>,
    lost: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { lines: VecDeque::new(), lost: 0 });

/// Keeps one line that the plugin of this name said.
pub fn say(plugin: &str, text: &str) {
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.lines.len() == MOST {
        queue.lines.pop_front();
        queue.lost += 1;
    }
    queue.lines.push_back((plugin.to_owned(), text.to_owned()));
}

/// Takes all lines, as (plugin, text), oldest first. Where some were lost, the first of them says so.
pub fn take() -> Vec<(String, String)> {
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = std::mem::take(&mut queue.lost);
    let mut lines: Vec<_> = queue.lines.drain(..).collect();
    if lost > 0
        && let Some((plugin, _)) = lines.first()
    {
        lines.insert(0, (plugin.clone(), format!("({lost} earlier lines were lost)")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_kept_in_order() {
        take();
        for i in 0..MOST + 3 {
            say("talker", &i.to_string());
        }
        let lines = take();
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!(lines[0], ("talker".to_owned(), "(3 earlier lines were lost)".to_owned()));
        assert_eq!(lines[1].1, "3");
        assert_eq!(lines[MOST].1, (MOST + 2).to_string());
        assert!(take().is_empty());
    }
}
