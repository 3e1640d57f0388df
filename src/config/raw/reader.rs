//! Values of the file, one at a time, each with its place: the kinds of values that the tables in
//! [`super::tables`] are made of.
//!
//! A value that can't be used is noted as a mistake, and reading goes on.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::resolve::Resolver;
use super::tables::{self, Table};
use super::values;
use crate::error::Wrong;

/// A value as written, with its place.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// What a setting came from: the key or option that names it, and its place.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// `workers.ping.timeout`, `--timeout`
    pub(super) label: String,
    /// The bytes that are marked: usually the value. `None`: not in the file.
    pub(super) bytes: Option<Range<usize>>,
    /// The bytes of its name, if it is in the file.
    name: Option<Range<usize>>,
}

impl Origin {
    /// A value that stands in the file.
    fn value(label: String, name: Range<usize>, value: Range<usize>) -> Origin {
        Origin { label, bytes: Some(value), name: Some(name) }
    }

    /// An option of the command line.
    pub(super) fn option(label: &str) -> Origin {
        Origin { label: label.to_owned(), bytes: None, name: None }
    }

    /// A key that is not in the file: what is meant is the place where its table begins, if that is.
    pub(super) fn missing<T>(label: &str, table: &Field<T>) -> Origin {
        let name = table.origin().and_then(|table| table.name.clone());
        Origin { label: label.to_owned(), bytes: name.clone(), name }
    }

    /// The same, but it is the name that is marked.
    pub(super) fn at_name(&self) -> Origin {
        Origin { bytes: self.name.clone(), ..self.clone() }
    }

    /// A part of the value.
    fn part(&self, bytes: Range<usize>) -> Origin {
        Origin { bytes: Some(bytes), ..self.clone() }
    }
}

/// A key of a table.
#[derive(Debug, Clone, Default)]
pub(super) enum Field<T> {
    /// It is not in the file.
    #[default]
    Missing,
    /// It is, and its value can't be used; that is noted already.
    Unusable(Origin),
    /// Its value.
    Given(T, Origin),
}

impl<T> Field<T> {
    /// The value, if there is a usable one.
    pub(super) fn get(&self) -> Option<&T> {
        match self {
            Field::Given(value, _) => Some(value),
            Field::Missing | Field::Unusable(_) => None,
        }
    }

    /// Where it stands in the file, usable or not.
    pub(super) fn origin(&self) -> Option<&Origin> {
        match self {
            Field::Given(_, origin) | Field::Unusable(origin) => Some(origin),
            Field::Missing => None,
        }
    }

    /// The value and where it stands.
    pub(super) fn with_origin(&self) -> Option<(&T, &Origin)> {
        self.get().zip(self.origin())
    }

    /// Is it in the file, usable or not?
    pub(super) fn is_given(&self) -> bool {
        self.origin().is_some()
    }
}

/// A table below a key that its user has chosen.
#[derive(Debug)]
pub(super) struct Named<T> {
    pub(super) name: String,
    /// Marks the name.
    pub(super) origin: Origin,
    /// `None`: it is no table; that is noted already.
    pub(super) table: Option<T>,
}

/// A text with its variables replaced, and as it was written if there were any.
struct Text {
    text: String,
    written: Option<String>,
}

// What reads a value: notes what is wrong with it, and then gives nothing.

/// A text that is or stands for something.
pub(super) fn text<T>(
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> impl Fn(&mut Resolver<'_>, &Value<'_>, &Origin) -> Option<T> {
    move |resolver, value, origin| {
        let DeValue::String(written) = value.get_ref() else {
            let number = number_of(value);
            let mut wrong = wrong_type(value, "a text");
            // What a text in its place would be told; a number may be meant as one.
            match parse(number.as_deref().unwrap_or_default()) {
                Err(refused) => wrong.allowed = refused.allowed,
                Ok(_) => wrong.suggestion = number.map(|number| format!("\"{number}\"")),
            }
            return resolver.refuse(origin, wrong);
        };
        let text = resolver.text(written, origin)?;
        resolver.parsed(&text, origin, &parse)
    }
}

/// A text that is a duration, or what else `parse` knows.
pub(super) fn duration<T>(
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> impl Fn(&mut Resolver<'_>, &Value<'_>, &Origin) -> Option<T> {
    let text = text(parse);
    move |resolver, value, origin| match number_of(value) {
        Some(number) => resolver.refuse(origin, values::unit_missing(&number, &number)),
        None => text(resolver, value, origin),
    }
}

/// More than zero.
pub(super) fn positive(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<Duration> {
    duration(values::positive_duration)(resolver, value, origin)
}

/// A whole number in a range.
pub(super) fn whole<T: TryFrom<i64>>(
    allowed: RangeInclusive<i64>,
) -> impl Fn(&mut Resolver<'_>, &Value<'_>, &Origin) -> Option<T> {
    move |resolver, value, origin| {
        let range = values::number_range(&allowed);
        let DeValue::Integer(written) = value.get_ref() else {
            let number = match value.get_ref() {
                DeValue::String(text) => text.trim().parse::<i64>().ok(),
                _ => None,
            };
            let number = number.filter(|number| allowed.contains(number)).map(|it| it.to_string());
            let wrong = wrong_type(value, "a whole number").suggest(number).allowed(range);
            return resolver.refuse(origin, wrong);
        };
        let number = number(written).filter(|number| allowed.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        let wrong = || Wrong::of(written.to_string(), "is out of range").allowed(range);
        number.or_else(|| resolver.refuse(origin, wrong()))
    }
}

/// A number of bytes in a range, as a number or with a unit.
pub(super) fn size<T: TryFrom<u64>>(
    allowed: RangeInclusive<u64>,
) -> impl Fn(&mut Resolver<'_>, &Value<'_>, &Origin) -> Option<T> {
    move |resolver, value, origin| {
        let range = values::size_range(&allowed);
        let bytes = match value.get_ref() {
            DeValue::Integer(written) => {
                let bytes = number(written).and_then(|number| u64::try_from(number).ok());
                let bytes = bytes.filter(|bytes| allowed.contains(bytes));
                let wrong = || Wrong::of(written.to_string(), "is out of range").allowed(range);
                bytes.or_else(|| resolver.refuse(origin, wrong()))
            }
            DeValue::String(written) => {
                let text = resolver.text(written, origin)?;
                resolver.parsed(&text, origin, |text| values::size(text, &allowed))
            }
            _ => {
                let allowed = format!("{}; {range}", values::SIZES);
                resolver.refuse(origin, wrong_type(value, "a size").allowed(allowed))
            }
        };
        bytes.and_then(|bytes| T::try_from(bytes).ok())
    }
}

/// `true` or `false`.
pub(super) fn boolean(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<bool> {
    if let DeValue::Boolean(value) = value.get_ref() {
        return Some(*value);
    }
    let meant = match value.get_ref() {
        DeValue::String(text) => {
            let is = |words: &[&str]| words.contains(&text.to_lowercase().as_str());
            let yes = is(&["true", "yes", "on", "1"]).then_some("true");
            yes.or(is(&["false", "no", "off", "0"]).then_some("false"))
        }
        _ => None,
    };
    let wrong = wrong_type(value, "true or false").suggest(meant).allowed("true, false");
    resolver.refuse(origin, wrong)
}

/// A path, relative to the file's folder.
pub(super) fn path(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<PathBuf> {
    let path = text(|text| match text {
        "" => Err(Wrong::new("the path is empty")),
        path => Ok(PathBuf::from(path)),
    })(resolver, value, origin)?;
    Some(resolver.beside_file(&path))
}

/// Texts, each with its place.
pub(super) fn texts(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<Vec<(String, Origin)>> {
    let DeValue::Array(array) = value.get_ref() else {
        let words = match value.get_ref() {
            DeValue::String(text) => Some(text.split_whitespace().collect::<Vec<&str>>()),
            _ => None,
        };
        let suggestion = words.map(|words| format!("[{}]", values::list(&words)));
        let wrong = wrong_type(value, "an array of texts").suggest(suggestion);
        return resolver.refuse(origin, wrong);
    };
    // All of them, before it ends with the first that can't be read.
    let texts: Vec<Option<(String, Origin)>> = array
        .iter()
        .map(|value| {
            let origin = origin.part(value.span());
            Some((text(|text| Ok(text.to_owned()))(resolver, value, &origin)?, origin))
        })
        .collect();
    texts.into_iter().collect()
}

/// Variables of an environment.
pub(super) fn environment(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<BTreeMap<String, String>> {
    let DeValue::Table(entries) = value.get_ref() else {
        let wrong = wrong_type(value, "a table").allowed("{ NAME = \"text\", ... }");
        return resolver.refuse(origin, wrong);
    };
    let mut variables = BTreeMap::new();
    for (name, value) in entries {
        let (bytes, name) = (name.span(), name.get_ref());
        let origin = Origin::value(join(&origin.label, name), bytes, value.span());
        if name.is_empty() || name.contains(['=', '\0']) {
            let wrong = Wrong::of(format!("{name:?}"), "can't be the name of a variable")
                .allowed("not empty, no '=', no NUL");
            resolver.mistake(&origin.at_name(), wrong);
        }
        if let Some(text) = text(|text| Ok(text.to_owned()))(resolver, value, &origin) {
            variables.insert(name.clone().into_owned(), text);
        }
    }
    Some(variables)
}

/// A table with keys that are known.
pub(super) fn table<T: Table>(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<T> {
    let DeValue::Table(entries) = value.get_ref() else {
        return resolver.refuse(origin, no_table(value, origin));
    };
    let mut table = T::default();
    for (key, value) in entries {
        let (bytes, key) = (key.span(), key.get_ref());
        let origin = Origin::value(join(&origin.label, key), bytes, value.span());
        if !table.set(key, (resolver, value, &origin)) {
            let wrong = unknown_key(key, T::KEYS);
            resolver.mistake(&origin.at_name(), wrong);
        }
    }
    Some(table)
}

/// Tables with names of the user's own, in the order of the file.
pub(super) fn named_tables<T: Table>(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<Vec<Named<T>>> {
    let DeValue::Table(entries) = value.get_ref() else {
        return resolver.refuse(origin, no_table(value, origin));
    };
    let mut tables = Vec::new();
    for (name, value) in entries {
        let (bytes, name) = (name.span(), name.get_ref());
        let origin = Origin::value(join(&origin.label, name), bytes, value.span());
        let is_key = T::KEYS.contains(&name.as_ref());
        let table = if is_key && !matches!(value.get_ref(), DeValue::Table(_)) {
            let wrong = Wrong::new("it needs a table with a name around it")
                .help(format!("write a line [workers.NAME] above {name}"));
            resolver.refuse(&origin.at_name(), wrong)
        } else {
            self::table(resolver, value, &origin)
        };
        tables.push(Named { name: name.clone().into_owned(), origin: origin.at_name(), table });
    }
    // The map sorts by name; the file's order is what its user thinks in.
    tables.sort_by_key(|table| table.origin.bytes.as_ref().map(|bytes| bytes.start));
    Some(tables)
}

impl Resolver<'_> {
    /// Reads a value into its field.
    pub(super) fn field<T>(
        &mut self,
        (value, origin): (&Value<'_>, &Origin),
        read: impl Fn(&mut Self, &Value<'_>, &Origin) -> Option<T>,
    ) -> Field<T> {
        match read(self, value, origin) {
            Some(value) => Field::Given(value, origin.clone()),
            None => {
                self.unusable.insert(origin.label.clone());
                Field::Unusable(origin.clone())
            }
        }
    }

    /// Notes a mistake, and gives nothing.
    fn refuse<T>(&mut self, origin: &Origin, wrong: Wrong) -> Option<T> {
        self.mistake(origin, wrong);
        None
    }

    fn text(&mut self, written: &str, origin: &Origin) -> Option<Text> {
        let text = values::interpolate(written, self.environment);
        let text = self.noted(origin, text)?;
        // The system ends each text at a NUL byte, so a path or an argument would be cut there.
        if text.contains('\0') {
            return self.refuse(origin, Wrong::new("a NUL character is not allowed"));
        }
        Some(Text { written: (text != written).then(|| written.to_owned()), text })
    }

    fn parsed<T>(
        &mut self,
        text: &Text,
        origin: &Origin,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let result = parse(&text.text).map_err(|wrong| match &text.written {
            Some(written) => wrong.hide(written),
            None => wrong,
        });
        self.noted(origin, result)
    }

    pub(super) fn beside_file(&self, path: &Path) -> PathBuf {
        let folder = self.source.and_then(|(file, _)| file.parent()).unwrap_or(Path::new(""));
        folder.join(path)
    }
}

/// The label of a key in a table, quoted where TOML wants it quoted.
fn join(table: &str, key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let key = match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_owned(),
        false => format!("{key:?}"),
    };
    if table.is_empty() { key } else { format!("{table}.{key}") }
}

/// The number as it fits into 64 bits.
fn number(written: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(written.as_str(), written.radix()).ok()
}

/// A number as a text that can be written in its place.
fn number_of(value: &Value<'_>) -> Option<String> {
    match value.get_ref() {
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn wrong_type(value: &Value<'_>, wanted: &str) -> Wrong {
    let given = match value.get_ref() {
        DeValue::String(text) if text.len() <= 40 => format!("the text {text:?}"),
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    Wrong::new(format!("{wanted} is needed, and this is {given}"))
}

fn no_table(value: &Value<'_>, origin: &Origin) -> Wrong {
    let is_table = |value: &Value<'_>| matches!(value.get_ref(), DeValue::Table(_));
    match value.get_ref() {
        DeValue::Array(array) if array.iter().all(is_table) && !array.is_empty() => {
            Wrong::new("one table is needed, and this is an array of tables")
                .help(format!("write it once, in single brackets: [{}]", origin.label))
        }
        _ => wrong_type(value, "a table").help(format!("a table begins with [{}]", origin.label)),
    }
}

/// A key that is not known where it stands: meant otherwise, or meant elsewhere?
fn unknown_key(key: &str, allowed: &[&str]) -> Wrong {
    let wrong = Wrong::of(format!("{key:?}"), "is no key here").allowed(allowed.join(", "));
    let near = values::near_miss(key, allowed.iter().copied());
    let elsewhere = tables::keys().into_iter().find(|(_, known)| *known == key);
    match (near, elsewhere) {
        (None, Some(("", _))) => {
            wrong.help(format!("{key} belongs to the top of the file, above the first [table]"))
        }
        (None, Some((table, _))) => wrong.help(format!("{key} belongs to the table [{table}]")),
        (near, _) => wrong.suggest(near),
    }
}
