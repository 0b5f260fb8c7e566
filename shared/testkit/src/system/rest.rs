//! The REST surface, as its users see it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use super::System;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl Answer {
    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn to(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await?.to_vec() })
    }

    /// The same answer, if it has this status.
    ///
    /// # Panics
    /// When it does not; the message shows all of the answer.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert!(self.status == status, "expected {status}, got {self}");
        self
    }

    /// The same answer, if it is a problem (RFC 9457) with this status and `code`.
    ///
    /// # Panics
    /// When it is not, or when one of the members that every problem has is missing or wrong.
    #[must_use]
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        let body = answer.json();
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer}");
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{answer}");
        assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{answer}");
        for member in ["type", "title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {answer}");
        }
        answer
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// A header, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The fields that a problem names, each with its code.
    ///
    /// # Panics
    /// When it names none.
    #[track_caller]
    pub fn field_errors(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("field errors hold text").to_owned();
        let body = self.json();
        let errors = body["errors"].as_array().unwrap_or_else(|| panic!("no errors in {self}"));
        errors.iter().map(|error| (text(&error["field"]), text(&error["code"]))).collect()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// Reads a time of an answer: RFC 3339, in UTC.
///
/// # Panics
/// When it is anything else.
#[track_caller]
pub fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is not a time"));
    assert!(text.ends_with('Z'), "{text} is not in UTC");
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A stranger at the public listener. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Visitor {
    http: Client,
    base: String,
}

impl Visitor {
    /// The same stranger at another address, such as that of one process of the edge.
    #[must_use]
    pub fn at(self, addr: SocketAddr) -> Self {
        Self { base: format!("http://{addr}"), ..self }
    }

    /// A request to the public listener.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// `GET`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        Answer::to(self.request(Method::GET, path)).await
    }

    /// `POST` of some JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        Answer::to(self.request(Method::POST, path).json(body)).await
    }

    /// Signs up.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn signup(
        &self,
        email: &str,
        password: &str,
        org_name: &str,
    ) -> Result<Answer, reqwest::Error> {
        let body = json!({ "email": email, "password": password, "org_name": org_name });
        self.post("/api/public/signup", &body).await
    }
}

impl System {
    /// A stranger at the public listener, who comes from 127.0.0.1.
    pub fn visitor(&self) -> Visitor {
        Visitor { http: self.http.clone(), base: format!("http://{}", self.public_addr()) }
    }

    /// A stranger who comes from another address of this machine, such as 127.0.0.2.
    ///
    /// # Panics
    /// When there can be no client of that address.
    pub fn visitor_from(&self, client: IpAddr) -> Visitor {
        let http = Client::builder().local_address(client).build().expect("a client can be made");
        Visitor { http, ..self.visitor() }
    }

    /// `POST` of some JSON to the public listener.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.visitor().post(path, body).await.expect("the edge answers")
    }

    /// `GET` on the public listener.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.visitor().get(path).await.expect("the edge answers")
    }

    /// Signs up.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn signup(&self, email: &str, password: &str, org_name: &str) -> Answer {
        self.visitor().signup(email, password, org_name).await.expect("the edge answers")
    }

    /// Signs up a new tenant and returns its organization id.
    ///
    /// # Panics
    /// When that is not what happens.
    pub async fn new_tenant(&self, email: &str, password: &str, org_name: &str) -> String {
        let created = self.signup(email, password, org_name).await.expect(201).json();
        created["org_id"].as_str().expect("the answer names the tenant").to_owned()
    }

    /// The admin surface, for an operator who may do everything.
    pub fn admin(&self) -> Admin {
        self.admin_with(Some(&self.admin_token()))
    }

    /// The admin surface of one process of the edge, for an operator who may do everything.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn admin_at_replica(&self, replica: usize) -> Admin {
        Admin { base: format!("http://{}", self.replica_admin_addr(replica)), ..self.admin() }
    }

    /// The admin surface, for one of the standard operators.
    pub fn admin_as(&self, name: &str) -> Admin {
        self.admin_with(Some(self.operators().token(name)))
    }

    /// The admin surface with this token, or none.
    pub fn admin_with(&self, token: Option<&str>) -> Admin {
        Admin {
            http: self.http.clone(),
            base: format!("http://{}", self.admin_addr()),
            token: token.map(str::to_owned),
        }
    }
}

/// The admin REST surface, as one operator uses it.
#[derive(Debug, Clone)]
pub struct Admin {
    http: Client,
    base: String,
    token: Option<String>,
}

impl Admin {
    /// A request with this operator's token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        Answer::to(request).await.expect("the edge answers")
    }

    /// `GET` below `/api/admin/orgs`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, &format!("/api/admin/orgs{path}"), None).await
    }

    /// `POST` below `/api/admin/orgs`.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, &format!("/api/admin/orgs{path}"), Some(body)).await
    }

    /// The organization.
    pub async fn organization(&self, org_id: &str) -> Answer {
        self.get(&format!("/{org_id}")).await
    }

    /// The billing state.
    pub async fn billing_state(&self, org_id: &str) -> Answer {
        self.get(&format!("/{org_id}/billing-state")).await
    }

    /// Replaces the billing state, if it has the etag, when one is given.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn set_billing_state(&self, org_id: &str, state: Value, etag: Option<&str>) -> Answer {
        let request =
            self.request(Method::PUT, &format!("/api/admin/orgs/{org_id}/billing-state")).json(&state);
        let request = if let Some(etag) = etag { request.header("if-match", etag) } else { request };
        Answer::to(request).await.expect("the edge answers")
    }

    /// Suspends.
    pub async fn suspend(&self, org_id: &str, reason: &str) -> Answer {
        self.post(&format!("/{org_id}/suspend"), json!({ "reason": reason })).await
    }

    /// Lifts a suspension.
    pub async fn unsuspend(&self, org_id: &str) -> Answer {
        self.post(&format!("/{org_id}/unsuspend"), json!({})).await
    }

    /// Marks for deletion.
    pub async fn soft_delete(&self, org_id: &str, retention_days: f64) -> Answer {
        self.post(&format!("/{org_id}/soft-delete"), json!({ "retention_days": retention_days })).await
    }

    /// Takes a deletion back.
    pub async fn restore(&self, org_id: &str) -> Answer {
        self.post(&format!("/{org_id}/restore"), json!({})).await
    }

    /// The audit records of all services, newest first.
    ///
    /// # Panics
    /// When the answer is not a list of them.
    pub async fn audit_events(&self, org_id: &str) -> Vec<Value> {
        let page = self.get(&format!("/{org_id}/audit-events?page_size=1000")).await.expect(200).json();
        page["audit_events"].as_array().expect("a page of audit events").clone()
    }
}
