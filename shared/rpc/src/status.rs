//! The one map between [`ApiError`] and [`tonic::Status`], both ways.
//!
//! A status carries `google.rpc.ErrorInfo` (reason, domain, request id, and the limit that was met),
//! `google.rpc.BadRequest` for fields and `google.rpc.RetryInfo` where a retry helps
//! (`google/rpc/error_details.proto`, AIP-193).

use std::{error::Error, fmt::Write as _, time::Duration};

use prost::Message;
use pulse_kernel::{ApiError, ErrorKind, FieldViolation, Quota, Reason};
use tonic::{Code, Status};
use tonic_types::pb;

use crate::{RequestContext, convert};

/// The `domain` of every `google.rpc.ErrorInfo` of this system.
pub const DOMAIN: &str = "hosted.pulse";

/// What callers are told to wait when a service is unavailable and nobody knows for how long.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// An error of a service, which knows what the outside may see of it.
pub trait ServiceError: Error {
    /// The public side of this error. Its [`Error::source`] chain is the internal one and is only logged.
    fn to_api(&self) -> ApiError;
}

impl ServiceError for ApiError {
    fn to_api(&self) -> ApiError {
        self.clone()
    }
}

/// The status that answers a failed request; logs the cause, once, where the request id finds it.
#[expect(clippy::needless_pass_by_value, reason = "made for `.map_err(reject)`")]
pub fn reject(error: impl ServiceError) -> Status {
    let api = error.to_api();
    log(&api, &error);
    to_status(&api)
}

/// Logs a failed request with the whole chain of causes: as an error what someone must look at, as a warning
/// what may pass, and what the caller did wrong only for debugging.
pub(crate) fn log(api: &ApiError, error: &dyn Error) {
    let reason = api.reason().as_str();
    let cause = chain(error);
    let context = RequestContext::current();
    let request_id = context.as_ref().map(|context| context.request_id.as_str());
    match api.kind() {
        ErrorKind::Internal | ErrorKind::DataLoss => {
            tracing::error!(request_id, reason, cause, "request failed");
        }
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => {
            tracing::warn!(request_id, reason, cause, "request failed for now");
        }
        ErrorKind::InvalidArgument
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::FailedPrecondition
        | ErrorKind::Aborted
        | ErrorKind::ResourceExhausted => {
            tracing::debug!(request_id, reason, cause, "request refused");
        }
    }
}

/// The error and its causes on one line, outermost first.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// The gRPC code of a kind of error.
pub const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status of an error, with its details and the id of the current request.
pub fn to_status(error: &ApiError) -> Status {
    to_status_as(code(error.kind()), error)
}

/// The same with another code.
pub fn to_status_as(code: Code, error: &ApiError) -> Status {
    // Nothing about an internal error leaves the process, whatever message it was made with.
    let internal = (error.kind() == ErrorKind::Internal).then(ApiError::internal);
    let error = internal.as_ref().unwrap_or(error);

    let mut details = vec![detail(ERROR_INFO, &error_info(error))];
    if !error.violations().is_empty() {
        details.push(detail(BAD_REQUEST, &bad_request(error.violations())));
    }
    if let Some(delay) = error.retry_delay() {
        details.push(detail(RETRY_INFO, &pb::RetryInfo { retry_delay: Some(convert::duration(delay)) }));
    }
    let status = pb::Status { code: code.into(), message: error.message().to_owned(), details };
    Status::with_details(code, error.message(), status.encode_to_vec().into())
}

fn detail(type_url: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

fn error_info(error: &ApiError) -> pb::ErrorInfo {
    let mut info = pb::ErrorInfo {
        reason: error.reason().as_str().to_owned(),
        domain: DOMAIN.to_owned(),
        ..pb::ErrorInfo::default()
    };
    if let Some(id) = RequestContext::with(|context| context.request_id.to_string()) {
        info.metadata.insert("request_id".to_owned(), id);
    }
    if let Some(quota) = error.exhausted_quota() {
        info.metadata.insert("policy".to_owned(), quota.policy.clone());
        info.metadata.insert("limit".to_owned(), quota.limit.to_string());
        info.metadata.insert("window".to_owned(), quota.window_seconds.to_string());
    }
    info
}

fn bad_request(violations: &[FieldViolation]) -> pb::BadRequest {
    let field_violations = violations.iter().map(|violation| pb::bad_request::FieldViolation {
        field: violation.field.clone(),
        description: violation.message.clone(),
        reason: violation.reason.as_str().to_owned(),
        localized_message: None,
    });
    pb::BadRequest { field_violations: field_violations.collect() }
}

/// What a failed call to another service means for the caller of this one.
///
/// A peer's own reason is kept when it belongs to its code. A peer that could not be reached, did not answer in
/// time or was cut off is [`Reason::Unavailable`], with a delay to retry after. A peer's internal error stays
/// one here, without the peer's words.
pub fn from_status(status: &Status) -> ApiError {
    let details = Details::read(status);
    let known = details.reason.filter(|reason| code(reason.kind()) == status.code());
    let reason = known.unwrap_or_else(|| reason_of(status.code()));
    match reason {
        Reason::Internal => ApiError::internal(),
        Reason::Unavailable | Reason::DeadlineExceeded => {
            // Words of the transport name addresses; only those of a peer's own error are fit for the outside.
            let message = match known {
                Some(Reason::Unavailable) => status.message(),
                _ => "a service that this request needs did not answer; try again",
            };
            let delay = details.retry_after.unwrap_or(DEFAULT_RETRY);
            ApiError::new(Reason::Unavailable, message).retry_after(delay)
        }
        reason => details.add_to(ApiError::new(reason, status.message())),
    }
}

/// The reason for a status without one that this version knows.
fn reason_of(code: Code) -> Reason {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidRequest,
        Code::Unauthenticated => Reason::Unauthenticated,
        Code::PermissionDenied => Reason::RoleRequired,
        Code::Aborted => Reason::EtagMismatch,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => Reason::Unavailable,
        Code::DataLoss => Reason::StoredStateUnreadable,
        // What does not exist, exists or is in the way can only be said by a reason.
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal => Reason::Internal,
    }
}

/// The request id that a failed peer answered with.
pub fn request_id_of(status: &Status) -> Option<String> {
    Details::read(status).request_id
}

/// The details of a status that this system uses; whatever is missing or malformed is left out.
#[derive(Default)]
struct Details {
    reason: Option<Reason>,
    request_id: Option<String>,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
    quota: Option<Quota>,
}

impl Details {
    fn read(status: &Status) -> Self {
        let mut read = Self::default();
        let Ok(decoded) = pb::Status::decode(status.details()) else { return read };
        for detail in decoded.details {
            let value = detail.value.as_slice();
            match detail.type_url.as_str() {
                ERROR_INFO => read.error_info(pb::ErrorInfo::decode(value).unwrap_or_default()),
                BAD_REQUEST => read.bad_request(pb::BadRequest::decode(value).unwrap_or_default()),
                RETRY_INFO => {
                    let delay = pb::RetryInfo::decode(value).unwrap_or_default().retry_delay;
                    read.retry_after = delay.and_then(|delay| Duration::try_from(delay).ok());
                }
                _ => {}
            }
        }
        read
    }

    fn error_info(&mut self, mut info: pb::ErrorInfo) {
        if info.domain != DOMAIN {
            return;
        }
        self.reason = Reason::from_wire(&info.reason);
        self.request_id = info.metadata.remove("request_id");
        if let (Some(policy), Some(limit), Some(window)) =
            (info.metadata.remove("policy"), info.metadata.get("limit"), info.metadata.get("window"))
            && let (Ok(limit), Ok(window_seconds)) = (limit.parse(), window.parse())
        {
            self.quota = Some(Quota { policy, limit, window_seconds });
        }
    }

    fn bad_request(&mut self, bad: pb::BadRequest) {
        let violations = bad.field_violations.into_iter().map(|violation| FieldViolation {
            field: violation.field,
            reason: Reason::from_wire(&violation.reason).unwrap_or(Reason::InvalidRequest),
            message: violation.description,
        });
        self.violations.extend(violations);
    }

    fn add_to(self, error: ApiError) -> ApiError {
        let error = error.with_violations(self.violations);
        let error = self.retry_after.into_iter().fold(error, ApiError::retry_after);
        self.quota.into_iter().fold(error, ApiError::quota)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RequestId;

    fn reasons() -> impl Strategy<Value = Reason> {
        prop::sample::select(Reason::ALL)
    }

    fn errors() -> impl Strategy<Value = ApiError> {
        let violation = ("[a-z_]{1,12}", reasons(), "\\PC{0,20}")
            .prop_map(|(field, reason, message)| FieldViolation { field, reason, message });
        let quota = ("[a-z]{1,8}", any::<u32>(), any::<u64>())
            .prop_map(|(policy, limit, window_seconds)| Quota { policy, limit, window_seconds });
        let delay = (0..100_000_u64, 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s, n));
        (
            reasons(),
            "\\PC{0,40}",
            prop::collection::vec(violation, 0..4),
            prop::option::of(quota),
            prop::option::of(delay),
        )
            .prop_map(|(reason, message, violations, quota, delay)| {
                let error = ApiError::new(reason, message).with_violations(violations);
                let error = quota.into_iter().fold(error, ApiError::quota);
                delay.into_iter().fold(error, ApiError::retry_after)
            })
    }

    proptest! {
        #[test]
        fn every_error_crosses_the_wire(error in errors()) {
            let status = to_status(&error);
            prop_assert_eq!(status.code(), code(error.kind()));
            let back = from_status(&status);
            match error.reason() {
                Reason::Internal => prop_assert_eq!(back, ApiError::internal()),
                Reason::Unavailable | Reason::DeadlineExceeded => {
                    prop_assert_eq!(back.reason(), Reason::Unavailable);
                    prop_assert_eq!(back.retry_delay(), Some(error.retry_delay().unwrap_or(DEFAULT_RETRY)));
                }
                _ => prop_assert_eq!(back, error),
            }
        }

        #[test]
        fn garbage_in_the_details_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), code in 0..17_i32) {
            let status = Status::with_details(Code::from_i32(code), "m", bytes.into());
            let _ = from_status(&status);
        }
    }

    #[test]
    fn a_reason_that_contradicts_its_code_or_comes_from_elsewhere_is_not_believed() {
        let foreign = |domain: &str, reason: &str, code: Code| {
            let (reason, domain) = (reason.into(), domain.into());
            let info = pb::ErrorInfo { reason, domain, ..pb::ErrorInfo::default() };
            let details = vec![detail(ERROR_INFO, &info)];
            let status = pb::Status { code: code.into(), message: String::new(), details };
            from_status(&Status::with_details(code, "", status.encode_to_vec().into())).reason()
        };
        assert_eq!(foreign(DOMAIN, "ORG_NOT_FOUND", Code::NotFound), Reason::OrgNotFound);
        assert_eq!(foreign(DOMAIN, "ORG_NOT_FOUND", Code::InvalidArgument), Reason::InvalidRequest);
        assert_eq!(foreign("elsewhere", "ORG_NOT_FOUND", Code::NotFound), Reason::Internal);
        assert_eq!(foreign(DOMAIN, "MADE_TOMORROW", Code::PermissionDenied), Reason::RoleRequired);
    }

    #[test]
    fn an_unreachable_peer_is_unavailable_and_its_address_stays_here() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
            let error = from_status(&Status::new(code, "tcp connect error: 10.0.0.7:50052"));
            assert_eq!(error.reason(), Reason::Unavailable);
            assert!(error.retry_delay().is_some());
            assert!(!error.message().contains("10.0.0.7"), "{error}");
        }
    }

    #[test]
    fn the_message_of_an_internal_error_does_not_leave() {
        let status = to_status(&ApiError::new(Reason::Internal, "table users is locked"));
        assert!(!format!("{status:?}").contains("users"));
        assert!(!from_status(&Status::internal("table users")).message().contains("users"));
    }

    /// What `reject` logs for `error`, at any level.
    fn logged(error: impl ServiceError) -> String {
        let (read, written) = std::io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(std::sync::Mutex::new(written))
            .finish();
        let request_id = RequestId::accept(&http::HeaderValue::from_static("req-7")).unwrap();
        let context = RequestContext { request_id, deadline: None };
        tracing::subscriber::with_default(subscriber, || context.sync_scope(|| reject(error)));
        std::io::read_to_string(read).unwrap()
    }

    #[test]
    fn a_failure_is_logged_once_with_its_causes_at_the_level_it_deserves() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Failure(#[source] std::io::Error, Reason);
        impl ServiceError for Failure {
            fn to_api(&self) -> ApiError {
                ApiError::new(self.1, "what the caller sees")
            }
        }
        for (reason, level) in [
            (Reason::Internal, "ERROR"),
            (Reason::StoredStateUnreadable, "ERROR"),
            (Reason::Unavailable, "WARN"),
            (Reason::OrgNotFound, "DEBUG"),
            (Reason::RateLimited, "DEBUG"),
        ] {
            let log = logged(Failure(std::io::Error::other("inner"), reason));
            assert_eq!(log.lines().count(), 1, "{log}");
            for part in [level, "outer: inner", "req-7", reason.as_str()] {
                assert!(log.contains(part), "{reason:?}: {log}");
            }
        }
    }

    #[test]
    fn the_cause_chain_reads_outermost_first() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
    }
}
