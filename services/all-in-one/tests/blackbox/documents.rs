//! The README's commands do what it says, and the OpenAPI document describes what is served.

use std::{collections::BTreeSet, fmt::Write, fs};

use pulse_testkit::system::{
    Answer, System,
    tools::{Printed, repository},
};
use reqwest::Method;
use serde_json::Value;

/// What the shell prints after each block of commands.
const MARK: &str = "=== and next";

/// A fenced block of a Markdown document.
struct Block {
    language: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut parts = markdown.split("```");
    parts.next();
    while let (Some(block), Some(_between)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').unwrap();
        blocks.push(Block { language: language.trim().to_owned(), text: text.to_owned() });
    }
    blocks
}

/// The part of the document from that heading to the next one of its level.
fn section<'a>(markdown: &'a str, heading: &str) -> &'a str {
    let start = markdown.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rest = &markdown[start + heading.len() + 1..];
    rest.split("\n## ").next().unwrap()
}

#[tokio::test]
async fn the_tour_of_the_readme_runs_as_it_is_printed() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let before_the_tour = readme.split("\n## ").next().unwrap();
    for command in ["cargo run --release -- dev", "cargo xtask test"] {
        assert!(before_the_tour.contains(&format!("\n{command}\n")), "{command} is not at the top");
    }

    let tour = blocks(section(&readme, "## A five-minute tour"));
    let script = runs_as_printed(&tour).await;
    assert!(script.contains("curl") && script.contains("grpcurl"), "{script}");
}

#[tokio::test]
async fn the_commands_of_the_integration_page_run_as_they_are_printed() {
    let page = fs::read_to_string(repository().join("docs/integration.md")).unwrap();
    // What is in Rust is compiled with the documentation of `pulse-tenant-client`.
    let commands: Vec<Block> =
        blocks(&page).into_iter().filter(|block| !block.language.starts_with("rust")).collect();
    let script = runs_as_printed(&commands).await;
    for tool in ["grpcurl", "/api/internal/authz", "/ofrep/v1/", "python3"] {
        assert!(script.contains(tool), "{tool} is not shown: {script}");
    }
}

/// Runs the commands in a new `dev` system and compares what they print with what is shown; returns the whole script.
async fn runs_as_printed(blocks: &[Block]) -> String {
    let system = System::dev().start().await;
    // One shell for all of it, as a reader has one terminal; after each block of commands, a mark.
    let (mut script, mut shown) = (String::new(), Vec::new());
    for block in blocks {
        let commands = script.matches(MARK).count();
        match &*block.language {
            "sh" => {
                writeln!(script, "{}\necho\necho '{MARK}'", system.with_my_addresses(&block.text)).unwrap();
            }
            "json" | "text" => shown.push((commands - 1, block)),
            other => panic!("there is a block of {other:?}"),
        }
    }
    assert!(shown.len() >= 6, "what is printed is shown");

    let Printed { success, stdout, stderr } = system.shell(&script).await;
    assert!(success, "{script}\n--- printed\n{stdout}\n{stderr}");
    let printed: Vec<&str> = stdout.split(MARK).collect();
    for (commands, block) in shown {
        let really = printed[commands].trim();
        if block.language == "json" {
            let parse = |text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_alike(&parse(&block.text), &parse(really), really);
        } else {
            assert_eq!(block.text.trim(), really);
        }
    }
    script
}

/// Whether what the README shows has the form of what is printed: the same members and the same values, but for ids, times,
/// etags and what else differs each time.
#[track_caller]
fn assert_alike(shown: &Value, really: &Value, whole: &str) {
    match (shown, really) {
        (Value::Object(shown), Value::Object(really)) => {
            let names =
                |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(names(shown), names(really), "{whole}");
            for (name, value) in shown {
                let varies = name.ends_with("_id") || name.ends_with("_at") || name.ends_with("hash");
                let varies = varies
                    || ["id", "etag", "purge_after", "next_page_token", "source", "age_seconds"]
                        .contains(&&**name);
                if !varies && !name.ends_with("At") {
                    assert_alike(value, &really[name], whole);
                }
            }
        }
        (Value::Array(shown), Value::Array(really)) => {
            assert_eq!(shown.len(), really.len(), "{whole}");
            for (shown, really) in shown.iter().zip(really) {
                assert_alike(shown, really, whole);
            }
        }
        _ => assert_eq!(shown, really, "{whole}"),
    }
}

#[tokio::test]
async fn every_command_of_the_readme_outside_the_tour_is_known() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let tour = section(&readme, "## A five-minute tour");
    let outside = blocks(&readme.replace(tour, ""));
    let commands: Vec<&str> =
        outside.iter().filter(|block| block.language == "sh").flat_map(|block| block.text.lines()).collect();
    // The first starts what the tour's test starts, the second is how this test was started, most likely.
    assert_eq!(commands, ["cargo run --release -- dev", "cargo xtask test"], "no test runs the others");
}

#[tokio::test]
async fn every_setting_of_the_readme_exists_and_every_one_is_listed() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let listed = settings_in(section(&readme, "## Settings"));
    let system = System::dev().start().await;
    let mut known = BTreeSet::new();
    for program in
        ["pulse-edge", "pulse-signup-gateway", "pulse-provisioner", "pulse-billing-state", "pulse-lifecycle"]
    {
        known.extend(settings_in(&system.own_program(program, &["--help"]).await.ok()));
    }
    assert!(known.len() > 20, "{known:?}");
    let not_accepted = ["PULSE_TLS_CERT", "PULSE_TLS_KEY", "PULSE_TLS_CLIENT_CA"];
    known.retain(|name| !not_accepted.contains(&&**name));
    assert_eq!(listed, known);
}

/// The names of settings in a text.
fn settings_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with("PULSE_") && word.len() > 6).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_openapi_documents_are_valid_and_describe_what_is_served() {
    let system = System::all_in_one().without_limits().start().await;
    let always = ["GET /api/openapi.json", "GET /livez", "GET /readyz"];
    let public = ["POST /api/public/signup"];
    let admin = [
        "GET /api/admin/orgs",
        "GET /api/admin/orgs/{id}",
        "DELETE /api/admin/orgs/{id}",
        "GET /api/admin/orgs/{id}/billing-state",
        "PUT /api/admin/orgs/{id}/billing-state",
        "POST /api/admin/orgs/{id}/suspend",
        "POST /api/admin/orgs/{id}/unsuspend",
        "DELETE /api/admin/orgs/{id}/soft-delete",
        "POST /api/admin/orgs/{id}/soft-delete",
        "POST /api/admin/orgs/{id}/restore",
        "GET /api/admin/orgs/{id}/audit-events",
    ];
    let everything =
        |listener: &[&str]| always.iter().chain(listener).map(|name| (*name).to_owned()).collect();

    let described = openapi(&system, system.get("/api/openapi.json").await).await;
    assert_eq!(described, everything(&public), "the public listener");
    for operation in &described {
        let (method, path) = operation.split_once(' ').unwrap();
        let request = system.visitor().request(method.parse().unwrap(), path);
        let answer = Answer::to(request).await.unwrap();
        assert!(![404, 405].contains(&answer.status), "{operation}: {answer}");
    }

    let stranger = system.admin_with(None);
    let described = openapi(&system, stranger.send(Method::GET, "/api/openapi.json", None).await).await;
    assert_eq!(described, everything(&admin), "the admin listener");
    for operation in &described {
        let (method, path) = operation.split_once(' ').unwrap();
        let answer = stranger.send(method.parse().unwrap(), &path.replace("{id}", "default"), None).await;
        assert_eq!(
            answer.status,
            if path.starts_with("/api/admin") { 401 } else { 200 },
            "{operation}: {answer}"
        );
    }

    let internal =
        ["GET /api/internal/authz", "POST /ofrep/v1/evaluate/flags", "POST /ofrep/v1/evaluate/flags/{key}"];
    let another_service = system.visitor().at(system.internal_addr());
    let described = openapi(&system, another_service.get("/api/openapi.json").await.unwrap()).await;
    assert_eq!(described, everything(&internal), "the internal listener");
    for operation in &described {
        let (method, path) = operation.split_once(' ').unwrap();
        let request = another_service.request(method.parse().unwrap(), &path.replace("{key}", "alerting"));
        let answer = Answer::to(request).await.unwrap();
        assert!(![404, 405].contains(&answer.status), "{operation}: {answer}");
    }

    let off = System::all_in_one().not_hosted().start().await;
    let described =
        openapi(&off, off.visitor().at(off.internal_addr()).get("/api/openapi.json").await.unwrap()).await;
    assert_eq!(described, everything(&internal), "what other services ask is not only for hosting");
    let described = openapi(&off, off.get("/api/openapi.json").await).await;
    assert_eq!(described, everything(&[]), "nothing hosted outside hosted mode");
}

/// Has the document judged, and returns the operations that it describes.
async fn openapi(system: &System, document: Answer) -> BTreeSet<String> {
    let document = document.expect(200);
    assert!(document.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
    let file = system.folder().join("openapi.json");
    fs::write(&file, &document.body).unwrap();
    let judged = system.tool("openapi-spec-validator", &[file.to_str().unwrap()]).await;
    assert!(judged.success, "{}{}", judged.stdout, judged.stderr);
    let document = document.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document}");
    operations(&document)
}

fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    let methods = ["get", "put", "post", "delete", "patch", "options", "head"];
    paths
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (path, method)))
        .filter(|(_, method)| methods.contains(&&***method))
        .map(|(path, method)| format!("{} {path}", method.to_uppercase()))
        .collect()
}
