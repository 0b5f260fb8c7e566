//! Well-known protobuf types to and from what domain code uses.

use std::time::Duration;

use jiff::Timestamp;
use prost_types::value::Kind;
use pulse_kernel::{ApiError, Reason};
use serde_json::{Map, Number, Value};

/// How deep a `google.protobuf.Struct` may nest; deeper ones are refused rather than recursed into.
const MAX_DEPTH: usize = 32;

/// The largest integer that a `google.protobuf.Value`, a double, holds exactly (2^53).
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A point in time, UTC.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    // Both parts of a jiff timestamp have one sign; protobuf counts nanoseconds forward only.
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// Reads a point in time out of the field `field`.
///
/// # Errors
/// `INVALID_REQUEST` naming `field` when it is not a time between the years -9999 and 9999.
pub fn try_timestamp(time: prost_types::Timestamp, field: &str) -> Result<Timestamp, ApiError> {
    let invalid = || ApiError::field(Reason::InvalidRequest, field, "must be a valid point in time");
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(invalid());
    }
    Timestamp::new(time.seconds, time.nanos).map_err(|_| invalid())
}

/// A length of time; one beyond what protobuf holds becomes the longest it does.
pub fn duration(length: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(length)
        .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 })
}

/// Reads a length of time out of the field `field`.
///
/// # Errors
/// `INVALID_REQUEST` naming `field` when it is negative.
pub fn try_duration(length: prost_types::Duration, field: &str) -> Result<Duration, ApiError> {
    Duration::try_from(length)
        .map_err(|_| ApiError::field(Reason::InvalidRequest, field, "must not be negative"))
}

/// A JSON value. Numbers become doubles, as `google.protobuf.Value` has no others.
pub fn value(json: Value) -> prost_types::Value {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(value).collect() })
        }
        Value::Object(map) => Kind::StructValue(structure(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// A JSON object.
pub fn structure(map: Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct { fields: map.into_iter().map(|(key, json)| (key, value(json))).collect() }
}

/// Reads a JSON value out of the field `field`; whole numbers up to 2^53 become integers.
///
/// # Errors
/// `INVALID_REQUEST` naming `field` when a number is not finite or nesting is deeper than 32.
pub fn try_value(value: prost_types::Value, field: &str) -> Result<Value, ApiError> {
    json(value, field, MAX_DEPTH)
}

/// Reads a JSON object out of the field `field`.
///
/// # Errors
/// As [`try_value`].
pub fn try_structure(structure: prost_types::Struct, field: &str) -> Result<Map<String, Value>, ApiError> {
    object(structure, field, MAX_DEPTH)
}

fn object(from: prost_types::Struct, field: &str, depth: usize) -> Result<Map<String, Value>, ApiError> {
    from.fields.into_iter().map(|(key, value)| Ok((key, json(value, field, depth)?))).collect()
}

fn json(from: prost_types::Value, field: &str, depth: usize) -> Result<Value, ApiError> {
    let invalid = |why: &str| ApiError::field(Reason::InvalidRequest, field, why);
    let depth = depth.checked_sub(1).ok_or_else(|| invalid("must not nest deeper than 32 levels"))?;
    Ok(match from.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) => {
            Value::Number(exact(number).ok_or_else(|| invalid("must hold finite numbers only"))?)
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => Value::Array(
            list.values.into_iter().map(|item| json(item, field, depth)).collect::<Result<_, _>>()?,
        ),
        Some(Kind::StructValue(structure)) => Value::Object(object(structure, field, depth)?),
    })
}

/// The number as an integer where it is one that a double holds exactly.
fn exact(number: f64) -> Option<Number> {
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53, so within i64")]
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn jsons() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-(1_i64 << 53)..=(1_i64 << 53)).prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn times_cross_the_wire(seconds in -377_705_023_201_i64..253_402_207_200, nanos in 0..1_000_000_000) {
            let time = Timestamp::new(seconds, nanos).unwrap();
            prop_assert_eq!(try_timestamp(timestamp(time), "t").unwrap(), time);
        }

        #[test]
        fn any_wire_time_is_read_or_refused(seconds: i64, nanos: i32) {
            let wire = prost_types::Timestamp { seconds, nanos };
            if let Ok(time) = try_timestamp(wire, "t") {
                prop_assert_eq!(timestamp(time), wire);
            }
        }

        #[test]
        fn durations_cross_the_wire(length in (0..1_u64 << 62, 0..1_000_000_000_u32)) {
            let length = Duration::new(length.0, length.1);
            prop_assert_eq!(try_duration(duration(length), "d").unwrap(), length);
        }

        #[test]
        fn json_crosses_the_wire(json in jsons()) {
            prop_assert_eq!(try_value(value(json.clone()), "v").unwrap(), json);
        }
    }

    #[test]
    fn refuses_numbers_that_json_has_not_and_bottomless_nesting() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let bad = prost_types::Value { kind: Some(Kind::NumberValue(number)) };
            assert!(try_value(bad, "limits").is_err());
        }
        let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(try_value(value(deep), "limits").unwrap_err().violations()[0].field, "limits");
        assert!(try_duration(prost_types::Duration { seconds: -1, nanos: 0 }, "d").is_err());
    }

    #[test]
    fn whole_numbers_stay_whole() {
        assert_eq!(
            try_value(value(json!({"seats": 25, "ratio": 0.5})), "v").unwrap().to_string(),
            r#"{"ratio":0.5,"seats":25}"#
        );
    }
}
