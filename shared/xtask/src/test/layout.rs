//! How the repository is laid out: a small rule each, over every file that belongs to the project.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::tally::Tally;
use crate::workspace;

/// What the top level may hold, besides names that begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docker-compose.yml",
    "docs",
    "proto",
    "rustfmt.toml",
    "services",
    "shared",
];

/// What git ignores at the top level.
const NOT_OURS: &[&str] = &[".cache", ".git", "data", "target"];

/// What is here as others publish it.
const OTHERS: &[&str] = &["shared/envoy-api/proto"];

/// The longest a source file may be, in lines.
const FILE_LINES: usize = 600;

/// The longest a `main.rs` may be, in lines.
const MAIN_LINES: usize = 80;

/// What no file may hold, with the reason. Spelled in pieces, as this file is checked too.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "what is not built is not mentioned"),
    (concat!("FIX", "ME"), "what is broken is mended"),
    (concat!("todo", "!("), "there are no stubs"),
    (concat!("unimplemented", "!("), "there are no stubs"),
    (concat!("#[", "ignore"), "a test runs or goes"),
    (concat!("#[", "allow("), "a lint is expected, with a reason: #[expect(…, reason = …)]"),
    (concat!("/ho", "me/"), "paths of one person's machine do not belong here"),
];

/// A file of the project.
struct File {
    /// Relative to the root.
    path: PathBuf,
    text: String,
}

impl File {
    fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|own| own == extension)
    }

    fn is_below(&self, folder: &str) -> bool {
        self.path.components().any(|part| part.as_os_str() == folder)
    }

    /// The lines, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// A rule: its name, and what breaks it.
type Rule = (&'static str, fn(&[File]) -> Vec<String>);

const RULES: &[Rule] = &[
    ("files are short", files_are_short),
    ("nothing banned is in any file", nothing_banned),
    ("tests do not sleep", tests_do_not_sleep),
    ("libraries and folders open with a map", libraries_open_with_a_map),
    ("shared libraries document what is public", shared_libraries_are_documented),
    ("a proto file holds one service at the most", one_service_a_file),
];

pub(super) fn check(tally: &mut Tally) -> Result<()> {
    let root = workspace::root();
    tally.check("layout: the top level holds only what belongs there", top_level(&root));
    let files = files(&root)?;
    for (name, rule) in RULES {
        let broken = rule(&files);
        println!("{name}: {} files", files.len());
        let result = if broken.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(broken.join("\n    "))) };
        tally.check(&format!("layout: {name}"), result);
    }
    Ok(())
}

fn top_level(root: &Path) -> Result<()> {
    let mut strangers = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&&*name) && !NOT_OURS.contains(&&*name) {
            strangers.push(name);
        }
    }
    if !strangers.is_empty() {
        bail!("{} does not belong at the top level", strangers.join(", "));
    }
    Ok(())
}

/// Every text file of the project.
fn files(root: &Path) -> Result<Vec<File>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                let ours = folder != root || !NOT_OURS.contains(&name);
                let ours = ours && !OTHERS.iter().any(|others| path.ends_with(others));
                if ours && name != "target" && name != "node_modules" && name != "__pycache__" {
                    folders.push(path);
                }
            } else if name != "Cargo.lock"
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push(File { path: path.strip_prefix(root)?.to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn files_are_short(files: &[File]) -> Vec<String> {
    let limit = |file: &File| match file.name() {
        "main.rs" if !file.is_below("tests") => Some(MAIN_LINES),
        _ if file.is("md") || file.is("json") => None,
        _ => Some(FILE_LINES),
    };
    let too_long = files.iter().filter_map(|file| {
        let (lines, limit) = (file.text.lines().count(), limit(file)?);
        (lines > limit).then(|| format!("{}: {lines} lines, {limit} are allowed", file.path.display()))
    });
    too_long.collect()
}

fn nothing_banned(files: &[File]) -> Vec<String> {
    let mut broken = Vec::new();
    for file in files {
        for (number, line) in file.lines() {
            for (banned, why) in BANNED {
                if line.contains(banned) {
                    broken.push(format!("{}:{number}: {banned}: {why}", file.path.display()));
                }
            }
        }
    }
    broken
}

/// Neither in folders of tests nor after the line that begins a file's own tests, but for files whose tests run on a paused
/// clock, where sleeping takes no time.
fn tests_do_not_sleep(files: &[File]) -> Vec<String> {
    let sleep = concat!("sleep", "(");
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| file.is("rs")) {
        let paused = ["start_paused = true", "time::pause()"].iter().any(|pause| file.text.contains(pause));
        let mut in_tests = !paused && file.is_below("tests");
        for (number, line) in file.lines() {
            in_tests |= !paused && line.trim_start().starts_with("#[cfg(test)]");
            if in_tests && line.contains(sleep) {
                broken.push(format!("{}:{number}: wait for the condition instead", file.path.display()));
            }
        }
    }
    broken
}

/// `lib.rs`, `mod.rs`, and a `name.rs` beside a folder `name/`.
fn libraries_open_with_a_map(files: &[File]) -> Vec<String> {
    let is_folders_module = |file: &File| {
        let folder = file.path.with_extension("");
        file.is("rs") && files.iter().any(|other| other.path.parent() == Some(&folder))
    };
    files
        .iter()
        .filter(|file| matches!(file.name(), "lib.rs" | "mod.rs" | "main.rs") || is_folders_module(file))
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| format!("{}: does not open with //!", file.path.display()))
        .collect()
}

/// The lint is set in each shared library; clippy's run then enforces it. Generated code has no say in it, where that is all.
fn shared_libraries_are_documented(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.path.starts_with("shared") && file.path.ends_with("src/lib.rs"))
        .filter(|file| !is_generated(file) && !file.text.contains("missing_docs"))
        .map(|file| format!("{}: does not warn of missing_docs", file.path.display()))
        .collect()
}

fn is_generated(file: &File) -> bool {
    file.is_below("proto") || file.is_below("envoy-api")
}

fn one_service_a_file(files: &[File]) -> Vec<String> {
    let services = |file: &File| file.text.lines().filter(|line| line.starts_with("service ")).count();
    files
        .iter()
        .filter(|file| file.is("proto") && services(file) > 1)
        .map(|file| format!("{}: {} services", file.path.display(), services(file)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: impl Into<String>) -> File {
        File { path: path.into(), text: text.into() }
    }

    /// Each rule finds what it is there to find, and nothing else.
    #[track_caller]
    fn tells_apart(rule: fn(&[File]) -> Vec<String>, good: File, bad: File) {
        assert_eq!(rule(&[good]), Vec::<String>::new());
        assert_eq!(rule(&[bad]).len(), 1);
    }

    #[test]
    fn a_file_may_have_600_lines_and_a_main_80() {
        tells_apart(
            files_are_short,
            file("a/src/x.rs", "\n".repeat(600)),
            file("a/src/x.rs", "\n".repeat(601)),
        );
        tells_apart(files_are_short, file("a/main.rs", "\n".repeat(80)), file("a/main.rs", "\n".repeat(81)));
    }

    #[test]
    fn banned_words_are_found_in_any_file() {
        for (banned, _) in BANNED {
            tells_apart(nothing_banned, file("a.md", "fine"), file("a.md", format!("x {banned} y")));
        }
    }

    #[test]
    fn sleeping_is_found_in_tests_only() {
        let nap = concat!("tokio::time::sleep", "(x)");
        let source = format!("fn f() {{ {nap} }}");
        tells_apart(tests_do_not_sleep, file("src/a.rs", &source), file("tests/a.rs", &source));
        let with_tests = format!("{source}\n#[cfg(test)]\nmod tests {{ {nap} }}");
        let paused = format!("{with_tests}\n#[tokio::test(start_paused = true)]");
        tells_apart(tests_do_not_sleep, file("src/a.rs", &paused), file("src/a.rs", with_tests));
        tells_apart(tests_do_not_sleep, file("src/tests/a.rs", paused), file("src/tests/a.rs", source));
    }

    #[test]
    fn maps_are_missed() {
        tells_apart(libraries_open_with_a_map, file("src/lib.rs", "//! x"), file("src/lib.rs", "mod x;"));
        let folder = [file("src/a.rs", "mod b;"), file("src/a/b.rs", "")];
        assert_eq!(libraries_open_with_a_map(&folder), ["src/a.rs: does not open with //!"]);
    }

    #[test]
    fn undocumented_libraries_and_crowded_proto_files_are_found() {
        let lint = "#![warn(missing_docs)]";
        tells_apart(
            shared_libraries_are_documented,
            file("shared/a/src/lib.rs", lint),
            file("shared/a/src/lib.rs", ""),
        );
        let one = "service A {\n}\n";
        tells_apart(one_service_a_file, file("a.proto", one), file("a.proto", one.repeat(2)));
    }

    #[test]
    fn a_stranger_at_the_top_level_is_found() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("Cargo.toml"), "").unwrap();
        fs::create_dir(root.path().join(".ci")).unwrap();
        assert!(top_level(root.path()).is_ok());
        fs::write(root.path().join("notes.txt"), "").unwrap();
        assert!(top_level(root.path()).unwrap_err().to_string().contains("notes.txt"));
    }
}
