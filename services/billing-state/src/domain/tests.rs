//! The decisions, as functions of values.

use jiff::SignedDuration;
use proptest::prelude::*;
use pulse_entitlements::{Catalog, Grants, Name, SubscriptionState};
use pulse_kernel::OrgId;

use super::*;
use SubscriptionState::{Active, Expired, Grace, Suspended, Trial};

pub(crate) fn org() -> OrgId {
    OrgId::parse("acme").unwrap()
}

pub(crate) fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_893_456_000 + seconds).unwrap()
}

pub(crate) fn plans() -> Plans {
    Plans {
        catalog: Catalog::built_in(),
        trial: SignedDuration::from_hours(14 * 24),
        grace: SignedDuration::from_hours(7 * 24),
    }
}

pub(crate) fn author() -> Author {
    Author { actor: "ann".to_owned(), request_id: Some("req-1".to_owned()) }
}

pub(crate) fn key(text: &str) -> Key {
    Key::parse(text, "key").unwrap()
}

/// The decision to start a trial where nothing is.
pub(crate) fn trial_write(key_text: &str, now: i64) -> Write {
    trial_write_of(&org(), key_text, now)
}

pub(crate) fn trial_write_of(org: &OrgId, key_text: &str, now: i64) -> Write {
    trial::start(org, None, &key(key_text), author(), &plans(), at(now)).unwrap()
}

pub(crate) fn ask(subscription_state: SubscriptionState) -> SetRequest {
    SetRequest {
        subscription_state,
        plan_version: None,
        grants: None,
        trial_ends_at: None,
        grace_ends_at: None,
        etag: None,
        allow_missing: false,
        note: None,
    }
}

pub(crate) fn set_on(stored: &BillingState, asked: &SetRequest, now: i64) -> Write {
    set::set(&org(), Some(stored), asked, author(), &plans(), at(now)).unwrap()
}

fn change(write: &Write) -> (&str, &str) {
    (&write.draft.action, write.draft.after.as_ref().unwrap()["change"].as_str().unwrap())
}

#[test]
fn a_trial_lasts_as_set_on_the_catalogs_trial_plan() {
    let Write { expected, state, draft } = trial_write("k", 0);
    assert_eq!((expected, state.subscription_state), (Expected::Nothing, Trial));
    assert_eq!((state.trial_started_at, state.trial_ends_at), (Some(at(0)), Some(at(14 * 86_400))));
    assert_eq!(state.grants, *plans().catalog.trial().grants);
    assert_eq!((draft.action.as_str(), draft.before.clone()), ("trial_started", None));
    assert_eq!(document::created_by_key(draft.after.as_ref().unwrap()), Some("k"));
    assert_eq!(document::state(draft.after.as_ref().unwrap()), Some(state));
}

#[test]
fn a_trial_never_replaces_a_state() {
    let stored = trial_write("k", 0).state;
    for state in SubscriptionState::ALL {
        let stored = BillingState { subscription_state: state, ..stored.clone() };
        assert!(trial::start(&org(), Some(&stored), &key("k"), author(), &plans(), at(9)).is_err());
    }
}

#[test]
fn conditions_come_first() {
    let stored = trial_write("k", 0).state;
    let try_set = |stored, asked: &SetRequest| {
        set::set(&org(), stored, asked, author(), &plans(), at(1)).map(|write| write.expected)
    };
    assert_eq!(try_set(None, &ask(Active)), Err(Refused::NotStored));
    let missing_ok = SetRequest { allow_missing: true, ..ask(Active) };
    assert_eq!(try_set(None, &missing_ok), Ok(Expected::Nothing));
    let stale = SetRequest { etag: Some("stale".to_owned()), ..missing_ok };
    assert_eq!(try_set(None, &stale), Err(Refused::EtagMismatch));
    assert_eq!(try_set(Some(&stored), &stale), Err(Refused::EtagMismatch));
    let seen = SetRequest { etag: Some(stored.etag()), ..ask(Active) };
    assert_eq!(try_set(Some(&stored), &seen), Ok(Expected::Etag(stored.etag())));
}

#[test]
fn what_is_left_out_is_kept_or_usual() {
    let stored = trial_write("k", 0).state;
    let active = set_on(&stored, &ask(Active), 5).state;
    assert_eq!((active.plan_version.as_str(), active.trial_ends_at), ("trial", stored.trial_ends_at));
    assert_eq!((active.grace_ends_at, active.updated_at), (None, Some(at(5))));

    let grace = set_on(&active, &ask(Grace), 10).state;
    assert_eq!(grace.grace_ends_at, Some(at(10 + 7 * 86_400)));
    let again = set_on(&grace, &ask(Grace), 20).state;
    assert_eq!(again.grace_ends_at, grace.grace_ends_at, "a grace that is running keeps its end");
    let second = set_on(&set_on(&grace, &ask(Active), 30).state, &ask(Grace), 40).state;
    assert_eq!(second.grace_ends_at, Some(at(40 + 7 * 86_400)), "the next one does not inherit it");

    let first = SetRequest { allow_missing: true, ..ask(Trial) };
    let trial = set::set(&org(), None, &first, author(), &plans(), at(3)).unwrap().state;
    assert_eq!((trial.trial_started_at, trial.trial_ends_at), (Some(at(3)), Some(at(3 + 14 * 86_400))));
    let given = SetRequest { trial_ends_at: Some(at(77)), grace_ends_at: Some(at(78)), ..ask(Suspended) };
    let given = set_on(&stored, &given, 9).state;
    assert_eq!((given.trial_ends_at, given.grace_ends_at), (Some(at(77)), Some(at(78))));
}

#[test]
fn the_catalog_fills_in_only_where_nothing_is_granted() {
    let stored = trial_write("k", 0).state;
    let plan = |name: &str| Some(Name::parse(name).unwrap());
    let pro = SetRequest { plan_version: plan("pro"), ..ask(Active) };
    let catalog = plans().catalog;
    assert_eq!(
        set_on(&stored, &pro, 1).state.grants,
        *catalog.plan(&pro.plan_version.clone().unwrap()).unwrap().grants
    );
    let own = Grants { capabilities: [Name::parse("alerting").unwrap()].into(), ..Grants::default() };
    let custom = SetRequest { grants: Some(own.clone()), ..pro.clone() };
    assert_eq!(set_on(&stored, &custom, 1).state.grants, own);
    let nothing = SetRequest { grants: Some(Grants::default()), ..pro };
    assert!(set_on(&stored, &nothing, 1).state.grants.is_empty(), "nothing, where nothing is asked for");
    let unknown = SetRequest { plan_version: plan("legacy-2019"), ..ask(Active) };
    assert!(set_on(&stored, &unknown, 1).state.grants.is_empty());
}

#[test]
fn the_audit_tells_a_transition_from_an_override() {
    let trial = trial_write("k", 0).state;
    let changed = "billing_state_changed";
    assert_eq!(change(&set_on(&trial, &ask(Active), 1)), (changed, "payment_succeeded"));
    assert_eq!(change(&set_on(&trial, &ask(Trial), 1)), (changed, "unchanged"));
    assert_eq!(change(&set_on(&trial, &ask(Suspended), 1)), (changed, "suspended"));
    assert_eq!(change(&set_on(&trial, &ask(Grace), 1)), ("billing_state_overridden", "override"));
    // By then the trial is over, so this is the payment that the table has.
    let late = 15 * 86_400;
    assert_eq!(change(&set_on(&trial, &ask(Active), late)), (changed, "payment_succeeded"));
    assert_eq!(change(&set_on(&trial, &ask(Expired), late)), (changed, "unchanged"));
    assert_eq!(change(&set_on(&trial, &ask(Trial), late)), ("billing_state_overridden", "override"));

    let noted = SetRequest { note: Note::parse("invoice 7").unwrap(), ..ask(Active) };
    let draft = set_on(&trial, &noted, 1).draft;
    assert_eq!((draft.actor.as_str(), draft.reason.as_deref()), ("ann", Some("invoice 7")));
    assert_eq!(draft.before.as_ref().and_then(document::state), Some(trial));
}

#[test]
fn the_file_is_what_the_contract_says() {
    let state = trial_write("k", 0).state;
    let text = Document::of(&state).to_text().unwrap();
    let keys: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("  \"")?.split('"').next()).collect();
    assert_eq!(
        keys,
        [
            "org_id",
            "subscription_state",
            "plan_version",
            "capabilities",
            "limits",
            "meters_enabled",
            "trial_started_at",
            "trial_ends_at",
            "grace_ends_at",
            "updated_at",
            "etag"
        ]
    );
    assert!(text.contains(r#""trial_started_at": "2030-01-01T00:00:00Z""#), "{text}");
    assert!(text.contains(r#""grace_ends_at": null"#) && text.ends_with("}\n"), "{text}");
    assert_eq!(Document::parse(text.as_bytes(), &org()), Ok(state));
}

#[test]
fn a_hand_written_file_may_leave_out_times_and_etag_and_nothing_else() {
    let least = r#"{"org_id":"acme","subscription_state":"active","plan_version":"pro",
        "capabilities":["b","a"],"limits":{"hosts":-1},"meters_enabled":[]}"#;
    let state = Document::parse(least.as_bytes(), &org()).unwrap();
    assert_eq!((state.subscription_state, state.trial_ends_at), (Active, None));

    for (from, to, says) in [
        ("\"active\"", "\"paid\"", "unknown variant `paid`, expected one of `trial`"),
        ("\"pro\"", "\"a plan\"", "must be 1 to 64 letters"),
        ("\"capabilities\"", "\"capabilites\"", "unknown field `capabilites`"),
        ("-1", "-2", "limits must be 0 or more, or -1"),
        ("\"acme\"", "\"other\"", "org_id is other, but this is the folder of acme"),
        ("\"acme\"", "\"../acme\"", "org_id"),
        ("{\"hosts\":-1}", "[]", "invalid type: sequence"),
        ("]}", "", "EOF"),
    ] {
        let broken = least.replacen(from, to, 1);
        let problem = Document::parse(broken.as_bytes(), &org()).unwrap_err();
        assert!(problem.contains(says), "{broken}: {problem}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(&bytes, &org());
    }
}
