//! An embedded installation with ten thousand tenants, moved into PostgreSQL, compared, and serving.

use std::{fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use pulse_billing_state::domain::{Author, Document, Key, Plans, Write, trial};
use pulse_entitlements::Catalog;
use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{GetEntitlementsRequest, SubscriptionState};
use pulse_store::audit::{AuditDraft, Salt, seal, sqlite::append};
use pulse_testkit::{
    Postgres, eventually,
    system::{System, tools::Printed},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{PASSWORD, SOON};

/// Besides those that signed up.
const TENANTS: usize = 10_000;

/// When they came.
const START: Timestamp = Timestamp::constant(1_790_000_000, 123_456_000);

fn id(number: usize) -> OrgId {
    OrgId::parse(&format!("bulk-{number:05}")).unwrap()
}

fn draft(org_id: OrgId, action: &str, number: usize) -> AuditDraft {
    AuditDraft {
        org_id,
        at: START,
        actor: "service:test".to_owned(),
        action: action.to_owned(),
        reason: None,
        before: None,
        after: Some(json!({ "number": number, "share": 0.1 })),
        request_id: None,
    }
}

fn salt(number: usize) -> Salt {
    let mut salt = [7; 16];
    salt[..8].copy_from_slice(&number.to_be_bytes());
    Salt(salt)
}

/// Runs statements on a database of a system that is not running, with the number of tenants for ?1 and the start for ?2; then adds
/// these records to the chain of each tenant.
async fn fill(file: &Path, statements: &[&'static str], records: &[&str]) {
    let options = SqliteConnectOptions::new().filename(file).foreign_keys(true);
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let mut transaction = db.begin().await.unwrap();
    for statement in statements {
        let statement = sqlx::query(*statement).bind(i64::try_from(TENANTS).unwrap());
        statement.bind(START.as_microsecond()).execute(&mut *transaction).await.unwrap();
    }
    for number in 0..TENANTS {
        for action in records {
            append(&mut transaction, draft(id(number), action, number), salt(number)).await.unwrap();
        }
    }
    transaction.commit().await.unwrap();
    db.close().await.unwrap();
}

const NUMBERS: &str = "CREATE TEMP TABLE numbers AS
    WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < ?1 - 1)
    SELECT n, printf('bulk-%05d', n) AS id, printf('0198c0de-0000-7000-8000-%012d', n) AS user_id,
           printf('bulk-%05d@example.com', n) AS email, ?2 AS at FROM n";

/// Adds the tenants to what a few real ones have left in the folder.
async fn add_tenants(data: &Path) {
    let organizations = [
        NUMBERS,
        "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
                                    created_at, updated_at, version)
         SELECT id, 'Bulk ' || n, user_id, email, email, 'provisioning', at, at, 1 FROM numbers
         WHERE ?1 > 0 AND ?2 > 0",
        "UPDATE organizations SET status = 'active', updated_at = ?2 + 1, version = 2
         WHERE id GLOB 'bulk-*' AND ?1 > 0",
        "UPDATE organizations SET status = 'suspended', suspended_at = ?2 + 2, suspend_reason = 'unpaid',
                                  updated_at = ?2 + 2, version = 3
         WHERE id GLOB 'bulk-*7' AND ?1 > 0",
    ];
    fill(&data.join("lifecycle.db"), &organizations, &["organization_created", "organization_activated"])
        .await;
    // Everyone has the password of the first who signed up.
    let accounts = [
        NUMBERS,
        "INSERT INTO accounts SELECT user_id, id, email, email, (SELECT max(password_hash) FROM accounts), at
         FROM numbers WHERE ?1 > 0 AND ?2 > 0",
        "INSERT INTO memberships SELECT id, user_id, 'owner' FROM numbers WHERE ?1 > 0 AND ?2 > 0",
        "INSERT INTO sagas (org_id, kind, state, attempts, version, owner_user_id, trial_ends_at, created_at, updated_at)
         SELECT id, 'provision', 'done', 0, 6, user_id, at + 5, at, at FROM numbers WHERE ?1 > 0 AND ?2 > 0",
    ];
    fill(&data.join("provisioner.db"), &accounts, &["tenant_provisioned"]).await;
    let plans = Plans {
        catalog: Catalog::built_in(),
        trial: SignedDuration::from_hours(24 * 3000),
        grace: SignedDuration::from_hours(24),
    };
    for number in 0..TENANTS {
        let (org, key) = (id(number), Key::parse(&format!("saga:{number}"), "key").unwrap());
        let author = Author { actor: "service:provisioner".to_owned(), request_id: None };
        let Write { state, draft, .. } = trial::start(&org, None, &key, author, &plans, START).unwrap();
        let record = seal(None, draft, salt(number));
        let folder = data.join("orgs").join(org.as_str());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("billing.json"), Document::of(&state).to_text().unwrap()).unwrap();
        fs::write(folder.join("billing-audit.jsonl"), serde_json::to_string(&record).unwrap() + "\n")
            .unwrap();
        fs::write(folder.join("billing-audit.head"), serde_json::to_string(&record.head()).unwrap()).unwrap();
    }
}

async fn migrate(system: &System, url: &str) -> Printed {
    let data = system.data();
    system
        .own_program(
            "pulse-hosted",
            &["migrate-to-postgres", "--from", data.to_str().unwrap(), "--database-url", url],
        )
        .await
}

#[tokio::test]
async fn an_embedded_installation_moves_and_serves() {
    let mut embedded = System::all_in_one().start().await;
    let acme = embedded.new_tenant("ann@example.com", PASSWORD, "Acme").await;
    let held = embedded.new_tenant("ben@example.com", PASSWORD, "Held").await;
    let gone = embedded.new_tenant("cleo@example.com", PASSWORD, "Gone").await;
    let _ = embedded.admin().suspend(&held, "chargeback").await.expect(200);
    let paid = json!({ "subscription_state": "active", "plan_version": "pro" });
    let _ = embedded.admin().set_billing_state(&acme, paid, None).await.expect(200);
    let _ = embedded.admin().soft_delete(&gone, 0.000_000_1).await.expect(200);

    let database = Postgres::shared().await.database().await;
    let refused = migrate(&embedded, &database.url()).await;
    assert!(!refused.success && refused.stderr.contains("in use by another process"), "{refused:?}");

    let before = (
        embedded.admin().organization(&acme).await.expect(200).json(),
        embedded.admin().billing_state(&acme).await.expect(200).json(),
        embedded.admin().audit_events(&acme).await,
        embedded.admin().organization(&held).await.expect(200).json(),
    );
    let _ = embedded.stop().await;
    add_tenants(&embedded.data()).await;

    let moved = migrate(&embedded, &database.url()).await;
    let progress = moved.stderr.lines().filter(|line| line.contains(" rows copied")).count();
    assert!(progress > 30, "it says how far it is:\n{}", moved.stderr);
    let report = moved.ok();
    for expected in [
        format!("{} organizations", TENANTS + 4),
        format!("{} accounts", TENANTS + 3),
        format!("{} billing_states", TENANTS + 3),
    ] {
        assert!(report.contains(&expected), "{expected}: {report}");
    }
    assert!(report.contains("moved and compared") && !report.contains("broken"), "{report}");
    let again = migrate(&embedded, &database.url()).await.ok();
    assert_eq!(again.matches("was there already, the same").count(), 3, "{again}");

    let serving = System::all_in_one()
        .without_limits()
        .set("PULSE_DATABASE_URL", &database.url())
        .set("PULSE_REAPER_INTERVAL", "1s")
        .start()
        .await;
    let after = (
        serving.admin().organization(&acme).await.expect(200).json(),
        serving.admin().billing_state(&acme).await.expect(200).json(),
        serving.admin().audit_events(&acme).await,
        serving.admin().organization(&held).await.expect(200).json(),
    );
    assert_eq!(after, before);
    // They sign up again, and are known; one of the many as well.
    let ann = serving.signup("ann@example.com", PASSWORD, "Acme").await.expect(200).json();
    assert_eq!(ann["org_id"], Value::from(acme.clone()));
    let many = serving.signup("bulk-01234@example.com", PASSWORD, "Bulk").await.expect(200).json();
    assert_eq!(many["org_id"], "bulk-01234");
    let entitled = GetEntitlementsRequest { org_id: "bulk-04321".to_owned() };
    let entitled = serving.entitlements().get_entitlements(entitled).await.unwrap().into_inner();
    assert_eq!((entitled.subscription_state(), entitled.revision), (SubscriptionState::Trial, 1));
    // They are counted, those that are suspended are not, and new ones come.
    let suspended = TENANTS / 10;
    let expected = f64::from(u32::try_from(TENANTS - suspended + 1).unwrap());
    eventually(SOON, async || {
        let found = serving.metrics().await.sum("pulse_hosted_active_tenants", &[]);
        if (found - expected).abs() < 0.5 { Ok(()) } else { Err(format!("{found}, not {expected}")) }
    })
    .await;
    let page = serving.admin().get("?status=suspended&page_size=1000").await.expect(200).json();
    assert_eq!(page["organizations"].as_array().unwrap().len(), 1000);
    let _ = serving.new_tenant("dora@example.com", PASSWORD, "New").await;
    // What was on its way out goes on its way.
    eventually(SOON, async || serving.admin().organization(&gone).await.status == 404).await;

    // Whatever has changed since is not overwritten.
    let changed = migrate(&embedded, &database.url()).await;
    assert!(!changed.success, "{}", changed.stdout);
    assert!(
        changed.stderr.contains("not in the embedded store") || changed.stderr.contains("differs"),
        "{changed:?}"
    );
    let _ = serving.admin().organization(&acme).await.expect(200);
}

#[tokio::test]
async fn a_folder_without_an_installation_is_refused_by_name() {
    let system = System::all_in_one().start().await;
    let database = Postgres::shared().await.database().await;
    for (from, says) in
        [("no/such/folder", "--from: no/such/folder is not a folder"), (".", "orgs does not exist")]
    {
        let printed = system
            .own_program(
                "pulse-hosted",
                &["migrate-to-postgres", "--from", from, "--database-url", &database.url()],
            )
            .await;
        assert!(!printed.success && printed.stderr.contains(says), "{printed:?}");
    }
    let printed = system.own_program("pulse-hosted", &["migrate-to-postgres", "--from", "."]).await;
    assert!(printed.stderr.starts_with("PULSE_DATABASE_URL"), "{printed:?}");
    assert!(!system.folder().join("orgs").exists(), "nothing was made in its place");
}
