//! The source text as the rules see it: files with their module, and code without comments, literals and tests.
//!
//! A small lexer rather than a parser: the rules look for words and paths, and what they must not trip over is a word in a comment or in a
//! string. Blanked text keeps its lines, so that a violation can be told with its line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One Rust file.
pub(crate) struct Source {
    /// Its top-level module: `dispatch` for `src/dispatch/pull.rs`; empty outside `src`.
    pub(crate) module: String,
    /// Its path from the root of the repository.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    /// Without comments and the content of literals.
    pub(crate) code: String,
    /// Without unit tests, too: they may see more than what they test.
    pub(crate) served: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let inside = path.strip_prefix("src/");
        let first = inside.map_or("", |inside| inside.split('/').next().unwrap_or(inside));
        let code = blank(text);
        let of_tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        let end = if of_tests { 0 } else { code.find("#[cfg(test)]\nmod tests {").unwrap_or(code.len()) };
        Source {
            module: first.trim_end_matches(".rs").to_owned(),
            path: path.to_owned(),
            text: text.to_owned(),
            served: code[..end].to_owned(),
            code,
        }
    }

    /// `path:line: what` for the byte at `at`.
    pub(crate) fn told(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, 1 + self.code[..at].matches('\n').count())
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of `src`, `tests` and `examples`.
pub(crate) fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| {
        let ours = ["src/", "tests/", "examples/"].iter().any(|folder| path.starts_with(folder));
        ours && Path::new(path).extension().is_some_and(|extension| extension == "rs")
    });
    let found: Vec<_> = rust.map(|path| Source::new(&path, &fs::read_to_string(root().join(&path)).unwrap())).collect();
    assert!(found.len() > 20, "the rules must not pass because no source was found");
    found
}

/// (path, text) of every text file of the repository.
pub(crate) fn texts() -> Vec<(String, String)> {
    let read = |path: String| fs::read_to_string(root().join(&path)).ok().map(|text| (path, text));
    files().into_iter().filter_map(read).collect()
}

/// What git tracks or would track; outside a clone (a packaged crate), every file but build outputs.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let mut files: Vec<String> = match listed {
        Some(output) => String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        None => walk(&root()),
    };
    // A file that was removed is listed until that is committed.
    files.retain(|path| root().join(path).is_file());
    files.sort();
    files
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "runs", ".git"].contains(&name.as_str()) {
            found.extend(walk(&path));
        } else if path.is_file() {
            found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
        }
    }
    found
}

/// `text` with comments and the content of string and character literals replaced by spaces.
pub(crate) fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (kept, skipped) = match c {
            '/' if rest.starts_with("//") => (0, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (0, comment_length(rest)),
            '"' => (1, string_length(rest) - 1),
            'r' if raw_string_length(rest).is_some() && !code.ends_with(is_word) => {
                (1, raw_string_length(rest).unwrap_or(1) - 1)
            }
            '\'' => (1, char_length(rest) - 1),
            _ => (c.len_utf8(), 0),
        };
        code.push_str(&rest[..kept]);
        code.extend(rest[kept..kept + skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[kept + skipped..];
    }
    code
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            [_, ..] => at += 1,
            [] => return rest.len(),
        }
    }
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

fn raw_string_length(rest: &str) -> Option<usize> {
    let hashes = rest[1..].chars().take_while(|&c| c == '#').count();
    rest[1 + hashes..].strip_prefix('"').map(|content| {
        let close = format!("\"{}", "#".repeat(hashes));
        2 + hashes + content.find(&close).map_or(content.len(), |at| at + close.len())
    })
}

/// The length of a character literal; of the quote alone where it begins a lifetime.
fn char_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((after, _))) => {
            rest[after + 1..].find('\'').map_or(rest.len(), |close| after + 1 + close + 1)
        }
        (Some(_), Some((close, '\''))) => close + 1,
        _ => 1,
    }
}

#[test]
fn the_lexer_sees_code_alone() {
    let code = |text: &str| blank(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code("a // b\nc /* d /* e */ f */ g"), "a c g");
    assert_eq!(code(r#"f("b \" c", x)"#), "f(\" , x)");
    assert_eq!(code("f(r#\"b\" c\"#, x) /// d"), "f(r , x)");
    assert_eq!(code(r"f('\'', 'b', x::<'a>('\u{1F}'))"), "f(' , ' , x::<'a>(' ))");
    assert_eq!(code("for r in 0..2 { r\"b\"; }"), "for r in 0..2 { r ; }");
    assert_eq!(blank("a // ü\nb").lines().count(), 2, "lines stay where they are");
}

#[test]
fn modules_and_tests_are_told_apart() {
    let source = Source::new("src/dispatch/pull.rs", "use a;\n#[cfg(test)]\nmod tests {\n use b; }");
    assert_eq!((source.module.as_str(), source.served.trim()), ("dispatch", "use a;"));
    assert!(source.code.contains("use b"));
    assert_eq!(Source::new("src/query.rs", "").module, "query");
    assert_eq!(Source::new("src/code/sum/tests.rs", "use a;").served, "");
    assert_eq!(Source::new("tests/tidy.rs", "use a;").module, "");
}
