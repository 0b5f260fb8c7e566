//! One text for one value: what is hashed must not depend on the order in which a map happens to be kept.
//!
//! Keys are sorted by their bytes and there is no white space, much as in RFC 8785 (JCS); numbers are written
//! as `serde_json` writes them, which keeps integers beyond 2^53 exact.

use serde_json::Value;

use super::Details;

/// The bytes of a record's details that are hashed, and stored.
pub fn details(details: &Details) -> Vec<u8> {
    let Details { reason, before, after, request_id } = details;
    let mut out = Vec::new();
    let text = |text: &Option<String>| text.clone().map(Value::String);
    let fields = [
        ("after", after.clone()),
        ("before", before.clone()),
        ("reason", text(reason)),
        ("request_id", text(request_id)),
    ];
    write_object(fields.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?))), &mut out);
    out
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            // Whether `serde_json` keeps maps sorted depends on a feature that any dependency may turn on.
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            write_object(entries.into_iter(), out);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.extend_from_slice(value.to_string().as_bytes());
        }
    }
}

fn write_object<'a>(entries: impl Iterator<Item = (&'a str, &'a Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (key, value)) in entries.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(Value::from(key).to_string().as_bytes());
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let written = Details {
            reason: Some("r".to_owned()),
            before: Some(json!({"b": {"z": 1, "a": [2]}, "a": null})),
            ..Details::default()
        };
        let text = String::from_utf8(details(&written)).unwrap();
        assert_eq!(text, r#"{"before":{"a":null,"b":{"a":[2],"z":1}},"reason":"r"}"#);
    }

    proptest! {
        #[test]
        fn the_text_reads_back_as_the_same_details(after in any_json(), reason in any::<Option<String>>()) {
            let after = Some(after).filter(|value| !value.is_null());
            let written = Details { reason, after, ..Details::default() };
            let text = details(&written);
            let read: Details = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(&read, &written);
            prop_assert_eq!(details(&read), text);
        }
    }
}
