//! The dependencies: licences, sources, duplicate versions. The rules are in `deny.toml`.

use super::tally::Tally;
use crate::{run::Run, tools};

pub(super) fn check(tally: &mut Tally) {
    let deny = Run::new(tools::cargo_deny_program());
    tally.check("deny", deny.words("--locked check --hide-inclusion-graph bans licenses sources").ok());
}
