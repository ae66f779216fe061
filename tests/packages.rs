//! What packages and checks parityd fits it: the container's files, the toolchain of CI and container.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// What Containerfile copies from the clone, in order.
fn copied() -> Vec<String> {
    let text = read("Containerfile");
    let copies = text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from="));
    let sources = |line: &str| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        words[..words.len() - 1].to_vec()
    };
    copies.flat_map(sources).collect()
}

#[test]
fn the_container_copies_what_is_there_and_is_sent_nothing_else() {
    let copied = copied();
    assert!(copied.len() > 5, "{copied:?}");
    for file in &copied {
        assert!(root().join(file).exists(), "Containerfile copies {file}");
    }
    let ignore = read(".dockerignore");
    let mut kept: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied: Vec<_> = copied.iter().map(String::as_str).collect();
    kept.sort_unstable();
    copied.sort_unstable();
    assert!(ignore.lines().any(|line| line == "*"));
    assert_eq!(kept, copied, ".dockerignore lets through what Containerfile copies");
}

/// Cargo reads a manifest only where every file is that it names; the container copies no more than it must.
#[test]
fn cargo_reads_what_the_container_copies() {
    let folder = tempfile::tempdir().unwrap();
    for file in copied() {
        let (from, to) = (root().join(&file), folder.path().join(&file));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-R").args([&from, &to]).status().unwrap().success());
    }
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
}

/// A registry takes 10 MiB; pictures of a page that is read in the repository leave that to the weights. What the program embeds must come.
#[test]
fn the_crate_package_has_the_font_and_no_picture() {
    let arguments = ["package", "--list", "--offline", "--allow-dirty"];
    let cargo = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let listed = String::from_utf8_lossy(&cargo.stdout);
    let files: Vec<&str> = listed.lines().collect();
    assert!(files.contains(&"src/chart/roboto-latin.ttf") && files.contains(&"docs/accuracy.md"), "{files:?}");
    assert_eq!(files.iter().filter(|file| file.starts_with("docs/plots")).count(), 0);
}

/// The compiler that is promised is the one that CI and the container use.
#[test]
fn one_toolchain_everywhere() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["package"]["rust-version"].as_str().unwrap().to_owned();
    for (file, line) in [
        (".github/workflows/ci.yml", format!("RUST: \"{version}\"")),
        ("Containerfile", format!("docker.io/library/rust:{version}-slim-bookworm")),
    ] {
        assert!(read(file).contains(&line), "{file} does not say {line}");
    }
}

/// The health check asks the port that the daemon listens on, in the form that runs it without a shell of its own.
#[test]
fn the_health_check_is_a_command_and_its_route_exists() {
    let text = read("Containerfile");
    let line = text.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
    let (_, command) = line.split_once(" CMD ").unwrap();
    let command: Vec<String> = serde_json::from_str(command).expect("exec form");
    assert_eq!(command[..2], ["bash", "-c"]);
    // The one route that the daemon names in its own protocol; a slip here would make every container unhealthy.
    assert!(command[2].contains("GET /v2/health/ready HTTP/1.1\\r\\n"), "{}", command[2]);
    assert!(text.lines().any(|line| line.starts_with("ENTRYPOINT [")), "exec form, or the shell would get SIGTERM");
}
