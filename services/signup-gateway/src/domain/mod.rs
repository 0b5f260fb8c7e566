//! What a signup is, what came of it, and how many a client may have. Pure: no I/O, no clock.

mod allowance;

use std::net::IpAddr;

use jiff::Timestamp;
use pulse_kernel::{
    ApiError, EmailAddress, OrgId, OrgName, Password, PasswordPolicy, Reason, UserId, Violations,
};
use secrecy::SecretString;

pub use allowance::{Allowance, Decision};

/// A signup as a stranger sent it: nothing in it is checked.
#[derive(Debug)]
pub(crate) struct RawSignUp {
    pub(crate) email: String,
    pub(crate) password: SecretString,
    pub(crate) org_name: String,
    pub(crate) client_ip: String,
}

impl RawSignUp {
    /// The address that the limits count by.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming `client_ip`: the edge always knows it, so whoever calls without it is not the edge.
    pub(crate) fn client_ip(&self) -> Result<IpAddr, ApiError> {
        self.client_ip.parse().map_err(|_| {
            ApiError::field(Reason::InvalidRequest, "client_ip", "must be the client's IPv4 or IPv6 address")
        })
    }

    /// Checks every field, so that one answer names all that is wrong.
    ///
    /// # Errors
    /// `INVALID_EMAIL`, `WEAK_PASSWORD` or `INVALID_ORG_NAME`; `INVALID_REQUEST` for several of them together.
    pub(crate) fn check(self, policy: PasswordPolicy) -> Result<SignUp, ApiError> {
        let mut violations = Violations::default();
        let email = violations.keep(EmailAddress::parse(&self.email));
        let password = violations.keep(policy.check(self.password, &self.email, &self.org_name));
        let org_name = violations.keep(OrgName::parse(&self.org_name));
        violations.finish()?;
        match (email, password, org_name) {
            (Some(email), Some(password), Some(org_name)) => Ok(SignUp { email, password, org_name }),
            _ => Err(ApiError::internal()),
        }
    }
}

/// A signup that may be tried.
#[derive(Debug)]
pub(crate) struct SignUp {
    pub(crate) email: EmailAddress,
    pub(crate) password: Password,
    pub(crate) org_name: OrgName,
}

/// What a signup led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) org_id: OrgId,
    pub(crate) user_id: UserId,
    pub(crate) origin: Origin,
    pub(crate) trial_ends_at: Option<Timestamp>,
}

/// Where the tenant came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This signup made it.
    Created,
    /// It was there before.
    Existing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(email: &str, password: &str, org_name: &str) -> RawSignUp {
        let client_ip = "192.0.2.1".to_owned();
        RawSignUp { email: email.into(), password: password.into(), org_name: org_name.into(), client_ip }
    }

    fn refused(email: &str, password: &str, org_name: &str) -> (Reason, Vec<String>) {
        let error = raw(email, password, org_name).check(PasswordPolicy::default()).unwrap_err();
        (error.reason(), error.violations().iter().map(|violation| violation.field.clone()).collect())
    }

    const GOOD: (&str, &str, &str) = ("ann@example.com", "orbit-lantern-72-quartz", "Acme, Inc.");

    #[test]
    fn a_good_one_passes() {
        let sign_up = raw(GOOD.0, GOOD.1, GOOD.2).check(PasswordPolicy::default()).unwrap();
        assert_eq!((sign_up.email.typed(), sign_up.org_name.as_str()), (GOOD.0, GOOD.2));
        assert_eq!(sign_up.password.expose_bytes(), GOOD.1.as_bytes());
    }

    #[test]
    fn one_mistake_is_named_by_its_reason_and_several_all_at_once() {
        assert_eq!(refused("ann", GOOD.1, GOOD.2), (Reason::InvalidEmail, vec!["email".into()]));
        assert_eq!(refused(GOOD.0, "password", GOOD.2), (Reason::WeakPassword, vec!["password".into()]));
        assert_eq!(refused(GOOD.0, GOOD.1, "a/b"), (Reason::InvalidOrgName, vec!["org_name".into()]));
        let all = vec!["email".into(), "password".into(), "org_name".into()];
        assert_eq!(refused("", "", ""), (Reason::InvalidRequest, all));
    }

    #[test]
    fn the_password_is_compared_with_what_was_typed_even_where_that_is_wrong() {
        let (_, fields) = refused("not an address at all", "not an address at all", GOOD.2);
        assert_eq!(fields, ["email", "password"]);
    }

    #[test]
    fn debug_shows_no_password() {
        assert!(!format!("{:?}", raw(GOOD.0, GOOD.1, GOOD.2)).contains("quartz"));
    }

    #[test]
    fn a_client_without_an_address_is_refused() {
        for text in ["", "localhost", "192.0.2.1:80", "192.0.2.256", "fe80::1%eth0", " 192.0.2.1"] {
            let sign_up = RawSignUp { client_ip: text.into(), ..raw(GOOD.0, GOOD.1, GOOD.2) };
            assert_eq!(sign_up.client_ip().unwrap_err().violations()[0].field, "client_ip", "{text:?}");
        }
    }
}
