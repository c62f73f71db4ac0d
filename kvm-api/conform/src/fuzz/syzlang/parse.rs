//! A parser of the part of syzkaller's language that the description uses. It
//! refuses all else, because the tests would not cover it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use winnow::ascii::{dec_uint, hex_uint, newline, space0, space1, till_line_ending};
use winnow::combinator::{alt, delimited, empty, opt, preceded, repeat, separated, terminated};
use winnow::error::ContextError;
use winnow::prelude::*;
use winnow::token::{take_till, take_while};

/// A description.
#[derive(Debug, Default)]
pub struct Description {
    pub calls: Vec<Call>,
    /// The resources, and the resource from which each is derived.
    pub resources: BTreeMap<String, String>,
    /// The sets of flags, by the names of the constants.
    pub flags: BTreeMap<String, Vec<String>>,
    /// The names that stand for a type.
    pub aliases: BTreeMap<String, Type>,
    pub structures: BTreeMap<String, Structure>,
}

/// A call, or a variant of one.
#[derive(Debug, PartialEq)]
pub struct Call {
    pub name: String,
    /// The text behind the `$`, empty without one.
    pub variant: String,
    pub arguments: Vec<Field>,
    /// The resource that it creates.
    pub makes: Option<String>,
}

/// A structure, or a template of one.
#[derive(Debug, PartialEq)]
pub struct Structure {
    pub parameters: Vec<String>,
    pub fields: Vec<Field>,
}

/// An argument or a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub kind: Type,
}

/// A type with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    pub name: String,
    pub options: Vec<Opt>,
}

/// An option of a type.
#[derive(Clone, Debug, PartialEq)]
pub enum Opt {
    Type(Type),
    Number(u64),
    Range(RangeInclusive<u64>),
    Text(String),
}

impl Type {
    /// The option at an index, if it is a name or a type.
    pub fn inner(&self, nth: usize) -> Option<&Type> {
        match self.options.get(nth)? {
            Opt::Type(inner) => Some(inner),
            _ => None,
        }
    }
}

/// What a line, or a structure, declares.
#[derive(Debug)]
enum Item {
    /// An empty line, a comment, or a line that the tests do not look at.
    Nothing,
    Resource(String, String),
    Flags(String, Vec<String>),
    Alias(String, Type),
    Structure(String, Structure),
    Call(Call),
}

impl Description {
    /// Reads a description. An error shows the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = format!("{text}\n");
        let items: Vec<Item> = repeat(0.., terminated(item, newline))
            .parse(&*text)
            .map_err(|error| error.to_string())?;
        let mut this = Self::default();
        for item in items {
            let declared = format!("{item:?}");
            let is_new = match item {
                Item::Nothing => true,
                Item::Resource(name, base) => this.resources.insert(name, base).is_none(),
                Item::Flags(name, all) => this.flags.insert(name, all).is_none(),
                Item::Alias(name, kind) => this.aliases.insert(name, kind).is_none(),
                Item::Structure(name, it) => this.structures.insert(name, it).is_none(),
                Item::Call(call) => {
                    let is = |it: &Call| (&it.name, &it.variant) == (&call.name, &call.variant);
                    let is_new = !this.calls.iter().any(is);
                    this.calls.push(call);
                    is_new
                }
            };
            if !is_new {
                return Err(format!("the name is there twice: {declared}"));
            }
        }
        Ok(this)
    }
}

fn item(input: &mut &str) -> winnow::Result<Item> {
    let comment = ('#', till_line_ending).void();
    let include = ("include <", take_till(1.., ['>', '\n']), ">").void();
    let meta = preceded(keyword("meta"), kind).verify(|kind: &Type| kind.name == "arches");
    let resource = preceded(keyword("resource"), kind).verify_map(|kind| match &kind.options[..] {
        [Opt::Type(base)] => Some(Item::Resource(kind.name, base.name.clone())),
        _ => None,
    });
    let alias = preceded(keyword("type"), (name, kind));
    let flags = (name, mark('='), separated(1.., name, mark(',')));
    alt((
        comment.map(|()| Item::Nothing),
        include.map(|()| Item::Nothing),
        meta.map(|_| Item::Nothing),
        resource,
        structure.map(|(name, structure)| Item::Structure(name, structure)),
        alias.map(|(name, kind)| Item::Alias(name, kind)),
        flags.map(|(name, _, all)| Item::Flags(name, all)),
        call.map(Item::Call),
        empty.map(|()| Item::Nothing),
    ))
    .parse_next(input)
}

fn structure(input: &mut &str) -> winnow::Result<(String, Structure)> {
    let plain = name.map(|name| Type {
        name,
        options: Vec::new(),
    });
    let head = alt((preceded(keyword("type"), kind), plain));
    let field = delimited('\t', field, newline);
    let fields = delimited((mark('{'), newline), repeat(0.., field), '}');
    let parameter = |option| match option {
        Opt::Type(Type { name, options }) if options.is_empty() => Some(name),
        _ => None,
    };
    let structure = |(head, fields): (Type, _)| {
        let parameters = head.options.into_iter().map(parameter);
        let parameters = parameters.collect::<Option<_>>()?;
        Some((head.name, Structure { parameters, fields }))
    };
    (head, fields).verify_map(structure).parse_next(input)
}

fn call(input: &mut &str) -> winnow::Result<Call> {
    let arguments = delimited(mark('('), separated(0.., field, mark(',')), mark(')'));
    let call = |(name, arguments, makes): (String, _, _)| {
        let (name, variant) = name.split_once('$').unwrap_or((&name, ""));
        Call {
            name: name.into(),
            variant: variant.into(),
            arguments,
            makes,
        }
    };
    (name, arguments, opt(name)).map(call).parse_next(input)
}

fn field(input: &mut &str) -> winnow::Result<Field> {
    let field = |(name, kind)| Field { name, kind };
    (name, kind).map(field).parse_next(input)
}

fn kind(input: &mut &str) -> winnow::Result<Type> {
    let options = delimited(mark('['), separated(1.., option, mark(',')), mark(']'));
    let kind = |(name, options): (_, Option<_>)| Type {
        name,
        options: options.unwrap_or_default(),
    };
    (name, opt(options)).map(kind).parse_next(input)
}

fn option(input: &mut &str) -> winnow::Result<Opt> {
    let text = delimited('"', take_till(0.., ['"', '\n']), mark('"'));
    let range = (number, opt(preceded(mark(':'), number)));
    alt((
        text.map(|text: &str| Opt::Text(text.into())),
        range.map(|(first, last)| match last {
            Some(last) => Opt::Range(first..=last),
            None => Opt::Number(first),
        }),
        kind.map(Opt::Type),
    ))
    .parse_next(input)
}

fn number(input: &mut &str) -> winnow::Result<u64> {
    let number = alt((preceded("0x", hex_uint), dec_uint));
    terminated(number, space0).parse_next(input)
}

fn name(input: &mut &str) -> winnow::Result<String> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '$';
    let word = take_while(1.., is_part);
    let name = word.verify(|word: &str| !word.starts_with(|it: char| it.is_ascii_digit()));
    let name = terminated(name, space0);
    name.map(|name: &str| name.to_owned()).parse_next(input)
}

/// A word that begins a declaration.
fn keyword<'a>(word: &'static str) -> impl Parser<&'a str, (), ContextError> {
    (word, space1).void()
}

/// A mark, and the space behind it.
fn mark<'a>(mark: char) -> impl Parser<&'a str, (), ContextError> {
    (mark, space0).void()
}

#[test]
fn unknown_syntax_is_refused() {
    for line in [
        "kvm_run(fd fd_kvmcpu",
        "kvm_run(fd fd_kvmcpu) fd_kvm (disabled)",
        "kvm_run(fd)",
        "kvm_run(fd fd_kvmcpu,)",
        "kvm_run()\nkvm_run()",
        "f = A\nf = B",
        "f = A B",
        "s {",
        "s {\n\tf int32\n} [packed]",
        "s {\nf\tint32\n}",
        "type t[A] int32",
        "resource r",
        "u [\n\ta\tint8\n]",
        "f(a const[09x])",
        "meta noextract",
        "define A 1",
    ] {
        assert!(Description::parse(line).is_err(), "{line}");
    }
}
