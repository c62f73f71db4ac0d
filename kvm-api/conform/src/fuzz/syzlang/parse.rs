//! A parser of the part of syzkaller's language that the description uses. It
//! refuses all else, because the tests would not cover it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

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

type Result<T> = std::result::Result<T, String>;

impl Description {
    /// Reads a description. An error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut this = Self::default();
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            let at = |what: String| format!("line {number}: {what}: {line}");
            if line.is_empty()
                || line.starts_with('#')
                || (line.starts_with("include <") && line.ends_with(".h>"))
            {
                continue;
            }
            let mut words = Words(line);
            if let Some((name, mut structure)) = this.line(&mut words).map_err(at)? {
                loop {
                    let (line, number) = lines.next().ok_or_else(|| at("no end".into()))?;
                    if line == "}" {
                        break;
                    }
                    let field = field_line(line);
                    let field = field.map_err(|what| format!("line {number}: {what}: {line}"))?;
                    structure.fields.push(field);
                }
                once(&mut this.structures, (name, structure)).map_err(at)?;
            }
        }
        Ok(this)
    }

    /// Reads a line. Returns the head of a structure, whose fields follow.
    fn line(&mut self, words: &mut Words<'_>) -> Result<Option<(String, Structure)>> {
        let name = words.name()?;
        match name.as_str() {
            "meta" => {
                let kind = words.kind()?;
                if kind.name != "arches" {
                    return Err(format!("unknown meta {}", kind.name));
                }
            }
            "resource" => {
                let kind = words.kind()?;
                let [Opt::Type(base)] = &kind.options[..] else {
                    return Err("a resource has one base".into());
                };
                once(&mut self.resources, (kind.name, base.name.clone()))?;
            }
            "type" => {
                let kind = words.kind()?;
                if words.take("{") {
                    words.end()?;
                    return template(kind).map(Some);
                }
                if !kind.options.is_empty() {
                    return Err("a template that is no structure".into());
                }
                once(&mut self.aliases, (kind.name, words.kind()?))?;
            }
            _ if words.take("{") => {
                let parameters = Vec::new();
                let fields = Vec::new();
                words.end()?;
                return Ok(Some((name, Structure { parameters, fields })));
            }
            _ if words.take("=") => {
                let mut all = vec![words.name()?];
                while words.take(",") {
                    all.push(words.name()?);
                }
                once(&mut self.flags, (name, all))?;
            }
            _ => {
                let call = call(&name, words)?;
                let is = |it: &Call| (&it.name, &it.variant) == (&call.name, &call.variant);
                if self.calls.iter().any(is) {
                    return Err("the call is there twice".into());
                }
                self.calls.push(call);
            }
        }
        words.end().map(|()| None)
    }
}

/// Adds an entry, which must be new.
fn once<T>(all: &mut BTreeMap<String, T>, (name, value): (String, T)) -> Result<()> {
    match all.insert(name, value) {
        None => Ok(()),
        Some(_) => Err("the name is there twice".into()),
    }
}

fn template(kind: Type) -> Result<(String, Structure)> {
    let parameter = |option| match option {
        Opt::Type(Type { name, options }) if options.is_empty() => Ok(name),
        other => Err(format!("{other:?} is no parameter")),
    };
    let parameters = kind.options.into_iter().map(parameter);
    let structure = Structure {
        parameters: parameters.collect::<Result<_>>()?,
        fields: Vec::new(),
    };
    Ok((kind.name, structure))
}

fn field_line(line: &str) -> Result<Field> {
    let mut words = Words(line.strip_prefix('\t').ok_or("a field begins with a tab")?);
    let field = words.field()?;
    words.end()?;
    Ok(field)
}

fn call(name: &str, words: &mut Words<'_>) -> Result<Call> {
    words.expect("(")?;
    let mut arguments = Vec::new();
    if !words.take(")") {
        loop {
            arguments.push(words.field()?);
            if words.take(")") {
                break;
            }
            words.expect(",")?;
        }
    }
    let makes = match words.0 {
        "" => None,
        _ => Some(words.name()?),
    };
    let (name, variant) = name.split_once('$').unwrap_or((name, ""));
    Ok(Call {
        name: name.into(),
        variant: variant.into(),
        arguments,
        makes,
    })
}

/// The rest of a line.
struct Words<'a>(&'a str);

impl Words<'_> {
    /// Takes a mark, if it comes next.
    fn take(&mut self, mark: &str) -> bool {
        match self.0.strip_prefix(mark) {
            Some(rest) => {
                self.0 = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, mark: &str) -> Result<()> {
        if self.take(mark) {
            Ok(())
        } else {
            Err(format!("no {mark} before \"{}\"", self.0))
        }
    }

    fn end(&self) -> Result<()> {
        match self.0 {
            "" => Ok(()),
            rest => Err(format!("not understood: \"{rest}\"")),
        }
    }

    fn word(&mut self, is_part: impl Fn(char) -> bool) -> Result<String> {
        let end = self.0.find(|it| !is_part(it)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        if word.is_empty() {
            return Err(format!("no word before \"{rest}\""));
        }
        self.0 = rest.trim_start();
        Ok(word.into())
    }

    fn name(&mut self) -> Result<String> {
        let name = self.word(|it| it.is_ascii_alphanumeric() || it == '_' || it == '$')?;
        if name.starts_with(|it: char| it.is_ascii_digit()) {
            return Err(format!("{name} is no name"));
        }
        Ok(name)
    }

    fn number(&mut self) -> Result<u64> {
        let word = self.word(|it| it.is_ascii_alphanumeric())?;
        let number = match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        number.map_err(|error| format!("{word}: {error}"))
    }

    fn field(&mut self) -> Result<Field> {
        let name = self.name()?;
        let kind = self.kind()?;
        Ok(Field { name, kind })
    }

    fn kind(&mut self) -> Result<Type> {
        let name = self.name()?;
        let mut options = Vec::new();
        if self.take("[") {
            loop {
                options.push(self.option()?);
                if self.take("]") {
                    break;
                }
                self.expect(",")?;
            }
        }
        Ok(Type { name, options })
    }

    fn option(&mut self) -> Result<Opt> {
        if self.take("\"") {
            let (text, rest) = self.0.split_once('"').ok_or("a text without an end")?;
            let text = text.into();
            self.0 = rest.trim_start();
            return Ok(Opt::Text(text));
        }
        if !self.0.starts_with(|it: char| it.is_ascii_digit()) {
            return self.kind().map(Opt::Type);
        }
        let first = self.number()?;
        if self.take(":") {
            return Ok(Opt::Range(first..=self.number()?));
        }
        Ok(Opt::Number(first))
    }
}

#[test]
fn what_is_not_understood_is_refused() {
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
