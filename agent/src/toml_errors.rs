//! Reading a TOML file of ours so that all its errors come out at once, each with its line.
//!
//! serde stops at the first unknown key or wrong type. Here every table is a [`Section`] whose keys are
//! taken one by one (each value still by serde); what is left over at [`Section::close`] is unknown.
//! A message is `file:line: what (value): rule`.

use serde::de::{DeserializeOwned, IntoDeserializer};
use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest file read: ours are a few kB.
pub const MAX_BYTES: u64 = 1 << 20;

/// All the errors of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadToml(Vec<String>);

impl Display for BadToml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for BadToml {}

/// Reads a file of at most [`MAX_BYTES`].
pub fn read_text(path: &std::path::Path) -> Result<String, BadToml> {
    use std::io::Read;
    let refuse = |why: String| BadToml(vec![format!("{}: {why}", path.display())]);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| refuse(e.to_string()))?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refuse(format!("more than {MAX_BYTES} bytes: not a file of ours")));
    }
    Ok(text)
}

/// A file being read and what is wrong with it so far.
#[derive(Debug)]
pub struct Problems<'t> {
    file: &'t str,
    text: &'t str,
    found: RefCell<Vec<(usize, String)>>,
}

impl<'t> Problems<'t> {
    /// `file` is for the messages.
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, found: RefCell::default() }
    }

    /// Notes a problem at `span` (bytes of the text).
    pub fn at(&self, span: Range<usize>, message: impl Display) {
        self.found.borrow_mut().push((span.start, message.to_string()));
    }

    /// The whole file as a section; its syntax errors are noted.
    pub fn root(&self) -> Section<'_> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let mut table = table.into_inner();
        for e in &errors {
            self.at(e.span().unwrap_or(0..0), e.message().replace('\n', ", "));
        }
        // What is left after a syntax error says nothing about the other rules.
        let whole = errors.is_empty();
        if !whole {
            table.clear();
        }
        Section { problems: self, what: String::new(), span: 0..0, table, known: vec![], whole }
    }

    /// What the file says, or all its problems by line.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, BadToml> {
        let mut found = self.found.into_inner();
        match value {
            Some(value) if found.is_empty() => Ok(value),
            _ => {
                found.sort_by_key(|(at, _)| *at);
                let line = |at: usize| 1 + self.text.bytes().take(at).filter(|b| *b == b'\n').count();
                Err(BadToml(
                    found.iter().map(|(at, m)| format!("{}:{}: {m}", self.file, line(*at))).collect(),
                ))
            }
        }
    }

    /// The text of a value, shortened.
    fn excerpt(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        match line.char_indices().nth(40) {
            Some((cut, _)) => format!("{}...", &line[..cut]),
            None if line.len() < text.len() => format!("{line}..."),
            None => line.to_owned(),
        }
    }
}

/// One table: its keys are taken one by one, then it is closed.
#[derive(Debug)]
pub struct Section<'t> {
    problems: &'t Problems<'t>,
    what: String,
    span: Range<usize>,
    table: DeTable<'t>,
    known: Vec<&'static str>,
    /// The file's syntax is good.
    whole: bool,
}

impl<'t> Section<'t> {
    /// Says what the messages call this section: `domain "gpu"`.
    pub fn call(&mut self, what: String) {
        self.what = what;
    }

    /// What the messages call this section.
    pub fn name(&self) -> &str {
        &self.what
    }

    /// Where it begins, for rules about the whole section.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Notes a problem of a value of this section.
    pub fn bad(&self, span: Range<usize>, key: &str, rule: impl Display) {
        let value = self.problems.excerpt(span.clone());
        self.problems.at(span, format_args!("{}{key} ({value}): {rule}", self.prefix()));
    }

    /// Notes a problem of the section itself.
    pub fn wrong(&self, rule: impl Display) {
        if self.whole {
            self.problems.at(self.span(), format_args!("{}{rule}", self.prefix()));
        }
    }

    fn prefix(&self) -> String {
        if self.what.is_empty() { String::new() } else { format!("{}: ", self.what) }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A key that may be absent; one of the wrong type is noted and counts as absent.
    pub fn opt<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<Spanned<T>> {
        let value = self.take(key)?;
        let span = value.span();
        match T::deserialize(value.into_deserializer()) {
            Ok(v) => Some(Spanned::new(span, v)),
            Err(e) => {
                self.bad(e.span().unwrap_or(span), key, e.message());
                None
            }
        }
    }

    /// A key that must be there.
    pub fn need<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<Spanned<T>> {
        if self.whole && !self.table.contains_key(key) {
            self.wrong(format_args!("`{key}` is missing"));
        }
        self.opt(key)
    }

    /// A table inside this one.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'t>> {
        let value = self.take(key)?;
        self.inner(value, key)
    }

    /// All tables in this one, by key: for a section whose keys are names the user chose.
    pub fn rest(&mut self) -> Vec<(String, Section<'t>)> {
        let table = std::mem::take(&mut self.table);
        let inner = |(key, value): (Spanned<std::borrow::Cow<'t, str>>, _)| {
            let name = key.into_inner().into_owned();
            Some((name.clone(), self.inner(value, &name)?))
        };
        table.into_iter().filter_map(inner).collect()
    }

    /// An array of tables, `[[key]]` or `key = [{ .. }]`; none if absent.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'t>> {
        let Some(value) = self.take(key) else { return vec![] };
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(items) => items.into_iter().filter_map(|i| self.inner(i, key)).collect(),
            other => {
                self.bad(span, key, format_args!("{} where a list of tables belongs", other.type_str()));
                vec![]
            }
        }
    }

    fn inner(&self, value: Spanned<DeValue<'t>>, key: &str) -> Option<Section<'t>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => {
                let (problems, whole) = (self.problems, self.whole);
                let what =
                    if self.what.is_empty() { key.to_owned() } else { format!("{}: {key}", self.what) };
                Some(Section { problems, what, span, table, known: vec![], whole })
            }
            other => {
                self.bad(span, key, format_args!("{} where a table belongs", other.type_str()));
                None
            }
        }
    }

    /// Every key not taken is unknown.
    pub fn close(mut self) {
        if !self.whole {
            return;
        }
        self.known.sort_unstable();
        let known = self.known.join(", ");
        for key in self.table.keys() {
            let message =
                format_args!("{}unknown key `{}`; known here: {known}", self.prefix(), key.get_ref());
            self.problems.at(key.span(), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(u32, Vec<u64>), BadToml> {
        let problems = Problems::new("x.toml", text);
        let mut root = problems.root();
        let a = root.need::<u32>("a");
        let inner: Vec<_> = root
            .sections("b")
            .into_iter()
            .filter_map(|mut s| {
                let c = s.need::<u64>("c");
                s.close();
                c.map(Spanned::into_inner)
            })
            .collect();
        root.close();
        problems.finish(a.map(|a| (a.into_inner(), inner)))
    }

    #[test]
    fn a_good_file_is_read() {
        assert_eq!(read("a = 1\n[[b]]\nc = 2\n[[b]]\nc = 3").unwrap(), (1, vec![2, 3]));
    }

    #[test]
    fn every_error_is_told_with_its_line() {
        let text = "a = \"one\"\nz = 1\n[[b]]\nc = -1\n[[b]]\nd = 0\n";
        let message = read(text).unwrap_err().to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines.len(), 5, "{message}");
        assert_eq!(lines[0], "x.toml:1: a (\"one\"): invalid type: string \"one\", expected u32");
        assert_eq!(lines[1], "x.toml:2: unknown key `z`; known here: a, b");
        assert!(lines[2].starts_with("x.toml:4: b: c (-1): invalid value"), "{message}");
        assert_eq!(lines[3], "x.toml:5: b: `c` is missing");
        assert_eq!(lines[4], "x.toml:6: b: unknown key `d`; known here: c");
    }

    #[test]
    fn broken_syntax_is_told_without_follow_up_errors() {
        let message = read("a = 1\nb = = 2\nc = [\n").unwrap_err().to_string();
        assert!(message.starts_with("x.toml:2: "), "{message}");
        assert!(!message.contains("missing") && !message.contains("unknown key"), "{message}");
    }

    #[test]
    fn a_list_where_a_table_belongs_is_refused() {
        let message = read("a = 1\nb = 5\n").unwrap_err().to_string();
        assert_eq!(message, "x.toml:2: b (5): integer where a list of tables belongs");
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.toml");
        std::fs::write(&path, "#".repeat(usize::try_from(MAX_BYTES).unwrap() + 1)).unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("huge.toml: more than"));
        assert!(
            read_text(&dir.path().join("none.toml")).unwrap_err().to_string().contains("none.toml: No such")
        );
    }
}
