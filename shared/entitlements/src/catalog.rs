//! What each plan grants, read from TOML.
//!
//! ```toml
//! [trial]                                       # required
//! capabilities = ["alerting", "dashboards"]
//! limits = { monitored_hosts = 10, users = -1 } # -1 is no limit
//! meters = ["metrics_ingested"]
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use toml::{Table, Value};

use crate::{Grants, InvalidGrant, Name};

/// The catalog that applies where no file is given.
const BUILT_IN: &str = include_str!("catalog.toml");

/// One plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name, the `plan_version` of the tenants on it.
    pub name: Arc<Name>,
    /// What it grants.
    pub grants: Arc<Grants>,
}

/// All plans. There always is a trial plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    plans: BTreeMap<Name, Plan>,
    trial: Plan,
}

/// What is wrong with a catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Not TOML at all; the message says where.
    #[error("is not TOML: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Something about one plan; the message names the plan and the key.
    #[error("plan {plan:?}: {problem}")]
    Plan {
        /// The plan's name as written.
        plan: String,
        /// The key, and what is wrong with its value.
        problem: String,
    },
    /// New tenants begin with the trial.
    #[error("must have a plan named \"trial\"")]
    NoTrial,
}

impl Catalog {
    /// The catalog that applies where no file is given.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "the text is part of the program, and a test reads it"
    )]
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in catalog is valid")
    }

    /// Reads a catalog.
    ///
    /// # Errors
    /// What is wrong with it, by plan and key.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let plans = text
            .parse::<Table>()?
            .into_iter()
            .map(|(name, value)| {
                let plan = parse_plan(&name, value)
                    .map_err(|problem| CatalogError::Plan { plan: name.clone(), problem })?;
                Ok(((*plan.name).clone(), plan))
            })
            .collect::<Result<BTreeMap<_, _>, CatalogError>>()?;
        let trial = plans.get(&Name::trial_plan()).cloned().ok_or(CatalogError::NoTrial)?;
        Ok(Self { plans, trial })
    }

    /// The plan of that name.
    pub fn plan(&self, name: &Name) -> Option<&Plan> {
        self.plans.get(name)
    }

    /// The plan that new tenants begin with, and that is granted where nothing is known.
    pub fn trial(&self) -> &Plan {
        &self.trial
    }

    /// All plans, by name.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values()
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self::built_in()
    }
}

/// Reads one plan; the error names the key.
fn parse_plan(name: &str, value: Value) -> Result<Plan, String> {
    let name = Name::parse(name).map_err(|error| format!("its name {error}"))?;
    let Value::Table(table) = value else {
        return Err("must be a table with capabilities, limits and meters".to_owned());
    };
    let mut grants = Grants::default();
    for (key, value) in table {
        match key.as_str() {
            "capabilities" => grants.capabilities = parse_names(&key, value)?,
            "limits" => grants.limits = parse_limits(value)?,
            "meters" => grants.meters_enabled = parse_names(&key, value)?,
            _ => return Err(format!("unknown key {key:?}: capabilities, limits and meters are known")),
        }
    }
    grants.check().map_err(|(field, error)| {
        format!("{} {error}", if field == "meters_enabled" { "meters" } else { field })
    })?;
    Ok(Plan { name: Arc::new(name), grants: Arc::new(grants) })
}

fn parse_names(key: &str, value: Value) -> Result<BTreeSet<Name>, String> {
    let Value::Array(items) = value else { return Err(format!("{key} must be a list of names")) };
    let mut names = BTreeSet::new();
    for item in items {
        let Value::String(text) = item else { return Err(format!("{key} must be a list of names")) };
        let name = Name::parse(&text).map_err(|error| format!("{key}: {text:?} {error}"))?;
        if !names.insert(name) {
            return Err(format!("{key}: {text:?} is there twice"));
        }
    }
    Ok(names)
}

fn parse_limits(value: Value) -> Result<BTreeMap<Name, i64>, String> {
    let Value::Table(table) = value else { return Err("limits must be a table of numbers".to_owned()) };
    let limit = |(key, value): (String, Value)| {
        let name = Name::parse(&key).map_err(|error| format!("limits: {key:?} {error}"))?;
        let value = value.as_integer().filter(|value| *value >= crate::UNLIMITED);
        Ok((name, value.ok_or_else(|| format!("limits.{key} {}", InvalidGrant::Limit))?))
    };
    table.into_iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalog_has_the_plans_that_the_docs_name() {
        let catalog = Catalog::built_in();
        let names: Vec<_> = catalog.plans().map(|plan| plan.name.as_str()).collect();
        assert_eq!(names, ["business", "pro", "starter", "trial"]);
        assert_eq!(catalog.plan(&Name::trial_plan()), Some(catalog.trial()));
        assert!(!catalog.trial().grants.is_empty());
        let grants = |name| &catalog.plan(&Name::parse(name).unwrap()).unwrap().grants;
        assert!(grants("pro").covers(grants("trial")) && grants("business").covers(grants("pro")));
    }

    #[test]
    fn a_plan_may_leave_things_out() {
        let catalog = Catalog::parse("[trial]\n[free]\ncapabilities = ['a', 'b']").unwrap();
        assert!(catalog.trial().grants.is_empty());
        assert_eq!(catalog.plan(&Name::parse("free").unwrap()).unwrap().grants.capabilities.len(), 2);
        assert!(catalog.plan(&Name::parse("none").unwrap()).is_none());
    }

    #[test]
    fn errors_name_the_plan_and_the_key() {
        for (text, expected) in [
            ("[trial", "is not TOML"),
            ("[pro]", "must have a plan named \"trial\""),
            ("trial = 1", "plan \"trial\": must be a table"),
            ("[trial]\n['a b']", "plan \"a b\": its name must be 1 to 64 letters"),
            ("[trial]\n[pro]\ncapability = []", "plan \"pro\": unknown key \"capability\""),
            ("[trial]\ncapabilities = 'a'", "plan \"trial\": capabilities must be a list of names"),
            ("[trial]\nmeters = [1]", "plan \"trial\": meters must be a list of names"),
            ("[trial]\nmeters = ['a', 'a']", "plan \"trial\": meters: \"a\" is there twice"),
            ("[trial]\ncapabilities = ['é']", "plan \"trial\": capabilities: \"é\" must be"),
            ("[trial]\nlimits = []", "plan \"trial\": limits must be a table of numbers"),
            ("[trial.limits]\nhosts = -2", "plan \"trial\": limits.hosts must be 0 or more"),
            ("[trial.limits]\nhosts = '3'", "plan \"trial\": limits.hosts must be 0 or more"),
            ("[trial.limits]\n'a b' = 3", "plan \"trial\": limits: \"a b\" must be"),
        ] {
            let message = Catalog::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text:?}: {message}");
        }
    }
}
