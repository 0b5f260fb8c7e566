//! What a watcher asks for.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use pulse_kernel::{ApiError, OrgId, Reason, Violations};
use pulse_proto::watch::v1::WatchMode;

/// How many tenants can be named. Whoever needs more watches all.
pub const MAX_NAMED: usize = 1000;

/// What a watcher asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    /// The tenants; none: all of them.
    pub(super) named: Option<BTreeSet<OrgId>>,
    /// Whether what there is comes first.
    pub(super) snapshot: bool,
    /// Where an earlier stream was; empty for a first one.
    pub(super) resume_token: String,
}

impl WatchRequest {
    /// What changes from now on, of every tenant.
    pub const fn changes() -> Self {
        Self { named: None, snapshot: false, resume_token: String::new() }
    }

    /// Reads the fields of a request.
    ///
    /// # Errors
    /// `INVALID_ORG_ID`, and `INVALID_REQUEST` for more than [`MAX_NAMED`] ids or a mode that does not exist. A resume token is
    /// never wrong: one that means nothing here leads to a reset.
    pub fn parse(org_ids: &[String], mode: i32, resume_token: String) -> Result<Self, ApiError> {
        let mut violations = Violations::default();
        if org_ids.len() > MAX_NAMED {
            let why = format!("must be at most {MAX_NAMED}; to watch more, name none and watch all");
            violations.push("org_ids", Reason::InvalidRequest, why);
        }
        let about_list = |error: ApiError| {
            let why = error.violations().first().map(|first| first.message.clone()).unwrap_or_default();
            ApiError::field(error.reason(), "org_ids", why)
        };
        let ids = org_ids.iter().map(|id| OrgId::parse(id)).collect::<Result<BTreeSet<_>, _>>();
        let ids = violations.keep(ids.map_err(about_list));
        let mode = violations.keep(WatchMode::try_from(mode).map_err(|_| {
            ApiError::field(Reason::InvalidRequest, "mode", "must be snapshot or changes only")
        }));
        violations.finish()?;
        let named = ids.filter(|ids| !ids.is_empty());
        let snapshot = match mode {
            Some(WatchMode::ChangesOnly) => false,
            Some(WatchMode::Snapshot | WatchMode::Unspecified) | None => true,
        };
        Ok(Self { named, snapshot, resume_token })
    }

    /// What tells tokens of these tenants from those of others. Only this process compares it.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.named.hash(&mut hasher);
        hasher.finish()
    }
}

/// A place in a hub's ring, as a watcher of certain tenants takes it along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumeToken {
    /// The hub, which lives as long as its process.
    pub(super) hub: u64,
    /// The tenants.
    pub(super) fingerprint: u64,
    /// The place of what comes next.
    pub(super) place: u64,
}

impl ResumeToken {
    pub(super) fn encode(self) -> String {
        let mut bytes = [0; 24];
        let fields = [self.hub, self.fingerprint, self.place];
        for (part, field) in bytes.chunks_exact_mut(8).zip(fields) {
            part.copy_from_slice(&field.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// None where the text is no such token.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let field = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        Some(Self { hub: field(0)?, fingerprint: field(8)?, place: field(16)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(ids: &[&str], mode: i32) -> Result<WatchRequest, ApiError> {
        let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
        WatchRequest::parse(&ids, mode, String::new())
    }

    #[test]
    fn no_names_are_all_and_no_mode_is_a_snapshot() {
        let request = parse(&[], 0).unwrap();
        assert_eq!((request.named, request.snapshot), (None, true));
        assert!(parse(&[], WatchMode::Snapshot.into()).unwrap().snapshot);
        assert!(!parse(&[], WatchMode::ChangesOnly.into()).unwrap().snapshot);
        assert_eq!(parse(&["b", "a", "b"], 0).unwrap().named.unwrap().len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (ids, mode, reason, field) in [
            (vec!["A"], 0, Reason::InvalidOrgId, "org_ids"),
            (vec!["a"], 9, Reason::InvalidRequest, "mode"),
            (vec!["a"; MAX_NAMED + 1], 0, Reason::InvalidRequest, "org_ids"),
        ] {
            let error = parse(&ids, mode).unwrap_err();
            assert_eq!((error.reason(), error.violations()[0].field.as_str()), (reason, field));
        }
    }

    #[test]
    fn the_same_tenants_have_one_fingerprint() {
        let of = |ids: &[&str]| parse(ids, 0).unwrap().fingerprint();
        assert_eq!(of(&["a", "b"]), of(&["b", "a"]));
        assert!(of(&["a"]) != of(&["a", "b"]) && of(&[]) != of(&["a"]));
    }

    proptest! {
        #[test]
        fn tokens_are_read_back_and_garbage_is_none(hub: u64, fingerprint: u64, place: u64, text in "\\PC{0,40}") {
            let token = ResumeToken { hub, fingerprint, place };
            prop_assert_eq!(ResumeToken::decode(&token.encode()), Some(token));
            if let Some(read) = ResumeToken::decode(&text) {
                prop_assert_eq!(read.encode(), text);
            }
        }
    }
}
