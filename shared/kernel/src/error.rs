//! The vocabulary of errors.
//!
//! A service has an error enum of its own and maps it, once and exhaustively, to an [`ApiError`]: a [`Reason`]
//! from this table and a message fit for strangers. `pulse-rpc` turns that into a gRPC status and back,
//! the edge into problem+json. Nothing else decides what an error looks like from outside.

use std::{fmt, time::Duration};

/// What kind of failure it is: the gRPC codes this system uses (google.rpc.Code).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong, whatever state the system is in.
    InvalidArgument,
    /// It is not known who is asking.
    Unauthenticated,
    /// Who is asking may not do this.
    PermissionDenied,
    /// What is asked for does not exist.
    NotFound,
    /// What is to be made exists already.
    AlreadyExists,
    /// The state of the system does not allow it.
    FailedPrecondition,
    /// Something changed meanwhile: read again, then try again.
    Aborted,
    /// A limit or the capacity is used up.
    ResourceExhausted,
    /// It took too long; it may have been done.
    DeadlineExceeded,
    /// Something that is needed does not answer; it may have been done.
    Unavailable,
    /// A stored record cannot be read.
    DataLoss,
    /// Something unexpected.
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $wire:literal, $kind:ident, $http:literal, $title:literal;)*) => {
        /// Why a request was refused: stable names that callers may branch on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $title] $(#[doc = ""] #[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in `google.rpc.ErrorInfo.reason`, such as `ORG_NOT_FOUND`.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $wire,)* } }

            /// The kind, and so the gRPC code.
            pub const fn kind(self) -> ErrorKind { match self { $(Self::$name => ErrorKind::$kind,)* } }

            /// The HTTP status of the problem+json answer.
            pub const fn http_status(self) -> u16 { match self { $(Self::$name => $http,)* } }

            /// A short summary that is the same for every occurrence (RFC 9457 section 3.1.3).
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

reasons! {
    InvalidEmail = "INVALID_EMAIL", InvalidArgument, 400, "The email address is not valid";
    WeakPassword = "WEAK_PASSWORD", InvalidArgument, 400, "The password is too weak";
    InvalidOrgName = "INVALID_ORG_NAME", InvalidArgument, 400, "The organization name is not valid";
    InvalidOrgId = "INVALID_ORG_ID", InvalidArgument, 400, "The organization id is not valid";
    InvalidSubscriptionState = "INVALID_SUBSCRIPTION_STATE", InvalidArgument, 400, "The subscription state is not valid";
    InvalidRetentionDays = "INVALID_RETENTION_DAYS", InvalidArgument, 400, "The retention is not valid";
    InvalidRequest = "INVALID_REQUEST", InvalidArgument, 400, "The request is not valid";
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, 401, "Authentication is required";
    RoleRequired = "ROLE_REQUIRED", PermissionDenied, 403, "A role is required";
    OrgSuspended = "ORG_SUSPENDED", PermissionDenied, 403, "The organization is suspended";
    OrgPendingDeletion = "ORG_PENDING_DELETION", PermissionDenied, 403, "The organization is being deleted";
    /// The subscription's state grants nothing of what was asked: expired, or suspended by billing.
    SubscriptionInactive = "SUBSCRIPTION_INACTIVE", PermissionDenied, 403, "The subscription is not active";
    /// The subscription is active but does not include the capability asked for.
    CapabilityRequired = "CAPABILITY_REQUIRED", PermissionDenied, 403, "The plan does not include this capability";
    /// The subscription is active but does not allow so many. Waiting does not help, as it would with `RESOURCE_EXHAUSTED`:
    /// callers must not repeat the request before the plan has changed or something was removed.
    LimitExceeded = "LIMIT_EXCEEDED", FailedPrecondition, 403, "The plan does not allow so many";
    OrgNotFound = "ORG_NOT_FOUND", NotFound, 404, "The organization does not exist";
    AccountNotFound = "ACCOUNT_NOT_FOUND", NotFound, 404, "The account does not exist";
    ProvisioningNotFound = "PROVISIONING_NOT_FOUND", NotFound, 404, "The provisioning does not exist";
    EmailTaken = "EMAIL_TAKEN", AlreadyExists, 409, "The email address already has an account";
    /// The id belongs, or once belonged, to another organization: ids are never used twice.
    OrgIdTaken = "ORG_ID_TAKEN", AlreadyExists, 409, "The organization id was used before";
    AlreadySuspended = "ALREADY_SUSPENDED", FailedPrecondition, 409, "The organization is already suspended";
    NotSuspended = "NOT_SUSPENDED", FailedPrecondition, 409, "The organization is not suspended";
    AlreadyPendingDeletion = "ALREADY_PENDING_DELETION", FailedPrecondition, 409, "The organization is already pending deletion";
    PendingDeletion = "PENDING_DELETION", FailedPrecondition, 409, "The organization is pending deletion";
    NotPendingDeletion = "NOT_PENDING_DELETION", FailedPrecondition, 409, "The organization is not pending deletion";
    /// The organization is still being made.
    OrgProvisioning = "ORG_PROVISIONING", FailedPrecondition, 409, "The organization is still being provisioned";
    /// The organization is past the step that the caller wants to do or undo.
    OrgNotProvisioning = "ORG_NOT_PROVISIONING", FailedPrecondition, 409, "The organization is not being provisioned";
    /// Only a saga that is stuck can be retried or abandoned by hand.
    NotStuck = "NOT_STUCK", FailedPrecondition, 409, "The provisioning is not stuck";
    /// A tenant keeps at least one owner.
    LastOwner = "LAST_OWNER", FailedPrecondition, 409, "The organization needs an owner";
    DefaultOrgImmutable = "DEFAULT_ORG_IMMUTABLE", FailedPrecondition, 400, "The default organization cannot be changed";
    EtagMismatch = "ETAG_MISMATCH", Aborted, 412, "The resource has changed";
    RateLimited = "RATE_LIMITED", ResourceExhausted, 429, "Too many requests";
    /// The service sheds load: nothing was done.
    Overloaded = "OVERLOADED", ResourceExhausted, 429, "The service is at its capacity";
    /// The server does not wait, nor remember without bound, for a watcher that does not take what it is told.
    SlowConsumer = "SLOW_CONSUMER", ResourceExhausted, 429, "The watcher does not keep up";
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, 504, "The request took too long";
    Unavailable = "UNAVAILABLE", Unavailable, 503, "The service is unavailable";
    /// A stored record cannot be read; it is named, never overwritten, and waits for an operator.
    StoredStateUnreadable = "STORED_STATE_UNREADABLE", DataLoss, 500, "A stored record cannot be read";
    Internal = "INTERNAL", Internal, 500, "Internal error";
}

impl Reason {
    /// The reason of that wire name, if there is one.
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }

    /// The `code` of a problem+json answer: the wire name in lower case.
    pub fn code(self) -> String {
        self.as_str().to_ascii_lowercase()
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name as in the request, such as `org_name`.
    pub field: String,
    /// Which rule it breaks.
    pub reason: Reason,
    /// What is accepted, without repeating the value.
    pub message: String,
}

/// The limit that a refused request ran into, for the `RateLimit` headers
/// (draft-ietf-httpapi-ratelimit-headers).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The policy's name, such as `signup`.
    pub policy: String,
    /// How many requests the window admits.
    pub limit: u32,
    /// The window, in seconds.
    pub window_seconds: u64,
}

/// A failure as the outside may see it: no cause, no secret, nothing internal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    reason: Reason,
    message: String,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
    quota: Option<Quota>,
}

impl ApiError {
    /// An error with a message for the caller.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), violations: Vec::new(), retry_after: None, quota: None }
    }

    /// An error about one field; `why` completes the sentence that begins with the field's name.
    pub fn field(reason: Reason, field: impl Into<String>, why: impl Into<String>) -> Self {
        let violation = FieldViolation { field: field.into(), reason, message: why.into() };
        Self::from_violations(vec![violation])
    }

    /// Anything unexpected. The cause belongs in the log, where the request id finds it.
    pub fn internal() -> Self {
        Self::new(Reason::Internal, "an internal error occurred; quote the request id when you report it")
    }

    /// The error for a non-empty list of violations; several kinds together are `INVALID_REQUEST`.
    pub fn from_violations(violations: Vec<FieldViolation>) -> Self {
        let reason = match violations.as_slice() {
            [first, rest @ ..] if rest.iter().all(|v| v.reason == first.reason) => first.reason,
            _ => Reason::InvalidRequest,
        };
        let message =
            violations.iter().map(|v| format!("{} {}", v.field, v.message)).collect::<Vec<_>>().join("; ");
        Self { reason, message, violations, retry_after: None, quota: None }
    }

    /// Says when a retry may succeed.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Says which limit was met.
    #[must_use]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Adds violations without changing the reason; used when an error is read from the wire.
    #[must_use]
    pub fn with_violations(mut self, violations: Vec<FieldViolation>) -> Self {
        self.violations = violations;
        self
    }

    /// The stable name of what is wrong.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Its kind, and so the gRPC code.
    pub fn kind(&self) -> ErrorKind {
        self.reason.kind()
    }

    /// What is wrong, for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The fields that are wrong; empty when it is not about fields.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.violations
    }

    /// After which time a retry may succeed, where that is known.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The limit that was met, where it was one.
    pub fn exhausted_quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// Collects what is wrong with every field, so that one answer names them all.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Keeps the value, or remembers why there is none.
    pub fn keep<T>(&mut self, parsed: Result<T, ApiError>) -> Option<T> {
        parsed.map_err(|error| self.0.extend(error.violations)).ok()
    }

    /// Remembers a violation.
    pub fn push(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), reason, message: message.into() });
    }

    /// The error that names everything collected.
    ///
    /// # Errors
    /// When anything was.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::from_violations(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn wire_names_are_unique_upper_snake_and_read_back() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{reason:?}");
            assert_eq!(Reason::from_wire(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::from_wire("NO_SUCH"), None);
    }

    #[test]
    fn one_kind_of_violation_names_itself_and_several_are_an_invalid_request() {
        let mut one = Violations::default();
        assert!(one.keep::<()>(Err(ApiError::field(Reason::InvalidEmail, "email", "is required"))).is_none());
        let error = one.finish().unwrap_err();
        assert_eq!((error.reason(), error.to_string().as_str()), (Reason::InvalidEmail, "email is required"));

        let mut two = Violations::default();
        two.push("email", Reason::InvalidEmail, "is required");
        two.push("password", Reason::WeakPassword, "is short");
        let error = two.finish().unwrap_err();
        assert_eq!((error.reason(), error.violations().len()), (Reason::InvalidRequest, 2));
        assert!(Violations::default().finish().is_ok());
    }
}
