//! The document describes exactly what is served.

use std::{collections::BTreeSet, net::SocketAddr};

use serde_json::{Value, json};

use crate::{
    client::{Request, request},
    internal_fakes::pro,
    support::{ADMIN, Edge, Setup},
};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

async fn document(addr: SocketAddr) -> Value {
    let answer = request(addr, "GET", "/api/openapi.json").send().await;
    let answer = if answer.status == 401 {
        request(addr, "GET", "/api/openapi.json").bearer(ADMIN).send().await
    } else {
        answer
    };
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let methods = |(path, item): (&String, &Value)| {
        let item = item.as_object().expect("a path item").clone();
        let path = path.clone();
        item.into_iter()
            .filter(|(key, _)| METHODS.contains(&key.as_str()))
            .map(move |(method, _)| (method, path.clone()))
    };
    paths.iter().flat_map(methods).collect()
}

fn set(routes: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    routes.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect()
}

const COMMON: [(&str, &str); 3] = [("get", "/livez"), ("get", "/readyz"), ("get", "/api/openapi.json")];
const PUBLIC: [(&str, &str); 1] = [("post", "/api/public/signup")];
const ADMIN_ROUTES: [(&str, &str); 11] = [
    ("get", "/api/admin/orgs"),
    ("get", "/api/admin/orgs/{id}"),
    ("delete", "/api/admin/orgs/{id}"),
    ("get", "/api/admin/orgs/{id}/billing-state"),
    ("put", "/api/admin/orgs/{id}/billing-state"),
    ("post", "/api/admin/orgs/{id}/suspend"),
    ("post", "/api/admin/orgs/{id}/unsuspend"),
    ("post", "/api/admin/orgs/{id}/soft-delete"),
    ("delete", "/api/admin/orgs/{id}/soft-delete"),
    ("post", "/api/admin/orgs/{id}/restore"),
    ("get", "/api/admin/orgs/{id}/audit-events"),
];

const INTERNAL: [(&str, &str); 3] = [
    ("get", "/api/internal/authz"),
    ("post", "/ofrep/v1/evaluate/flags"),
    ("post", "/ofrep/v1/evaluate/flags/{key}"),
];

#[tokio::test]
async fn each_listener_describes_what_it_serves_and_nothing_else() {
    let hosted = Edge::start().await;
    let admin = hosted.admin.expect("an admin listener");
    assert_eq!(operations(&document(hosted.public).await), set(&[&COMMON[..], &PUBLIC].concat()));
    assert_eq!(operations(&document(admin).await), set(&[&COMMON[..], &ADMIN_ROUTES].concat()));
    assert_eq!(operations(&document(hosted.internal).await), set(&[&COMMON[..], &INTERNAL].concat()));
    let shared = Edge::with(Setup { shared: true, ..Setup::default() }).await;
    let everything = [&COMMON[..], &PUBLIC, &ADMIN_ROUTES].concat();
    assert_eq!(operations(&document(shared.public).await), set(&everything));
    let off = Edge::with(Setup { hosted_off: true, ..Setup::default() }).await;
    assert_eq!(operations(&document(off.internal).await), set(&[&COMMON[..], &INTERNAL].concat()));
    let document = document(off.public).await;
    assert_eq!(operations(&document), set(&COMMON));
    assert!(
        !document.to_string().contains("signup") && !document.to_string().contains("admin"),
        "{document}"
    );
}

#[tokio::test]
async fn every_documented_operation_is_served_and_every_other_method_is_not() {
    let edge = Edge::start().await;
    for addr in [edge.public, edge.admin.expect("an admin listener"), edge.internal] {
        let documented = operations(&document(addr).await);
        let paths: BTreeSet<_> = documented.iter().map(|(_, path)| path.clone()).collect();
        // A gateway may ask with any method.
        for path in paths.into_iter().filter(|path| path != "/api/internal/authz") {
            for method in METHODS {
                let answer = send(request(addr, &method.to_uppercase(), &path.replace("{id}", "acme"))).await;
                let head_of_get = method == "head" && documented.contains(&("get".to_owned(), path.clone()));
                let served = documented.contains(&(method.to_owned(), path.clone())) || head_of_get;
                assert_eq!(served, !matches!(answer, 404 | 405), "{method} {path}: {answer}");
            }
        }
    }
}

async fn send(request: Request) -> u16 {
    request.bearer(ADMIN).send().await.status
}

#[tokio::test]
async fn the_documents_are_openapi_3_1_and_hang_together() {
    let shared = Edge::with(Setup { shared: true, ..Setup::default() }).await;
    for addr in [shared.public, shared.internal] {
        hangs_together(&document(addr).await);
    }
}

#[track_caller]
fn hangs_together(document: &Value) {
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{document}");
    assert_eq!(document["info"]["title"], "Pulse Hosted");
    let mut references = BTreeSet::new();
    collect_references(document, &mut references);
    for reference in &references {
        let pointer = reference.strip_prefix('#').expect("references within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for name in schemas.keys() {
        assert!(references.contains(&format!("#/components/schemas/{name}")), "{name} is used by nothing");
    }
    let ids: Vec<_> =
        each_operation(document).map(|(_, _, operation)| operation["operationId"].clone()).collect();
    assert_eq!(ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn every_operation_says_how_it_can_fail() {
    let shared = Edge::with(Setup { shared: true, ..Setup::default() }).await;
    let document = document(shared.public).await;
    assert_eq!(document["components"]["securitySchemes"]["operator"]["scheme"], "bearer");
    for (method, path, operation) in each_operation(&document) {
        let responses = operation["responses"].as_object().expect("responses");
        let mut expected = vec!["200", "500"];
        if path.starts_with("/api/") {
            expected.extend(["429", "503"]);
        }
        if path.starts_with("/api/admin") {
            expected.extend(["400", "401", "403"]);
            assert_eq!(operation["security"], json!([{"operator": []}]), "{method} {path}");
        } else {
            assert_eq!(operation.get("security"), None, "{method} {path}");
        }
        if path.contains("{id}") {
            expected.push("404");
        }
        if operation.get("requestBody").is_some() {
            expected.extend(["400", "408", "413", "415"]);
        }
        for status in expected {
            assert!(responses.contains_key(status), "{method} {path} does not say {status}");
        }
        for (status, response) in responses {
            assert!(response["headers"]["x-request-id"].is_object(), "{method} {path} {status}");
            assert!(
                response["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} {status}"
            );
            let media_type =
                if status.starts_with('2') { "application/json" } else { "application/problem+json" };
            assert!(
                response["content"][media_type]["schema"].is_object(),
                "{method} {path} {status}: {response}"
            );
            assert_eq!(
                response["content"].as_object().map(serde_json::Map::len),
                Some(1),
                "{method} {path} {status}"
            );
        }
        if let Some(limited) = responses.get("429") {
            for header in ["Retry-After", "RateLimit-Policy", "RateLimit"] {
                assert!(limited["headers"][header].is_object(), "{method} {path}: {header}");
            }
        }
    }
    let conflict = &document["paths"]["/api/admin/orgs/{id}/suspend"]["post"]["responses"]["409"];
    assert!(conflict["description"].as_str().unwrap().contains("already_suspended"));
    let etag = &document["paths"]["/api/admin/orgs/{id}"]["get"]["responses"]["200"]["headers"]["ETag"];
    assert!(etag.is_object());
}

#[tokio::test]
async fn what_decides_says_how_it_can_fail_in_the_words_of_its_protocol() {
    let edge = Edge::start().await;
    let document = document(edge.internal).await;
    let responses = |method: &str, path: &str| {
        document["paths"][path][method]["responses"].as_object().expect("responses").clone()
    };
    let statuses = |method: &str, path: &str| {
        responses(method, path).keys().map(|status| status.parse().expect("a status")).collect::<Vec<u16>>()
    };
    assert_eq!(statuses("get", "/api/internal/authz"), [200, 400, 403, 429, 500, 503]);
    assert_eq!(statuses("post", "/ofrep/v1/evaluate/flags"), [200, 304, 400, 408, 413, 415, 429, 500, 503]);
    assert_eq!(
        statuses("post", "/ofrep/v1/evaluate/flags/{key}"),
        [200, 400, 404, 408, 413, 415, 429, 500, 503]
    );
    let authz = responses("get", "/api/internal/authz");
    assert!(authz["403"]["content"]["application/problem+json"].is_object());
    assert!(authz["403"]["headers"]["x-pulse-deny-reason"].is_object());
    for path in ["/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/{key}"] {
        let responses = responses("post", path);
        let failure = &responses["400"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(failure, "#/components/schemas/EvaluationFailure", "{responses:?}");
        assert_eq!(responses["400"]["content"].as_object().map(serde_json::Map::len), Some(1));
        assert!(responses["503"]["content"]["application/problem+json"].is_object());
        assert!(responses["429"]["headers"].get("RateLimit").is_none(), "nobody is limited here");
    }
}

#[tokio::test]
async fn answers_have_exactly_the_keys_of_their_schemas() {
    let edge = Edge::start().await;
    edge.world.record("lifecycle", 1);
    let (public, admin) = (document(edge.public).await, document(edge.admin.unwrap()).await);
    let signup =
        json!({"email": "ann@example.com", "password": "orbit-lantern-72-quartz", "org_name": "Acme"});
    let answer = edge.public("POST", "/api/public/signup").json(&signup).send().await.json();
    assert_keys(&public, "SignUpAnswer", &answer);
    let problem = edge.public("POST", "/api/public/signup").json(&json!({})).send().await.json();
    assert_keys(&public, "Problem", &problem);
    assert_keys(&public, "FieldError", &problem["errors"][0]);
    assert_keys(&admin, "Organization", &edge.get("/api/admin/orgs/acme").await.json());
    assert_keys(&admin, "BillingState", &edge.get("/api/admin/orgs/acme/billing-state").await.json());
    assert_keys(&admin, "OrganizationPage", &edge.get("/api/admin/orgs").await.json());
    let events = edge.get("/api/admin/orgs/acme/audit-events").await.json();
    assert_keys(&admin, "AuditEventPage", &events);
    assert_keys(&admin, "AuditEvent", &events["audit_events"][0]);

    let internal = document(edge.internal).await;
    let evaluate = async |path: &str, body: &Value| {
        let post = edge.internal("POST", &format!("/ofrep/v1/evaluate/flags{path}"));
        post.json(body).send().await.json()
    };
    edge.world.store_billing(pro("acme"));
    let context = json!({"context": {"targetingKey": "acme"}});
    let flag = evaluate("/alerting", &context).await;
    assert_keys(&internal, "Flag", &flag);
    assert_keys(&internal, "FlagMetadata", &flag["metadata"]);
    assert_keys(&internal, "BulkEvaluation", &evaluate("", &context).await);
    assert_keys(&internal, "EvaluationFailure", &evaluate("", &json!({})).await);
    assert_keys(&internal, "EvaluationFailure", &evaluate("/flying", &context).await);
}

#[tokio::test]
async fn bodies_take_exactly_the_fields_of_their_schemas() {
    let shared = Edge::with(Setup {
        shared: true,
        flags: vec!["--request-limit-per-minute", "1000"],
        ..Setup::default()
    })
    .await;
    let document = document(shared.public).await;
    for (method, path, operation) in
        each_operation(&document).filter(|(_, _, op)| op.get("requestBody").is_some())
    {
        let mut references = BTreeSet::new();
        collect_references(&operation["requestBody"], &mut references);
        let [reference] = &references.into_iter().collect::<Vec<_>>()[..] else { panic!("{operation}") };
        let schema = document.pointer(&reference[1..]).expect("a schema");
        assert_eq!(schema["additionalProperties"], json!(false), "{reference}");
        let properties = schema["properties"].as_object().expect("properties");
        // Of no type that any field has: each known field is refused for that, and only an unknown one as such.
        let mut body: serde_json::Map<_, _> =
            properties.keys().map(|name| (name.clone(), json!([[]]))).collect();
        body.insert("no_such_field".to_owned(), json!(1));
        let request =
            request(shared.public, &method.to_uppercase(), &path.replace("{id}", "acme")).bearer(ADMIN);
        let problem = request.json(&Value::Object(body)).send().await.problem(400, "invalid_request");
        let errors = problem["errors"].as_array().expect("errors");
        let of_message = |unknown: bool| -> BTreeSet<_> {
            let is_unknown = |e: &&Value| (e["message"] == "is not a field of this request") == unknown;
            errors.iter().filter(is_unknown).map(|e| e["field"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(of_message(true), BTreeSet::from(["no_such_field".to_owned()]), "{method} {path}");
        assert_eq!(of_message(false), properties.keys().cloned().collect(), "{method} {path}");
    }
}

#[track_caller]
fn assert_keys(document: &Value, schema: &str, answer: &Value) {
    let schema = &document["components"]["schemas"][schema];
    let properties: BTreeSet<_> = schema["properties"].as_object().expect("properties").keys().collect();
    let required = schema["required"].as_array().expect("required").iter().map(|name| name.as_str().unwrap());
    let keys = answer.as_object().unwrap_or_else(|| panic!("{answer}"));
    for name in required {
        assert!(keys.contains_key(name), "{name} is missing in {answer}");
    }
    for key in keys.keys() {
        assert!(properties.contains(key), "{key} is not in {schema}");
    }
}

fn each_operation(document: &Value) -> impl Iterator<Item = (String, String, &Value)> {
    operations(document).into_iter().map(|(method, path)| {
        let operation = &document["paths"][&path][&method];
        (method, path, operation)
    })
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.clone());
            }
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}
