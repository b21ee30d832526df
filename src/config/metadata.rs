//! A manifest's hotrun table as a layer, read by hand so that every refusal can say in which line it stands and what
//! would be right. Never lives here: choosing between manifests, and anything else that stands in one.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml_edit::{Document, Item, TableLike, Value};

use super::layer::{Layer, Origin, some_time};
use super::{Address, Data, Listen, Target, address, duration, values};
use crate::error::{Error, Exit, Result};

/// Which table of a manifest is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Package,
    Workspace,
}

impl Section {
    pub(super) fn name(self) -> &'static str {
        match self {
            Section::Package => "package.metadata.hotrun",
            Section::Workspace => "workspace.metadata.hotrun",
        }
    }
}

/// Every key, in the order of the documentation.
pub(super) const KEYS: [&str; 22] = [
    "bin",
    "example",
    "features",
    "profile",
    "replay",
    "debug",
    "args",
    "env",
    "env-file",
    "listen",
    "watch",
    "ignore",
    "data",
    "strategy",
    "handoff",
    "ready",
    "overlap",
    "ready-timeout",
    "probation",
    "drain-timeout",
    "drain-limit",
    "kill-timeout",
];

/// A manifest without the table says nothing.
pub(super) fn read(manifest: &Path, section: Section) -> Result<Layer> {
    let text = std::fs::read_to_string(manifest)
        .map_err(|error| Error::new(Exit::Project, format!("reading {}: {error}", manifest.display())))?;
    layer(&text, manifest, section)
}

/// Paths and globs are meant from the manifest's directory.
pub(super) fn layer(text: &str, manifest: &Path, section: Section) -> Result<Layer> {
    let source = Source { text, manifest, section: section.name() };
    let document = Document::parse(text).map_err(|error| {
        let place = source.place(&error.span().unwrap_or_default());
        Error::new(Exit::Project, format!("{place}: {}", error.message()))
    })?;
    let mut found = Some(document.as_item());
    for part in source.section.split('.') {
        found = found.and_then(|item| item.get(part));
    }
    let Some((item, node)) = found.and_then(|item| Some((item, Node::of(item)?))) else { return Ok(Layer::default()) };
    let Node::Table(table) = node else {
        let place = source.place(&item.span().unwrap_or_default());
        return Err(Error::usage(format!("{place}: [{}]: found {node}, expected a table", source.section)));
    };
    from_table(&source, table)
}

fn from_table(source: &Source<'_>, table: &dyn TableLike) -> Result<Layer> {
    let directory = source.manifest.parent().unwrap_or(Path::new("/"));
    let mut layer = Layer::default();
    for (key, entry) in entries(source, table, "") {
        let origin = || entry.origin();
        match key {
            "bin" | "example" => {
                let name = entry.word()?.to_owned();
                let target = if key == "bin" { Target::Bin(name) } else { Target::Example(name) };
                if layer.target.replace((target, origin())).is_some() {
                    return Err(entry.refuse("found both `bin` and `example`; keep the one to run"));
                }
            }
            "features" => layer.features = Some(entry.list(|one| Ok(one.word()?.to_owned()))?),
            "profile" => layer.profile = Some(entry.word()?.to_owned()),
            "replay" => layer.replay = Some(entry.boolean()?),
            "debug" => layer.debug = Some(entry.parsed(values::word)?),
            "args" => layer.args = Some(entry.list(|one| Ok(one.checked(values::no_nul)?.into()))?),
            "env" => layer.env = entry.table()?.into_iter().map(variable).collect::<Result<_>>()?,
            "env-file" => layer.env_file = Some((directory.join(entry.word()?), origin())),
            "listen" => layer.listen = Some(listen(&entry, directory)?),
            "watch" => layer.watch = Some(entry.list(|one| Ok((directory.join(one.word()?), one.origin())))?),
            "ignore" => layer.ignore = Some(entry.list(|one| one.parsed(|text| values::glob(text, directory)))?),
            "data" => {
                let data = |(pattern, action): (&str, Entry<'_>)| {
                    let glob = values::glob(pattern, directory).map_err(|why| action.refuse(why))?;
                    Ok(Data { glob, action: action.parsed(values::data_action)? })
                };
                layer.data = Some(entry.table()?.into_iter().map(data).collect::<Result<_>>()?);
            }
            "strategy" => layer.strategy = Some(entry.parsed(values::word)?),
            "handoff" => layer.handoff = Some((entry.parsed(values::word)?, origin())),
            "ready" => layer.ready = Some(entry.parsed(values::ready)?),
            "overlap" => layer.overlap = Some(entry.boolean()?),
            "ready-timeout" => layer.ready_timeout = Some(some_time(entry.time()?).map_err(|why| entry.refuse(why))?),
            "probation" => layer.probation = Some(entry.time()?),
            "drain-timeout" => layer.drain_timeout = Some(entry.time()?),
            "drain-limit" => layer.drain_limit = Some(entry.time()?),
            "kill-timeout" => layer.kill_timeout = Some(entry.time()?),
            _ => return Err(unknown(source, table, key)),
        }
    }
    Ok(layer)
}

fn unknown(source: &Source<'_>, table: &dyn TableLike, key: &str) -> Error {
    let span = table.key(key).and_then(|key| key.span()).unwrap_or_default();
    let meant = values::did_you_mean(key, KEYS);
    let all = if meant.is_empty() { format!("; the keys are {}", values::listed(KEYS)) } else { meant };
    Error::usage(format!("{}: unknown key `{key}` in [{}]{all}", source.place(&span), source.section))
}

fn variable((key, value): (&str, Entry<'_>)) -> Result<(String, String)> {
    let text = value.text()?;
    values::variable(key, text).map_err(|why| value.refuse(why))?;
    Ok((key.to_owned(), text.to_owned()))
}

fn listen(entry: &Entry<'_>, directory: &Path) -> Result<Vec<Listen>> {
    let one = |name: String, entry: &Entry<'_>| {
        address::check_name(&name).map_err(|why| entry.refuse(why))?;
        let address = entry.parsed(|text| text.parse::<Address>()?.resolved(directory))?;
        Ok(Listen { name, address })
    };
    let named: Vec<(String, Entry<'_>)> = match entry.node {
        Node::Value(Value::String(_)) => return Ok(vec![one(address::name_of(0), entry)?]),
        Node::Value(Value::Array(_)) => {
            entry.elements()?.into_iter().enumerate().map(|(index, entry)| (address::name_of(index), entry)).collect()
        }
        Node::Table(_) => entry.table()?.into_iter().map(|(name, entry)| (name.to_owned(), entry)).collect(),
        Node::Value(Value::Integer(port)) => {
            return Err(entry.refuse(format!("found the number {0}; write it as a string, \"{0}\"", port.value())));
        }
        Node::Value(_) | Node::Tables => {
            return Err(entry.expected("an address, a list of addresses or a table of them"));
        }
    };
    let all = named.iter().map(|(name, entry)| one(name.clone(), entry)).collect::<Result<Vec<_>>>()?;
    address::check_all(&all).map_err(|(index, why)| named[index].1.refuse(why))?;
    Ok(all)
}

/// The text that the spans count in, and what to call it.
struct Source<'a> {
    text: &'a str,
    manifest: &'a Path,
    section: &'static str,
}

impl Source<'_> {
    /// `file:line:column`, both counted from 1, columns in characters, as rustc does.
    fn place(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        format!("{}:{line}:{column}", self.manifest.display())
    }
}

/// A value, its full name (`listen.http`) and where it stands.
struct Entry<'a> {
    source: &'a Source<'a>,
    name: String,
    span: Range<usize>,
    node: Node<'a>,
}

/// TOML's two ways to write a table, and a list's elements, brought under one roof.
enum Node<'a> {
    Value(&'a Value),
    Table(&'a dyn TableLike),
    /// `[[…]]`, which no key wants.
    Tables,
}

impl<'a> Node<'a> {
    fn of(item: &'a Item) -> Option<Node<'a>> {
        match item {
            Item::None => None,
            Item::Value(value) => Some(Node::of_value(value)),
            Item::Table(table) => Some(Node::Table(table)),
            Item::ArrayOfTables(_) => Some(Node::Tables),
        }
    }

    fn of_value(value: &'a Value) -> Node<'a> {
        value.as_inline_table().map_or(Node::Value(value), |table| Node::Table(table))
    }
}

/// As it is called in a sentence.
impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Value(Value::String(text)) => write!(f, "the string {:?}", text.value()),
            Node::Value(Value::Integer(number)) => write!(f, "the number {}", number.value()),
            Node::Value(Value::Float(number)) => write!(f, "the number {}", number.value()),
            Node::Value(Value::Boolean(yes)) => write!(f, "{}", yes.value()),
            Node::Value(Value::Datetime(date)) => write!(f, "the date {}", date.value()),
            Node::Value(Value::Array(_)) => f.write_str("a list"),
            Node::Value(Value::InlineTable(_)) | Node::Table(_) => f.write_str("a table"),
            Node::Tables => f.write_str("an array of tables"),
        }
    }
}

/// Keys are named from `[section]` on: `prefix` is empty or ends in a dot.
fn entries<'a>(source: &'a Source<'a>, table: &'a dyn TableLike, prefix: &str) -> Vec<(&'a str, Entry<'a>)> {
    let entry = |(key, item): (&'a str, &'a Item)| {
        let node = Node::of(item)?;
        // A table made of dotted keys has no span of its own; its key has.
        let span = item.span().or_else(|| table.key(key).and_then(|key| key.span())).unwrap_or_default();
        Some((key, Entry { source, name: format!("{prefix}{key}"), span, node }))
    };
    table.iter().filter_map(entry).collect()
}

impl<'a> Entry<'a> {
    fn origin(&self) -> Origin {
        Origin::key(&self.source.place(&self.span), &self.name, self.source.section)
    }

    fn refuse(&self, why: impl fmt::Display) -> Error {
        self.origin().refuse(why)
    }

    fn expected(&self, what: &str) -> Error {
        self.refuse(format!("found {}, expected {what}", self.node))
    }

    /// Any string, an empty one too.
    fn text(&self) -> Result<&'a str> {
        match self.node {
            Node::Value(Value::String(text)) => Ok(text.value()),
            Node::Value(_) | Node::Table(_) | Node::Tables => Err(self.expected("a string")),
        }
    }

    fn checked(&self, check: impl Fn(&str) -> Result<(), String>) -> Result<&'a str> {
        let text = self.text()?;
        check(text).map_err(|why| self.refuse(why))?;
        Ok(text)
    }

    fn word(&self) -> Result<&'a str> {
        self.checked(values::not_empty)
    }

    fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T> {
        parse(self.word()?).map_err(|why| self.refuse(why))
    }

    fn boolean(&self) -> Result<bool> {
        match self.node {
            Node::Value(Value::Boolean(yes)) => Ok(*yes.value()),
            Node::Value(_) | Node::Table(_) | Node::Tables => Err(self.expected("true or false")),
        }
    }

    fn time(&self) -> Result<Duration> {
        match self.node {
            Node::Value(Value::Integer(number)) => {
                Err(self
                    .refuse(format!("found {0}, a number without a unit; write \"{0}s\" or \"{0}ms\"", number.value())))
            }
            Node::Value(Value::String(_)) => self.parsed(duration::parse),
            Node::Value(_) | Node::Table(_) | Node::Tables => Err(self.expected("a time, as in \"500ms\" or \"5s\"")),
        }
    }

    fn elements(&self) -> Result<Vec<Entry<'a>>> {
        let Node::Value(Value::Array(list)) = self.node else {
            return Err(self.expected("a list of strings"));
        };
        let element = |value: &'a Value| {
            let span = value.span().unwrap_or_else(|| self.span.clone());
            Entry { source: self.source, name: self.name.clone(), span, node: Node::of_value(value) }
        };
        Ok(list.iter().map(element).collect())
    }

    fn list<T>(&self, make: impl Fn(Entry<'a>) -> Result<T>) -> Result<Vec<T>> {
        self.elements()?.into_iter().map(make).collect()
    }

    fn table(&self) -> Result<Vec<(&'a str, Entry<'a>)>> {
        match self.node {
            Node::Table(table) => Ok(entries(self.source, table, &format!("{}.", self.name))),
            Node::Value(_) | Node::Tables => Err(self.expected("a table, as in { NAME = \"value\" }")),
        }
    }
}
