//! The layer in front of a real tonic router.

use std::convert::Infallible;

use http_body::Body as _;
use pulse_kernel::Reason;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::{ServiceExt as _, util::BoxCloneService};

use super::*;

/// A gRPC service by its name, which answers with the tenant in a header.
#[derive(Clone)]
struct Hosts;

impl tonic::server::NamedService for Hosts {
    const NAME: &'static str = "acme.Hosts";
}

impl Service<Request<Body>> for Hosts {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = tonic::Request::from_http(request);
        let response = match Verdict::of(&request) {
            Ok(verdict) => {
                let mut response = Status::ok("").into_http();
                response.headers_mut().insert("org", verdict.org.as_str().parse().unwrap());
                response
            }
            Err(status) => status.into_http(),
        };
        std::future::ready(Ok(response))
    }
}

/// A server, guarded in one way or another.
type Server = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// Calls a method of it; what comes back has to be what a client of gRPC over HTTP/2 understands.
async fn call(server: &Server, method: &str, orgs: &[&str]) -> (Status, Option<String>) {
    let request = Request::post(format!("/acme.Hosts/{method}"));
    let request = orgs.iter().fold(request, |request, org| request.header(ORG_ID_HEADER, *org));
    let response = server.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.body().is_end_stream(), "the headers are trailers too");
    let status = Status::from_header_map(response.headers()).unwrap();
    (status, response.headers().get("org").map(|org| org.to_str().unwrap().to_owned()))
}

#[tokio::test]
async fn every_method_lets_in_who_meets_its_requirement_and_refuses_others_with_details() {
    let (tenant, guard) = Tenant::guard();
    let layer = GuardLayer::grpc(guard)
        .require("/acme.Hosts/Foresee", Requirement::capability("clairvoyance"))
        .require("/acme.Hosts/Add", Requirement::limit("hosts", 11))
        .open("/acme.Hosts/Ping");
    let around_the_service = Server::new(Routes::new(layer.layer(Hosts)).prepare());
    let around_the_server = Server::new(layer.layer(Routes::new(Hosts).prepare()));
    for (server, is_at_hand) in [
        (&around_the_service, true),
        (&around_the_service, false),
        (&around_the_server, true),
        (&around_the_server, false),
    ] {
        tenant.is_at_hand(is_at_hand);
        tenant.is(OrganizationStatus::Active);
        assert_eq!(call(server, "List", &["acme"]).await.1.as_deref(), Some("acme"));
        let (status, _) = call(server, "Ping", &[]).await;
        assert_eq!(status.code(), Code::Internal, "let in, to a handler that needs a verdict");
        for (method, orgs, code, reason) in [
            ("Foresee", &["acme"][..], Code::PermissionDenied, Reason::CapabilityRequired),
            ("Add", &["acme"], Code::FailedPrecondition, Reason::LimitExceeded),
            ("List", &["other"], Code::NotFound, Reason::OrgNotFound),
            ("List", &["Not an id"], Code::InvalidArgument, Reason::InvalidOrgId),
            ("List", &["acme", "other"], Code::InvalidArgument, Reason::InvalidOrgId),
            ("List", &[], Code::InvalidArgument, Reason::InvalidOrgId),
        ] {
            let (status, reached) = call(server, method, orgs).await;
            assert_eq!((status.code(), reached), (code, None), "{method} {orgs:?}");
            assert_eq!(pulse_rpc::from_status(&status).reason(), reason);
        }
        tenant.is(OrganizationStatus::Suspended);
        for method in ["List", "Foresee", "Add"] {
            let (status, reached) = call(server, method, &["acme"]).await;
            assert_eq!((status.code(), reached), (Code::PermissionDenied, None));
            let told = pulse_rpc::from_status(&status);
            assert_eq!(
                (told.reason(), told.message()),
                (Reason::OrgSuspended, "the organization is suspended")
            );
        }
    }
}

/// A service that is ready only where it was asked whether it is, as one with a limit is.
#[derive(Default)]
struct Limited {
    is_ready: bool,
}

impl Clone for Limited {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<()>> for Limited {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(mem::take(&mut self.is_ready), "called without having been asked");
        std::future::ready(Ok(Status::ok("").into_http()))
    }
}

#[tokio::test]
async fn the_service_that_is_called_is_the_one_that_was_ready() {
    let (tenant, guard) = Tenant::guard();
    let mut server = GuardLayer::grpc(guard).layer(Limited::default());
    for is_at_hand in [true, false, true] {
        tenant.is_at_hand(is_at_hand);
        let request = Request::post("/acme.Hosts/List").header(ORG_ID_HEADER, "acme").body(()).unwrap();
        let response = server.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Ok);
    }
}
