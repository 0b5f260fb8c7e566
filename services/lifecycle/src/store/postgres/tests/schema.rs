//! Opening the schema, moving into it, and what it refuses whoever asks.

use futures::future::join_all;
use pulse_runtime::settings::try_parse_from;
use pulse_store::SqlErrorClass;

use super::*;
use crate::{
    Config,
    domain::Status,
    store::{SqliteStore, transfer::transfer},
};

#[test]
fn the_migration_holds_the_shared_tables_as_documented() {
    let migration = include_str!("../../../../migrations/postgres/0001_organizations.sql");
    assert!(migration.contains(audit::DDL) && migration.contains(pulse_store::postgres::feed::DDL));
}

#[tokio::test]
async fn replicas_that_start_together_on_an_empty_database_make_one_schema_and_one_default() {
    let database = Postgres::shared().await.database().await;
    let starts = (0..4).map(|_| {
        let database = database.clone();
        tokio::spawn(async move { replica(&database).await })
    });
    for store in join_all(starts).await {
        let store = store.unwrap();
        assert_eq!(organization(&store, "default").await.status, Status::Active);
        assert_eq!(store.audit_events(&OrgId::default_org(), None, 10).await.unwrap().len(), 1);
        assert_eq!(store.history(&OrgId::default_org()).await.unwrap().len(), 1);
        assert_eq!(store.counts().await.unwrap(), Counts::default());
    }
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let (store, database) = open().await;
    one_of_each(&store).await;
    let before = store.list(None, None, 10).await.unwrap();
    store.close().await;
    let store = replica(&database).await;
    assert_eq!(store.list(None, None, 10).await.unwrap(), before);
    let broken = store.db.read(Scope::EveryTenant, &(), |(), conn| {
        Box::pin(async move { Ok::<_, StoreError>(audit::verify_all(conn).await?) })
    });
    assert_eq!(broken.await.unwrap(), []);
}

#[tokio::test]
async fn the_settings_choose_the_store_and_its_schema_can_be_made_beforehand() {
    let database = Postgres::shared().await.database().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let parse = |args: &[&str]| -> Config {
        let own = ["pulse-lifecycle", "--data-dir", folder, "--database-migrate", "false"];
        try_parse_from(own.iter().chain(args)).unwrap()
    };
    let embedded = crate::open_store(&parse(&[])).await.unwrap();
    assert!(format!("{embedded:?}").starts_with("SqliteStore"), "{embedded:?}");
    let refused = crate::migrate(&parse(&["migrate"])).await.unwrap_err();
    assert!(format!("{refused:#}").contains("PULSE_DATABASE_URL"), "{refused:#}");

    let url = database.url();
    let config = parse(&["--database-url", &url, "migrate"]);
    let refused = crate::open_store(&config).await.unwrap_err();
    assert!(format!("{refused:#}").contains("roles.sql"), "{refused:#}");
    for _ in 0..2 {
        assert_eq!(crate::migrate(&config).await.unwrap(), "pulse_lifecycle is at version 1");
    }
    let shared = crate::open_store(&config).await.unwrap();
    assert!(format!("{shared:?}").starts_with("PostgresStore"), "{shared:?}");
    assert_eq!(organization(&*shared, "default").await.status, Status::Active);
}

/// Each with the organization that it is about, and the constraint that refuses it.
fn illegal() -> Vec<(&'static str, &'static str, String)> {
    let set = |org, what: &str, constraint| {
        let statement = format!("UPDATE organizations SET version = version + 1, {what} WHERE id = '{org}'");
        (org, constraint, statement)
    };
    let insert = |columns: &str, constraint| {
        let statement = format!(
            "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
             created_at, updated_at, version) VALUES ({columns})"
        );
        ("new", constraint, statement)
    };
    let plain = |org, statement: &str, constraint| (org, constraint, statement.to_owned());
    let changes = "organizations_change_legally";
    let deletion =
        "deletion_requested_at = now(), retention_days = 1, purge_after = now() + interval '1 day'";
    let no_deletion = "deletion_requested_at = NULL, retention_days = NULL, purge_after = NULL";
    vec![
        // Illegal changes of status, each with the columns that would fit it.
        set("org-provisioning", "status = 'suspended', suspended_at = now()", changes),
        set("org-suspended", "status = 'provisioning', suspended_at = NULL", changes),
        set("org-active", "status = 'provisioning'", changes),
        set(
            "org-active",
            "status = 'purging', deletion_requested_at = now(), retention_days = 1,
             purge_after = now() + interval '1 day', purging_since = now() + interval '1 day'",
            changes,
        ),
        set("org-purging", &format!("status = 'active', {no_deletion}, purging_since = NULL"), changes),
        set("org-purging", "status = 'pending_deletion', purging_since = NULL", changes),
        // A purge before its time, also by way of moving the time.
        set(
            "org-pending-deletion",
            "status = 'purging', purging_since = purge_after - interval '1 microsecond'",
            "organizations_purge_fits_status",
        ),
        set(
            "org-pending-deletion",
            "status = 'purging', purging_since = purge_after, purge_after = purge_after - interval '1 hour'",
            changes,
        ),
        // A deletion that takes a suspension along, a restoration that brings one.
        set(
            "org-suspended",
            &format!("status = 'pending_deletion', suspended_at = NULL, suspend_reason = NULL, {deletion}"),
            changes,
        ),
        set(
            "org-pending-deletion",
            &format!("status = 'suspended', suspended_at = now(), {no_deletion}"),
            changes,
        ),
        // The default organization.
        set("default", "status = 'suspended', suspended_at = now()", "organizations_default_stays_active"),
        set(
            "default",
            &format!("status = 'pending_deletion', {deletion}"),
            "organizations_default_stays_active",
        ),
        set(
            "default",
            "owner_user_id = 'x', owner_email = 'x', owner_email_canonical = 'x'",
            "organizations_only_default_has_no_owner",
        ),
        plain("default", "DELETE FROM organizations WHERE id = 'default'", "organizations_end_legally"),
        plain(
            "default",
            "INSERT INTO tombstones VALUES ('default', 'purged', now())",
            "tombstones_follow_removal",
        ),
        // Columns that contradict the status.
        set("org-active", "suspended_at = now()", "organizations_suspension_fits_status"),
        set("org-active", "suspend_reason = 'x'", "organizations_suspension_fits_status"),
        set("org-active", "purge_after = now()", "organizations_deletion_fits_status"),
        set("org-active", "purging_since = now()", "organizations_purge_fits_status"),
        set(
            "org-suspended",
            "suspended_at = NULL, suspend_reason = NULL",
            "organizations_suspension_fits_status",
        ),
        set("org-pending-deletion", "retention_days = NULL", "organizations_deletion_fits_status"),
        set("org-pending-deletion", "retention_days = 0", "organizations_retention_is_bounded"),
        set("org-pending-deletion", "retention_days = 3651", "organizations_retention_is_bounded"),
        set("org-pending-deletion", "retention_days = 'NaN'", "organizations_retention_is_bounded"),
        set(
            "org-pending-deletion",
            "purge_after = deletion_requested_at",
            "organizations_deletion_fits_status",
        ),
        set("org-pending-deletion", "purge_after = 'infinity'", "organizations_times_are_finite"),
        set("org-active", "updated_at = '-infinity'", "organizations_times_are_finite"),
        set("org-active", "status = 'unheard-of'", changes),
        set("org-active", "owner_email = NULL", "organizations_only_default_has_no_owner"),
        // What never changes, and what only counts up.
        set("org-active", "created_at = now()", changes),
        set("org-active", "id = 'renamed'", changes),
        plain("org-active", "UPDATE organizations SET updated_at = now() WHERE id = 'org-active'", changes),
        plain(
            "org-active",
            "UPDATE organizations SET version = version + 2 WHERE id = 'org-active'",
            changes,
        ),
        // Ends and beginnings out of turn.
        plain("org-active", "DELETE FROM organizations WHERE id = 'org-active'", "organizations_end_legally"),
        plain(
            "org-pending-deletion",
            "DELETE FROM organizations WHERE id = 'org-pending-deletion'",
            "organizations_end_legally",
        ),
        plain(
            "org-active",
            "INSERT INTO tombstones VALUES ('org-active', 'purged', now())",
            "tombstones_follow_removal",
        ),
        plain("*", "INSERT INTO tombstones VALUES ('*', 'purged', now())", "tombstones_id_is_well_formed"),
        plain("new", "INSERT INTO tombstones VALUES ('new', 'lost', now())", "tombstones_kind_is_known"),
        insert(
            "'new', 'New', 'u', 'n@x.org', 'n@x.org', 'active', now(), now(), 1",
            "organizations_begin_legally",
        ),
        insert(
            "'new', 'New', 'u', 'n@x.org', 'n@x.org', 'provisioning', now(), now(), 2",
            "organizations_begin_legally",
        ),
        insert(
            "'new', 'New', NULL, NULL, NULL, 'provisioning', now(), now(), 1",
            "organizations_only_default_has_no_owner",
        ),
        insert(
            "'new', 'New', 'u', 'a@x.org', 'org-active@example.com', 'provisioning', now(), now(), 1",
            "organizations_one_per_email",
        ),
        insert(
            "'New', 'New', 'u', 'n@x.org', 'n@x.org', 'provisioning', now(), now(), 1",
            "organizations_id_is_well_formed",
        ),
        insert(
            "'*', 'New', 'u', 'n@x.org', 'n@x.org', 'provisioning', now(), now(), 1",
            "organizations_id_is_well_formed",
        ),
        plain(
            "org-active",
            "INSERT INTO status_history VALUES ('org-active', 9, 'purging', 'active', now())",
            "status_history_is_legal",
        ),
        plain(
            "nowhere",
            "INSERT INTO status_history VALUES ('nowhere', 9, NULL, 'active', now())",
            "status_history_of_organizations",
        ),
        plain("org-active", "UPDATE status_counts SET active = -1", "status_counts_are_counts"),
        plain("org-active", "INSERT INTO status_counts VALUES (16)", "status_counts_sixteen_shards"),
        // A lease whose tokens begin anew, or that changes hands without a greater one.
        plain("org-active", "UPDATE leases SET token = token - 1", "leases_only_advance"),
        plain("org-active", "UPDATE leases SET owner = 'two'", "leases_only_advance"),
        plain("org-active", "UPDATE leases SET name = 'sweeper'", "leases_only_advance"),
    ]
}

#[tokio::test]
async fn rows_that_the_program_never_writes_cannot_be_written_by_anyone() {
    let (store, database) = open().await;
    one_of_each(&store).await;
    for _ in 0..2 {
        let lease = store.take_lease("reaper", "one", Duration::from_hours(1)).await.unwrap().unwrap();
        store.return_lease(&lease).await.unwrap();
    }
    let mut owner = connect_as(&database, "pulse_migrator").await;
    let mut service = connect_as(&database, "pulse_lifecycle").await;
    for (org, constraint, statement) in illegal() {
        // Ids that are none see nothing; whoever writes them has to be turned to them.
        let tenant = if statement.contains("'New', 'New'") { "New" } else { org };
        let tenant = if statement.contains("('*'") { "*" } else { tenant };
        let refused = attempt(&mut owner, tenant, &statement).await.expect_err(&statement);
        assert_eq!(refusal(&refused).1, constraint, "{statement}: {refused}");
        let class = StoreError::from(refused).class().unwrap();
        assert!(
            matches!(
                class,
                SqlErrorClass::CheckViolation { .. }
                    | SqlErrorClass::UniqueViolation { .. }
                    | SqlErrorClass::ForeignKeyViolation
            ),
            "{statement}: {class:?}"
        );
        // The service is refused by the same constraint, or has not even the right to try.
        let refused = attempt(&mut service, tenant, &statement).await.expect_err(&statement);
        let (code, by) = refusal(&refused);
        assert!(by == constraint || code == DENIED, "{statement}: {refused}");
    }
    // Where they are legal the same statements are fine, so it is the rule that refused them.
    for conn in [&mut owner, &mut service] {
        for (org, statement) in [
            ("org-active", "UPDATE organizations SET version = version + 1, status = 'suspended', suspended_at = now()"),
            ("org-provisioning", "DELETE FROM organizations"),
            (
                "new",
                "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
                 created_at, updated_at, version)
                 VALUES ('new', 'New', 'u', 'n@x.org', 'n@x.org', 'provisioning', now(), now(), 1)",
            ),
            ("new", "INSERT INTO tombstones VALUES ('new', 'purged', now())"),
            ("new", "UPDATE leases SET owner = 'two', token = token + 1"),
        ] {
            assert_eq!(attempt(conn, org, statement).await.unwrap(), 1, "{statement}");
        }
    }
}

#[tokio::test]
async fn tombstones_neither_change_nor_go_nor_let_their_id_be_used() {
    let (store, database) = open().await;
    store.remove(Removal::of_unknown(id("late"), START), by("service:test")).await.unwrap();
    let mut owner = connect_as(&database, "pulse_migrator").await;
    for (statement, constraint) in [
        ("DELETE FROM tombstones", "tombstones_stay"),
        ("UPDATE tombstones SET kind = 'purged'", "tombstones_stay"),
        (
            "INSERT INTO organizations (id, display_name, owner_user_id, owner_email, owner_email_canonical, status,
             created_at, updated_at, version)
             VALUES ('late', 'L', 'u', 'l@x.org', 'l@x.org', 'provisioning', now(), now(), 1)",
            "tombstones_bar_ids",
        ),
    ] {
        let refused = attempt(&mut owner, "late", statement).await.unwrap_err();
        assert_eq!(refusal(&refused).1, constraint, "{statement}: {refused}");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let (store, database) = open().await;
    make(&store, "acme", StatusKind::Active).await;
    let mut owner = connect_as(&database, "pulse_migrator").await;
    let broken = "BEGIN; SET LOCAL pulse.tenant = 'acme';
        UPDATE organizations SET version = version + 1, owner_user_id = 'no uuid'; COMMIT";
    run(&mut owner, broken).await.unwrap();
    let error = store.find(&id("acme")).await.unwrap_err();
    assert_eq!(error.class(), Some(SqlErrorClass::Decode));
    assert!(error.to_string().contains("acme"), "{error}");
}

#[tokio::test]
async fn what_is_erased_is_vacuumed_soon_and_out_of_the_indexes_too() {
    let (_store, database) = open().await;
    let mut conn = connect_as(&database, "pulse_migrator").await;
    let options: Vec<(String, String)> = sqlx::query_as(
        "SELECT relname::text, array_to_string(reloptions, ' ') FROM pg_class
         WHERE relname IN ('organizations', 'audit_events') ORDER BY 1",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let [(_, audit), (_, organizations)] = &*options else { panic!("{options:?}") };
    for table in [audit, organizations] {
        assert!(table.contains("vacuum_threshold=0") && table.contains("vacuum_scale_factor=0"), "{table}");
    }
    assert!(organizations.contains("vacuum_index_cleanup=on"), "{organizations}");
}

#[tokio::test]
async fn an_embedded_store_moves_with_all_it_holds_and_is_counted_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lifecycle.db");
    let entropy = Arc::new(SeededEntropy::default());
    let embedded = SqliteStore::open(&path, &ManualClock::default(), entropy).await.unwrap();
    for kind in StatusKind::ALL {
        for number in 0..3 {
            make(&embedded, &format!("{}-{number}", kind.as_str().replace('_', "-")), kind).await;
        }
    }
    let gone = organization(&embedded, "purging-0").await.finish_purge(START).unwrap();
    embedded.remove(gone.clone(), by("service:provisioner")).await.unwrap();
    let organizations = embedded.list(None, None, 100).await.unwrap();
    let counts = embedded.counts().await.unwrap();
    let records = embedded.audit_events(&gone.tombstone.id, None, 100).await.unwrap();
    let history = embedded.history(&id("suspended-1")).await.unwrap();
    embedded.close().await;

    let database = Postgres::shared().await.database().await;
    let settings = settings(database.url(), 10);
    let moved = transfer(&path, &settings, &mut |_| ()).await.unwrap();
    assert!(!moved.already_there && moved.broken_chains.is_empty(), "{moved:?}");
    let store = replica(&database).await;
    assert_eq!(store.list(None, None, 100).await.unwrap(), organizations);
    assert_eq!(store.counts().await.unwrap(), counts);
    assert_eq!(store.audit_events(&gone.tombstone.id, None, 100).await.unwrap(), records);
    assert_eq!(store.history(&id("suspended-1")).await.unwrap(), history);
    assert_eq!(store.find(&gone.tombstone.id).await.unwrap(), Found::Tombstone(gone.tombstone));
    assert!(transfer(&path, &settings, &mut |_| ()).await.unwrap().already_there);

    // It goes on from there.
    let suspended = organization(&store, "suspended-1").await;
    let back = suspended.unsuspend(None, START).unwrap();
    assert!(store.change(back, by("ann")).await.unwrap().is_done());
    assert_eq!(store.counts().await.unwrap().of(StatusKind::Active), 4);
}
