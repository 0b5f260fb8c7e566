//! What a newcomer sees.

use std::{fs, os::unix::fs::PermissionsExt};

use pulse_testkit::system::{Service, System};
use serde_json::Value;

/// The first line of the log that begins with `word` once its indentation is gone.
fn printed(log: &str, word: &str) -> String {
    let line = log.lines().map(str::trim).find(|line| line.starts_with(word));
    line.unwrap_or_else(|| panic!("no {word} in:\n{log}")).to_owned()
}

#[tokio::test]
async fn dev_says_where_everything_is_and_its_commands_work() {
    let system = System::dev().start().await;
    let log = system.log();

    let first_screen: Vec<&str> = log.lines().take(24).collect();
    let first_screen = first_screen.join("\n");
    let addresses = Service::ALL
        .map(|service| system.addr(service))
        .into_iter()
        .chain([system.admin_addr(), system.internal_addr()]);
    for addr in addresses {
        assert!(first_screen.contains(&addr.to_string()), "{addr} is missing:\n{log}");
    }
    assert!(first_screen.contains("data/admin-token"), "{log}");

    let created: Value = serde_json::from_str(&system.shell(&printed(&log, "curl ")).await.ok()).unwrap();
    assert_eq!(created["status"], "created", "{created}");

    let listed = system.shell(&printed(&log, "grpcurl ")).await.ok();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let organizations = listed["organizations"].as_array().unwrap();
    assert!(organizations.iter().any(|organization| organization["id"] == created["org_id"]), "{listed}");
    assert!(organizations.iter().any(|organization| organization["id"] == "default"), "{listed}");
}

#[tokio::test]
async fn the_operator_token_is_made_once_and_kept_private() {
    let mut system = System::dev().start().await;
    let file = system.data().join("admin-token");
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(token.trim().len() >= 32);

    assert_eq!(system.stop().await, [Some(0)], "a signal to stop is not a failure:\n{}", system.log());
    system.start_again().await;
    assert_eq!(fs::read_to_string(&file).unwrap(), token);
    let _ = system.admin().get("").await.expect(200);
}

#[tokio::test]
async fn dev_keeps_what_the_environment_says() {
    let system = System::dev().not_hosted().start().await;
    let _ = system.get("/api/public/signup").await.expect(404);
    assert!(!system.data().join("admin-token").exists(), "nobody needs a token");
}

#[tokio::test]
async fn five_processes_end_in_peace_and_keep_their_data() {
    let mut system = System::five_processes().start().await;
    let org_id = system.new_tenant("ann@example.com", crate::PASSWORD, "Acme").await;
    assert_eq!(system.stop().await, [Some(0); 5], "{}", system.log());
    system.start_again().await;
    let _ = system.admin().organization(&org_id).await.expect(200);
}
