//! The rules as functions from sources to violations, each with a planted violation that it must find.

use std::path::Path;

use crate::source::{Source, is_word};

/// (module, what it may import from this crate).
pub(crate) type Layers = [(&'static str, &'static [&'static str])];

/// Violations of `layers`: an import that is not allowed, or a module that is not listed.
pub(crate) fn imports(sources: &[Source], layers: &Layers) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        let Some((module, allowed)) = layers.iter().find(|(module, _)| *module == source.module) else {
            found.push(format!("{}: `{}` is not in the table of layers", source.path, source.module));
            continue;
        };
        for (at, imported) in crate_paths(&source.served) {
            if imported != *module && !allowed.contains(&imported) {
                found.push(source.told(at, &format!("`{module}` may not import `{imported}`")));
            }
        }
        if let Some(at) = source.served.find("super::super::") {
            found.push(source.told(at, "write `crate::`: the rule of layers does not see through `super::super::`"));
        }
    }
    found
}

/// Entries of `layers` that allow a module to name one that stands above it.
pub(crate) fn upward(layers: &Layers) -> Vec<String> {
    let mut found = Vec::new();
    for (place, (module, allowed)) in layers.iter().enumerate() {
        let below: Vec<_> = layers[..place].iter().map(|(module, _)| module).collect();
        for imported in allowed.iter().filter(|imported| !below.contains(imported)) {
            found.push(format!("`{module}` is allowed `{imported}`, which does not stand below it"));
        }
    }
    found
}

/// The module named by each `crate::module` and `crate::{module::…, …}`, with its place.
fn crate_paths(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        let start = at + "crate::".len();
        if !code[start..].starts_with('{') {
            found.push((start, word_at(code, start)));
            continue;
        }
        let mut depth = 0_usize;
        for (offset, c) in code[start..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                c if depth == 1 && is_word(c) => {
                    let before = code[..start + offset].trim_end();
                    if before.ends_with(['{', ',']) && !code[..start + offset].ends_with(is_word) {
                        found.push((start + offset, word_at(code, start + offset)));
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn word_at(code: &str, start: usize) -> &str {
    let rest = &code[start..];
    &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())]
}

/// Each place of `word` in `code` where it is not part of a longer word.
fn places<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    let whole = move |at: usize| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        let joined_before = before.ends_with(is_word) && word.starts_with(is_word);
        let joined_after = after.starts_with(is_word) && word.ends_with(is_word);
        !joined_before && !joined_after
    };
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| whole(at))
}

/// Uses of `word` in served code of other modules and files than `owners`.
pub(crate) fn outside(sources: &[Source], word: &str, owners: &[&str]) -> Vec<String> {
    let is_owner = |source: &Source| [&source.module, &source.path].iter().any(|name| owners.contains(&name.as_str()));
    let elsewhere = sources.iter().filter(|source| !source.module.is_empty() && !is_owner(source));
    let told = |source: &Source, at| source.told(at, &format!("`{word}` belongs to {}", owners.join(", ")));
    elsewhere.flat_map(|source| places(&source.served, word).map(|at| told(source, at)).collect::<Vec<_>>()).collect()
}

/// Files that are longer than `lines_max`, or do not say what they are.
pub(crate) fn shape(sources: &[Source], lines_max: usize) -> Vec<String> {
    let mut found = Vec::new();
    for Source { path, text, .. } in sources {
        let lines = text.lines().count();
        if lines > lines_max {
            found.push(format!("{path}: {lines} lines, at most {lines_max}"));
        }
        if !text.starts_with("//!") {
            found.push(format!("{path}: does not open with //!"));
        }
    }
    found
}

/// Names that hold one of `banned`, in the singular or plural. Foreign names that we cannot choose are `foreign`.
pub(crate) fn names(sources: &[Source], banned: &[&str], foreign: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let holds = |name: &str| {
        let words = words(name);
        banned.iter().find(|banned| words.iter().any(|word| word == *banned || word.strip_suffix('s') == Some(banned)))
    };
    for source in sources {
        if let Some(banned) = holds(&source.path.replace(['/', '.'], "_")) {
            found.push(format!("{}: its name says `{banned}`", source.path));
        }
        let mut at = 0;
        while let Some(start) = source.code[at..].find(is_word).map(|offset| at + offset) {
            let name = word_at(&source.code, start);
            at = start + name.len();
            // `std::task::Context`: a path through a foreign module.
            let foreign = foreign.contains(&name) || source.code[at..].starts_with("::");
            if let Some(banned) = holds(name).filter(|_| !foreign) {
                found.push(source.told(start, &format!("`{name}` says `{banned}`")));
            }
        }
    }
    found
}

/// `TaskPool` and `task_pool` as `task`, `pool`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
    }
    words
}

/// Lines of text files that hold one of `words`, where no longer word or path ends in it.
pub(crate) fn lines_with(texts: &[(String, String)], words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in texts {
        for (number, line) in (1..).zip(text.lines()) {
            for word in words.iter().filter(|word| places(line, word).any(|at| starts_alone(&line[..at]))) {
                found.push(format!("{path}:{number}: holds `{word}`"));
            }
        }
    }
    found
}

fn starts_alone(before: &str) -> bool {
    !before.ends_with(|c: char| is_word(c) || matches!(c, '.' | '-' | '}' | '~'))
}

/// Dependencies of a manifest that no comment explains: neither above them nor above the group of lines that they stand in.
pub(crate) fn unexplained(manifest: &str) -> Vec<String> {
    let (mut found, mut dependencies, mut explained) = (Vec::new(), false, false);
    for (number, line) in (1..).zip(manifest.lines()) {
        if let Some(table) = line.strip_prefix('[') {
            (dependencies, explained) = (table.trim_end_matches(']').ends_with("dependencies"), false);
        } else if line.starts_with('#') {
            explained = true;
        } else if line.trim().is_empty() {
            explained = false;
        } else if dependencies && !explained && line.contains(" = ") && !line.starts_with(char::is_whitespace) {
            found.push(format!("Cargo.toml:{number}: nothing says why: {line}"));
        }
    }
    found
}

/// Decision records (`0001-….md`) that leave a gap in the numbers, repeat one, or lack a part.
pub(crate) fn records(texts: &[(String, String)]) -> Vec<String> {
    let records = texts.iter().filter(|(path, _)| path.starts_with("docs/decisions/"));
    let mut found = Vec::new();
    for (number, (path, text)) in (1..).zip(records) {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(&format!("{number:04}-")) {
            found.push(format!("{path}: expected number {number:04}"));
        }
        let parts =
            [format!("# {number:04}"), "\n## Context\n".into(), "\n## Decision\n".into(), "\n## Price\n".into()];
        found.extend(parts.iter().filter(|part| !text.contains(*part)).map(|part| format!("{path}: lacks {part:?}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(path: &str, text: &str) -> Vec<Source> {
        vec![Source::new(path, &format!("//! Planted.\n{text}"))]
    }

    #[test]
    fn a_planted_import_is_found() {
        let layers: &Layers = &[("query", &[]), ("reply", &["query"])];
        let found = |text| imports(&planted("src/query.rs", text), layers);
        assert_eq!(found("use crate::reply::Late;"), ["src/query.rs:2: `query` may not import `reply`"]);
        assert_eq!(
            found("use crate::{\n  query::{Row, Rows},\n  reply,\n};"),
            ["src/query.rs:4: `query` may not import `reply`"]
        );
        assert_eq!(found("fn f() { super::super::reply::f() }").len(), 1);
        assert_eq!(
            found("use crate::query::Row; // crate::reply\n#[cfg(test)]\nmod tests { use crate::reply; }"),
            [""; 0]
        );
        assert_eq!(imports(&planted("src/spare.rs", ""), layers).len(), 1, "a module must have its layer");
        assert_eq!(upward(&[("query", &["reply"]), ("reply", &[])]).len(), 1);
        assert_eq!(upward(layers), [""; 0]);
    }

    #[test]
    fn a_planted_owner_is_found() {
        let found = |path, text| outside(&planted(path, text), "tokio", &["http"]);
        assert_eq!(found("src/stripe/mod.rs", "use tokio::time;"), ["src/stripe/mod.rs:2: `tokio` belongs to http"]);
        assert_eq!(found("src/http/mod.rs", "use tokio::time;"), [""; 0]);
        assert_eq!(found("src/stripe/mod.rs", "/// As tokio.\nlet tokio_like = \"tokio\";"), [""; 0]);
        assert_eq!(outside(&planted("src/job.rs", "f().await"), ".await", &[]).len(), 1);
    }

    #[test]
    fn a_planted_shape_is_found() {
        assert_eq!(shape(&planted("src/job.rs", "\n\n"), 2).len(), 1);
        assert_eq!(shape(&[Source::new("src/job.rs", "use a;")], 2).len(), 1);
    }

    #[test]
    fn a_planted_name_is_found() {
        let banned = ["task", "util"];
        let found = |path, text| names(&planted(path, text), &banned, &["hyper_util"]).len();
        assert_eq!(found("src/utils.rs", ""), 1);
        assert_eq!(found("src/job.rs", "struct TaskPool { open_tasks: u8 }"), 2);
        assert_eq!(
            found("src/job.rs", "use hyper_util::rt; use std::task::Waker; // a task\nlet multitasking = \"task\";"),
            0
        );
    }

    #[test]
    fn a_planted_line_is_found() {
        let words = [["/wo", "rk/"].concat(), "FIX".to_owned()];
        let found = |line: &str| lines_with(&[("a.md".to_owned(), line.to_owned())], &words).len();
        assert_eq!(found(&["cd /wo", "rk/main"].concat()), 1);
        assert_eq!(found("ok\n// FIX this"), 1);
        assert_eq!(found(&["net/wo", "rk/ PREFIX"].concat()), 0);
    }

    #[test]
    fn a_planted_dependency_is_found() {
        let manifest = "[package]\nname = \"a\"\n[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n\nc = \"1\"\n[dev-dependencies]\nd = { f = \"1\" }\n";
        assert_eq!(unexplained(manifest).len(), 2);
    }

    #[test]
    fn a_planted_record_is_found() {
        let record = |name: &str, text: &str| (format!("docs/decisions/{name}.md"), text.to_owned());
        let whole = |n: &str| format!("# {n}: x\n\n## Context\n\n## Decision\n\n## Price\n");
        assert_eq!(records(&[record("0001-a", &whole("0001")), record("0002-b", &whole("0002"))]), [""; 0]);
        assert_eq!(records(&[record("0001-a", &whole("0001")), record("0003-b", &whole("0002"))]).len(), 1);
        assert_eq!(records(&[record("0001-a", "# 0001: x\n\n## Context\n\n## Price\n")]).len(), 1);
    }
}
