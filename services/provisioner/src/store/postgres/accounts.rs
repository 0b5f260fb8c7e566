//! Statements about accounts and their roles. Each runs in the transaction that its connection is in, and sees the tenants that
//! this one is turned to.

use jiff_sqlx::{Timestamp as PgTimestamp, ToSqlx as _};
use pulse_kernel::{OrgId, UserId};
use pulse_tenant_guard::TenantRole;
use sqlx::{FromRow, PgConnection};

use crate::{
    domain::{Account, Member, Roles},
    store::rows::{self, AccountRow},
};

macro_rules! select_account {
    ($rest:literal) => {
        concat!("SELECT a.user_id, a.home_org_id, a.email, a.password_hash, a.created_at", $rest)
    };
}

pub(super) async fn find_by_email(
    conn: &mut PgConnection,
    canonical: &str,
) -> Result<Option<Account>, sqlx::Error> {
    let row: Option<AccountRow<PgTimestamp>> =
        sqlx::query_as(select_account!(" FROM accounts a WHERE a.email_canonical = $1"))
            .bind(canonical)
            .fetch_optional(conn)
            .await?;
    row.map(Account::try_from).transpose()
}

/// Whether any account has the address.
pub(super) async fn has_email(conn: &mut PgConnection, canonical: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM accounts WHERE email_canonical = $1)")
        .bind(canonical)
        .fetch_one(conn)
        .await
}

#[derive(FromRow)]
struct MemberRow {
    #[sqlx(flatten)]
    account: AccountRow<PgTimestamp>,
    roles: Vec<String>,
}

impl MemberRow {
    fn member(self, org_id: impl FnOnce(&Account) -> OrgId) -> Result<Member, sqlx::Error> {
        let account = Account::try_from(self.account)?;
        Ok(Member { org_id: org_id(&account), account, roles: read_roles(&self.roles)? })
    }
}

/// An account as seen from a tenant, unless it has no role there.
pub(super) async fn find_member(
    conn: &mut PgConnection,
    org_id: &OrgId,
    user_id: UserId,
) -> Result<Option<Member>, sqlx::Error> {
    let row: Option<MemberRow> = sqlx::query_as(select_account!(
        ", ARRAY(SELECT role FROM memberships m WHERE m.org_id = $1 AND m.user_id = a.user_id) AS roles
         FROM accounts a WHERE a.user_id = $2"
    ))
    .bind(org_id.as_str())
    .bind(user_id.to_string())
    .fetch_optional(conn)
    .await?;
    let member = row.map(|row| row.member(|_| org_id.clone())).transpose()?;
    Ok(member.filter(|member| !member.roles.is_empty()))
}

/// The account with the address, as seen from its own tenant.
pub(super) async fn find_login(
    conn: &mut PgConnection,
    canonical: &str,
) -> Result<Option<Member>, sqlx::Error> {
    let row: Option<MemberRow> = sqlx::query_as(select_account!(
        ", ARRAY(SELECT role FROM memberships m WHERE m.org_id = a.home_org_id AND m.user_id = a.user_id) AS roles
         FROM accounts a WHERE a.email_canonical = $1"
    ))
    .bind(canonical)
    .fetch_optional(conn)
    .await?;
    row.map(|row| row.member(|account| account.home_org_id.clone())).transpose()
}

/// Makes an account and the owner of its tenant; says no when another account has its address.
pub(super) async fn insert(conn: &mut PgConnection, account: &Account) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(
        "INSERT INTO accounts (user_id, home_org_id, email, email_canonical, password_hash, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (email_canonical) DO NOTHING",
    )
    .bind(account.user_id.to_string())
    .bind(account.home_org_id.as_str())
    .bind(account.email.typed())
    .bind(account.email.canonical())
    .bind(account.password_hash.expose_phc())
    .bind(account.created_at.to_sqlx())
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if inserted == 0 {
        return Ok(false);
    }
    sqlx::query("INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')")
        .bind(account.home_org_id.as_str())
        .bind(account.user_id.to_string())
        .execute(conn)
        .await?;
    Ok(true)
}

/// What decides whether an account may get, or lose, roles in a tenant.
#[derive(FromRow)]
pub(super) struct Standing {
    /// Whether the account exists.
    pub(super) exists: bool,
    /// Whether any account calls the tenant its home.
    pub(super) is_home: bool,
    owners: Vec<String>,
    roles: Vec<String>,
}

impl Standing {
    /// The owners of the tenant.
    pub(super) fn owners(&self) -> Result<Vec<UserId>, sqlx::Error> {
        self.owners.iter().map(|id| rows::user_id(id)).collect()
    }

    /// The account's roles there.
    pub(super) fn roles(&self) -> Result<Roles, sqlx::Error> {
        read_roles(&self.roles)
    }
}

pub(super) async fn standing(
    conn: &mut PgConnection,
    org_id: &OrgId,
    user_id: UserId,
) -> Result<Standing, sqlx::Error> {
    sqlx::query_as(
        "SELECT EXISTS (SELECT FROM accounts WHERE user_id = $2) AS exists,
                EXISTS (SELECT FROM accounts WHERE home_org_id = $1) AS is_home,
                ARRAY(SELECT user_id FROM memberships WHERE org_id = $1 AND role = 'owner') AS owners,
                ARRAY(SELECT role FROM memberships WHERE org_id = $1 AND user_id = $2) AS roles",
    )
    .bind(org_id.as_str())
    .bind(user_id.to_string())
    .fetch_one(conn)
    .await
}

pub(super) async fn roles(
    conn: &mut PgConnection,
    org_id: &OrgId,
    user_id: UserId,
) -> Result<Roles, sqlx::Error> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT role FROM memberships WHERE org_id = $1 AND user_id = $2")
            .bind(org_id.as_str())
            .bind(user_id.to_string())
            .fetch_all(conn)
            .await?;
    read_roles(&names)
}

fn read_roles(names: &[String]) -> Result<Roles, sqlx::Error> {
    names.iter().map(|name| rows::role(name)).collect()
}

/// Takes the roles that are not among `roles`, and gives those that are missing.
pub(super) async fn replace_roles(
    conn: &mut PgConnection,
    org_id: &OrgId,
    user_id: UserId,
    roles: &Roles,
) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = roles.iter().map(TenantRole::as_str).collect();
    for statement in [
        "DELETE FROM memberships WHERE org_id = $1 AND user_id = $2 AND role <> ALL ($3)",
        "INSERT INTO memberships (org_id, user_id, role) SELECT $1, $2, unnest($3) ON CONFLICT DO NOTHING",
    ] {
        sqlx::query(statement)
            .bind(org_id.as_str())
            .bind(user_id.to_string())
            .bind(&names)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Deletes accounts of a tenant, all of them or one, and whatever roles anyone has in it. Answers whom it has deleted: from then
/// on nobody gives them a new place anywhere, and those that they have in other tenants are to be removed before the commit.
pub(super) async fn delete(
    conn: &mut PgConnection,
    home: &OrgId,
    only: Option<UserId>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query("SET CONSTRAINTS memberships_of_accounts DEFERRED").execute(&mut *conn).await?;
    let deleted = sqlx::query_scalar(
        "DELETE FROM accounts WHERE home_org_id = $1 AND ($2::text IS NULL OR user_id = $2) RETURNING user_id",
    )
    .bind(home.as_str())
    .bind(only.map(|user_id| user_id.to_string()))
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM memberships WHERE org_id = $1").bind(home.as_str()).execute(conn).await?;
    Ok(deleted)
}

/// Where those accounts have places, in the order of the tenants' ids.
pub(super) async fn places_of(
    conn: &mut PgConnection,
    user_ids: &[String],
) -> Result<Vec<(OrgId, UserId)>, sqlx::Error> {
    let places: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT org_id, user_id FROM memberships WHERE user_id = ANY ($1) ORDER BY org_id, user_id",
    )
    .bind(user_ids)
    .fetch_all(conn)
    .await?;
    places.iter().map(|(org_id, user_id)| Ok((rows::org_id(org_id)?, rows::user_id(user_id)?))).collect()
}
