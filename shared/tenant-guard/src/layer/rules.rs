//! Whose request it is, who is let through, and which route requires what.

use std::{collections::HashMap, fmt, sync::Arc};

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Uri};
use pulse_kernel::{ApiError, OrgId, Reason};

use super::Door;
use crate::{Guard, Requirement, Verdict};

/// The header, and metadata key, that names the tenant of a request.
pub const ORG_ID_HEADER: &str = "x-pulse-org-id";

/// The same, ready to be looked up.
const ORG_ID: HeaderName = HeaderName::from_static(ORG_ID_HEADER);

/// A request but for its body: what there is to tell whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, and what comes after it.
    pub uri: &'a Uri,
    /// The headers, or metadata.
    pub headers: &'a HeaderMap,
    /// What layers before this one have put there, such as a session.
    pub extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    pub(super) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// The text of the header that names the tenant.
    ///
    /// # Errors
    /// `INVALID_ORG_ID` when there is none, or more than one: nobody can say then which of them others have looked at.
    pub fn org_id_header(&self) -> Result<&'a str, ApiError> {
        let invalid = |why| ApiError::field(Reason::InvalidOrgId, ORG_ID_HEADER, why);
        let mut values = self.headers.get_all(ORG_ID).iter();
        match (values.next(), values.next()) {
            (None, _) => Err(invalid("is required")),
            (Some(value), None) => value.to_str().map_err(|_| invalid("must be an organization id")),
            (Some(_), Some(_)) => Err(invalid("must be given once")),
        }
    }
}

/// Finds the tenant of a request.
type FindTenant = dyn Fn(&Head<'_>) -> Result<OrgId, ApiError> + Send + Sync;

/// Tells whether a request is an operator's.
type IsOperator = dyn Fn(&Head<'_>) -> bool + Send + Sync;

/// Where the tenant is named.
#[derive(Clone)]
pub(super) enum TenantFrom {
    /// In [`ORG_ID_HEADER`].
    Header,
    /// Where the caller's own code finds it.
    Caller(Arc<FindTenant>),
}

/// What is done with requests of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Only tenants that meet this get in.
    Requires(Requirement<'static>),
    /// Everybody gets in.
    Open,
    /// Nobody gets in: the route was forgotten.
    Unlisted,
}

/// The rules of one route.
#[derive(Debug, Clone, Default)]
struct Route {
    by_method: Vec<(Method, Rule)>,
    otherwise: Option<Rule>,
}

impl Route {
    /// The rule for requests with that method, if there is one.
    fn rule(&self, method: &Method) -> Option<Rule> {
        let own = |method: &Method| self.by_method.iter().find(|(of, _)| of == method).map(|(_, rule)| *rule);
        let as_get = || if *method == Method::HEAD { own(&Method::GET) } else { None };
        own(method).or_else(as_get).or(self.otherwise)
    }
}

/// The rules of one layer.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) guard: Guard,
    pub(super) tenant: TenantFrom,
    pub(super) is_operator: Option<Arc<IsOperator>>,
    pub(super) otherwise: Rule,
    pub(super) keeps_verdict: bool,
    routes: HashMap<&'static str, Route>,
}

/// Who makes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody of the tenant, who is let in where the verdict does.
    Tenant,
    /// An operator, who is let in anyway.
    Operator,
}

/// What becomes of a request.
pub(super) enum Judged {
    /// It need not be a tenant's.
    Passed,
    /// It was at hand what its tenant may do.
    Decided(Verdict, Caller),
    /// The sources have to be asked.
    ToAsk(ToAsk),
}

/// What the sources have to be asked.
pub(super) struct ToAsk {
    pub(super) org: OrgId,
    pub(super) requirement: Requirement<'static>,
    pub(super) caller: Caller,
}

impl Rules {
    pub(super) fn new(guard: Guard) -> Self {
        let otherwise = Rule::Requires(Requirement::active());
        let (tenant, routes) = (TenantFrom::Header, HashMap::new());
        Self { guard, tenant, is_operator: None, otherwise, keeps_verdict: true, routes }
    }

    /// Takes a rule in place of any other for that route and method, or for all methods without a rule of their own.
    pub(super) fn set(&mut self, route: &'static str, method: Option<Method>, rule: Rule) {
        let route = self.routes.entry(route).or_default();
        match method {
            Some(method) => {
                route.by_method.retain(|(of, _)| *of != method);
                route.by_method.push((method, rule));
            }
            None => route.otherwise = Some(rule),
        }
    }

    /// What is done with a request.
    ///
    /// # Errors
    /// `INTERNAL` when the layer stands where routes are not known yet: what its route requires cannot be told then.
    pub(super) fn rule<D: Door>(&self, head: &Head<'_>) -> Result<Rule, ApiError> {
        if self.routes.is_empty() {
            return Ok(self.otherwise);
        }
        let Some(route) = D::route(head) else {
            tracing::error!(
                path = head.uri.path(),
                "the tenant guard does not know the route of a request: add it to the routes with \
                 `Router::route_layer`, not around the router"
            );
            return Err(ApiError::internal());
        };
        let rule = self.routes.get(route).and_then(|route| route.rule(head.method));
        Ok(rule.unwrap_or(self.otherwise))
    }

    /// What becomes of a request, as far as that takes no waiting.
    pub(super) fn judge<D: Door, B>(&self, request: &Request<B>) -> Result<Judged, ApiError> {
        let head = Head::of(request);
        let requirement = match self.rule::<D>(&head)? {
            Rule::Requires(requirement) => requirement,
            Rule::Open => return Ok(Judged::Passed),
            Rule::Unlisted => {
                tracing::error!(path = head.uri.path(), "the tenant guard has no rule for a route");
                return Err(ApiError::internal());
            }
        };
        if !self.is_operator.as_ref().is_some_and(|is_operator| is_operator(&head)) {
            return self.ask(&head, requirement, Caller::Tenant);
        }
        // Nothing that could be wrong with the tenant is in an operator's way.
        let judged =
            if self.keeps_verdict { self.ask(&head, requirement, Caller::Operator).ok() } else { None };
        Ok(judged.unwrap_or(Judged::Passed))
    }

    /// Finds the tenant, and what it may do where that is at hand.
    fn ask(
        &self,
        head: &Head<'_>,
        requirement: Requirement<'static>,
        caller: Caller,
    ) -> Result<Judged, ApiError> {
        let (org, verdict) = match &self.tenant {
            TenantFrom::Header => {
                let text = head.org_id_header()?;
                if let Some(verdict) = self.guard.find_cached(text, &requirement) {
                    return Ok(Judged::Decided(verdict, caller));
                }
                (OrgId::parse(text).map_err(named_by_header)?, None)
            }
            TenantFrom::Caller(find) => {
                let org = find(head)?;
                let verdict = self.guard.check_cached(&org, &requirement);
                (org, verdict)
            }
        };
        Ok(match verdict {
            Some(verdict) => Judged::Decided(verdict, caller),
            None => Judged::ToAsk(ToAsk { org, requirement, caller }),
        })
    }

    /// Lets the request in, with the verdict.
    ///
    /// # Errors
    /// What the verdict says against it, unless it is an operator's.
    pub(super) fn admit<B>(
        &self,
        verdict: Verdict,
        caller: Caller,
        request: &mut Request<B>,
    ) -> Result<(), ApiError> {
        let verdict = match caller {
            Caller::Tenant => verdict.into_result()?,
            Caller::Operator => verdict,
        };
        if self.keeps_verdict {
            request.extensions_mut().insert(verdict);
        }
        Ok(())
    }
}

/// The same error, with the name that the caller knows the field by.
fn named_by_header(error: ApiError) -> ApiError {
    let Some(violation) = error.violations().first() else { return error };
    ApiError::field(error.reason(), ORG_ID_HEADER, violation.message.clone())
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("otherwise", &self.otherwise)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}
