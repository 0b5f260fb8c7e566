//! Statements about accounts and their roles. Each runs in the transaction that its connection is in.

use pulse_kernel::{OrgId, UserId};
use pulse_store::time;
use sqlx::SqliteConnection;

use crate::{
    domain::{Account, Roles},
    store::rows::{self, AccountRow},
};

macro_rules! select_account {
    ($condition:literal) => {
        concat!(
            "SELECT user_id, home_org_id, email, password_hash, created_at FROM accounts WHERE ",
            $condition
        )
    };
}

pub(super) async fn find(
    conn: &mut SqliteConnection,
    user_id: UserId,
) -> Result<Option<Account>, sqlx::Error> {
    let row: Option<AccountRow<i64>> =
        sqlx::query_as(select_account!("user_id = ?")).bind(user_id.to_string()).fetch_optional(conn).await?;
    row.map(Account::try_from).transpose()
}

pub(super) async fn find_by_email(
    conn: &mut SqliteConnection,
    canonical: &str,
) -> Result<Option<Account>, sqlx::Error> {
    let row: Option<AccountRow<i64>> =
        sqlx::query_as(select_account!("email_canonical = ?")).bind(canonical).fetch_optional(conn).await?;
    row.map(Account::try_from).transpose()
}

/// Makes an account and the owner of its tenant; says no when another account has its address.
pub(super) async fn insert(conn: &mut SqliteConnection, account: &Account) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(
        "INSERT INTO accounts (user_id, home_org_id, email, email_canonical, password_hash, created_at)
         VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (email_canonical) DO NOTHING",
    )
    .bind(account.user_id.to_string())
    .bind(account.home_org_id.as_str())
    .bind(account.email.typed())
    .bind(account.email.canonical())
    .bind(account.password_hash.expose_phc())
    .bind(time::to_micros(account.created_at))
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if inserted == 0 {
        return Ok(false);
    }
    sqlx::query("INSERT INTO memberships (org_id, user_id, role) VALUES (?, ?, 'owner')")
        .bind(account.home_org_id.as_str())
        .bind(account.user_id.to_string())
        .execute(conn)
        .await?;
    Ok(true)
}

/// Whether any account calls the tenant its home.
pub(super) async fn is_home(conn: &mut SqliteConnection, org_id: &OrgId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM accounts WHERE home_org_id = ?)")
        .bind(org_id.as_str())
        .fetch_one(conn)
        .await
}

/// Deletes an account of that tenant, with all its roles, and whatever roles others were given in the tenant meanwhile.
pub(super) async fn delete(
    conn: &mut SqliteConnection,
    home: &OrgId,
    user_id: UserId,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM accounts WHERE user_id = ? AND home_org_id = ?")
        .bind(user_id.to_string())
        .bind(home.as_str())
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM memberships WHERE org_id = ?").bind(home.as_str()).execute(conn).await?;
    Ok(())
}

/// Deletes a tenant's accounts with all their roles anywhere, and all roles in it.
pub(super) async fn delete_tenant(conn: &mut SqliteConnection, org_id: &OrgId) -> Result<(), sqlx::Error> {
    for statement in
        ["DELETE FROM memberships WHERE org_id = ?", "DELETE FROM accounts WHERE home_org_id = ?"]
    {
        sqlx::query(statement).bind(org_id.as_str()).execute(&mut *conn).await?;
    }
    Ok(())
}

/// The roles that a tenant's accounts, all of them or one, have in other tenants.
pub(super) async fn guests_of(
    conn: &mut SqliteConnection,
    home: &OrgId,
    only: Option<UserId>,
) -> Result<Vec<(OrgId, UserId, Roles)>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT m.org_id, m.user_id FROM memberships m JOIN accounts a ON a.user_id = m.user_id
         WHERE a.home_org_id = ?1 AND m.org_id <> ?1 AND (?2 IS NULL OR m.user_id = ?2)
         ORDER BY m.org_id, m.user_id",
    )
    .bind(home.as_str())
    .bind(only.map(|user_id| user_id.to_string()))
    .fetch_all(&mut *conn)
    .await?;
    let mut guests = Vec::with_capacity(rows.len());
    for (org_id, user_id) in rows {
        let (org_id, user_id) = (rows::org_id(&org_id)?, rows::user_id(&user_id)?);
        let roles = roles(conn, &org_id, user_id).await?;
        guests.push((org_id, user_id, roles));
    }
    Ok(guests)
}

pub(super) async fn roles(
    conn: &mut SqliteConnection,
    org_id: &OrgId,
    user_id: UserId,
) -> Result<Roles, sqlx::Error> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT role FROM memberships WHERE org_id = ? AND user_id = ?")
            .bind(org_id.as_str())
            .bind(user_id.to_string())
            .fetch_all(conn)
            .await?;
    names.iter().map(|name| rows::role(name)).collect()
}

pub(super) async fn owners(conn: &mut SqliteConnection, org_id: &OrgId) -> Result<Vec<UserId>, sqlx::Error> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT user_id FROM memberships WHERE org_id = ? AND role = 'owner'")
            .bind(org_id.as_str())
            .fetch_all(conn)
            .await?;
    ids.iter().map(|id| rows::user_id(id)).collect()
}

pub(super) async fn replace_roles(
    conn: &mut SqliteConnection,
    org_id: &OrgId,
    user_id: UserId,
    roles: &Roles,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM memberships WHERE org_id = ? AND user_id = ?")
        .bind(org_id.as_str())
        .bind(user_id.to_string())
        .execute(&mut *conn)
        .await?;
    for role in roles.iter() {
        sqlx::query("INSERT INTO memberships (org_id, user_id, role) VALUES (?, ?, ?)")
            .bind(org_id.as_str())
            .bind(user_id.to_string())
            .bind(role.as_str())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
