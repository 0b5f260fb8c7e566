//! The protobuf files: buf's STANDARD rules and its formatting.

use super::tally::Tally;
use crate::{run::Run, tools, workspace};

pub(super) fn check(tally: &mut Tally) {
    let buf = || Run::new(tools::node_program("buf")).dir(workspace::root().join("proto"));
    tally.check("buf lint", buf().arg("lint").ok());
    tally.check("buf format", buf().words("format --diff --exit-code").ok());
}
