//! Reading a TOML document table by table, so that everything wrong with it is found in one pass.
//!
//! A [`Section`] hands out its keys one by one. A wrong or missing value is recorded as a fault and reads as absent, so that reading goes
//! on; what nobody asked for when the section ends is an unknown key, reported with the known key that is nearest to it. That a section
//! ends cannot be forgotten: it only exists inside the closure that reads it. This replaces serde's derive, which stops at the first
//! fault and knows no lines.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    faults::{ConfigFault, ConfigFaults},
    values::Read,
};

/// Where a key stands and what it says.
#[derive(Clone, Debug)]
struct Place {
    line: usize,
    value: Option<String>,
}

/// A key that nobody asked for.
#[derive(Debug)]
struct Unknown {
    section: String,
    key: String,
    line: usize,
}

/// The text being read and what was found wrong with it so far.
#[derive(Debug)]
pub(super) struct Document<'t> {
    file: &'t str,
    text: &'t str,
    places: BTreeMap<String, Place>,
    /// (section without indices, key) of every key that was asked for.
    known: Vec<(String, &'static str)>,
    unknown: Vec<Unknown>,
    faults: Vec<ConfigFault>,
}

impl Document<'_> {
    /// What `read` makes of `text`, which stands in `file`; or every fault.
    pub(super) fn read<T>(
        file: &str,
        text: &str,
        read: impl FnOnce(&mut Section<'_, '_>) -> T,
    ) -> Result<T, ConfigFaults> {
        let mut document = Document {
            file,
            text,
            places: BTreeMap::new(),
            known: Vec::new(),
            unknown: Vec::new(),
            faults: Vec::new(),
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        // Only the syntax, if it is wrong: what was meant by a line that cannot be read is a guess.
        let syntax = errors.iter().map(|error| document.syntax_fault(error)).collect();
        ConfigFaults::none_of(syntax)?;
        let mut section =
            Section { document: &mut document, table: Some(root.get_ref()), path: String::new(), asked: Vec::new() };
        let outcome = read(&mut section);
        section.end();
        document.name_unknown_keys();
        ConfigFaults::none_of(document.faults)?;
        Ok(outcome)
    }

    fn syntax_fault(&self, error: &toml::de::Error) -> ConfigFault {
        ConfigFault {
            source: self.file.to_owned(),
            line: error.span().map(|span| self.line(&span)),
            key: String::new(),
            value: None,
            rule: format!("not TOML: {}", error.message().replace('\n', "; ")),
        }
    }

    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.bytes().take(span.start).filter(|&byte| byte == b'\n').count()
    }

    /// The text of a value, cut to what fits on a line of a log.
    fn snippet(&self, span: Range<usize>) -> Option<String> {
        let text = self.text.get(span)?;
        let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
        Some(if text.chars().nth(60).is_some() { format!("{shown}…") } else { shown })
    }

    /// Records a fault of `key`, whose rule is `rule`, at the place of the key or of the table that should hold it.
    fn fault(&mut self, key: &str, rule: String) {
        let exact = self.places.get(key);
        let mut table = key;
        let line = loop {
            match self.places.get(table) {
                Some(place) => break Some(place.line),
                None => match table.rfind('.') {
                    Some(dot) => table = &table[..dot],
                    None => break None,
                },
            }
        };
        let value = exact.and_then(|place| place.value.clone());
        self.faults.push(ConfigFault { source: self.file.to_owned(), line, key: key.to_owned(), value, rule });
    }

    /// Turns unknown keys into faults; after reading, because the best suggestion may be in another table.
    fn name_unknown_keys(&mut self) {
        for unknown in std::mem::take(&mut self.unknown) {
            let hint = self.did_you_mean(&without_indices(&unknown.section), &unknown.key);
            let key = join(&unknown.section, &unknown.key);
            let rule = format!("unknown key; {hint}");
            let source = self.file.to_owned();
            self.faults.push(ConfigFault { source, line: Some(unknown.line), key, value: None, rule });
        }
    }

    fn did_you_mean(&self, section: &str, key: &str) -> String {
        let here = self.known.iter().filter(|(home, _)| home == section).map(|&(_, known)| known);
        let alike = |known: &str| strsim::jaro_winkler(known, key);
        let nearest = here.clone().max_by(|a, b| alike(a).total_cmp(&alike(b)));
        if let Some(nearest) = nearest.filter(|nearest| alike(nearest) > 0.8) {
            return format!("did you mean `{nearest}`?");
        }
        let elsewhere = self.known.iter().find(|(_, known)| *known == key);
        if let Some((home, known)) = elsewhere {
            return format!("did you mean `{}`?", join(home, known));
        }
        let mut keys: Vec<_> = here.collect();
        keys.sort_unstable();
        keys.dedup();
        format!("known keys here are {}", keys.join(", "))
    }
}

/// One table while it is read. An absent table is a section without keys.
#[derive(Debug)]
pub(super) struct Section<'s, 't> {
    document: &'s mut Document<'t>,
    table: Option<&'s DeTable<'s>>,
    path: String,
    asked: Vec<&'static str>,
}

impl<'s, 't> Section<'s, 't> {
    /// The value of `key`, checked by `read`; `None` if it is absent or wrong.
    pub(super) fn get<T>(&mut self, key: &'static str, read: impl FnOnce(&DeValue<'_>) -> Read<T>) -> Option<T> {
        let value = self.ask(key)?;
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(rule) => {
                self.fault(key, rule);
                None
            }
        }
    }

    /// As [`Section::get`], but being absent is a fault, too; `why` says what the key is for.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        why: &str,
        read: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.fault(key, format!("is required: {why}"));
        }
        self.get(key, read)
    }

    /// Reads the table `[key]`; an absent one reads as empty.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let value = self.ask(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        let path = join(&self.path, key);
        if value.is_some() && table.is_none() {
            self.fault(key, format!("must be a table: [{path}]"));
        }
        let mut section = Section { document: &mut *self.document, table, path, asked: Vec::new() };
        let outcome = read(&mut section);
        section.end();
        outcome
    }

    /// Reads each of the tables `[[key]]` in turn.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 't>, usize) -> T,
    ) -> Vec<T> {
        let tables = self.array_of_tables(key).into_iter().enumerate();
        tables.map(|(index, table)| self.item(table, &format!("{key}[{index}]"), |item| read(item, index))).collect()
    }

    /// Reads the one table `[[key]]`; an absent one reads as empty, and a second one is refused with `why`.
    pub(super) fn only_table<T>(
        &mut self,
        key: &'static str,
        why: &str,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let mut tables = self.array_of_tables(key).into_iter();
        let first = tables.next();
        for extra in tables {
            let line = self.document.line(&extra.span());
            let (source, key) = (self.document.file.to_owned(), join(&self.path, key));
            self.document.faults.push(ConfigFault { source, line: Some(line), key, value: None, rule: why.to_owned() });
        }
        match first {
            Some(table) => self.item(table, key, read),
            None => self.table(key, read),
        }
    }

    fn array_of_tables(&mut self, key: &'static str) -> Vec<&'s Spanned<DeValue<'s>>> {
        let Some(value) = self.ask(key) else { return Vec::new() };
        let array = value.get_ref().as_array().map(|array| array.iter().collect::<Vec<_>>());
        array.filter(|items| items.iter().all(|item| item.get_ref().is_table())).unwrap_or_else(|| {
            let path = join(&self.path, key);
            self.fault(key, format!("must be tables: each starts with [[{path}]]"));
            Vec::new()
        })
    }

    /// Reads one table of an array, whose key is `name`.
    fn item<T>(
        &mut self,
        table: &'s Spanned<DeValue<'s>>,
        name: &str,
        read: impl FnOnce(&mut Section<'_, 't>) -> T,
    ) -> T {
        let path = join(&self.path, name);
        let line = self.document.line(&table.span());
        self.document.places.insert(path.clone(), Place { line, value: None });
        let table = table.get_ref().as_table();
        let mut section = Section { document: &mut *self.document, table, path, asked: Vec::new() };
        let outcome = read(&mut section);
        section.end();
        outcome
    }

    /// Whether the file has `key` in this table.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether the file has the key with this path from here.
    pub(super) fn was_written(&self, path: &str) -> bool {
        self.document.places.contains_key(&join(&self.path, path))
    }

    /// Records that `key` of this table breaks `rule`.
    pub(super) fn fault(&mut self, key: &str, rule: String) {
        let path = join(&self.path, key);
        self.document.fault(&path, rule);
    }

    /// Records a fault of a value that overrides the file's.
    pub(super) fn fault_elsewhere(&mut self, source: &str, key: &str, value: &str, rule: String) {
        let (source, key) = (source.to_owned(), join(&self.path, key));
        let value = Some(format!("{value:?}"));
        self.document.faults.push(ConfigFault { source, line: None, key, value, rule });
    }

    /// Whether nothing was found wrong with `key` of this table or below it, so that a rule over it says something new.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let path = join(&self.path, key);
        let below = |fault: &ConfigFault| match fault.key.strip_prefix(&path) {
            Some(rest) => rest.is_empty() || rest.starts_with(['.', '[']),
            None => false,
        };
        !self.document.faults.iter().any(below)
    }

    /// Takes note that `key` is known here, and of its place.
    fn ask(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.asked.push(key);
        self.document.known.push((without_indices(&self.path), key));
        let (name, value) = self.table?.get_key_value(key)?;
        let line = self.document.line(&name.span());
        let shown = if holds_tables(value.get_ref()) { None } else { self.document.snippet(value.span()) };
        self.document.places.insert(join(&self.path, key), Place { line, value: shown });
        Some(value)
    }

    fn end(self) {
        for name in self.table.into_iter().flat_map(DeTable::keys) {
            let key = name.get_ref().as_ref();
            if !self.asked.contains(&key) {
                let line = self.document.line(&name.span());
                self.document.unknown.push(Unknown { section: self.path.clone(), key: key.to_owned(), line });
            }
        }
    }
}

fn holds_tables(value: &DeValue<'_>) -> bool {
    value.is_table() || value.as_array().is_some_and(|array| array.iter().any(|item| item.get_ref().is_table()))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `lane[1]` as `lane`: what holds for one table of an array holds for all.
fn without_indices(path: &str) -> String {
    let mut depth = 0_usize;
    let keep = |c: &char| match c {
        '[' => {
            depth += 1;
            false
        }
        ']' => {
            depth = depth.saturating_sub(1);
            false
        }
        _ => depth == 0,
    };
    path.chars().filter(keep).collect()
}
