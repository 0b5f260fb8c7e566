//! How the server carries out what it is asked, as it does so: the plans that `auto_explain` logs.

use std::fs;

use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::Database;

/// Every statement, those within functions too, with what it really did rather than what was expected.
const SETTINGS: [&str; 4] = [
    "auto_explain.log_min_duration = 0",
    "auto_explain.log_nested_statements = on",
    "auto_explain.log_analyze = on",
    "auto_explain.log_timing = off",
];

impl Database {
    /// Has the server log a plan for every statement on the connections that are opened from now on.
    ///
    /// # Panics
    /// When the database cannot be reached.
    pub async fn log_plans(&self) {
        let mut connection = self.connect().await;
        for setting in SETTINGS {
            let alter = format!("ALTER DATABASE {} SET {setting}", self.name());
            sqlx::query(AssertSqlSafe(alter)).execute(&mut connection).await.expect("a database can be set");
        }
    }

    /// What was read from end to end in a statement logged so far, as `table: statement`.
    ///
    /// # Panics
    /// When no plan at all was logged, so that the answer would mean nothing.
    pub fn sequential_scans(&self) -> Vec<String> {
        let log = String::from_utf8_lossy(&fs::read(&self.log).expect("the server logs")).into_owned();
        let plans = plans(&log, self.name());
        assert!(!plans.is_empty(), "no plan of {} was logged", self.name());
        let mut found = Vec::new();
        for plan in plans {
            let statement = plan["Query Text"].as_str().unwrap_or_default();
            scans(&plan["Plan"], &mut |table| found.push(format!("{table}: {statement}")));
        }
        found
    }
}

/// The plans that were logged for statements in `database`.
fn plans(log: &str, database: &str) -> Vec<Value> {
    let begin = format!("{database}|");
    let mut lines = log.lines().peekable();
    let mut plans = Vec::new();
    while let Some(line) = lines.next() {
        if !(line.starts_with(&begin) && line.ends_with("plan:")) {
            continue;
        }
        let mut json = String::new();
        while let Some(more) = lines.next_if(|line| line.starts_with('\t')) {
            json.push_str(more);
        }
        plans.push(serde_json::from_str(&json).expect("a plan is JSON"));
    }
    plans
}

/// Tells `found` of every table that the plan, or one below it, reads from end to end.
fn scans(plan: &Value, found: &mut impl FnMut(&str)) {
    if plan["Node Type"] == "Seq Scan" && plan["Actual Loops"] != 0 {
        found(plan["Relation Name"].as_str().unwrap_or("?"));
    }
    for below in plan["Plans"].as_array().into_iter().flatten() {
        scans(below, found);
    }
}
