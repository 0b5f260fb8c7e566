//! An answer in protobuf's encoding (<https://protobuf.dev/programming-guides/encoding/>), written from what is cached without
//! making a message first: neither the names nor the maps of a plan have to be copied for it, and nothing is allocated. Tests
//! hold it against the generated message.

use bytes::BufMut;
use prost::Message;
use pulse_entitlements::{Answer, Entitlements};
use pulse_proto::billing::v1 as wire;
use pulse_rpc::convert::{duration, timestamp};

use super::Wire;

/// The fields of `GetEntitlementsResponse`, by their numbers there.
mod field {
    pub(super) const ORG_ID: u8 = 1;
    pub(super) const SUBSCRIPTION_STATE: u8 = 2;
    pub(super) const PLAN_VERSION: u8 = 3;
    pub(super) const CAPABILITIES: u8 = 4;
    pub(super) const LIMITS: u8 = 5;
    pub(super) const METERS_ENABLED: u8 = 6;
    pub(super) const TRIAL_STARTED_AT: u8 = 7;
    pub(super) const TRIAL_ENDS_AT: u8 = 8;
    pub(super) const VALID_UNTIL: u8 = 9;
    pub(super) const SOURCE: u8 = 10;
    pub(super) const AGE: u8 = 11;
    pub(super) const REVISION: u8 = 12;
    /// Of an entry of a map.
    pub(super) const KEY: u8 = 1;
    /// The same.
    pub(super) const VALUE: u8 = 2;
}

/// What follows a field's number.
const VARINT: u8 = 0;
const LENGTH: u8 = 2;

/// Writes a `GetEntitlementsResponse`.
pub(crate) fn encode(answer: &Answer, to: &mut impl BufMut) {
    let Entitlements { org_id, subscription_state, plan_version, grants, .. } = &*answer.entitlements;
    text(field::ORG_ID, org_id.as_str(), to);
    number(field::SUBSCRIPTION_STATE, wire::SubscriptionState::from(Wire(*subscription_state)), to);
    text(field::PLAN_VERSION, plan_version.as_str(), to);
    for name in &grants.capabilities {
        text(field::CAPABILITIES, name.as_str(), to);
    }
    for (name, value) in &grants.limits {
        limit(name.as_str(), *value, to);
    }
    for name in &grants.meters_enabled {
        text(field::METERS_ENABLED, name.as_str(), to);
    }
    let times = [
        (field::TRIAL_STARTED_AT, answer.entitlements.trial_started_at),
        (field::TRIAL_ENDS_AT, answer.entitlements.trial_ends_at),
        (field::VALID_UNTIL, answer.entitlements.valid_until),
    ];
    for (field, time) in times {
        if let Some(time) = time {
            message(field, &timestamp(time), to);
        }
    }
    number(field::SOURCE, wire::EntitlementSource::from(Wire(answer.source)), to);
    message(field::AGE, &duration(answer.age), to);
    key(field::REVISION, VARINT, to);
    varint(answer.revision, to);
}

/// An entry of a map is a message of a key and a value.
fn limit(name: &str, value: i64, to: &mut impl BufMut) {
    // A negative number is written as its two's complement.
    let value = value.cast_unsigned();
    let name_length = 1 + varint_length(length(name)) + length(name);
    key(field::LIMITS, LENGTH, to);
    varint(name_length + 1 + varint_length(value), to);
    text(field::KEY, name, to);
    key(field::VALUE, VARINT, to);
    varint(value, to);
}

fn text(field: u8, text: &str, to: &mut impl BufMut) {
    key(field, LENGTH, to);
    varint(length(text), to);
    to.put_slice(text.as_bytes());
}

fn number(field: u8, number: impl Into<i32>, to: &mut impl BufMut) {
    key(field, VARINT, to);
    varint(i64::from(number.into()).cast_unsigned(), to);
}

fn message(field: u8, message: &impl Message, to: &mut impl BufMut) {
    key(field, LENGTH, to);
    varint(message.encoded_len() as u64, to);
    message.encode_raw(to);
}

fn key(field: u8, what_follows: u8, to: &mut impl BufMut) {
    to.put_u8((field << 3) | what_follows);
}

fn length(text: &str) -> u64 {
    text.len() as u64
}

/// Seven bits a byte, the lowest first; the eighth says that there are more.
fn varint(mut number: u64, to: &mut impl BufMut) {
    while number >= 0x80 {
        to.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8((number & 0x7f) as u8);
}

fn varint_length(number: u64) -> u64 {
    u64::from((number | 1).ilog2() / 7 + 1)
}

#[cfg(test)]
mod tests;
