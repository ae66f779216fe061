//! Tells `bench` the commit of a release build, so that a measurement names what it measured.
//!
//! Only for release builds, because the crate would be built anew after every commit. Without git, or outside a clone of this repository
//! (a packaged crate below somebody else's clone), the result says `null`: no commit is better than a wrong one.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("PROFILE").as_deref() != Ok("release") || !is_clone() {
        return;
    }
    // Gets a line with every commit and checkout, also in a worktree.
    if let Some(moves) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={moves}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=PARITYD_COMMIT={commit}");
    }
}

fn is_clone() -> bool {
    let Some(ours) = env::var("CARGO_MANIFEST_DIR").ok().and_then(|folder| fs::canonicalize(folder).ok()) else {
        return false;
    };
    let top = git(&["rev-parse", "--show-toplevel"]);
    top.and_then(|top| fs::canonicalize(top).ok()).is_some_and(|top| top == ours)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
