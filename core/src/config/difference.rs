//! Which keys differ between two configurations.

use serde_json::Value;

/// The dotted keys at which two configurations (or parts of them) differ, in the order of the old
/// one, then those that are new. Entries of arrays of tables are told apart by `name`, as in
/// `method.tetlo.search.epochs`; other arrays differ as a whole.
pub fn difference(old: &Value, new: &Value) -> Vec<String> {
    let mut keys = vec![];
    compare("", old, new, &mut keys);
    keys
}

fn compare(at: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    if old == new {
        return;
    }
    match (entries(old), entries(new)) {
        (Some(old), Some(new)) => {
            let before = keys.len();
            for (key, value) in &old {
                match new.iter().find(|(k, _)| k == key) {
                    Some((_, other)) => compare(&join(at, key), value, other, keys),
                    None => keys.push(join(at, key)),
                }
            }
            for (key, _) in &new {
                if !old.iter().any(|(k, _)| k == key) {
                    keys.push(join(at, key));
                }
            }
            // Named entries in another order: the array itself differs.
            if keys.len() == before && !old.iter().map(|e| e.0).eq(new.iter().map(|e| e.0)) {
                keys.push(at.to_owned());
            }
        }
        _ => keys.push(at.to_owned()),
    }
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// The keys of a table, or of an array whose elements all have a name of their own.
fn entries(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Object(map) => Some(map.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Value::Array(list) if !list.is_empty() => {
            let named: Vec<(&str, &Value)> =
                list.iter().map(|v| Some((v["name"].as_str()?, v))).collect::<Option<_>>()?;
            let distinct = (1..named.len()).all(|i| named[..i].iter().all(|e| e.0 != named[i].0));
            distinct.then_some(named)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_that_differ_are_named() {
        let old = json!({
            "seeds": [0, 1], "device": "cpu", "gone": 1,
            "method": [{"name": "a", "search": {"epochs": 1}}, {"name": "b"}],
        });
        let new = json!({
            "seeds": [0], "device": "cpu",
            "method": [{"name": "a", "search": {"epochs": 2}}, {"name": "c"}], "new": {},
        });
        let expected = ["seeds", "gone", "method.a.search.epochs", "method.b", "method.c", "new"];
        assert_eq!(difference(&old, &new), expected);
        assert!(difference(&old, &old).is_empty());
    }

    #[test]
    fn the_order_of_methods_is_a_difference_the_order_of_keys_is_not() {
        let old = json!({"x": 1, "method": [{"name": "a"}, {"name": "b"}]});
        let new = json!({"method": [{"name": "b"}, {"name": "a"}], "x": 1});
        assert_eq!(difference(&old, &new), ["method"]);
        assert!(difference(&json!({"x": 1, "y": 2}), &json!({"y": 2, "x": 1})).is_empty());
    }
}
