use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use proptest::{collection::btree_map, collection::btree_set, option, prelude::*};
use pulse_entitlements::{Grants, Name, Source, SubscriptionState};
use pulse_kernel::OrgId;

use super::*;
use crate::convert;

fn name() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}".prop_map(|text| Name::parse(&text).unwrap())
}

fn time() -> impl Strategy<Value = Timestamp> {
    let seconds = Timestamp::MIN.as_second() + 1..Timestamp::MAX.as_second();
    (seconds, 0..1_000_000_000).prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).unwrap())
}

fn grants() -> impl Strategy<Value = Grants> {
    let limit = prop_oneof![Just(-1), Just(0), 0..200_i64, 0..i64::MAX];
    (btree_set(name(), 0..8), btree_map(name(), limit, 0..8), btree_set(name(), 0..8))
        .prop_map(|(capabilities, limits, meters_enabled)| Grants { capabilities, limits, meters_enabled })
}

fn state() -> impl Strategy<Value = SubscriptionState> {
    use SubscriptionState::{Active, Expired, Grace, Suspended, Trial};
    prop::sample::select(vec![Trial, Active, Grace, Expired, Suspended])
}

fn source() -> impl Strategy<Value = Source> {
    prop::sample::select(vec![Source::Fresh, Source::Cached, Source::Stale, Source::Default])
}

prop_compose! {
    fn answers()(
        org in "[a-z0-9][a-z0-9-]{0,63}",
        subscription_state in state(),
        plan in name(),
        grants in grants(),
        times in [option::of(time()), option::of(time()), option::of(time())],
        source in source(),
        age in prop_oneof![Just(0), 0..10_000_000_u64, any::<u64>()],
        revision in prop_oneof![Just(0), 0..300_u64, any::<u64>()],
    ) -> Answer {
        let [trial_started_at, trial_ends_at, valid_until] = times;
        let entitlements = Entitlements {
            org_id: OrgId::parse(&org).unwrap(),
            subscription_state,
            plan_version: Arc::new(plan),
            grants: Arc::new(grants),
            trial_started_at,
            trial_ends_at,
            valid_until,
        };
        let age = Duration::from_micros(age);
        Answer { entitlements: Arc::new(entitlements), source, age, revision, confirmed: true }
    }
}

proptest! {
    #[test]
    fn every_answer_reads_as_the_generated_message(answer in answers()) {
        let mut encoded = Vec::new();
        encode(&answer, &mut encoded);
        let read = wire::GetEntitlementsResponse::decode(&*encoded).unwrap();
        prop_assert_eq!(read, convert::entitlements(&answer));
    }
}
