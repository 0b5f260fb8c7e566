//! What the documents say can be proven exists: every test that they name is a function in this repository, and every
//! file that they link to is there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut found = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut found);
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut sources = Vec::new();
    for folder in ["services", "shared"] {
        files(&root().join(folder), "rs", &mut sources);
    }
    let mut functions = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(source).unwrap();
        functions
            .extend(text.split("fn ").skip(1).filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
    }
    let mut named = 0;
    let mut missing = Vec::new();
    for (path, text) in documents() {
        // In the last column of a table that has a column of proofs.
        let rows = text.lines().filter(|line| line.starts_with('|') && line.matches('|').count() == 4);
        for proof in rows.filter_map(|row| row.trim_end_matches('|').rsplit_once('|')).map(|(_, last)| last) {
            let quoted = proof.split('`').skip(1).step_by(2);
            for name in quoted.filter(|name| name.matches('_').count() >= 3) {
                named += 1;
                if !functions.contains(name) {
                    missing.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert!(named > 50, "the threat model names its tests; found {named}");
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

#[test]
fn every_file_that_a_document_links_to_is_there() {
    let mut links = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            assert!(path.parent().unwrap().join(target).exists(), "{} links to {target}", path.display());
        }
    }
    assert!(links > 10, "found {links}");
}
